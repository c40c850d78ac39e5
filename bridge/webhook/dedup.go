package webhook

import (
	"context"
	"sync"

	"github.com/spotbridge/spotbridge/bridge"
)

// maxRemembered bounds the ids that memory holds until bridge.IDs has them. The door closes by the follower's lag long
// before; this is the last resort.
const maxRemembered = 1 << 18

// ids makes deduplication exact within this process: one delivery of an id is judged at a time, and what it put on the
// log is remembered here until bridge.IDs remembers it.
type ids struct {
	table bridge.IDs

	mu     sync.Mutex
	locks  map[string]*idLock
	recent map[string]*bridge.IDState
	// queue holds the sequences of recent in the order in which they came, which is nearly the log's.
	queue []remembered
}

type idLock struct {
	turn  chan struct{} // holds one token while someone has the lock
	users int           // who have it or wait for it
}

type remembered struct {
	sequence uint64
	eventID  string
}

func newIDs(table bridge.IDs) *ids {
	return &ids{table: table, locks: map[string]*idLock{}, recent: map[string]*bridge.IDState{}}
}

// lock waits until nobody else judges the id, first come, first served. The error is the context's.
func (s *ids) lock(ctx context.Context, eventID string) (unlock func(), err error) {
	s.mu.Lock()
	l := s.locks[eventID]
	if l == nil {
		l = &idLock{turn: make(chan struct{}, 1)}
		s.locks[eventID] = l
	}
	l.users++
	s.mu.Unlock()
	leave := func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if l.users--; l.users == 0 {
			delete(s.locks, eventID)
		}
	}
	select {
	case l.turn <- struct{}{}:
		return func() { <-l.turn; leave() }, nil
	case <-ctx.Done():
		leave()
		return nil, ctx.Err()
	}
}

// known returns what is remembered of an id. The caller holds its lock.
func (s *ids) known(ctx context.Context, e *bridge.Entry) (bridge.IDState, error) {
	// Memory is asked before the table. The other way round, an id could leave memory after the table was asked, because
	// the table has just got it, and would be seen in neither. This way it is in memory, or the watermark had passed it
	// before the table is asked.
	recent := s.recall(e.EventID)
	if recent.Found && recent.BodyHash == e.BodyHash {
		return recent, nil
	}
	state, err := s.table.Lookup(ctx, e.EventID)
	if err != nil {
		return bridge.IDState{}, err
	}
	if recent.Found {
		state.Found, state.Sequence, state.BodyHash = true, recent.Sequence, recent.BodyHash
	}
	if len(recent.Quarantined) == 0 {
		return state, nil
	}
	merged := make(map[[32]byte]uint64, len(state.Quarantined)+len(recent.Quarantined))
	for _, m := range []map[[32]byte]uint64{recent.Quarantined, state.Quarantined} {
		for hash, sequence := range m {
			merged[hash] = sequence
		}
	}
	state.Quarantined = merged
	return state, nil
}

// recall returns what memory has. Only the holder of the id's lock changes a state, so the caller may read it.
func (s *ids) recall(eventID string) bridge.IDState {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.recent[eventID]; r != nil {
		return *r
	}
	return bridge.IDState{}
}

// remember notes what the log holds. The caller holds the id's lock.
func (s *ids) remember(kind bridge.EntryKind, eventID string, hash [32]byte, sequence uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.evict()
	r := s.recent[eventID]
	if r == nil {
		r = &bridge.IDState{}
		s.recent[eventID] = r
	}
	if kind == bridge.EntryEvent {
		r.Found, r.Sequence, r.BodyHash = true, sequence, hash
	} else {
		if r.Quarantined == nil {
			r.Quarantined = map[[32]byte]uint64{}
		}
		r.Quarantined[hash] = sequence
	}
	s.queue = append(s.queue, remembered{sequence: sequence, eventID: eventID})
}

// evict forgets what the table remembers by now.
func (s *ids) evict() {
	watermark := s.table.Watermark()
	n := 0
	for ; n < len(s.queue) && s.queue[n].sequence <= watermark; n++ {
		r := s.recent[s.queue[n].eventID]
		if r != nil && last(r) <= watermark {
			delete(s.recent, s.queue[n].eventID)
		}
	}
	if s.queue = s.queue[n:]; len(s.queue) == 0 {
		s.queue = nil
	}
}

func last(r *bridge.IDState) uint64 {
	newest := r.Sequence
	for _, sequence := range r.Quarantined {
		newest = max(newest, sequence)
	}
	return newest
}

// size returns how many entries of the log are remembered, after forgetting what can be forgotten.
func (s *ids) size() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.evict()
	return len(s.queue)
}
