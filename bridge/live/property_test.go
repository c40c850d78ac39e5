package live

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/spotbridge/spotbridge/bridge"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

// plan is what one subscriber of the property test does.
type plan struct {
	filter *bridge.Filter
	start  pb.Start
	// stops are the numbers of messages after which it goes away and comes back with its cursor.
	stops []int
	// naps are how many batches the writer is ahead when it reads on, now and then.
	naps []int
	// batch is how many events may come in a message.
	batch int
}

var small = struct{ types, operations, organizations, travelers []string }{
	[]string{"A", "B", "C"}, []string{"x", "y", ""}, []string{"o1", "o2", "o3"}, []string{"t1", "t2"},
}

func drawFilter(t *rapid.T) *bridge.Filter {
	some := func(name string, values []string) []string {
		return slices.DeleteFunc(rapid.SliceOfNDistinct(rapid.SampledFrom(values), 0, len(values), rapid.ID[string]).Draw(t, name), func(v string) bool { return v == "" })
	}
	msg := &pb.EventFilter{ExcludeStale: rapid.Bool().Draw(t, "exclude_stale")}
	switch rapid.IntRange(0, 5).Draw(t, "fields") {
	case 0: // everything
	case 1:
		msg.EventTypes = some("types", small.types)
	case 2:
		msg.OrganizationIds = some("organizations", small.organizations)
		msg.Operations = some("operations", small.operations)
	case 3:
		msg.TravelerIds = some("travelers", small.travelers)
	case 4:
		msg.ExcludeOperations = some("exclude", small.operations)
		msg.EventTypes = some("types", small.types)
	case 5:
		msg.EventTypes = []string{"NEVER"}
	}
	f, err := bridge.CompileFilter(msg, "filter")
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func drawEvents(t *rapid.T) []*bridge.Encoded {
	n := rapid.IntRange(1, 150).Draw(t, "events")
	var out []*bridge.Encoded
	seq := uint64(0)
	for range n {
		seq += uint64(rapid.SampledFrom([]int{1, 1, 1, 2, 5}).Draw(t, "gap"))
		out = append(out, event(seq, func(m *bridge.Meta) {
			m.EventType = rapid.SampledFrom(small.types).Draw(t, "type")
			m.Operation = rapid.SampledFrom(small.operations).Draw(t, "operation")
			m.Organizations = rapid.SliceOfNDistinct(rapid.SampledFrom(small.organizations), 0, 2, rapid.ID[string]).Draw(t, "organizations")
			m.TravelerIDs = rapid.SliceOfNDistinct(rapid.SampledFrom(small.travelers), 0, 2, rapid.ID[string]).Draw(t, "travelers")
			m.Stale = rapid.Bool().Draw(t, "stale")
		}))
	}
	return out
}

// TestEachSubscriberSeesExactlyItsEvents: random filters, starts, stops, resumes and pauses, a ring of a few events, and a
// writer that publishes all the while. Each subscriber sees every event of its filter after its start, once, in order.
func TestEachSubscriberSeesExactlyItsEvents(t *testing.T) {
	fellBehind, joins := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		all := drawEvents(t)
		f := newFixture(Config{
			RingEvents: rapid.SampledFrom([]int{1, 2, 4, 16, 256}).Draw(t, "ring"), PageEvents: rapid.IntRange(1, 8).Draw(t, "page"),
			CatchUpReaders: rapid.IntRange(1, 3).Draw(t, "readers"), maxMatches: rapid.SampledFrom([]int{1, 2, 8, 1024}).Draw(t, "matches"),
		})
		before := rapid.IntRange(0, len(all)).Draw(t, "before") // events before the first subscriber
		if before > 0 {
			f.history.commit(all[:before], all[before-1].Sequence)
			if rapid.Bool().Draw(t, "published") {
				f.Publish(all[:before], all[before-1].Sequence)
			}
		}
		plans := make([]plan, rapid.IntRange(1, 6).Draw(t, "subscribers"))
		for i := range plans {
			plans[i] = plan{
				filter: drawFilter(t), start: rapid.SampledFrom([]pb.Start{pb.Start_START_LATEST, pb.Start_START_EARLIEST}).Draw(t, "start"),
				stops: rapid.SliceOfN(rapid.IntRange(1, 40), 0, 4).Draw(t, "stops"), naps: rapid.SliceOfN(rapid.IntRange(0, 20), 1, 5).Draw(t, "naps"),
				batch: rapid.IntRange(0, 5).Draw(t, "batch"),
			}
		}
		batches := rapid.SliceOfN(rapid.IntRange(1, 6), 1, 20).Draw(t, "batches")

		w := &writer{f: f}
		w.cond = sync.NewCond(&w.mu)
		w.head = uint64(0)
		if before > 0 {
			w.head = all[before-1].Sequence
		}
		errs := make(chan error, len(plans))
		var ready, running sync.WaitGroup
		readers := make([]*reader, len(plans))
		for i := range plans {
			readers[i] = &reader{plan: plans[i], w: w, all: all}
			ready.Add(1)
			running.Go(func() { errs <- readers[i].run(&ready) })
		}
		ready.Wait() // every subscriber has its confirmation
		for i, rest := 0, all[before:]; len(rest) > 0; i++ {
			n := min(batches[i%len(batches)], len(rest))
			w.publish(rest[:n])
			rest = rest[n:]
			runtime.Gosched()
		}
		w.finish()
		running.Wait()
		for range plans {
			if err := <-errs; err != nil {
				t.Fatal(err)
			}
		}
		for _, r := range readers {
			fellBehind += r.fellBehind
			joins += r.caughtUp
		}
	})
	if fellBehind == 0 || joins == 0 {
		t.Errorf("the test has no teeth: fell behind %d times, caught up %d times", fellBehind, joins)
	}
}

// writer publishes, and lets readers wait until it is ahead.
type writer struct {
	f       *fixture
	mu      sync.Mutex
	cond    *sync.Cond
	batches int
	head    uint64
	done    bool
}

func (w *writer) publish(events []*bridge.Encoded) {
	mark := events[len(events)-1].Sequence
	w.f.history.commit(events, mark)
	w.f.Publish(events, mark)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.batches++
	w.head = mark
	w.cond.Broadcast()
}

func (w *writer) finish() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.done = true
	w.cond.Broadcast()
}

// ahead waits until n more batches are published, or all are.
func (w *writer) ahead(n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for until := w.batches + n; w.batches < until && !w.done; {
		w.cond.Wait()
	}
}

func (w *writer) finished() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.done
}

var errStop = errors.New("the reader goes away")

// reader is a subscriber that checks what it gets.
type reader struct {
	plan
	w      *writer
	all    []*bridge.Encoded
	ready  *sync.WaitGroup
	begin  uint64 // where the very first stream started
	cursor string
	last   uint64 // sequence of the cursor
	got    []uint64
	bad    error

	// of the stream under way
	count, stopAfter     int
	live                 bool
	fellBehind, caughtUp int
	ctx                  context.Context
	cancel               context.CancelFunc
}

func (r *reader) run(ready *sync.WaitGroup) error {
	r.ready = ready
	stop := func(i int) int {
		if i < len(r.stops) {
			return r.stops[i]
		}
		return 0
	}
	for i := 0; ; i++ {
		final := i >= len(r.stops)
		if final && i > 0 {
			r.w.ahead(1 << 30) // the last stream reads what is left, and ends by itself
		}
		err := r.stream(stop(i), final && r.w.finished())
		if r.bad != nil {
			return r.bad
		}
		switch {
		case err == nil: // stopped at head
			if !final {
				return fmt.Errorf("the stream ended by itself")
			}
			return r.check()
		case !errors.Is(err, errStop) && !errors.Is(err, context.Canceled):
			return err
		}
		if len(r.stops) == 0 {
			r.stops = []int{1} // it had only the one endless stream; now read the rest
		}
	}
}

// stream serves one stream, until it has had so many messages, or everything was published.
func (r *reader) stream(stopAfter int, stopAtHead bool) error {
	req := bridge.SubscribeRequest{Filter: r.filter, Start: r.start, HeartbeatInterval: time.Hour, StopAtHead: stopAtHead, MaxBatchEvents: r.batch}
	if r.cursor != "" {
		req.Start, req.AfterCursor = 0, r.cursor
	}
	r.count, r.stopAfter, r.live = 0, stopAfter, false
	r.ctx, r.cancel = context.WithCancel(context.Background())
	defer r.cancel()
	if !stopAtHead {
		stop := make(chan struct{})
		defer func() { <-stop }()
		go func(cancel context.CancelFunc, ctx context.Context) {
			defer close(stop)
			go func() { <-ctx.Done(); r.w.mu.Lock(); r.w.cond.Broadcast(); r.w.mu.Unlock() }()
			r.w.mu.Lock()
			for !r.w.done && ctx.Err() == nil {
				r.w.cond.Wait()
			}
			r.w.mu.Unlock()
			cancel()
		}(r.cancel, r.ctx)
	}
	err := r.w.f.Subscribe(r.ctx, req, r)
	r.cancel()
	return err
}

func (r *reader) fail(format string, args ...any) error {
	if r.bad == nil {
		r.bad = fmt.Errorf(format, args...)
	}
	return r.bad
}

// SendEvents takes some of them as one message.
func (r *reader) SendEvents(events []bridge.Outgoing, most int, cursor func(uint64) bridge.Cursor) (n, bytes int, err error) {
	events = events[:min(most, len(events))]
	switch {
	case r.count == 0:
		return 0, 0, r.fail("event %d before the confirmation", events[0].Sequence)
	case most != max(r.batch, 1):
		return 0, 0, r.fail("%d events at once", most)
	}
	n = 1 + r.count%len(events)
	last := r.last
	for _, e := range events[:n] {
		if e.Sequence <= last || cursor(e.Sequence).Sequence != e.Sequence {
			return 0, 0, r.fail("event %d after %d, with cursor %d", e.Sequence, last, cursor(e.Sequence).Sequence)
		}
		last = e.Sequence
	}
	if err := r.step(cursor(last).String()); err != nil {
		return 0, 0, err
	}
	for _, e := range events[:n] {
		r.got = append(r.got, e.Sequence)
	}
	return n, n, nil
}

func (r *reader) SendMessage(m *pb.SubscribeResponse) error {
	switch {
	case m.GetConfirmation() != nil:
		if r.count > 0 {
			return r.fail("a second confirmation")
		}
		if r.cursor == "" {
			r.begin = m.GetConfirmation().GetStartSequence()
			r.last = r.begin
			r.ready.Done()
		}
	case r.count == 0:
		return r.fail("%v before the confirmation", m)
	case m.GetCaughtUp() != nil:
		if r.live {
			return r.fail("caught_up twice")
		}
		r.live = true
		r.caughtUp++
	case m.GetFellBehind() != nil:
		if !r.live {
			return r.fail("fell_behind without caught_up")
		}
		r.live = false
		r.fellBehind++
	default:
		return r.fail("unexpected %v", m)
	}
	return r.step(m.GetCursor())
}

// step counts a message, naps, and goes away when it is time. A message that it goes away with has not been taken in.
func (r *reader) step(cursor string) error {
	if err := r.ctx.Err(); err != nil && r.count > 0 {
		return err
	}
	c, err := bridge.ParseCursor(cursor, testLog)
	if err != nil {
		return r.fail("%v", err)
	}
	if c.Sequence < r.last {
		return r.fail("cursor %d after %d", c.Sequence, r.last)
	}
	if r.stopAfter > 0 && r.count >= r.stopAfter {
		return errStop
	}
	r.cursor, r.last = cursor, c.Sequence
	r.count++
	if n := r.naps[r.count%len(r.naps)]; n > 0 && r.count > 1 {
		r.w.ahead(n)
	}
	return nil
}

// check compares what came with what should have.
func (r *reader) check() error {
	var want []uint64
	for _, e := range r.all {
		if e.Sequence > r.begin && r.filter.Match(&e.Meta) {
			want = append(want, e.Sequence)
		}
	}
	if !slices.Equal(r.got, want) {
		return fmt.Errorf("filter %v from %d: got %v, want %v", r.filter.Message, r.begin, r.got, want)
	}
	return nil
}
