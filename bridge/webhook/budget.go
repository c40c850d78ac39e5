package webhook

import (
	"context"
	"slices"
	"sync"
	"time"
)

// budget is the memory that all bodies in flight share. A body that is being read takes more as it grows, and those come
// before bodies that have not begun: otherwise beginners would take the room that half-read ones need to finish.
type budget struct {
	// wait is how long a body waits for others to leave before it is refused. It also ends the case that bodies wait for
	// each other's room.
	wait time.Duration

	mu      sync.Mutex
	free    int64
	growing []*waiter
	fresh   []*waiter
}

type waiter struct {
	bytes int64
	ready chan struct{} // closed when the bytes are the waiter's
}

// acquire takes bytes and reports whether there was room in time.
func (b *budget) acquire(ctx context.Context, bytes int64, growing bool) bool {
	b.mu.Lock()
	queue := &b.fresh
	if growing {
		queue = &b.growing
	}
	if bytes <= b.free && len(b.growing) == 0 && (growing || len(b.fresh) == 0) {
		b.free -= bytes
		b.mu.Unlock()
		return true
	}
	w := &waiter{bytes: bytes, ready: make(chan struct{})}
	*queue = append(*queue, w)
	b.mu.Unlock()
	timeout := time.NewTimer(b.wait)
	defer timeout.Stop()
	select {
	case <-w.ready:
		return true
	case <-timeout.C:
	case <-ctx.Done():
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if i := slices.Index(*queue, w); i >= 0 {
		*queue = slices.Delete(*queue, i, i+1)
		b.serve() // whoever stood behind may fit
		return false
	}
	return true // just now
}

func (b *budget) release(bytes int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.free += bytes
	b.serve()
}

// serve gives what is free to those who wait, first come, first served.
func (b *budget) serve() {
	for _, queue := range []*[]*waiter{&b.growing, &b.fresh} {
		for len(*queue) > 0 {
			w := (*queue)[0]
			if w.bytes > b.free {
				return
			}
			b.free -= w.bytes
			close(w.ready)
			*queue = (*queue)[1:]
		}
	}
}

// lease is one body's part of the budget.
type lease struct {
	budget *budget
	held   int64
	gauge  func(float64)
}

// grow makes the lease at least size large and reports whether there was room.
func (l *lease) grow(ctx context.Context, size int64) bool {
	more := size - l.held
	if more <= 0 {
		return true
	}
	if !l.budget.acquire(ctx, more, l.held > 0) {
		return false
	}
	l.held = size
	l.gauge(float64(more))
	return true
}

// release gives everything back.
func (l *lease) release() {
	if l.held > 0 {
		l.budget.release(l.held)
		l.gauge(float64(-l.held))
		l.held = 0
	}
}
