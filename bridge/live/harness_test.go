package live

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spotbridge/spotbridge/bridge"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

// TestMain fails when a test leaves a goroutine of this module behind.
func TestMain(m *testing.M) {
	code := m.Run()
	deadline := time.Now().Add(5 * time.Second)
	for stacks := ours(); len(stacks) > 0 && code == 0; stacks = ours() {
		if time.Now().After(deadline) {
			fmt.Fprintf(os.Stderr, "goroutines were left behind:\n%s\n", strings.Join(stacks, "\n\n"))
			code = 1
		}
		runtime.Gosched()
	}
	os.Exit(code)
}

// ours returns the stacks of this module's goroutines but the calling one.
func ours() []string {
	buf := make([]byte, 1<<20)
	all := strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n")
	return slices.DeleteFunc(all[1:], func(s string) bool { return !strings.Contains(s, "spotbridge/") })
}

var testLog = bridge.LogID{1, 2, 3}

func cursorAt(seq uint64) string { return bridge.Cursor{Log: testLog, Sequence: seq}.String() }

// history is a bridge.History over a slice, with the real predicate.
type history struct {
	bridge.History // methods that the hub does not use
	mu             sync.Mutex
	log            bridge.LogID
	events         []*bridge.Encoded
	floor, mark    uint64
	scans          int
	err            error
	onScan         func() // without the lock, before the scan
	onScanned      func() // without the lock, after the scan
}

func newHistory() *history { return &history{log: testLog, floor: 1} }

func (h *history) Bounds(context.Context) (bridge.Bounds, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	b := bridge.Bounds{Log: h.log, Floor: h.floor, Watermark: h.mark}
	for _, e := range h.events {
		if e.Sequence >= h.floor {
			b.FloorTime = e.AppendTime
			break
		}
	}
	return b, h.err
}

func (h *history) Scan(_ context.Context, r bridge.ScanRequest) (bridge.ScanResult, error) {
	if h.onScan != nil {
		h.onScan()
	}
	if h.onScanned != nil {
		defer h.onScanned()
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.scans++
	if h.err != nil {
		return bridge.ScanResult{}, h.err
	}
	up := min(r.UpTo, h.mark)
	out := bridge.ScanResult{Next: max(r.After, up)}
	bytes := 0
	for _, e := range h.events {
		if e.Sequence <= r.After || e.Sequence < h.floor || e.Sequence > up || !r.Filter.Match(&e.Meta) {
			continue
		}
		if len(out.Events) == r.MaxEvents || len(out.Events) > 0 && bytes >= r.MaxBytes {
			out.Next = out.Events[len(out.Events)-1].Sequence
			break
		}
		out.Events = append(out.Events, e)
		bytes += len(e.Envelope) + len(e.Body)
	}
	return out, nil
}

func (h *history) SequenceAt(_ context.Context, t time.Time) (uint64, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, e := range h.events {
		if e.Sequence >= h.floor && !e.AppendTime.Before(t) {
			return e.Sequence - 1, nil
		}
	}
	return h.mark, nil
}

// commit applies events and moves the watermark, as the follower does before it publishes.
func (h *history) commit(events []*bridge.Encoded, mark uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.events = append(h.events, events...)
	h.mark = mark
}

// retain deletes what is below a floor.
func (h *history) retain(floor uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.floor = floor
	h.events = slices.DeleteFunc(h.events, func(e *bridge.Encoded) bool { return e.Sequence < floor })
}

// event makes an event. Events of a log have rising sequences.
func event(seq uint64, change ...func(*bridge.Meta)) *bridge.Encoded {
	m := bridge.Meta{
		Sequence: seq, EventID: fmt.Sprintf("s.%d", seq), Source: "s", EventType: "PNR_V3", Operation: "BOOKING_UPDATED",
		Organizations: []string{"org"}, AppendTime: time.Now(),
	}
	for _, f := range change {
		f(&m)
	}
	body := []byte(fmt.Sprintf(`{"n":%d}`, seq))
	return bridge.NewEncoded(m, []byte("envelope"), body, len(body), nil)
}

func ofType(name string) func(*bridge.Meta) { return func(m *bridge.Meta) { m.EventType = name } }

// events makes the events from one sequence to another.
func events(from, to uint64, change ...func(*bridge.Meta)) []*bridge.Encoded {
	var out []*bridge.Encoded
	for s := from; s <= to; s++ {
		out = append(out, event(s, change...))
	}
	return out
}

// fixture is a hub with its history.
type fixture struct {
	*Hub
	history *history
}

func newFixture(cfg Config) *fixture {
	h := newHistory()
	cfg.History = h
	return &fixture{Hub: New(cfg), history: h}
}

// put commits and publishes events.
func (f *fixture) put(events ...*bridge.Encoded) {
	mark := events[len(events)-1].Sequence
	f.history.commit(events, mark)
	f.Publish(events, mark)
}

func filter(t testing.TB, msg *pb.EventFilter) *bridge.Filter {
	t.Helper()
	f, err := bridge.CompileFilter(msg, "filter")
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// latch is a lock whose waiters are idle for testing/synctest.
type latch chan struct{}

func (l latch) Lock()   { l <- struct{}{} }
func (l latch) Unlock() { <-l }

// client is a subscription with its receiving end.
type client struct {
	fixture *fixture
	cancel  context.CancelFunc
	done    chan error

	mu   sync.Mutex
	got  []*pb.SubscribeResponse
	more chan struct{}
	// hold blocks sends while it is locked.
	hold latch
	ctx  context.Context
}

// SendEvents implements bridge.Sender. It has room for all.
func (c *client) SendEvents(events []bridge.Outgoing, most int, cursor func(uint64) bridge.Cursor) (n, bytes int, err error) {
	events = events[:min(most, len(events))]
	batch := &pb.EventBatch{}
	for _, e := range events {
		batch.Events = append(batch.Events, &pb.Event{Sequence: e.Sequence, Id: e.EventID})
	}
	m := &pb.SubscribeResponse{Cursor: cursor(events[len(events)-1].Sequence).String(), Content: &pb.SubscribeResponse_Events{Events: batch}}
	if len(events) == 1 {
		m.Content = &pb.SubscribeResponse_Event{Event: batch.GetEvents()[0]}
	}
	return len(events), 1, c.SendMessage(m)
}

// SendMessage implements bridge.Sender.
func (c *client) SendMessage(m *pb.SubscribeResponse) error {
	c.hold.Lock()
	c.hold.Unlock() //nolint:staticcheck // the lock is a gate that a test shuts
	if err := c.ctx.Err(); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.got = append(c.got, m)
	select {
	case c.more <- struct{}{}:
	default:
	}
	return nil
}

// subscribe starts a subscription.
func (f *fixture) subscribe(ctx context.Context, r bridge.SubscribeRequest) *client {
	return f.start(ctx, r, false)
}

// subscribeHeld starts a subscription whose very first send blocks until hold is unlocked.
func (f *fixture) subscribeHeld(ctx context.Context, r bridge.SubscribeRequest) *client {
	return f.start(ctx, r, true)
}

func (f *fixture) start(ctx context.Context, r bridge.SubscribeRequest, held bool) *client {
	ctx, cancel := context.WithCancel(ctx)
	c := &client{fixture: f, cancel: cancel, ctx: ctx, done: make(chan error, 1), more: make(chan struct{}, 1), hold: make(latch, 1)}
	if held {
		c.hold.Lock() // before the subscription runs: afterwards it may have sent everything already
	}
	go func() { c.done <- f.Subscribe(ctx, r, c) }()
	return c
}

// end cancels the call and waits for it.
func (c *client) end() error {
	c.cancel()
	return <-c.done
}

// await waits in a bubble until so many messages have come, and for what comes at the same moment. That must take some time,
// and not longer.
func (c *client) await(t *testing.T, n int, least, most time.Duration) {
	t.Helper()
	begin := time.Now()
	for len(c.messages()) < n {
		<-c.more
	}
	synctest.Wait()
	if took := time.Since(begin); took < least || took > most {
		t.Errorf("%d messages took %v, want %v to %v", n, took, least, most)
	}
}

// messages returns what came so far.
func (c *client) messages() []*pb.SubscribeResponse {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.got)
}

// kinds writes messages down: c confirmation, h heartbeat, u caught up, f fell behind, g goodbye, s end of the snapshot, events as their sequences.
func kinds(messages []*pb.SubscribeResponse) []string {
	var out []string
	for _, m := range messages {
		switch x := m.GetContent().(type) {
		case *pb.SubscribeResponse_Confirmation:
			out = append(out, "c")
		case *pb.SubscribeResponse_Event:
			out = append(out, fmt.Sprint(x.Event.GetSequence()))
		case *pb.SubscribeResponse_Heartbeat:
			out = append(out, "h")
		case *pb.SubscribeResponse_CaughtUp:
			out = append(out, "u")
		case *pb.SubscribeResponse_FellBehind:
			out = append(out, "f")
		case *pb.SubscribeResponse_Goodbye:
			out = append(out, "g")
		case *pb.SubscribeResponse_SnapshotEnd:
			out = append(out, "s")
		}
	}
	return out
}

func expect(t testing.TB, c *client, want ...string) {
	t.Helper()
	if got := kinds(c.messages()); !slices.Equal(got, want) {
		t.Fatalf("messages %v, want %v", got, want)
	}
}

func expectReason(t testing.TB, err error, want pb.ErrorReason) *bridge.Error {
	t.Helper()
	if bridge.ReasonOf(err) != want {
		t.Fatalf("error %v, want %v", err, want)
	}
	e, _ := err.(*bridge.Error) //nolint:errorlint // it comes as it is
	return e
}

func sequenceOf(t testing.TB, cursor string) uint64 {
	t.Helper()
	c, err := bridge.ParseCursor(cursor, testLog)
	if err != nil {
		t.Fatal(err)
	}
	return c.Sequence
}
