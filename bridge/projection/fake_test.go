package projection

import (
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/spotbridge/spotbridge/bridge"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

// fakeLog is a log in memory, for the tests of this package only: the real one is tested with the projection in app.
type fakeLog struct {
	mu      sync.Mutex
	id      bridge.LogID
	entries []*bridge.Entry
	floor   uint64
	head    uint64
	grown   chan struct{}
}

func newFakeLog() *fakeLog {
	return &fakeLog{id: bridge.LogID{1, 2, 3}, floor: 1, grown: make(chan struct{})}
}

// append adds entries; those without a sequence get the next one.
func (l *fakeLog) append(entries ...*bridge.Entry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range entries {
		if e.Sequence == 0 {
			e.Sequence = l.head + 1
		}
		l.head = e.Sequence
		l.entries = append(l.entries, e)
	}
	close(l.grown)
	l.grown = make(chan struct{})
}

// expire drops the entries below a sequence.
func (l *fakeLog) expire(floor uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.floor = floor
	l.entries = slices.DeleteFunc(l.entries, func(e *bridge.Entry) bool { return e.Sequence < floor })
}

// remove drops one entry from the middle.
func (l *fakeLog) remove(seq uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.entries = slices.DeleteFunc(l.entries, func(e *bridge.Entry) bool { return e.Sequence == seq })
}

func (l *fakeLog) State(ctx context.Context) (bridge.LogState, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return bridge.LogState{ID: l.id, Floor: l.floor, Head: l.head, Entries: uint64(len(l.entries))}, ctx.Err()
}

func (l *fakeLog) Get(ctx context.Context, sequence uint64) (*bridge.Entry, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range l.entries {
		if e.Sequence == sequence {
			return e, ctx.Err()
		}
	}
	return nil, ctx.Err()
}

func (l *fakeLog) Follow(ctx context.Context, after uint64, opts bridge.FollowOptions, handle func([]*bridge.Entry) error) error {
	most := opts.MaxBatch
	if most == 0 {
		most = 256
	}
	for {
		l.mu.Lock()
		i, _ := slices.BinarySearchFunc(l.entries, after+1, func(e *bridge.Entry, seq uint64) int { return int(e.Sequence) - int(seq) })
		batch := slices.Clone(l.entries[i:min(i+most, len(l.entries))])
		grown := l.grown
		l.mu.Unlock()
		if len(batch) == 0 {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-grown:
				continue
			}
		}
		for i, e := range batch {
			c := *e
			c.EventType, c.Operation, c.Organizations = "", "", nil // are not read back
			if c.BodySize = len(c.Body); opts.HeadersOnly {
				c.Body = nil
			}
			batch[i] = &c
		}
		if err := handle(batch); err != nil {
			return err
		}
		after = batch[len(batch)-1].Sequence
	}
}

// t0 is when the tests' logs begin.
var t0 = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// event returns a log entry.
func event(webhookID, body string, at time.Time) *bridge.Entry {
	return &bridge.Entry{
		Kind: bridge.EntryEvent, Source: "sandbox", EventID: bridge.EventID("sandbox", webhookID), WebhookID: webhookID,
		ReceiveTime: at.Add(-time.Millisecond), AppendTime: at, TimestampText: "1772366400", TraceID: "trace-" + webhookID, SpanID: "span", APIVersion: "v1",
		Body: []byte(body), BodyHash: sha256.Sum256([]byte(body)),
	}
}

// quarantine returns a log entry.
func quarantine(webhookID, body string, cause pb.DeliveryCause, at time.Time) *bridge.Entry {
	e := event(webhookID, body, at)
	e.Kind, e.Cause = bridge.EntryQuarantine, cause
	return e
}

// pnr returns the body of a booking event; version < 0 = none.
func pnr(op, org, id string, version int, at string) string {
	v := ""
	if version >= 0 {
		v = fmt.Sprintf(`,"version":%d`, version)
	}
	return fmt.Sprintf(`{"event_type":"PNR_V3","operation":%q,"timestamp":%q,"audience":{"organizationId":%q},"payload":{"pnrId":%q,"tripId":"T%s"%s}}`, op, at, org, id, id, v)
}

// collector is a sink that keeps what it gets.
type collector struct {
	mu        sync.Mutex
	events    []*bridge.Encoded
	watermark uint64
	lost      []uint64
}

func (c *collector) Lost(floor uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lost = append(c.lost, floor)
}

func (c *collector) Publish(events []*bridge.Encoded, watermark uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.events = append(c.events, events...)
	c.watermark = watermark
}

// all returns what has come so far; the follower may still be publishing.
func (c *collector) all() []*bridge.Encoded {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.events)
}

func (c *collector) sequences() (out []uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range c.events {
		out = append(out, e.Sequence)
	}
	return out
}

// until waits for a condition.
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("waited too long for: %s", what)
		}
		<-time.After(time.Millisecond) // the pace of looking, not a wait for something
	}
}

// published waits until a sink has had everything.
func published(t testing.TB, c *collector, log *fakeLog) {
	t.Helper()
	until(t, "the sink to have the head", func() bool {
		s, _ := log.State(context.Background())
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.watermark >= s.Head
	})
}

func open(t testing.TB, cfg Config) *Projection {
	t.Helper()
	if cfg.Dir == "" {
		cfg.Dir = t.TempDir()
	}
	p, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

// run starts something and returns the function that ends it and waits.
func run(t testing.TB, f func(ctx context.Context) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				t.Errorf("ended with %v", err)
			}
		})
	}
	t.Cleanup(stop)
	return stop
}

// projected returns a projection that has applied the whole log; it follows until the test ends.
func projected(t testing.TB, cfg Config, log *fakeLog) *Projection {
	t.Helper()
	p := open(t, cfg)
	run(t, func(ctx context.Context) error { return p.Run(ctx, log, nil) })
	caughtUp(t, p, log)
	return p
}

func caughtUp(t testing.TB, p *Projection, log *fakeLog) {
	t.Helper()
	until(t, "the watermark to reach the head", func() bool {
		s, _ := log.State(context.Background())
		return p.Ready() && p.Watermark() >= s.Head
	})
}
