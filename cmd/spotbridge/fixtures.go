package main

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/spotbridge/spotbridge/bridge"
	"github.com/spotbridge/spotbridge/bridge/bridgetest/samples"
)

// step is one delivery to send: a body made from a fixture.
type step struct {
	eventType, operation string
	fixture              *samples.Delivery
}

// lifecycles are the stories that trigger can tell, each over one PNR or traveler of the samples. A fresh copy gets new
// ids, so that it is a new entity.
var lifecycles = map[string]struct {
	about string
	id    string // PNR or traveler of the samples
}{
	"air-void":     {"created, ticketed, invoiced, voided", "1653791929"},
	"air-refund":   {"created, ticketed, invoiced, refunded, credit note", "3164665605"},
	"hotel-cancel": {"created, updated, invoiced, other update, canceled by the vendor", "9941583633"},
	"rail-cancel":  {"created, updated, invoiced, other update, canceled by the vendor", "2617198014"},
	"traveler":     {"created, updated, deactivated, purged", "cd8561db-89dc-43b0-942c-63bfa76f7070"},
}

// fixtureFor returns the fixture of a catalogue event: a sample of the same type and operation, else one of the type.
func fixtureFor(eventType, operation string) (step, error) {
	var same *samples.Delivery
	all := samples.Deliveries()
	for i := range all {
		d := &all[i]
		if d.EventType != eventType {
			continue
		}
		if d.Operation == operation {
			return step{eventType, operation, d}, nil
		}
		if same == nil {
			same = d
		}
	}
	if same == nil {
		return step{}, fmt.Errorf("there is no fixture for event type %q; known: %s. To send anything else, give a file with --file", eventType, strings.Join(fixtureTypes(), ", "))
	}
	return step{eventType, operation, same}, nil
}

func fixtureTypes() []string {
	set := map[string]bool{}
	for _, d := range samples.Deliveries() {
		set[d.EventType] = true
	}
	return slices.Sorted(maps.Keys(set))
}

// lifecycle returns the steps of a story.
func lifecycle(name string) ([]step, error) {
	l, ok := lifecycles[name]
	if !ok {
		return nil, fmt.Errorf("there is no lifecycle %q; known: %s", name, strings.Join(slices.Sorted(maps.Keys(lifecycles)), ", "))
	}
	var steps []step
	all := samples.Deliveries()
	for i := range all {
		d := &all[i]
		if d.RedeliveryOf == 0 && ((d.PNRID == l.id && d.EventType == "PNR_V3") || (d.TravelerID == l.id && d.EventType == "TRAVELER_V2")) {
			steps = append(steps, step{d.EventType, d.Operation, d})
		}
	}
	return steps, nil
}

// catalogueEvents lists what trigger can send, "TYPE OPERATION".
func catalogueEvents() []string {
	var out []string
	for _, t := range bridge.Catalog() {
		for _, op := range t.Operations {
			out = append(out, t.Name+" "+op.Name)
		}
		if len(t.Operations) == 0 {
			out = append(out, t.Name)
		}
	}
	return out
}

// idRewriter gives the entities of a body new ids, the same new one for the same old one.
type idRewriter map[string]string

func newIDs(steps []step) idRewriter {
	r := idRewriter{}
	for _, s := range steps {
		for _, id := range []string{s.fixture.PNRID, s.fixture.TripID, s.fixture.TravelerID} {
			if id != "" && r[id] == "" {
				r[id] = likeID(id)
			}
		}
	}
	return r
}

// rewrite returns the body with the new ids.
func (r idRewriter) rewrite(body []byte) []byte {
	for from, to := range r {
		body = bytes.ReplaceAll(body, []byte(from), []byte(to))
	}
	return body
}

// allSteps are all samples.
func allSteps() []step {
	var out []step
	all := samples.Deliveries()
	for i := range all {
		out = append(out, step{all[i].EventType, all[i].Operation, &all[i]})
	}
	return out
}

// likeID returns a random id of the same shape: digits stay digits, hex digits stay hex digits.
func likeID(id string) string {
	alphabet := "0123456789abcdef"
	if strings.Trim(id, "0123456789") == "" {
		alphabet = "0123456789"
	}
	b := []byte(id)
	for i, c := range b {
		if c == '-' {
			continue
		}
		n, _ := rand.Int(rand.Reader, big.NewInt(int64(len(alphabet)))) // never fails since Go 1.24
		b[i] = alphabet[n.Int64()]
	}
	if b[0] == '0' {
		b[0] = '9'
	}
	return string(b)
}

// body makes the body of a step: its operation, now as its time, new ids, then the overrides.
func (s step) body(ids idRewriter, now time.Time, set []string) ([]byte, error) {
	body := ids.rewrite(s.fixture.Body)
	overrides := []string{"timestamp=" + strconv.Quote(now.UTC().Format("2006-01-02T15:04:05.000Z"))}
	if s.operation != "" && s.operation != s.fixture.Operation {
		overrides = append(overrides, "operation="+strconv.Quote(s.operation))
	}
	return override(body, append(overrides, set...))
}

// override sets members of a JSON body: "payload.pnrId=\"1\"", "payload.version=3", "payload.note=text".
func override(body []byte, set []string) ([]byte, error) {
	var doc map[string]any
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	if err := d.Decode(&doc); err != nil {
		return nil, fmt.Errorf("--set needs a JSON object: %w", err)
	}
	for _, s := range set {
		path, text, ok := strings.Cut(s, "=")
		if !ok || path == "" {
			return nil, fmt.Errorf("--set %q: write path=value, for example payload.version=3", s)
		}
		var value any
		v := json.NewDecoder(strings.NewReader(text))
		v.UseNumber()
		if v.Decode(&value) != nil || v.More() {
			value = text // not JSON: taken as a string
		}
		if err := setPath(doc, strings.Split(path, "."), value); err != nil {
			return nil, fmt.Errorf("--set %s: %w", path, err)
		}
	}
	return marshalSorted(doc)
}

func setPath(at any, steps []string, value any) error {
	switch x := at.(type) {
	case map[string]any:
		if len(steps) == 1 {
			x[steps[0]] = value
			return nil
		}
		if _, ok := x[steps[0]]; !ok {
			x[steps[0]] = map[string]any{}
		}
		return setPath(x[steps[0]], steps[1:], value)
	case []any:
		i, err := strconv.Atoi(steps[0])
		if err != nil || i < 0 || i >= len(x) {
			return fmt.Errorf("%q is no index of an array of %d", steps[0], len(x))
		}
		if len(steps) == 1 {
			x[i] = value
			return nil
		}
		return setPath(x[i], steps[1:], value)
	default:
		return fmt.Errorf("%q is not inside an object or array", steps[0])
	}
}

func marshalSorted(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimRight(b.Bytes(), "\n"), nil
}

func sortedLifecycles() []string {
	var out []string
	for name, l := range lifecycles {
		out = append(out, fmt.Sprintf("  %-13s %s", name, l.about))
	}
	sort.Strings(out)
	return out
}
