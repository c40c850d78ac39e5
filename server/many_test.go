package server

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/spotbridge/spotbridge/bridge"
	"github.com/spotbridge/spotbridge/bridge/bridgetest"
	"github.com/spotbridge/spotbridge/bridge/live"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

// TestThousandsOfSubscribers: 10,000 in one process, a hundred filters of which an event matches one, one event after the
// other and many at once. Each gets exactly its events, in order; one of them does not read for a while and nobody notices,
// and it gets all of its own in the end. An idle one costs little memory.
func TestThousandsOfSubscribers(t *testing.T) {
	subs, perConn, filters := 10_000, 500, 100
	if testing.Short() {
		subs, filters = 1000, 20
	}
	f := newFixture(t, func(c *Config, lc *live.Config) { c.Logger, lc.RingEvents = nil, 256 })
	before := inUse()
	type subscriber struct {
		got    atomic.Int64
		stream grpc.ServerStreamingClient[pb.SubscribeResponse]
	}
	all := make([]*subscriber, subs)
	var conn *grpc.ClientConn
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	t.Cleanup(running.Wait)
	t.Cleanup(cancel)
	open := func(conn *grpc.ClientConn, filter int) *subscriber {
		stream, err := pb.NewSubscriptionServiceClient(conn).Subscribe(ctx, &pb.SubscribeRequest{
			View: pb.EventView_EVENT_VIEW_RAW, Filter: &pb.EventFilter{EventTypes: []string{fmt.Sprint("T", filter)}}, ClientName: fmt.Sprint("f", filter),
		})
		if err != nil {
			t.Fatal(err)
		}
		return &subscriber{stream: stream}
	}
	for i := range all {
		if i%perConn == 0 {
			c := f.dial(t)
			t.Cleanup(func() { c.Close() })
			conn = c
		}
		all[i] = open(conn, i%filters)
	}
	for _, s := range all {
		next(t, s.stream) // confirmation
		next(t, s.stream) // caught_up
	}
	if n := len(f.hub.Subscriptions()); n != subs {
		t.Fatalf("%d subscriptions", n)
	}
	// Both ends are in this process, so it is less than this for the server.
	if each := (inUse() - before) / int64(subs); each > 64<<10 {
		t.Errorf("%d bytes per idle subscriber", each)
	}
	p := bridgetest.NewTap()
	slow := open(f.tapped(t, p), 0)
	next(t, slow.stream)
	next(t, slow.stream)
	p.Stop()

	var bad atomic.Pointer[string]
	for i, s := range all {
		running.Go(func() {
			last, want := uint64(0), fmt.Sprint("T", i%filters)
			for {
				m, err := s.stream.Recv()
				if err != nil {
					return // the test ends
				}
				e := m.GetEvent()
				if e == nil {
					continue // one that falls behind is told so, when this machine is slow
				}
				if e.GetEventType() != want || e.GetSequence() <= last {
					text := fmt.Sprintf("subscriber %d got %s %d after %d", i, e.GetEventType(), e.GetSequence(), last)
					bad.CompareAndSwap(nil, &text)
				}
				last = e.GetSequence()
				s.got.Add(1)
			}
		})
	}
	seq, rounds := uint64(0), 2
	body := []byte(strings.Repeat("x", 20<<10))
	put := func(types ...int) {
		var batch []*bridge.Encoded
		for _, x := range types {
			seq++
			batch = append(batch, makeEvent(seq, body, ofType(fmt.Sprint("T", x))))
		}
		f.put(batch...)
	}
	var every []int
	for x := range filters {
		every = append(every, x)
	}
	for range rounds {
		for x := range filters {
			put(x) // one event at a time
		}
		put(every...) // and many at once
	}
	const flood = 300 // more for the first filter than the slow client's connection and the ring take
	for range flood {
		put(0)
	}
	want := func(i int) int64 {
		if i%filters == 0 {
			return int64(2*rounds + flood)
		}
		return int64(2 * rounds)
	}
	deadline := time.Now().Add(2 * time.Minute) // two gigabytes, under the race detector
	for i := 0; i < subs; {
		if text := bad.Load(); text != nil {
			t.Fatal(*text)
		}
		if all[i].got.Load() >= want(i) {
			i++
			continue
		}
		if time.Now().After(deadline) {
			t.Fatalf("subscriber %d has %d events, want %d", i, all[i].got.Load(), want(i))
		}
		<-time.After(time.Millisecond) // the pace of looking, not a wait for something
	}
	for _, s := range f.hub.Subscriptions() {
		if s.ClientName == "f0" && s.Position < seq && s.EventsSent >= uint64(want(0)) {
			t.Error("the slow one was not slow")
		}
	}
	p.Start()
	fell := false
	for last, n := uint64(0), int64(0); n < want(0); {
		m := next(t, slow.stream)
		fell = fell || m.GetFellBehind() != nil
		if e := m.GetEvent(); e != nil {
			if e.GetEventType() != "T0" || e.GetSequence() <= last {
				t.Fatalf("%s %d after %d", e.GetEventType(), e.GetSequence(), last)
			}
			last = e.GetSequence()
			n++
		}
	}
	if !fell {
		t.Error("the slow one did not fall behind")
	}
	for i, s := range all {
		if s.got.Load() != want(i) {
			t.Fatalf("subscriber %d got %d events, want %d", i, s.got.Load(), want(i))
		}
	}
}

// inUse returns the memory of heap and stacks after a collection.
func inUse() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapInuse + m.StackInuse)
}

// TestASnapshotOverEveryTransport: gRPC, lines and server-sent events say the same, and the id resumes inside it.
func TestASnapshotOverEveryTransport(t *testing.T) {
	f := newFixture(t)
	for i := uint64(1); i <= 6; i++ {
		f.put(makeEvent(i, []byte("{}"), func(e *bridge.Envelope) {
			e.Entity = &pb.EntityRef{Kind: pb.EntityKind_ENTITY_KIND_PNR, Id: fmt.Sprint("e", i%3)}
		}))
	}
	s := f.subscribe(t, &pb.SubscribeRequest{Start: pb.Start_START_SNAPSHOT, StopAtHead: true})
	web := f.source(t, "start=snapshot&stop_at_head=true", "")
	ids := []string{}
	for _, want := range []string{"confirmation", "event", "event", "event", "snapshot_end", "caught_up"} {
		m, e := next(t, s), web.must(t, want)
		if kindOf(m) != want || m.GetCursor() != e.id || m.GetEvent().GetSequence() != e.m.GetEvent().GetSequence() {
			t.Errorf("%v, %+v, want %s", m, e, want)
		}
		ids = append(ids, e.id)
	}
	web.ends(t)
	// The rest, with its end; and nothing more after that.
	web = f.source(t, "start=snapshot&stop_at_head=true", ids[2])
	web.must(t, "confirmation")
	if e := web.must(t, "event"); e.m.GetEvent().GetSequence() != 6 {
		t.Error(e)
	}
	if e := web.must(t, "snapshot_end"); e.m.GetSnapshotEnd().GetEventCount() != 1 || e.m.GetSnapshotEnd().GetSnapshotSequence() != 6 {
		t.Error(e)
	}
	web.must(t, "caught_up")
	if web = f.source(t, "start=snapshot&stop_at_head=true", ids[3]); web.StatusCode != 200 {
		t.Errorf("%d: the end of the snapshot is still to come", web.StatusCode)
	}
	if web = f.source(t, "start=snapshot&stop_at_head=true", ids[4]); web.StatusCode != 204 {
		t.Errorf("%d", web.StatusCode)
	}
}
