package eventlog

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/spotbridge/spotbridge/bridge"
)

const (
	followBatch    = 256
	followBytes    = 8 << 20  // bodies in one batch, unless a single body is larger
	pullMessages   = 512      // asked for ahead
	pullBytes      = 16 << 20 // likewise, in bytes
	lingerPerEntry = time.Millisecond
	smallBatch     = 2 // entries that are no load
	followRetryMin = 100 * time.Millisecond
	followRetryMax = 5 * time.Second
)

// Follow reads on from a sequence. See bridge.Reader.
func (l *Log) Follow(ctx context.Context, after uint64, opts bridge.FollowOptions, handle func([]*bridge.Entry) error) error {
	if opts.MaxBatch <= 0 {
		opts.MaxBatch = followBatch
	}
	retry := followRetryMin
	for {
		var err error
		var last uint64
		if l.tail != nil && l.tail.holds(after) {
			last, err = l.followTail(ctx, after, opts, handle)
		} else {
			last, err = l.follow(ctx, after, opts, handle)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if errors.Is(err, errBehind) || errors.Is(err, errCaughtUp) {
			after = last
			continue
		}
		if h, ok := errors.AsType[handleError](err); ok {
			return h.err
		}
		if last > after {
			retry = followRetryMin
		}
		after = last
		l.cfg.Logger.Warn("reading the log was interrupted, trying again", "after", after, "wait", retry, "error", err)
		l.metrics.followRestarts.Inc()
		select {
		case <-time.After(retry):
		case <-ctx.Done():
			return ctx.Err()
		}
		retry = min(2*retry, followRetryMax)
	}
}

// errCaughtUp says that a reader has come to where the tail goes on.
var errCaughtUp = errors.New("caught up with the tail")

// pace says how long a batch gathers.
type pace struct {
	opts   bridge.FollowOptions
	last   time.Time
	linger time.Duration
}

func (p *pace) gather() time.Time { return p.last.Add(p.linger) }

func (p *pace) took(batch []*bridge.Entry) {
	p.last = time.Now()
	p.linger = max(p.opts.Linger, min(p.opts.Linger+time.Duration(max(len(batch)-smallBatch, 0))*lingerPerEntry, p.opts.LoadedLinger))
}

// handleError marks what handle returned.
type handleError struct{ err error }

func (e handleError) Error() string { return e.err.Error() }

// follow runs one consumer until something breaks or the tail has what comes next, and returns the last sequence that was
// handled.
func (l *Log) follow(ctx context.Context, after uint64, opts bridge.FollowOptions, handle func([]*bridge.Entry) error) (uint64, error) {
	cons, err := l.readJS.OrderedConsumer(ctx, streamName, jetstream.OrderedConsumerConfig{
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy,
		OptStartSeq:   after + 1,
		HeadersOnly:   opts.HeadersOnly,
	})
	if err != nil {
		return after, fmt.Errorf("open a reader: %w", err)
	}
	ahead := max(pullBytes, 2*int(l.cfg.MaxBody+headerRoom))
	it, err := cons.Messages(jetstream.PullMaxMessagesWithBytesLimit(pullMessages, ahead))
	if err != nil {
		return after, fmt.Errorf("start a reader: %w", err)
	}
	q := newEntryQueue()
	var reading sync.WaitGroup
	reading.Go(func() {
		for {
			m, err := it.Next()
			if err != nil {
				q.close(fmt.Errorf("read: %w", err))
				return
			}
			meta, err := m.Metadata()
			if err != nil {
				q.close(fmt.Errorf("read: %w", err))
				return
			}
			if !q.put(entry(m.Subject(), m.Headers(), m.Data(), meta.Sequence.Stream, meta.Timestamp)) {
				return
			}
		}
	})
	stop := context.AfterFunc(ctx, func() { q.close(ctx.Err()) })
	defer reading.Wait()
	defer it.Stop()
	defer q.close(nil)
	defer stop()
	pace := pace{opts: opts}
	for {
		batch, err := q.take(opts.MaxBatch, pace.gather())
		if err != nil {
			return after, err
		}
		pace.took(batch)
		for _, e := range batch {
			if e.Sequence <= after {
				return after, fmt.Errorf("the log gave sequence %d after %d", e.Sequence, after)
			}
			after = e.Sequence
		}
		if err := handle(batch); err != nil {
			return after, handleError{err}
		}
		if l.tail != nil && l.tail.holds(after) {
			return after, errCaughtUp
		}
	}
}

// entryQueue stands between the reader and handle, so that a batch is whatever came while the last one was handled. It
// holds at most followBytes of bodies; put waits when it is full.
type entryQueue struct {
	mu      sync.Mutex
	changed sync.Cond
	entries []*bridge.Entry
	bytes   int
	full    bool // a put waits for room
	err     error
	closed  bool
}

func newEntryQueue() *entryQueue {
	q := &entryQueue{}
	q.changed.L = &q.mu
	return q
}

func (q *entryQueue) put(e *bridge.Entry) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	for !q.closed && len(q.entries) > 0 && (q.bytes+len(e.Body) > followBytes || len(q.entries) >= 4096) {
		q.full = true // a take that gathers must not wait for what cannot come
		q.changed.Broadcast()
		q.changed.Wait()
	}
	q.full = false
	if q.closed {
		return false
	}
	q.entries, q.bytes = append(q.entries, e), q.bytes+len(e.Body)
	q.changed.Broadcast()
	return true
}

// take waits for entries, and until the given time for a full batch. What is queued is handed out before an error is.
func (q *entryQueue) take(limit int, gather time.Time) ([]*bridge.Entry, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.entries) == 0 && !q.closed {
		q.changed.Wait()
	}
	if d := time.Until(gather); d > 0 && len(q.entries) < limit && !q.full && !q.closed {
		over := false
		t := time.AfterFunc(d, func() {
			q.mu.Lock()
			defer q.mu.Unlock()
			over = true
			q.changed.Broadcast()
		})
		for !over && len(q.entries) < limit && !q.full && !q.closed {
			q.changed.Wait()
		}
		t.Stop()
	}
	if len(q.entries) == 0 {
		return nil, q.err
	}
	n := min(limit, len(q.entries))
	batch := q.entries[:n:n]
	if q.entries = q.entries[n:]; len(q.entries) == 0 {
		q.entries = nil
	}
	for _, e := range batch {
		q.bytes -= len(e.Body)
	}
	q.changed.Broadcast()
	return batch, nil
}

func (q *entryQueue) close(err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return
	}
	if err == nil {
		err = errors.New("closed")
	}
	q.closed, q.err = true, err
	q.changed.Broadcast()
}
