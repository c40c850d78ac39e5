package app_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/spotbridge/spotbridge/bridge"
	"github.com/spotbridge/spotbridge/bridge/bridgetest"
	"github.com/spotbridge/spotbridge/bridge/eventlog"
	"github.com/spotbridge/spotbridge/bridge/live"
	"github.com/spotbridge/spotbridge/bridge/projection"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

// lifecycles are the events of some entities as Spotnana might send them: several operations share a version, a version is
// missing now and then, some entities have none, events overtake one another, and old ones are sent again under new ids.
func lifecycles(r *rand.Rand, entities int) []string {
	type sent struct {
		at   float64
		body string
	}
	var all []sent
	padding := strings.Repeat("x", 4<<10)
	for e := range entities {
		versioned := e%4 != 3
		for v := 1; v <= 3+r.IntN(6); v++ {
			if v > 1 && r.IntN(6) == 0 {
				continue // it never comes
			}
			for op := range 1 + r.IntN(2) {
				version := ""
				if versioned {
					version = fmt.Sprintf(`,"version":%d`, v)
				}
				body := fmt.Sprintf(`{"event_type":"PNR_V3","operation":"OP_%d","timestamp":%q,"audience":{"organizationId":"org-%d"},"payload":{"pnrId":"pnr-%d"%s,"pad":%q}}`,
					op, time.Date(2026, 3, 1, 12, v, op, 0, time.UTC).Format(time.RFC3339), e%3, e, version, padding)
				at := float64(v) + r.Float64()*2.5
				all = append(all, sent{at, body})
				if r.IntN(5) == 0 {
					all = append(all, sent{at + r.Float64()*6, body}) // again, under an id of its own
				}
			}
		}
	}
	slices.SortFunc(all, func(a, b sent) int { return cmp.Compare(a.at, b.at) })
	out := []string{}
	for i, s := range all {
		out = append(out, s.body)
		if i%9 == 0 { // events without an entity are in no snapshot, and quarantined bodies in no stream
			out = append(out, `{"event_type":"SOMETHING_NEW","payload":{}}`, `{"no event type":1}`)
		}
	}
	return out
}

// folder is a client that builds state: of each entity it keeps the highest version, where there is none the latest time,
// and of equal ones the last. It goes away in the middle now and then.
type folder struct {
	mu       sync.Mutex
	r        *rand.Rand
	restless bool
	cursor   string
	events   []*pb.Event // as they came
	snapshot uint64
	size     int // events of the snapshot
	ended    bool
	head     uint64
}

var errRestless = errors.New("it goes away")

// SendEvents takes some of them as one message.
func (f *folder) SendEvents(events []bridge.Outgoing, most int, cursor func(uint64) bridge.Cursor) (n, bytes int, err error) {
	events = events[:min(most, len(events))]
	var ms []*pb.Event
	for _, e := range events[:1+len(f.events)%len(events)] {
		m, err := e.Event(pb.EventView_EVENT_VIEW_ENVELOPE, 0)
		if err != nil {
			return 0, 0, err
		}
		ms = append(ms, m)
	}
	n = len(ms)
	last := events[n-1].Sequence
	return n, n, f.take(cursor(last).String(), func() { f.events, f.head = append(f.events, ms...), last })
}

func (f *folder) SendMessage(m *pb.SubscribeResponse) error {
	return f.take(m.GetCursor(), func() {
		if c := m.GetConfirmation(); c != nil && f.cursor == "" {
			f.snapshot = c.GetSnapshotSequence()
		}
		if m.GetSnapshotEnd() != nil {
			f.ended, f.size = true, len(f.events)
		}
	})
}

func (f *folder) take(cursor string, apply func()) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.restless && f.r.IntN(9) == 0 {
		return errRestless
	}
	apply()
	f.cursor = cursor
	return nil
}

// follow subscribes until the head, again and again when it goes away.
func (f *folder) follow(ctx context.Context, hub *live.Hub, req bridge.SubscribeRequest) error {
	req.HeartbeatInterval, req.StopAtHead, req.View = time.Minute, true, pb.EventView_EVENT_VIEW_ENVELOPE
	for {
		f.mu.Lock()
		if f.cursor != "" {
			req.Start, req.AfterCursor = 0, f.cursor
		}
		f.mu.Unlock()
		if err := hub.Subscribe(ctx, req, f); !errors.Is(err, errRestless) {
			return err
		}
	}
}

// above says whether an event is later than another of its entity, as latest_per_entity means it.
func above(a, b *pb.Event) bool {
	x, y := a.GetEntity(), b.GetEntity()
	switch {
	case (x.Version != nil) != (y.Version != nil):
		return x.Version != nil
	case x.Version != nil && x.GetVersion() != y.GetVersion():
		return x.GetVersion() > y.GetVersion()
	case x.Version == nil && !a.GetEventTime().AsTime().Equal(b.GetEventTime().AsTime()):
		return a.GetEventTime().AsTime().After(b.GetEventTime().AsTime())
	}
	return a.GetSequence() > b.GetSequence()
}

// stateOf folds events into the latest of each entity, in log order.
func stateOf(events []*pb.Event) []uint64 {
	best := map[string]*pb.Event{}
	for _, e := range events {
		if id := e.GetEntity().GetId(); e.GetEntity() != nil && (best[id] == nil || above(e, best[id])) {
			best[id] = e
		}
	}
	var out []uint64
	for _, e := range best {
		out = append(out, e.GetSequence())
	}
	slices.Sort(out)
	return out
}

func sequences(events []*pb.Event) []uint64 {
	var out []uint64
	for _, e := range events {
		out = append(out, e.GetSequence())
	}
	return out
}

// marksOf recomputes the ordering marks from the events themselves, where they have versions. begun says that the log was
// projected from its first entry.
func marksOf(events []*pb.Event, begun bool) map[uint64]pb.Ordering {
	out, highest, proven := map[uint64]pb.Ordering{}, map[string]int32{}, map[string]bool{}
	for _, e := range events {
		if e.GetEntity() == nil || e.GetEntity().Version == nil {
			continue
		}
		id, v := e.GetEntity().GetId(), e.GetEntity().GetVersion()
		h, seen := highest[id]
		proven[id] = proven[id] || v <= 1 || begun
		switch {
		case !proven[id]:
			out[e.GetSequence()] = pb.Ordering_ORDERING_UNKNOWN
		case !seen || v == h+1:
			out[e.GetSequence()] = pb.Ordering_ORDERING_IN_ORDER
		case v > h:
			out[e.GetSequence()] = pb.Ordering_ORDERING_GAP
		case v == h:
			out[e.GetSequence()] = pb.Ordering_ORDERING_SAME_VERSION
		default:
			out[e.GetSequence()] = pb.Ordering_ORDERING_STALE
		}
		if !seen || v > h {
			highest[id] = v
		}
	}
	return out
}

// listed pages through history.
func listed(t testing.TB, p *projection.Projection, req bridge.ListRequest) []*pb.Event {
	t.Helper()
	var out []*pb.Event
	for req.OldestFirst, req.PageSize = true, 7; ; {
		res, err := p.List(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range res.Events {
			m, err := e.Event(pb.EventView_EVENT_VIEW_ENVELOPE, 0)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, m)
		}
		if res.Next == 0 {
			return out
		}
		req.Resume, req.Snapshot = res.Next, res.Snapshot
	}
}

// TestSnapshotStreamAndHistoryAgree on a real log and a real projection: marks, exclude_stale and the latest per entity
// are the same wherever one looks, and a snapshot with what follows gives the state that all events give.
func TestSnapshotStreamAndHistoryAgree(t *testing.T) {
	seeds := 6
	if testing.Short() {
		seeds = 2
	}
	for seed := range seeds {
		for name, maxBytes := range map[string]int64{"from the first entry": 1 << 30, "begun above sequence 1": 400 << 10} {
			t.Run(fmt.Sprintf("%s, %d", name, seed), func(t *testing.T) {
				r := rand.New(rand.NewPCG(uint64(seed), 4))
				dir := t.TempDir()
				open := func(maxBytes int64) (*eventlog.Log, func()) {
					log, err := eventlog.Open(t.Context(), eventlog.Config{Dir: dir, MaxBytes: maxBytes, MaxBody: 8 << 20, Reserve: 1})
					if err != nil {
						t.Fatal(err)
					}
					shut := sync.OnceFunc(log.Close)
					t.Cleanup(shut)
					return log, shut
				}
				log, shut := open(maxBytes)
				bodies := lifecycles(r, 24)
				put := func(from, to int) {
					for i, b := range bodies[from:to] {
						if _, err := log.Append(t.Context(), bridgetest.Entry("s", fmt.Sprintf("w%d", from+i), b)); err != nil {
							t.Fatal(err)
						}
					}
				}
				most, half := len(bodies)*3/4, len(bodies)*7/8
				put(0, most)
				shut()
				log, _ = open(1 << 30) // from now on its floor stays where it is
				st, err := log.State(t.Context())
				if err != nil || (st.Floor > 1) != (maxBytes < 1<<20) {
					t.Fatalf("floor %d of %d: %v", st.Floor, st.Head, err)
				}
				begun := st.Floor <= 1
				p, err := projection.Open(t.Context(), projection.Config{Dir: t.TempDir()})
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { p.Close() })
				hub := live.New(live.Config{History: p, RingEvents: 8, PageEvents: 5})
				runParts(t, func(ctx context.Context) error { return p.Run(ctx, log, hub) })
				caught := func() {
					eventually(t, func() bool {
						st, err := log.State(t.Context())
						return err == nil && hub.Watermark() == st.Head
					})
				}
				caught()

				filters := []*bridge.Filter{nil}
				for _, m := range []*pb.EventFilter{{ExcludeStale: true}, {Operations: []string{"OP_1"}}, {OrganizationIds: []string{"org-1"}, ExcludeStale: true}} {
					f, err := bridge.CompileFilter(m, "filter")
					if err != nil {
						t.Fatal(err)
					}
					filters = append(filters, f)
				}
				folders := make([]*folder, len(filters))
				for i, f := range filters {
					folders[i] = &folder{r: rand.New(rand.NewPCG(uint64(seed), uint64(i))), restless: true}
					if err := folders[i].follow(t.Context(), hub, bridge.SubscribeRequest{Filter: f, Start: pb.Start_START_SNAPSHOT, MaxBatchEvents: i}); err != nil {
						t.Fatal(err)
					}
				}
				put(most, half)
				var running sync.WaitGroup
				for i, f := range filters {
					running.Go(func() {
						if err := folders[i].follow(t.Context(), hub, bridge.SubscribeRequest{Filter: f, MaxBatchEvents: 2 * i}); err != nil {
							t.Error(err)
						}
					})
				}
				put(half, len(bodies))
				running.Wait()
				caught()

				whole := &folder{}
				if err := whole.follow(t.Context(), hub, bridge.SubscribeRequest{Start: pb.Start_START_EARLIEST}); err != nil {
					t.Fatal(err)
				}
				history := listed(t, p, bridge.ListRequest{})
				if len(history) != len(whole.events) {
					t.Fatalf("history has %d events, the stream %d", len(history), len(whole.events))
				}
				marks, seen := marksOf(whole.events, begun), map[pb.Ordering]int{}
				for i, e := range whole.events {
					if !proto.Equal(e, history[i]) {
						t.Fatalf("event %d differs in history", e.GetSequence())
					}
					if want, ok := marks[e.GetSequence()]; ok && e.GetOrdering() != want {
						t.Errorf("event %d is marked %v, want %v", e.GetSequence(), e.GetOrdering(), want)
					}
					seen[e.GetOrdering()]++
				}
				for o := pb.Ordering_ORDERING_IN_ORDER; o <= pb.Ordering_ORDERING_UNKNOWN; o++ {
					if seen[o] == 0 && (o != pb.Ordering_ORDERING_UNKNOWN || !begun) {
						t.Errorf("no event is marked %v: the test has no teeth", o)
					}
				}
				for i, f := range filters {
					if err := folders[i].follow(t.Context(), hub, bridge.SubscribeRequest{Filter: f}); err != nil { // what is left
						t.Fatal(err)
					}
					checkFolder(t, p, folders[i], f, whole.events)
				}
			})
		}
	}
}

func checkFolder(t *testing.T, p *projection.Projection, got *folder, f *bridge.Filter, whole []*pb.Event) {
	t.Helper()
	var all, until, since []*pb.Event
	for _, e := range whole {
		if f != nil && !matches(f, e) {
			continue
		}
		all = append(all, e)
		if e.GetSequence() <= got.snapshot {
			until = append(until, e)
		} else {
			since = append(since, e)
		}
	}
	if !got.ended || got.size == 0 || len(since) == 0 {
		t.Fatalf("snapshot_end %v, %d events in the snapshot, %d since: the test has no teeth", got.ended, got.size, len(since))
	}
	snapshot := sequences(got.events[:got.size])
	if want := stateOf(until); !slices.Equal(snapshot, want) {
		t.Errorf("the snapshot of %d is\n%v, want\n%v", got.snapshot, snapshot, want)
	}
	if want := sequences(listed(t, p, bridge.ListRequest{Filter: f, LatestPerEntity: true, Snapshot: got.snapshot})); !slices.Equal(snapshot, want) {
		t.Errorf("the snapshot of %d is\n%v, latest_per_entity lists\n%v", got.snapshot, snapshot, want)
	}
	if x, want := sequences(got.events[got.size:]), sequences(since); !slices.Equal(x, want) {
		t.Errorf("since the snapshot\n%v, want\n%v", x, want)
	}
	if x, want := stateOf(got.events), stateOf(all); !slices.Equal(x, want) {
		t.Errorf("state by snapshot and events\n%v, by all events\n%v", x, want)
	}
	if x, want := stateOf(all), sequences(listed(t, p, bridge.ListRequest{Filter: f, LatestPerEntity: true})); !slices.Equal(x, want) {
		t.Errorf("state by all events\n%v, latest_per_entity lists\n%v", x, want)
	}
}

// matches is the filters of this test, written anew.
func matches(f *bridge.Filter, e *pb.Event) bool {
	m := f.Message
	return (!m.GetExcludeStale() || e.GetOrdering() != pb.Ordering_ORDERING_STALE) &&
		(len(m.GetOperations()) == 0 || slices.Contains(m.GetOperations(), e.GetOperation())) &&
		(len(m.GetOrganizationIds()) == 0 || slices.Contains(m.GetOrganizationIds(), e.GetOrganizationId()))
}
