package eventlog

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/spotbridge/spotbridge/bridge"
)

const (
	// tailBytes bounds the bodies that the tail holds, tailEntries their number.
	tailBytes   = 32 << 20
	tailEntries = 8192
	// tailPatience is how long the tail waits for an append whose successor is there already.
	tailPatience = 200 * time.Millisecond
	// tailDoubt is after how long without news a follower asks the log whether the tail has missed something.
	tailDoubt = 5 * time.Second
)

// errBehind says that the tail does not hold what a follower needs next.
var errBehind = errors.New("behind the tail")

// tail holds the newest entries of a log that only this process appends to, so that followers who keep up are given what
// was appended instead of reading it back. It is never needed for being right: whenever it lacks an entry (it is bounded,
// and an append may have failed after it was stored) its beginning moves on, and followers read that part from the log.
type tail struct {
	maxBytes, maxEntries int
	patience             time.Duration

	mu      sync.Mutex
	entries []*bridge.Entry // without gap
	bytes   int
	next    uint64                   // sequence after the newest of entries
	early   map[uint64]*bridge.Entry // appended, and their predecessors are not here yet
	patient *time.Timer              // runs while early has something
	news    chan struct{}            // closed at the next change, for those who wait; nil when nobody does
}

func newTail(head uint64) *tail {
	return &tail{maxBytes: tailBytes, maxEntries: tailEntries, patience: tailPatience, next: head + 1, early: map[uint64]*bridge.Entry{}}
}

// first is the sequence of the oldest entry held; next when there is none.
func (t *tail) first() uint64 { return t.next - uint64(len(t.entries)) }

// put adds what was appended.
func (t *tail) put(e *bridge.Entry) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case e.Sequence < t.next: // it was given up, and is read from the log
	case e.Sequence > t.next:
		t.early[e.Sequence] = e
		if t.patient == nil {
			t.patient = time.AfterFunc(t.patience, t.giveUp)
		}
	default:
		t.add(e)
		t.addEarly()
		t.tell()
	}
}

func (t *tail) add(e *bridge.Entry) {
	t.entries, t.bytes, t.next = append(t.entries, e), t.bytes+len(e.Body), e.Sequence+1
	for t.bytes > t.maxBytes || len(t.entries) > t.maxEntries {
		t.bytes -= len(t.entries[0].Body)
		t.entries[0], t.entries = nil, t.entries[1:]
	}
}

func (t *tail) addEarly() {
	for e := t.early[t.next]; e != nil; e = t.early[t.next] {
		delete(t.early, e.Sequence)
		t.add(e)
	}
	if len(t.early) == 0 && t.patient != nil {
		t.patient.Stop()
		t.patient = nil
	}
}

// tell wakes those who wait.
func (t *tail) tell() {
	if t.news != nil {
		close(t.news)
		t.news = nil
	}
}

// giveUp begins anew after a gap that did not close.
func (t *tail) giveUp() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.patient = nil
	if len(t.early) == 0 {
		return
	}
	var from uint64
	for s := range t.early {
		if from == 0 || s < from {
			from = s
		}
	}
	t.restart(from)
}

// restart forgets what is held and continues at a sequence.
func (t *tail) restart(next uint64) {
	t.entries, t.bytes, t.next = nil, 0, next
	for s := range t.early {
		if s < next {
			delete(t.early, s)
		}
	}
	t.addEarly()
	if len(t.early) > 0 && t.patient == nil {
		t.patient = time.AfterFunc(t.patience, t.giveUp)
	}
	t.tell()
}

// missed tells the tail the log's head. Entries up to it that the tail lacks were not told to it.
func (t *tail) missed(head uint64) (missing bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if head < t.next {
		return false
	}
	t.restart(head + 1)
	return true
}

// holds reports whether the tail has what comes after a sequence, now or as soon as it exists.
func (t *tail) holds(after uint64) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return after+1 >= t.first()
}

// take returns entries after a sequence. It waits for the first one, and until the given time for more.
func (t *tail) take(ctx context.Context, after uint64, limit int, gather time.Time, doubt func()) ([]*bridge.Entry, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for {
		if after+1 < t.first() {
			return nil, errBehind
		}
		n := 0
		if after+1 < t.next {
			n = int(t.next - after - 1)
		}
		var news <-chan struct{}
		wait, idle := time.Until(gather), n == 0
		switch {
		case n >= limit || n > 0 && wait <= 0:
			return t.batch(n, limit), nil
		case idle:
			if t.news == nil {
				t.news = make(chan struct{})
			}
			news, wait = t.news, tailDoubt
		}
		t.mu.Unlock()
		timer := time.NewTimer(wait)
		select {
		case <-news:
		case <-timer.C:
			if idle {
				doubt()
			}
		case <-ctx.Done():
		}
		timer.Stop()
		t.mu.Lock()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
	}
}

// batch copies the first of the newest n entries.
func (t *tail) batch(n, limit int) []*bridge.Entry {
	from := t.entries[len(t.entries)-n:]
	size, bytes := 0, 0
	for ; size < min(n, limit); size++ {
		if bytes += len(from[size].Body); bytes > followBytes && size > 0 {
			break
		}
	}
	return append(make([]*bridge.Entry, 0, size), from[:size]...)
}

// asRead returns the entry as a reader of the log sees it.
func asRead(e *bridge.Entry, sequence uint64, appended time.Time) *bridge.Entry {
	c := *e
	c.EventType, c.Operation, c.Organizations = "", "", nil
	c.ReceiveTime = c.ReceiveTime.UTC()
	c.Sequence, c.AppendTime = sequence, appended
	return &c
}

// followTail hands out what the tail has until the follower is behind it, and returns the last sequence that was handled.
func (l *Log) followTail(ctx context.Context, after uint64, opts bridge.FollowOptions, handle func([]*bridge.Entry) error) (uint64, error) {
	pace := pace{opts: opts}
	for {
		batch, err := l.tail.take(ctx, after, opts.MaxBatch, pace.gather(), func() { l.checkTail(ctx) })
		if err != nil {
			return after, err
		}
		pace.took(batch)
		if opts.HeadersOnly {
			for i, e := range batch {
				c := *e
				c.Body, c.Envelope = nil, nil
				batch[i] = &c
			}
		}
		after = batch[len(batch)-1].Sequence
		if err := handle(batch); err != nil {
			return after, handleError{err}
		}
	}
}

// checkTail asks the log whether the tail has missed something. An entry that is appended at this moment counts as missed:
// it is read from the log then.
func (l *Log) checkTail(ctx context.Context) {
	state, err := l.State(ctx)
	if err != nil {
		return // the next check will see it
	}
	if l.tail.missed(state.Head) {
		l.metrics.tailRestarts.Inc()
		l.cfg.Logger.Info("entries are read back from the log, because an append was stored without an answer", "head", state.Head)
	}
}
