package projection

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"

	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

const (
	inOrder = pb.Ordering_ORDERING_IN_ORDER
	stale   = pb.Ordering_ORDERING_STALE
	same    = pb.Ordering_ORDERING_SAME_VERSION
	gap     = pb.Ordering_ORDERING_GAP
	unknown = pb.Ordering_ORDERING_UNKNOWN
)

// mark is an event of one entity; none stands for no version or time.
type mark struct {
	version, time int64
	want          pb.Ordering
}

const none = -1 << 40

func opt(v int64) *int64 {
	if v == none {
		return nil
	}
	return &v
}

func TestFold(t *testing.T) {
	for name, x := range map[string]struct {
		begunLate bool
		marks     []mark
	}{
		"versions in order":               {false, []mark{{0, 1, inOrder}, {1, 2, inOrder}, {2, 3, inOrder}}},
		"first sight of a high version":   {false, []mark{{7, 1, inOrder}, {8, 1, inOrder}}},
		"several operations, one version": {false, []mark{{1, 1, inOrder}, {1, 2, same}, {1, 0, same}, {2, 3, inOrder}}},
		"skipped and late":                {false, []mark{{1, 1, inOrder}, {3, 3, gap}, {2, 2, stale}, {4, 4, inOrder}, {3, 3, stale}, {4, 5, same}}},
		"version beats time":              {false, []mark{{1, 9, inOrder}, {2, 1, inOrder}, {1, 99, stale}}},
		"negative and largest versions":   {false, []mark{{-5, 1, inOrder}, {-4, 1, inOrder}, {1<<31 - 1, 1, gap}, {1<<31 - 1, 1, same}, {-1 << 31, 1, stale}}},
		"times in order":                  {false, []mark{{none, 1, inOrder}, {none, 2, inOrder}, {none, 2, same}, {none, 1, stale}, {none, 3, inOrder}}},
		"neither version nor time":        {false, []mark{{none, none, unknown}, {none, 1, inOrder}, {none, none, unknown}, {none, 1, same}}},
		"version without time":            {false, []mark{{1, none, inOrder}, {none, 1, inOrder}, {2, none, inOrder}}},
		"time after versions":             {false, []mark{{1, 5, inOrder}, {none, 4, stale}, {none, 5, same}, {none, 6, inOrder}, {2, 1, inOrder}, {none, 6, same}}},
		"version after times":             {false, []mark{{none, 5, inOrder}, {3, 1, inOrder}, {4, 1, inOrder}}},
		"begun late":                      {true, []mark{{5, 1, unknown}, {6, 1, unknown}, {5, 1, unknown}}},
		"begun late, first version seen":  {true, []mark{{1, 1, inOrder}, {2, 1, inOrder}, {4, 1, gap}, {2, 1, stale}, {4, 1, same}}},
		"begun late, first version 0":     {true, []mark{{0, 1, inOrder}, {1, 1, inOrder}}},
		"begun late, first version late":  {true, []mark{{5, 1, unknown}, {1, 1, stale}, {6, 1, inOrder}, {8, 1, gap}, {5, 1, stale}}},
		"begun late, without versions":    {true, []mark{{none, 1, unknown}, {none, 2, unknown}, {none, 1, unknown}}},
		"begun late, proven, then times":  {true, []mark{{none, 5, unknown}, {1, 6, inOrder}, {none, 5, stale}, {none, 7, inOrder}}},
	} {
		t.Run(name, func(t *testing.T) {
			var s entityState
			for i, m := range x.marks {
				var got pb.Ordering
				if got, s = fold(s, i > 0, !x.begunLate, opt(m.version), opt(m.time)); got != m.want {
					t.Fatalf("event %d (version %d, time %d): %v, want %v", i, m.version, m.time, got, m.want)
				}
			}
		})
	}
}

// TestFoldAfterLoss takes the proof away from an entity, as is done when entries were lost.
func TestFoldAfterLoss(t *testing.T) {
	_, s := fold(entityState{}, false, true, opt(1), nil)
	s.proven = false
	got, s := fold(s, true, false, opt(4), nil)
	if got != unknown {
		t.Errorf("after a loss: %v", got)
	}
	if got, _ = fold(s, true, false, opt(1), nil); got != stale {
		t.Errorf("first version after a loss: %v", got)
	}
}

// TestFoldShuffledLifecycles compares the fold with its definition on lifecycles in every disorder.
func TestFoldShuffledLifecycles(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for round := range 2000 {
		var events []mark
		for v := range int64(1 + r.IntN(6)) {
			for range 1 + r.IntN(2) { // several operations may share a version
				m := mark{version: v, time: int64(r.IntN(6))}
				if r.IntN(4) == 0 {
					m.version = none
				}
				if r.IntN(6) == 0 {
					m.time = none
				}
				events = append(events, m)
			}
		}
		r.Shuffle(len(events), func(i, j int) { events[i], events[j] = events[j], events[i] })
		complete := r.IntN(2) == 0
		var s entityState
		for i, m := range events {
			var got pb.Ordering
			got, s = fold(s, i > 0, complete, opt(m.version), opt(m.time))
			if want := define(events[:i], m, complete); got != want {
				t.Fatalf("round %d: %v then %v: %v, want %v", round, events[:i], m, got, want)
			}
		}
	}
}

// define says the ordering of m after the events before it, straight from DESIGN section 3.
func define(before []mark, m mark, complete bool) pb.Ordering {
	proven := complete || (m.version != none && m.version <= 1)
	var versions, times []int64
	for _, b := range before {
		if b.version != none {
			versions = append(versions, b.version)
			proven = proven || b.version <= 1
		}
		if b.time != none {
			times = append(times, b.time)
		}
	}
	value, others, step := m.version, versions, true
	if m.version == none {
		value, others, step = m.time, times, false
	}
	if !proven || value == none {
		return unknown
	}
	highest := int64(none)
	for _, o := range others {
		highest = max(highest, o)
	}
	switch {
	case highest == none:
		return inOrder
	case value < highest:
		return stale
	case value == highest:
		return same
	case step && value > highest+1:
		return gap
	}
	return inOrder
}

// TestOrderingInTheProjection runs lifecycles of several entities through the projection.
func TestOrderingInTheProjection(t *testing.T) {
	log := newFakeLog()
	want := []pb.Ordering{}
	add := func(body string, o pb.Ordering) {
		log.append(event(fmt.Sprint("w", len(want)), body, t0))
		want = append(want, o)
	}
	add(pnr("CREATED", "o", "1", 1, "2026-03-01T12:00:00Z"), inOrder)
	add(pnr("CREATED", "o", "2", 3, "2026-03-01T12:00:00Z"), inOrder)
	add(pnr("UPDATED", "o", "1", 3, "2026-03-01T12:02:00Z"), gap)
	add(pnr("UPDATED", "o", "1", 2, "2026-03-01T12:01:00Z"), stale)
	add(pnr("UPDATED", "o", "2", 3, "2026-03-01T12:02:00Z"), same)
	add(`{"event_type":"TRIP_DETAILS_V3","payload":{"basicTripInfo":{"tripId":"1"}},"timestamp":"2026-03-01T12:05:00Z"}`, inOrder)
	add(`{"event_type":"TRIP_DETAILS_V3","payload":{"basicTripInfo":{"tripId":"1"}},"timestamp":"2026-03-01T12:04:59.999999999Z"}`, stale)
	add(`{"event_type":"TRIP_DETAILS_V3","payload":{"basicTripInfo":{"tripId":"1"}},"timestamp":"garbage"}`, unknown)
	add(`{"event_type":"NEW","payload":{"pnrId":"1"}}`, unknown)
	sink := &collector{}
	p := open(t, Config{BatchEntries: 2})
	run(t, func(ctx context.Context) error { return p.Run(ctx, log, sink) })
	published(t, sink, log)
	for i, e := range sink.all() {
		ev, err := e.Event(pb.EventView_EVENT_VIEW_ENVELOPE, 0)
		if err != nil {
			t.Fatal(err)
		}
		if ev.GetOrdering() != want[i] || e.Stale != (want[i] == stale) {
			t.Errorf("event %d: %v, want %v", i, ev.GetOrdering(), want[i])
		}
	}
	if len(sink.all()) != len(want) {
		t.Errorf("%d events instead of %d", len(sink.all()), len(want))
	}
}
