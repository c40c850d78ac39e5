package live

import (
	"slices"
	"sync"
)

// queue admits a number of readers at once, first come, first served.
type queue struct {
	mu      sync.Mutex
	free    int
	waiting []chan struct{}
}

// enter stands in line. The channel is closed when it is the caller's turn.
func (q *queue) enter() chan struct{} {
	q.mu.Lock()
	defer q.mu.Unlock()
	turn := make(chan struct{})
	if q.free > 0 {
		q.free--
		close(turn)
	} else {
		q.waiting = append(q.waiting, turn)
	}
	return turn
}

// leave ends a turn, or the waiting for it.
func (q *queue) leave(turn chan struct{}) {
	q.mu.Lock()
	defer q.mu.Unlock()
	select {
	case <-turn:
	default:
		i := slices.Index(q.waiting, turn)
		q.waiting = slices.Delete(q.waiting, i, i+1)
		return
	}
	if len(q.waiting) == 0 {
		q.free++
		return
	}
	close(q.waiting[0])
	q.waiting[0] = nil
	q.waiting = q.waiting[1:]
}
