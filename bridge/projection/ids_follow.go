package projection

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spotbridge/spotbridge/bridge"
)

const (
	// idsBatch is the most ids in one transaction.
	idsBatch = 1024
	// idsLinger is long, since nobody waits: the door remembers by itself what is not here yet.
	idsLinger = 100 * time.Millisecond
	// idsRetainRows is how many ids one transaction of retention deletes.
	idsRetainRows = 2000
)

// Run follows the log until ctx ends, and then returns nil: it remembers the id and body hash of every entry. Errors of
// the disk and of the log are tried again for ever, with backoff; meanwhile Health has the cause.
//
// When ids.db belongs to another log, what it remembers does not count: another log's webhooks are not stored in this one.
// If this log still has its first entry, all its ids can be read from it, so the file is moved aside, loudly, and a new one
// is begun. If not, Run returns ErrForeignLog at once and changes nothing, since webhooks below the floor would be
// forgotten without a word; the message has the remedy.
func (x *IDs) Run(ctx context.Context, log bridge.Reader) error {
	backoff := firstBackoff
	for {
		begin := time.Now()
		err := x.reopen(ctx)
		if err == nil {
			err = x.follow(ctx, log)
		}
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, ErrForeignLog) {
			x.fail(err)
			return err
		}
		if time.Since(begin) > time.Minute {
			backoff = firstBackoff
		}
		if isCorrupt(err) {
			if err2 := x.renew(ctx, func() error { return nil }); err2 != nil { // open moves it aside if it still is damaged
				err = err2
			}
		}
		x.fail(err)
		if !sleep(ctx, backoff) {
			return nil
		}
		backoff = min(2*backoff, maxBackoff)
	}
}

func (x *IDs) fail(err error) {
	err = fmt.Errorf("webhook ids: %w; %s", err, remedy(err, x.path()))
	x.failing.Store(&err)
	x.log.Error("webhook ids are not followed; no webhook is accepted while they are behind", "error", err)
}

func (x *IDs) recovered() {
	if e := x.failing.Swap(nil); e != nil {
		x.log.Info("webhook ids: back in order", "was", *e)
	}
}

// renew opens the file anew, after remove.
func (x *IDs) renew(ctx context.Context, remove func() error) error {
	x.ready.Store(false)
	x.mu.Lock()
	defer x.mu.Unlock()
	if !x.closed {
		_, _ = x.insert.Close(), x.st.Close()
		x.closed = true
	}
	if err := remove(); err != nil {
		return err
	}
	if err := x.open(ctx); err != nil {
		return err
	}
	x.closed = false
	return nil
}

// reopen tries again what renew could not do.
func (x *IDs) reopen(ctx context.Context) error {
	if !x.closed {
		return nil
	}
	return x.renew(ctx, func() error { return nil })
}

func (x *IDs) follow(ctx context.Context, log bridge.Reader) error {
	state, err := log.State(ctx)
	if err != nil {
		return err
	}
	if err := x.bind(ctx, state); err != nil {
		return err
	}
	if err := x.forgetReplaced(ctx, log); err != nil {
		return err
	}
	target, err := lastHeld(ctx, log, state, x.Watermark())
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		x.attend(ctx, cancel)
	}()
	defer func() { cancel(nil); <-done }()

	prog := newProgress(x.log, "ids.db", x.Watermark(), target)
	caughtUp := func() error {
		if x.ready.Load() || x.Watermark() < target {
			return nil
		}
		// Sequences after target up to the head have no entry any more.
		if err := x.remember(ctx, nil, state.Head); err != nil {
			return err
		}
		prog.end()
		x.recovered()
		x.ready.Store(true)
		return nil
	}
	if err := caughtUp(); err != nil {
		return err
	}
	if x.ready.Load() {
		x.recovered()
	}
	opts := bridge.FollowOptions{HeadersOnly: true, MaxBatch: idsBatch, Linger: idsLinger}
	err = log.Follow(ctx, x.Watermark(), opts, func(entries []*bridge.Entry) error {
		if w := x.Watermark(); len(entries) > 0 && entries[0].Sequence > w+1 {
			// Gaps are allowed; entries that expired before they were remembered are not the same thing.
			state, err := log.State(ctx)
			if err != nil {
				return err
			}
			x.passed(min(state.Floor, entries[0].Sequence))
		}
		backoff := firstBackoff
		for {
			err := x.remember(ctx, entries, 0)
			if err == nil {
				x.recovered()
				prog.at(x.Watermark())
				return caughtUp()
			}
			x.m.writeErrors.Inc()
			if isCorrupt(err) {
				return err
			}
			x.fail(err)
			if !sleep(ctx, backoff) {
				return context.Cause(ctx)
			}
			backoff = min(2*backoff, maxBackoff)
		}
	})
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		return cause
	}
	if err == nil {
		err = errors.New("the log ended following without an error")
	}
	return err
}

// remember writes ids and moves the watermark, in one transaction. Entries that were remembered before are left out. jump
// moves the watermark on to a sequence, over ones that have no entry.
func (x *IDs) remember(ctx context.Context, entries []*bridge.Entry, jump uint64) error {
	next := *x.pos.Load()
	if len(entries) == 0 && jump <= next.watermark {
		return nil
	}
	return x.write(ctx, &next, func(ctx context.Context) error {
		for _, e := range entries {
			if e.Sequence <= next.watermark {
				continue
			}
			next.watermark = e.Sequence
			next.lastTS = max(next.lastTS, nanos(e.AppendTime))
			var kind int
			switch e.Kind {
			case bridge.EntryEvent:
				kind = idEvent
			case bridge.EntryQuarantine:
				kind = idQuarantine
			default:
				continue
			}
			if _, err := x.insert.ExecContext(ctx, e.Sequence, idHash(e.EventID), kind, e.BodyHash[:], next.lastTS); err != nil {
				return fmt.Errorf("entry %d: %w", e.Sequence, err)
			}
		}
		next.watermark = max(next.watermark, jump)
		return nil
	})
}

// write runs f in a write transaction and writes the position that holds after it.
func (x *IDs) write(ctx context.Context, next *idPosition, f func(ctx context.Context) error) error {
	x.wmu.Lock()
	defer x.wmu.Unlock()
	ctx = context.WithoutCancel(ctx)
	err := x.st.tx(ctx, func() error {
		if err := f(ctx); err != nil {
			return err
		}
		_, err := x.st.write.ExecContext(ctx, "UPDATE state SET log = ?, watermark = ?, last_ts = ?", next.log[:], next.watermark, next.lastTS)
		return err
	})
	if err == nil {
		x.pos.Store(next)
		x.show(next.watermark)
	}
	return err
}
