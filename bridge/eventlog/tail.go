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
)

// errBehind says that the tail does not hold what a follower needs next.
var errBehind = errors.New("behind the tail")

// tail holds the newest entries of a log that only this process appends to, so that followers who keep up are given what
// was appended instead of reading it back. It is bounded: a follower that is slower reads from the stream.
type tail struct {
	maxBytes, maxEntries int

	mu      sync.Mutex
	entries []*bridge.Entry // without gap
	bytes   int
	next    uint64        // sequence after the newest of entries
	news    chan struct{} // closed at the next change, for those who wait; nil when nobody does
}

func newTail() *tail { return &tail{maxBytes: tailBytes, maxEntries: tailEntries} }

// begin says where the log ends before anything is put.
func (t *tail) begin(head uint64) { t.next = head + 1 }

// first is the sequence of the oldest entry held; next when there is none.
func (t *tail) first() uint64 { return t.next - uint64(len(t.entries)) }

// put adds what was appended, in order.
func (t *tail) put(e *bridge.Entry) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.entries, t.bytes, t.next = append(t.entries, e), t.bytes+len(e.Body), e.Sequence+1
	for t.bytes > t.maxBytes || len(t.entries) > t.maxEntries {
		t.bytes -= len(t.entries[0].Body)
		t.entries[0], t.entries = nil, t.entries[1:]
	}
	if t.news != nil {
		close(t.news)
		t.news = nil
	}
}

// holds reports whether the tail has what comes after a sequence, now or as soon as it exists.
func (t *tail) holds(after uint64) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return after+1 >= t.first()
}

// take returns entries after a sequence. It waits for the first one, and until the given time for more.
func (t *tail) take(ctx context.Context, after uint64, limit int, gather time.Time) ([]*bridge.Entry, error) {
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
		wait := time.Until(gather)
		if n >= limit || n > 0 && wait <= 0 {
			return t.batch(n, limit), nil
		}
		var news <-chan struct{}
		var late <-chan time.Time
		if n == 0 {
			if t.news == nil {
				t.news = make(chan struct{})
			}
			news = t.news
		} else {
			timer := time.NewTimer(wait)
			defer timer.Stop()
			late = timer.C
		}
		t.mu.Unlock()
		select {
		case <-news:
		case <-late:
		case <-ctx.Done():
		}
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
		batch, err := l.tail.take(ctx, after, opts.MaxBatch, pace.gather())
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
