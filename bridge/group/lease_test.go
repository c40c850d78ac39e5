package group

import (
	"context"
	"testing"
	"time"

	"github.com/spotbridge/spotbridge/bridge"
)

// takenBack is a store of which only Release is used.
type takenBack struct {
	bridge.GroupStore
	n int
}

func (s *takenBack) Release(context.Context, *bridge.GroupRecord, bridge.Receipt, time.Duration) error {
	s.n++
	return nil
}

// TestWhatASlowMemberGivesBackAfterASeekIsNotCounted: otherwise the first deliveries of the new queue would have the same
// attempt as the second.
func TestWhatASlowMemberGivesBackAfterASeekIsNotCounted(t *testing.T) {
	store := &takenBack{}
	key := [32]byte{1}
	old := &bridge.GroupRecord{Key: key, Epoch: 1}
	g := &group{s: &Groups{cfg: Config{Store: store}}, rec: &bridge.GroupRecord{Key: key, Epoch: 2}, unseen: map[leaseKey]int{}}
	event, redriven := bridge.Taken{Key: 7, Deliveries: 2}, bridge.Taken{Key: 7, Deliveries: 2, Redriven: true}
	g.giveBack(t.Context(), old, []bridge.Taken{event, redriven})
	if n := g.spent(&event); n != 2 {
		t.Errorf("the event of the new queue was spent %d times, want 2", n)
	}
	if n := g.spent(&redriven); n != 1 {
		t.Errorf("the redriven event was spent %d times, want 1: its queue is not moved", n)
	}
	g.giveBack(t.Context(), g.rec, []bridge.Taken{event})
	if n := g.spent(&event); n != 1 || store.n != 3 {
		t.Errorf("spent %d times, %d given back", n, store.n)
	}
}
