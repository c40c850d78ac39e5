package conformance

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"time"

	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

const (
	// askedHeartbeat is what clients are told to ask for, the least that a bridge grants.
	askedHeartbeat = 5 * time.Second
	// firstBackoff is the base of the wait after a first failure; it doubles, and half of it has to pass at least.
	firstBackoff = 250 * time.Millisecond
	// longestBackoff is where it ends: a client may take so long to come back, beside its patience.
	longestBackoff = 15 * time.Second
	// stopWithin is how long a client may take to end after SIGTERM.
	stopWithin = 10 * time.Second
)

// place is a position in a script: so many events, and so many other messages since the last of them.
type place struct{ events, others int }

func (p place) before(q place) bool {
	return p.events < q.events || p.events == q.events && p.others < q.others
}

// event is an event of a script, as it is sent to a call.
type event struct {
	id      string
	message func(c *call) *pb.Event
}

// play is a scenario under way. Its methods are the words that scripts are written in: each waits until what it says has
// happened, and ends the script when the client does something else, as the methods of testing.T end a test. They are
// called by the script's goroutine only.
type play struct {
	ctx      context.Context
	cancel   context.CancelFunc
	protocol protocol
	bridge   *scripted
	group    *group
	client   client
	patience time.Duration
	trace    func(string) // nil = nobody wants to know
	began    time.Time

	// events is what the client is owed, each of them once.
	events []event
	// alter changes events on their way; nil = as they are.
	alter func(i int, e *pb.Event)
	// omitted are the ids of those that come without their payload.
	omitted []string
	// sent is how many of them, from the first one on, have been sent to a subscriber.
	sent int

	// started says that the client was started before. cursors has all that were sent.
	started bool
	cursors map[string]place
	// torn is the event of which a subscriber got only a part, counted from 1; 0 = none.
	torn int
	// reached is the furthest place that the client has come back to. owes says that it has been told so much, and in such
	// good order, that it must have a cursor.
	reached place
	owes    bool
	// ended is when the last stream ended, or was made to; said when something was last said on it.
	ended, said time.Time

	mu   sync.Mutex
	fate error
}

// errScript ends a script's goroutine; fate has the cause.
var errScript = errors.New("the script has ended")

// failf ends the scenario: the client has broken the contract. It may be called by any goroutine; that of the script ends at
// its next word.
func (p *play) failf(format string, args ...any) {
	p.mu.Lock()
	if p.fate == nil {
		p.fate = fmt.Errorf(format, args...)
	}
	p.mu.Unlock()
	p.cancel()
}

// fatalf is failf for the script itself.
func (p *play) fatalf(format string, args ...any) {
	p.failf(format, args...)
	runtime.Goexit()
}

// check ends the script when the scenario has failed meanwhile.
func (p *play) check() {
	if p.ctx.Err() != nil {
		p.failf("the scenario took too long")
		runtime.Goexit()
	}
}

func (p *play) logf(format string, args ...any) {
	if p.trace != nil {
		p.trace(fmt.Sprintf("%7.3fs  ", time.Since(p.began).Seconds()) + fmt.Sprintf(format, args...))
	}
}

// run plays a script to its end and returns what the client did wrong.
func (p *play) run(script func(*play)) error {
	done := make(chan struct{})
	go func() {
		defer close(done)
		script(p)
	}()
	<-done
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.fate
}

// await waits for a channel, for as long as the client can be expected to need. what is what it is waited for.
func (p *play) await(ch <-chan struct{}, atMost time.Duration, what string) {
	t := time.NewTimer(atMost)
	defer t.Stop()
	select {
	case <-ch:
	case <-p.client.exited():
		p.fatalf("the client ended by itself (%s) while it should have gone on: %s", p.client.ending(), what)
	case <-t.C:
		p.fatalf("nothing came within %v: %s", atMost.Round(time.Second), what)
	case <-p.ctx.Done():
		p.check()
	}
}

// pause lets time pass in which the client must do nothing in particular, but stay.
func (p *play) pause(d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-p.client.exited():
		p.fatalf("the client ended by itself (%s)", p.client.ending())
	case <-p.ctx.Done():
		p.check()
	}
}

// start starts the client, when nothing of an earlier run is left at the bridge.
func (p *play) start() {
	p.check()
	if p.started {
		p.clear()
	}
	p.started = true
	p.logf("the client is started")
	if err := p.client.start(p.ctx); err != nil {
		p.fatalf("the client cannot be started: %v", err)
	}
}

// clear waits until nothing is left at the bridge of a client that has ended.
func (p *play) clear() {
	t := time.NewTimer(promptly)
	defer t.Stop()
	for _, w := range append(p.bridge.grpc.open(), p.bridge.http.open()...) {
		select {
		case <-w.done:
		case <-t.C:
			p.fatalf("the client has ended, and its connection %s has not: something that it has started holds it", w.RemoteAddr())
		}
	}
	for len(p.bridge.calls) > 0 {
		<-p.bridge.calls // opened just before its end
	}
}

// kill ends the client with SIGKILL.
func (p *play) kill() {
	p.check()
	p.logf("the client is killed")
	p.client.kill()
}

// finish gives the client everything that it is still owed, sees that it has handled it, and stops it with SIGTERM.
func (p *play) finish(c *call) {
	if c.sub == nil {
		p.settle(c, len(p.events))
		p.stop()
		return
	}
	// A subscriber does not say what it has handled. Where it comes back to after a goodbye does.
	for n := 0; ; n++ {
		p.give(c, len(p.events))
		p.caughtUp(c)
		p.goodbye(c, pb.GoodbyeReason_GOODBYE_REASON_MAX_AGE, 0)
		c = p.next()
		p.confirm(c)
		if c.pos.events == len(p.events) {
			break
		}
		if n == 3 {
			p.fatalf("the client comes back to event %d again and again, though it was sent all %d in good order", c.pos.events, len(p.events))
		}
	}
	p.caughtUp(c)
	p.stop()
}

// stop ends the client with SIGTERM, which must be in good order.
func (p *play) stop() {
	p.check()
	p.logf("SIGTERM")
	if err := p.client.terminate(stopWithin); err != nil {
		p.fatalf("after SIGTERM %v", err)
	}
	select {
	case <-p.bridge.calls:
		p.fatalf("the client opened another stream after SIGTERM")
	default:
	}
}

// stops waits for the client to end by itself, with another exit code than 0 and without another attempt. why is what has
// told it to.
func (p *play) stops(why string) {
	p.check()
	p.client.expectEnd()
	t := time.NewTimer(p.patience)
	defer t.Stop()
	select {
	case <-p.client.exited():
	case <-p.bridge.calls:
		p.fatalf("the client opened another stream; %s means stop", why)
	case <-t.C:
		p.fatalf("the client has not ended within %v; %s means stop", p.patience, why)
	case <-p.ctx.Done():
		p.check()
	}
	p.logf("the client has ended: %s", p.client.ending())
	if err := p.client.failed(); err != nil {
		p.fatalf("%v; %s means an exit code other than 0", err, why)
	}
	select {
	case <-p.bridge.calls:
		p.fatalf("the client opened another stream before it ended; %s means stop", why)
	default:
	}
}

// compare holds what the client says it has processed against what was sent: what it has acknowledged or come back after it
// must have, and no more than it was sent.
func (p *play) compare() {
	p.check()
	var must, may []string
	if p.protocol == grouped {
		mustHave, mayHave := p.group.outcome()
		for _, i := range mustHave {
			must = append(must, p.events[i].id)
		}
		for _, i := range mayHave {
			may = append(may, p.events[i].id)
		}
	} else {
		for i, e := range p.events[:p.sent] {
			if may = append(may, e.id); i < p.reached.events {
				must = append(must, e.id)
			}
		}
	}
	got, err := p.client.processed(p.ctx)
	if err != nil {
		p.fatalf("%v", err)
	}
	if got == nil { // nobody can be asked
		p.logf("these %d events must have been processed, once each:\n%s", len(must), strings.Join(must, "\n"))
		return
	}
	p.logf("%d events have been processed", len(got))
	if err := compareIDs(must, may, got); err != nil {
		p.fatalf("%v", err)
	}
}
