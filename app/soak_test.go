//go:build soak

package app_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/spotbridge/spotbridge/app"
	"github.com/spotbridge/spotbridge/bridge/bridgetest"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

// soakFor is how long events are published; SPOTBRIDGE_SOAK=20m overrides it. It is bounded.
func soakFor(t *testing.T) time.Duration {
	text := os.Getenv("SPOTBRIDGE_SOAK")
	if text == "" {
		return 5 * time.Minute
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < 15*time.Second || d > time.Hour {
		t.Fatalf("SPOTBRIDGE_SOAK=%s: want 15s to 1h", text)
	}
	return d
}

// soakReport counts what members have seen.
type soakReport struct {
	mu sync.Mutex
	// acked counts acks that were sent, confirmed those that the bridge has answered.
	acked, confirmed map[string]int
	holds            map[string]int // member that holds it; 0 = nobody
	// duplicated counts acks beyond the first (the event came again: its member died before the ack had come), again those
	// that came after a confirmed ack; outOfOrder first deliveries to a member after a later one (what was on its way to a
	// member that died comes late); redelivered deliveries after the first; twice deliveries while a living member held it.
	deliveries, redelivered, duplicated, again, outOfOrder, twice, refused, kills int
}

// TestSoak publishes at a steady rate to a group of four members, of which one is killed at random every second or so, with
// its events in hand. Nothing may be lost, and nothing that was confirmed may come again. Beside them a subscriber stops
// reading its socket for half of the time, longer than the keepalive of other servers would let it, and then gets
// everything in order on the same stream; another one reads all the time.
func TestSoak(t *testing.T) {
	cfg := testConfig(t)
	cfg.Streams.RingEvents = 512
	r := start(t, cfg, app.Options{})
	r.create(t, &pb.CreateConsumerGroupRequest{Group: "soak", AckDeadline: seconds(30), MaxDeliveries: 1000, View: pb.EventView_EVENT_VIEW_RAW})
	rep := &soakReport{acked: map[string]int{}, confirmed: map[string]int{}, holds: map[string]int{}}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	next := 0
	for range 4 {
		wg.Go(func() {
			for ctx.Err() == nil {
				rep.mu.Lock()
				next++
				id := next
				rep.mu.Unlock()
				soakMember(ctx, t, r, rep, id, time.Duration(1+rand.IntN(7))*time.Second)
			}
		})
	}
	idle, quick := newReader(t, r), newReader(t, r)
	time.AfterFunc(soakFor(t)/4, idle.tap.Stop)
	time.AfterFunc(soakFor(t)*3/4, idle.tap.Start)
	var ids []string
	begin := time.Now()
	for i := 0; time.Since(begin) < soakFor(t); i++ {
		ids = append(ids, r.put(t, fmt.Sprint("s", i), 5)...)
		<-time.After(20 * time.Millisecond)
	}
	deadline := time.Now().Add(2 * time.Minute)
	missing := func() (n int) {
		rep.mu.Lock()
		defer rep.mu.Unlock()
		for _, id := range ids {
			if rep.acked[id] == 0 {
				n++
			}
		}
		return n
	}
	for missing() > 0 && time.Now().Before(deadline) {
		<-time.After(100 * time.Millisecond)
	}
	lost := missing()
	t.Logf("the subscriber that did not read for %v: %s", soakFor(t)/2, idle.end(t, ids))
	t.Logf("the subscriber that read: %s", quick.end(t, ids))
	if idle.fell == 0 || quick.fell > 0 {
		t.Errorf("fell behind: %d and %d times", idle.fell, quick.fell)
	}
	cancel()
	wg.Wait()
	st := r.state(t, "soak")
	t.Logf("%d events in %v: %d deliveries, %d redelivered, %d kills; lost %d, duplicated acks %d, again after a confirmed ack %d, out of order %d, with two members %d, refused acks %d; lag %d, dead letters %d",
		len(ids), time.Since(begin).Round(time.Second), rep.deliveries, rep.redelivered, rep.kills, lost, rep.duplicated, rep.again, rep.outOfOrder, rep.twice, rep.refused,
		st.GetLagEvents(), st.GetDeadLetters())
	if lost > 0 || rep.twice > 0 || rep.again > 0 || st.GetLagEvents() > 0 || st.GetDeadLetters() > 0 {
		t.Error("see the counts")
	}
}

// soakMember is a member that works for a while and then dies with its events in hand.
func soakMember(ctx context.Context, t *testing.T, r *running, rep *soakReport, id int, life time.Duration) {
	m := r.join(t, &pb.Join{Group: "soak", ClientName: fmt.Sprint("soak-", id), Credit: &pb.Credit{Events: 50}, AutoCredit: true, MaxBatchEvents: []int32{0, 20}[id%2]})
	held := map[string]string{} // event of a delivery
	last, redelivered := uint64(0), false
	die := time.After(life)
	defer func() {
		rep.mu.Lock()
		rep.kills++
		for _, event := range held {
			if rep.holds[event] == id {
				rep.holds[event] = 0
			}
		}
		rep.mu.Unlock()
		m.cut()
	}()
	var batch []string
	ack := func() bool {
		if m.stream.Send(&pb.ConsumeRequest{Content: &pb.ConsumeRequest_Ack{Ack: &pb.Ack{DeliveryIds: batch, Confirm: true}}}) != nil {
			return false
		}
		rep.mu.Lock()
		defer rep.mu.Unlock()
		for _, d := range batch {
			if rep.acked[held[d]]++; rep.acked[held[d]] > 1 {
				rep.duplicated++
			}
		}
		batch = nil
		return true
	}
	for {
		select {
		case x, ok := <-m.got:
			if !ok {
				return
			}
			if d := x.GetDelivery(); d != nil {
				event := d.GetEvent().GetId()
				rep.mu.Lock()
				rep.deliveries++
				if d.GetAttempt() > 1 {
					rep.redelivered++
					redelivered = true
				} else if d.GetEvent().GetSequence() < last && !redelivered {
					rep.outOfOrder++
				}
				last = max(last, d.GetEvent().GetSequence())
				if rep.holds[event] != 0 && rep.holds[event] != id {
					rep.twice++
				}
				if rep.confirmed[event] > 0 {
					rep.again++
				}
				rep.holds[event] = id
				rep.mu.Unlock()
				held[d.GetDeliveryId()] = event
				if batch = append(batch, d.GetDeliveryId()); len(batch) >= 1+rand.IntN(20) {
					if !ack() {
						return
					}
				}
			}
			if s := x.GetSettled(); s != nil {
				rep.mu.Lock()
				for _, d := range s.GetDeliveryIds() {
					rep.confirmed[held[d]]++
					rep.holds[held[d]] = 0
					delete(held, d)
				}
				rep.mu.Unlock()
			}
			if x.GetRefused() != nil {
				rep.mu.Lock()
				rep.refused++
				rep.mu.Unlock()
			}
		case <-time.After(50 * time.Millisecond): // what is left of a batch
			if len(batch) > 0 {
				if !ack() {
					return
				}
			}
		case <-die:
			return
		case <-ctx.Done():
			return
		}
	}
}

// reader is a subscriber behind a tap, on one stream from the beginning to the end.
type reader struct {
	tap   *bridgetest.Tap
	ended chan error
	// heard is told of each event; only after it has ended may the rest be looked at.
	heard                chan struct{}
	cancel               context.CancelFunc
	ids                  []string
	fell, caught, behind int
}

func newReader(t *testing.T, r *running) *reader {
	t.Helper()
	x := &reader{tap: bridgetest.NewTap(), ended: make(chan error, 1), heard: make(chan struct{}, 1<<20)}
	conn, err := grpc.NewClient("passthrough:///"+r.GRPCAddr(), grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithContextDialer(x.tap.Dial),
		grpc.WithInitialWindowSize(64<<10), grpc.WithInitialConnWindowSize(64<<10))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	ctx, cancel := context.WithCancel(context.Background())
	x.cancel = cancel
	t.Cleanup(cancel)
	s, err := pb.NewSubscriptionServiceClient(conn).Subscribe(ctx, &pb.SubscribeRequest{Start: pb.Start_START_EARLIEST, View: pb.EventView_EVENT_VIEW_RAW})
	if err != nil {
		t.Fatal(err)
	}
	go func() { // it ends with the stream
		for {
			m, err := s.Recv()
			switch {
			case err != nil:
				x.ended <- err
				return
			case m.GetEvent() != nil:
				x.ids = append(x.ids, m.GetEvent().GetId())
				x.heard <- struct{}{}
			case m.GetFellBehind() != nil:
				x.fell++
				x.behind = max(x.behind, int(m.GetFellBehind().GetBehindEvents()))
			case m.GetCaughtUp() != nil:
				x.caught++
			}
		}
	}()
	return x
}

// end waits for as many events as there are, ends the stream, and reports.
func (x *reader) end(t *testing.T, ids []string) string {
	t.Helper()
	timeout := time.After(2 * time.Minute)
	for range ids {
		select {
		case <-x.heard:
		case err := <-x.ended:
			t.Fatalf("the stream of a subscriber has ended: %v", err)
		case <-timeout:
			t.Fatal("a subscriber has not got all events")
		}
	}
	x.cancel()
	<-x.ended
	if !slices.Equal(x.ids, ids) {
		t.Error("a subscriber has not got all events once each and in order")
	}
	return fmt.Sprintf("%d events on one stream, fell behind %d times, by %d events at most, caught up %d times", len(x.ids), x.fell, x.behind, x.caught)
}
