package webhook

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

func TestGrowingBodiesComeBeforeNewOnes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &budget{free: 100, wait: time.Minute}
		order := make(chan string, 2)
		take := func(name string, bytes int64, growing bool) {
			go func() {
				if b.acquire(t.Context(), bytes, growing) {
					order <- name
				}
			}()
			synctest.Wait()
		}
		if !b.acquire(t.Context(), 90, false) {
			t.Fatal("no room in an empty budget")
		}
		take("fresh", 50, false)
		take("growing", 50, true)
		b.release(50)
		if got := <-order; got != "growing" {
			t.Errorf("%s came first", got)
		}
		b.release(90)
		if got := <-order; got != "fresh" {
			t.Errorf("%s came second", got)
		}
		if b.free != 50 {
			t.Errorf("%d free", b.free)
		}
	})
}

func TestWaitingForRoomEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &budget{free: 10, wait: time.Second}
		start := time.Now()
		if b.acquire(t.Context(), 11, false) {
			t.Error("got more than there is")
		}
		if waited := time.Since(start); waited != time.Second {
			t.Errorf("waited %v", waited)
		}
		// The one behind fits once the large one has given up.
		got := make(chan bool, 2)
		go func() { got <- b.acquire(t.Context(), 11, false) }()
		<-time.After(time.Second / 2)
		go func() { got <- b.acquire(t.Context(), 10, false) }()
		if a, c := <-got, <-got; a == c {
			t.Errorf("both %v", a)
		}
		b.release(10)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		start = time.Now()
		if b.acquire(ctx, 11, true) || time.Since(start) != 0 {
			t.Error("a client that is gone waited or got something")
		}
		if b.free != 10 || len(b.fresh)+len(b.growing) != 0 {
			t.Errorf("%d free, %d and %d waiting", b.free, len(b.growing), len(b.fresh))
		}
	})
}
