package live

import (
	"maps"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/spotbridge/spotbridge/bridge"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

// TestFilingFindsEveryGroupOnce compares the index with asking all filters.
func TestFilingFindsEveryGroupOnce(t *testing.T) {
	ids := []string{"1", "2", "3"}
	some := func(t *rapid.T, name string) []string {
		return rapid.SliceOfNDistinct(rapid.SampledFrom(ids), 0, 2, rapid.ID[string]).Draw(t, name)
	}
	one := func(t *rapid.T, name string) string {
		return rapid.SampledFrom([]string{"", "1", "2", "3"}).Draw(t, name)
	}
	rapid.Check(t, func(t *rapid.T) {
		gs := newGroups()
		for range rapid.IntRange(0, 20).Draw(t, "filters") {
			msg := &pb.EventFilter{}
			for _, field := range rapid.SliceOfN(rapid.IntRange(0, 9), 0, 3).Draw(t, "fields") {
				switch field {
				case 0:
					msg.EntityIds = some(t, "entities")
				case 1:
					msg.PnrIds = some(t, "pnrs")
				case 2:
					msg.TripIds = some(t, "trips")
				case 3:
					msg.TravelerIds = some(t, "travelers")
				case 4:
					msg.OrganizationIds = some(t, "organizations")
				case 5:
					msg.Operations = some(t, "operations")
				case 6:
					msg.EventTypes = some(t, "types")
				case 7:
					msg.Sources = some(t, "sources")
				case 8:
					msg.ExcludeStale = true
				case 9:
					msg.ExcludeOperations = []string{"9"}
				}
			}
			f, err := bridge.CompileFilter(msg, "filter")
			if err != nil {
				t.Fatal(err)
			}
			gs.join(f, 0)
		}
		m := bridge.Meta{
			Source: one(t, "source"), EventType: one(t, "type"), Operation: one(t, "operation"), EntityID: one(t, "entity"), PNRID: one(t, "pnr"),
			TripID: one(t, "trip"), Organizations: some(t, "organizations"), TravelerIDs: some(t, "travelers"), Stale: rapid.Bool().Draw(t, "stale"),
		}
		found := map[*group]int{}
		gs.match(&m, 7, func(g *group) {
			found[g]++
			g.push(7, 10)
		})
		for _, g := range gs.byKey {
			want := 0
			if g.filter.Match(&m) {
				want = 1
			}
			if found[g] != want {
				t.Fatalf("filter %v found %d times, want %d", g.filter.Message, found[g], want)
			}
		}
		for _, g := range slices.Collect(maps.Values(gs.byKey)) {
			gs.leave(g)
		}
		if len(gs.byKey)+len(gs.filed)+len(gs.other) != 0 {
			t.Fatalf("something is left of the groups: %v", gs)
		}
	})
}

func TestEqualFiltersShareAGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(Config{})
		var clients []*client
		for range 3 {
			clients = append(clients, f.subscribe(t.Context(), bridge.SubscribeRequest{Filter: filter(t, &pb.EventFilter{EventTypes: []string{"B", "A"}})}))
			clients = append(clients, f.subscribe(t.Context(), bridge.SubscribeRequest{Filter: filter(t, &pb.EventFilter{EventTypes: []string{"A", "B", "A"}})}))
		}
		synctest.Wait()
		if n := len(f.groups.byKey); n != 1 {
			t.Errorf("%d groups", n)
		}
		for _, c := range clients {
			c.end()
		}
		if n := len(f.groups.byKey) + len(f.groups.filed) + len(f.hurried) + len(f.subs); n != 0 {
			t.Errorf("%d things are left", n)
		}
	})
}

func TestOnlyGroupsWithMatchesAreWoken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(Config{})
		a := f.subscribe(t.Context(), bridge.SubscribeRequest{Filter: filter(t, &pb.EventFilter{EventTypes: []string{"A"}})})
		b := f.subscribe(t.Context(), bridge.SubscribeRequest{Filter: filter(t, &pb.EventFilter{EventTypes: []string{"B"}})})
		synctest.Wait()
		var subA, subB *Subscription
		for s := range f.subs {
			if s.req.Filter.Message.GetEventTypes()[0] == "A" {
				subA = s
			} else {
				subB = s
			}
		}
		// What a wake-up would do is kept from happening, so that it can be seen.
		a.hold.Lock()
		f.put(event(1, ofType("A")), event(2, ofType("A")), event(3, ofType("C")))
		synctest.Wait()
		if subA.waiting.Load() || !subB.waiting.Load() {
			t.Errorf("A waits: %v, B waits: %v", subA.waiting.Load(), subB.waiting.Load())
		}
		a.hold.Unlock()
		synctest.Wait()
		expect(t, a, "c", "u", "1", "2")
		expect(t, b, "c", "u")
		a.end()
		b.end()
	})
}

func TestTheRingIsBoundedByBytes(t *testing.T) {
	f := newFixture(Config{RingEvents: 1000, RingBytes: 100 << 10})
	body := make([]byte, 10<<10)
	for seq := uint64(1); seq <= 50; seq++ {
		f.Publish([]*bridge.Encoded{bridge.NewEncoded(bridge.Meta{Sequence: seq, AppendTime: time.Now()}, nil, body, len(body), nil)}, seq)
	}
	if f.ring.bytes > 100<<10 || f.ring.end-f.ring.base != 4 || f.ring.floor != 46 {
		t.Errorf("%d bytes, %d events, floor %d", f.ring.bytes, f.ring.end-f.ring.base, f.ring.floor)
	}
	huge := make([]byte, 1<<20)
	f.Publish([]*bridge.Encoded{bridge.NewEncoded(bridge.Meta{Sequence: 51}, nil, huge, len(huge), nil)}, 51)
	if f.ring.end-f.ring.base != 1 || f.ring.floor != 50 {
		t.Errorf("an event larger than the ring: %d events, floor %d", f.ring.end-f.ring.base, f.ring.floor)
	}
}

func TestPagesShrinkWhenManyCatchUp(t *testing.T) {
	h := New(Config{CatchUpBytes: 16 << 20})
	for catching, want := range map[int64]int{0: 1 << 20, 1: 1 << 20, 16: 1 << 20, 32: 512 << 10, 10_000: 64 << 10} {
		h.catchingUp.Store(catching)
		if got := h.pageBytes(); got != want {
			t.Errorf("%d catch up: pages of %d bytes, want %d", catching, got, want)
		}
	}
}
