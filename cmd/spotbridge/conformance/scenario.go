package conformance

import (
	"slices"
	"strings"
)

// protocol is the way in which a client reads.
type protocol string

const (
	subscribe protocol = "subscribe" // SubscriptionService.Subscribe
	sse       protocol = "sse"       // the same over REST, as server-sent events
	grouped   protocol = "group"     // ConsumerGroupService.Consume
)

var protocols = []protocol{subscribe, sse, grouped}

// scenario is a script, and what it demands of a client.
type scenario struct {
	name   string
	on     []protocol
	demand string
	// events is how many events about tickets there are; 0 = defaultEvents.
	events int
	// late says that the script starts the client by itself.
	late   bool
	script func(*play)
}

const defaultEvents = 12

var (
	everyone    = []protocol{subscribe, sse, grouped}
	subscribers = []protocol{subscribe, sse}
	members     = []protocol{grouped}
	readers     = []protocol{sse}
)

// scenarios are all there are, in the order in which they are played and documented.
func scenarios() []scenario {
	return slices.Concat(streamScenarios, troubleScenarios, strangeScenarios, groupScenarios)
}

// scenariosOf returns those of a protocol; only = those that are named.
func scenariosOf(p protocol, only []string) (found []scenario, unknown []string) {
	names := map[string]bool{}
	for _, s := range scenarios() {
		if !slices.Contains(s.on, p) {
			continue
		}
		names[s.name] = true
		if len(only) == 0 || slices.Contains(only, s.name) {
			found = append(found, s)
		}
	}
	for _, name := range only {
		if !names[name] {
			unknown = append(unknown, name)
		}
	}
	return found, unknown
}

func (s scenario) protocols() string {
	names := make([]string, len(s.on))
	for i, p := range s.on {
		names[i] = string(p)
	}
	return strings.Join(names, ", ")
}
