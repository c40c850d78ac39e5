package projection

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spotbridge/spotbridge/bridge"
)

const (
	// pollEvery is how often the log is asked for its head and floor, and retention runs.
	pollEvery = 15 * time.Second
	// followLinger shares a transaction's cost among the entries of a few milliseconds: it is the time that an event may
	// wait for others. Above 500 a second it grows, to loadedLinger from about 1,000 on.
	followLinger = 2 * time.Millisecond
	loadedLinger = 100 * time.Millisecond
	// calmTransactions of calmEntries events at most are followed by a checkpoint: about 1,000 pages, or 5 ms.
	calmTransactions, calmEntries = 32, 16
	// damageEvery is how often damage that readers find leads to a rebuild at most.
	damageEvery = time.Hour
	// Waits after an error.
	firstBackoff, maxBackoff = 100 * time.Millisecond, 15 * time.Second
)

// Run follows the log until ctx ends, and then returns nil: it applies every entry after the watermark, in order, and
// hands the events to sink (which may be nil) after they were committed. Errors of the disk and of the log are tried
// again for ever, with backoff, loudly; meanwhile Health has the cause. A file that belongs to another log, or that is
// ahead of this one, is made anew.
func (p *Projection) Run(ctx context.Context, log bridge.Reader, sink bridge.Sink) error {
	backoff := firstBackoff
	for {
		begin := time.Now()
		err := p.reopen(ctx)
		if err == nil {
			err = p.follow(ctx, log, sink)
		}
		if ctx.Err() != nil {
			return nil
		}
		if time.Since(begin) > time.Minute {
			backoff = firstBackoff
		}
		if isCorrupt(err) {
			if err2 := p.renew(ctx, func() error { return p.setAside(err) }); err2 != nil {
				err = err2
			}
		}
		p.fail(err, "the projection does not follow the log; it tries again")
		if !sleep(ctx, backoff) {
			return nil
		}
		backoff = min(2*backoff, maxBackoff)
	}
}

// fail makes an error known to Health and to the log.
func (p *Projection) fail(err error, what string) {
	err = fmt.Errorf("projection: %w; %s", err, remedy(err, p.path()))
	p.failing.Store(&err)
	p.log.Error(what, "error", err)
}

// recovered ends what fail began.
func (p *Projection) recovered() {
	if e := p.failing.Swap(nil); e != nil {
		p.log.Info("projection: back in order", "was", *e)
	}
}

// sleep waits and reports whether ctx is still going on.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// follow follows the log until something goes wrong.
func (p *Projection) follow(ctx context.Context, log bridge.Reader, sink bridge.Sink) error {
	state, err := log.State(ctx)
	if err != nil {
		return err
	}
	replaced, err := p.tailReplaced(ctx, log)
	if err != nil {
		return err
	}
	if err := p.bind(ctx, state, replaced); err != nil {
		return err
	}
	p.head.Store(state.Head)
	target, err := lastHeld(ctx, log, state, p.Watermark())
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.attend(ctx, log, cancel)
	}()
	defer func() { cancel(nil); <-done }()

	prog := newProgress(p.log, "projection.db", p.Watermark(), target)
	caughtUp := func() error {
		if p.ready.Load() || p.Watermark() < target {
			return nil
		}
		// Sequences after target up to the head have no entry any more.
		if err := p.jump(ctx, state.Head); err != nil {
			return err
		}
		prog.end()
		p.recovered()
		p.ready.Store(true)
		p.publish(sink, nil)
		return nil
	}
	if err := caughtUp(); err != nil {
		return err
	}
	if p.ready.Load() {
		p.recovered()
	}
	err = log.Follow(ctx, p.Watermark(), bridge.FollowOptions{MaxBatch: p.cfg.BatchEntries, Linger: followLinger, LoadedLinger: loadedLinger}, func(entries []*bridge.Entry) error {
		if err := p.consume(ctx, log, sink, entries); err != nil {
			return err
		}
		prog.at(p.Watermark())
		return caughtUp()
	})
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		return cause
	}
	if err == nil {
		err = errors.New("the log ended following without an error")
	}
	return err
}

// consume applies one batch, however long it takes, and publishes it.
func (p *Projection) consume(ctx context.Context, log bridge.Reader, sink bridge.Sink, entries []*bridge.Entry) error {
	if len(entries) == 0 {
		return nil
	}
	begin := time.Now()
	if w := p.Watermark(); entries[0].Sequence > w+1 {
		// Gaps are allowed; entries that expired before they were applied are not the same thing.
		state, err := log.State(ctx)
		if err != nil {
			return err
		}
		if err := p.passed(ctx, min(state.Floor, entries[0].Sequence)); err != nil {
			return err
		}
	}
	recs := prepare(entries, p.codec)
	backoff := firstBackoff
	for {
		events, err := p.apply(ctx, recs)
		if err == nil {
			p.recovered()
			p.m.apply.Observe(time.Since(begin).Seconds())
			if head := entries[len(entries)-1].Sequence; head > p.head.Load() {
				p.head.Store(head)
			}
			p.m.lag.Set(float64(p.Lag()))
			p.publish(sink, events)
			p.checkpoint(context.WithoutCancel(ctx), len(entries))
			return nil
		}
		p.m.writeErrors.Inc()
		if isCorrupt(err) {
			return err
		}
		p.fail(err, "the projection cannot be written; events wait in the log, and nothing is skipped")
		if !sleep(ctx, backoff) {
			return context.Cause(ctx)
		}
		backoff = min(2*backoff, maxBackoff)
	}
}

// checkpoint writes the WAL back after a few transactions with a few events each, once those are out. SQLite does so by
// itself in the middle of a commit, when there is eight times as much: that is cheaper, since pages that change often are
// written once, and nothing for events that somebody waits for.
func (p *Projection) checkpoint(ctx context.Context, entries int) {
	if entries > calmEntries {
		p.unwritten = 0
		return
	}
	if p.unwritten++; p.unwritten < calmTransactions {
		return
	}
	p.unwritten = 0
	p.wmu.Lock()
	defer p.wmu.Unlock()
	if err := p.st.checkpoint(ctx); err != nil {
		p.log.Warn("a checkpoint of projection.db failed; SQLite tries again by itself", "error", err)
	}
}

// publish hands on what was committed. While the file is made anew in a running process, the sink has had the events of
// before already: it gets each once.
func (p *Projection) publish(sink bridge.Sink, events []*bridge.Encoded) {
	if sink == nil {
		return
	}
	if p.lostBelow > 0 {
		sink.Lost(p.lostBelow)
		p.lostBelow = 0
	}
	if p.Watermark() < p.published {
		return
	}
	for len(events) > 0 && events[0].Sequence <= p.published {
		events = events[1:]
	}
	p.published = p.Watermark()
	sink.Publish(events, p.published)
}

// attend asks the log for its state from time to time, runs retention, and stops the follower when a reader has found the
// file damaged.
func (p *Projection) attend(ctx context.Context, log bridge.Reader, stop context.CancelCauseFunc) {
	t := time.NewTicker(pollEvery)
	defer t.Stop()
	for {
		if state, err := log.State(ctx); err == nil {
			if state.Head > p.head.Load() {
				p.head.Store(state.Head)
			}
			p.m.lag.Set(float64(p.Lag()))
			if err := p.retain(ctx, state.Floor); err != nil && ctx.Err() == nil {
				if isCorrupt(err) {
					stop(err)
					return
				}
				p.log.Error("retention of projection.db does not work; it tries again", "error", err, "remedy", remedy(err, p.path()))
			}
		}
		select {
		case <-ctx.Done():
			return
		case err := <-p.damaged:
			// What a rebuild did not mend, another one at once would not mend either.
			if p.lastDamage.IsZero() || time.Since(p.lastDamage) > damageEvery {
				p.lastDamage = time.Now()
				stop(fmt.Errorf("%w: %w", errCorrupt, err))
				return
			}
			p.log.Error("projection.db is damaged again although it was rebuilt lately; it stays as it is for now. Check the disk", "error", err, "path", p.path())
		case <-t.C:
		}
	}
}
