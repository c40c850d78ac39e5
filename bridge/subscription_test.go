package bridge

import (
	"sync"
	"testing"

	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

func TestSharedKeepsOneValuePerVariant(t *testing.T) {
	var s Shared
	var wg sync.WaitGroup
	got := make([]any, 64)
	for i := range got {
		wg.Go(func() {
			got[i] = s.Get(Form{View: pb.EventView_EVENT_VIEW_RAW, Limit: i % 4 / 2, Batched: i%2 == 1}, func() *Made { return &Made{Value: new(int)} })
		})
	}
	wg.Wait()
	for i, v := range got {
		if v != got[i%4] || v == got[(i+1)%4] {
			t.Fatalf("value %d is not that of its variant", i)
		}
	}
	for limit := range 100 { // odd limits do not pile up
		s.Get(Form{View: pb.EventView_EVENT_VIEW_TYPED, Limit: limit}, func() *Made { return &Made{Value: limit} })
	}
	if d := s.first.Load().depth; d > maxShared {
		t.Errorf("%d variants are kept", d)
	}
	if v := (*Shared)(nil).Get(Form{}, func() *Made { return &Made{Value: 7} }); v != 7 {
		t.Error(v)
	}
}
