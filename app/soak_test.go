//go:build soak

package app_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/spotbridge/spotbridge/app"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

// soakFor is how long events are published; SPOTBRIDGE_SOAK=20m overrides it. It is bounded.
func soakFor(t *testing.T) time.Duration {
	text := os.Getenv("SPOTBRIDGE_SOAK")
	if text == "" {
		return 5 * time.Minute
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < time.Second || d > time.Hour {
		t.Fatalf("SPOTBRIDGE_SOAK=%s: want 1s to 1h", text)
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
// its events in hand. Nothing may be lost, and nothing that was confirmed may come again.
func TestSoak(t *testing.T) {
	cfg := testConfig(t)
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
	m := r.join(t, &pb.Join{Group: "soak", ClientName: fmt.Sprint("soak-", id), Credit: &pb.Credit{Events: 50}, AutoCredit: true})
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
