package server

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"net/http"
	"runtime"
	"testing"
	"weak"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/spotbridge/spotbridge/bridge"
	"github.com/spotbridge/spotbridge/bridge/live"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

// eventsOf returns the events of a message.
func eventsOf(m *pb.SubscribeResponse) []*pb.Event {
	if e := m.GetEvent(); e != nil {
		return []*pb.Event{e}
	}
	return m.GetEvents().GetEvents()
}

// TestBatchesHoldWhatSingleEventsWould: bodies of all sizes, every view, from history and live; several clients at once, so
// that bytes are shared. No message is larger than it may be, and each cursor is that of its last event.
func TestBatchesHoldWhatSingleEventsWould(t *testing.T) {
	t.Parallel()
	const events = 400
	r := rand.New(rand.NewPCG(1, 2))
	f := newFixture(t, func(_ *Config, c *live.Config) { c.RingEvents = 128 })
	// publish publishes as many events as a follower does at once.
	publish := func(from, to int) {
		for seq := from; seq < to; {
			n := min(1+r.IntN(40), to-seq)
			made := make([]*bridge.Encoded, 0, n)
			for range n {
				size := []int{0, 1, 300, 511, 512, 513, 2000, 30 << 10, 200 << 10}[r.IntN(9)]
				made = append(made, makeEvent(uint64(seq), bytes.Repeat([]byte{byte('a' + seq%26)}, size)))
				seq++
			}
			f.put(made...)
		}
	}
	publish(1, events/2)
	type ask struct {
		batch, limit int32
		view         pb.EventView
	}
	var asks []ask
	for _, view := range []pb.EventView{pb.EventView_EVENT_VIEW_ENVELOPE, pb.EventView_EVENT_VIEW_TYPED, pb.EventView_EVENT_VIEW_RAW, pb.EventView_EVENT_VIEW_FULL} {
		asks = append(asks, ask{0, 64 << 10, view}, ask{1, 64 << 10, view}, ask{2, 64 << 10, view}, ask{1000, 64 << 10, view}, ask{0, 0, view}, ask{7, 0, view}, ask{1000, 0, view})
	}
	got := make([][]*pb.Event, len(asks))
	largest := make([]int, len(asks)) // events in a message
	streams := make([]func() error, len(asks))
	for i, a := range asks {
		s := f.subscribe(t, &pb.SubscribeRequest{Start: pb.Start_START_EARLIEST, View: a.view, MaxBatchEvents: a.batch, MaxMessageBytes: a.limit})
		if c := next(t, s).GetConfirmation(); c.GetMaxBatchEvents() != max(a.batch, 1) {
			t.Fatalf("confirmed %d for %d", c.GetMaxBatchEvents(), a.batch)
		}
		streams[i] = func() error {
			for len(got[i]) < events-1 {
				m, err := s.Recv()
				if err != nil {
					return err
				}
				es := eventsOf(m)
				if len(es) == 0 {
					continue
				}
				if n := len(m.GetEvents().GetEvents()); n == 1 || n > int(a.batch) {
					return errors.New("a batch of one, or of too many")
				}
				if a.limit > 0 && proto.Size(m) > int(a.limit) || len(es) > 1 && proto.Size(m) > batchBytes {
					return errors.New("a message is too large")
				}
				if m.GetCursor() != cursorAt(es[len(es)-1].GetSequence()) {
					return errors.New("the cursor is not that of the last event")
				}
				got[i], largest[i] = append(got[i], es...), max(largest[i], len(es))
			}
			return nil
		}
	}
	done := make(chan error, len(streams))
	for _, read := range streams {
		go func() { done <- read() }()
	}
	publish(events/2, events)
	for range streams {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	single := map[ask]int{}
	for i, a := range asks {
		if a.batch == 0 {
			single[ask{0, a.limit, a.view}] = i
		}
	}
	for i, a := range asks {
		if a.batch > 1 && largest[i] < 2 {
			t.Errorf("%+v: no two events came together", a)
		}
		want := got[single[ask{0, a.limit, a.view}]]
		for k := range want {
			if !proto.Equal(got[i][k], want[k]) {
				t.Fatalf("%+v: event %d differs", a, k)
			}
		}
	}
}

func TestBatchesAreAskedForWithinBoundsAndOverGRPCOnly(t *testing.T) {
	t.Parallel()
	f := filled(t)
	for _, n := range []int32{-1, maxBatchEvents + 1} {
		_, err := f.subscribe(t, &pb.SubscribeRequest{MaxBatchEvents: n}).Recv()
		expectError(t, err, codes.InvalidArgument, "INVALID_FIELD", "max_batch_events")
	}
	a := f.do(t, http.MethodGet, "/v1/events:subscribe?max_batch_events=10", "")
	if a.StatusCode != http.StatusBadRequest || !bytes.Contains(a.body, []byte("max_batch_events")) {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
	s := f.subscribe(t, &pb.SubscribeRequest{Start: pb.Start_START_EARLIEST, MaxBatchEvents: maxBatchEvents, StopAtHead: true})
	n := 0
	for m := range untilEnd(t, s) {
		n += len(eventsOf(m))
	}
	if n != 20 {
		t.Errorf("%d events", n)
	}
}

// TestAFrameInUseKeepsNoLargeNeighbours: what a client that has stopped reading holds must not grow with what came beside it.
func TestAFrameInUseKeepsNoLargeNeighbours(t *testing.T) {
	t.Parallel()
	m := &maker{ready: 2 * blockFrames}
	var kept *bridge.Made
	var bodies []weak.Pointer[byte]
	for i := range 2 * blockFrames {
		body := make([]byte, bridge.BlockBytes)
		f := m.newFrame(makeEvent(uint64(i+1), body), bridge.Cursor{}, pb.EventView_EVENT_VIEW_RAW, defaultMessageBytes)
		if i == blockFrames/2 {
			kept = f
		} else {
			bodies = append(bodies, weak.Make(&body[0]))
		}
	}
	runtime.GC()
	for i, b := range bodies {
		if b.Value() != nil {
			t.Fatalf("body %d is still there", i)
		}
	}
	runtime.KeepAlive(kept)
	runtime.KeepAlive(m)
}
