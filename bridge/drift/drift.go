package drift

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/spotbridge/spotbridge/bridge"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

// History is what the worker needs of a bridge.History.
type History interface {
	Bounds(ctx context.Context) (bridge.Bounds, error)
	Scan(ctx context.Context, r bridge.ScanRequest) (bridge.ScanResult, error)
}

// Config says what the worker reads and writes. Zero values mean the defaults that the fields name.
type Config struct {
	// Revision is the one of the converter that the events have; it must be a bridge.Inspector.
	Revision string
	History  History
	Store    bridge.DriftStore
	// Next gets what the follower publishes; nil = nobody.
	Next bridge.Sink
	// HotEvents and HotBytes bound what is kept of published events until the worker comes to them; 0 = 2,048 and 32 MiB.
	HotEvents int
	HotBytes  int64
	// BatchEvents and BatchBytes bound a batch; 0 = 256 and 8 MiB.
	BatchEvents, BatchBytes int
	// Logger defaults to one that discards; Registerer may be nil.
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

func (c Config) withDefaults() Config {
	if c.HotEvents <= 0 {
		c.HotEvents = 2048
	}
	if c.HotBytes <= 0 {
		c.HotBytes = 32 << 20
	}
	if c.BatchEvents <= 0 {
		c.BatchEvents = 256
	}
	if c.BatchBytes <= 0 {
		c.BatchBytes = 8 << 20
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

const (
	// linger shares a transaction among the events of a moment, and leaves the first moment to those who stream them.
	linger = 200 * time.Millisecond
	// pollEvery is how often history is looked at without being told.
	pollEvery = 15 * time.Second
	// maxPause bounds the rest after a batch.
	maxPause = 2 * time.Second
	// A batch is followed by a rest that is so many times as long as the work: the worker has a tenth of a core at most.
	restFactor = 9
	// Waits after an error.
	firstBackoff, maxBackoff = 100 * time.Millisecond, 15 * time.Second
	// progressFrom is how many sequences behind are worth a line in the log.
	progressFrom = 10_000
)

// Worker inspects events. It is a bridge.Sink, to be put between the follower and the ring.
type Worker struct {
	cfg  Config
	log  *slog.Logger
	m    *metrics
	hot  hot
	wake chan struct{}

	failing atomic.Pointer[error]
}

var _ bridge.Sink = (*Worker)(nil)

// New returns a worker. The caller calls Run.
func New(cfg Config) *Worker {
	cfg = cfg.withDefaults()
	return &Worker{
		cfg: cfg, log: cfg.Logger, m: newMetrics(cfg.Registerer), hot: hot{maxEvents: cfg.HotEvents, maxBytes: cfg.HotBytes}, wake: make(chan struct{}, 1),
	}
}

// Publish implements bridge.Sink: it hands the events on and remembers them. Whoever asks first, a subscriber or the
// worker, has an event converted, and the other one takes the result.
func (w *Worker) Publish(events []*bridge.Encoded, watermark uint64) {
	for _, e := range events {
		e.Track()
	}
	if w.cfg.Next != nil {
		w.cfg.Next.Publish(events, watermark)
	}
	w.hot.add(events, watermark)
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// Lost implements bridge.Sink.
func (w *Worker) Lost(floor uint64) {
	if w.cfg.Next != nil {
		w.cfg.Next.Lost(floor)
	}
}

// Health returns why drift cannot be read or written at the moment, or nil.
func (w *Worker) Health() error {
	if e := w.failing.Load(); e != nil {
		return *e
	}
	return nil
}

// Run works until ctx ends, and then returns nil. Errors are tried again for ever, with backoff, loudly.
func (w *Worker) Run(ctx context.Context) error {
	backoff := firstBackoff
	for {
		begin := time.Now()
		err := w.work(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if time.Since(begin) > time.Minute {
			backoff = firstBackoff
		}
		if errors.Is(err, bridge.ErrDriftMoved) {
			w.hot.forget()
			w.log.Info("drift begins again: history was made anew")
		} else {
			err = fmt.Errorf("drift: %w", err)
			w.failing.Store(&err)
			w.m.errors.Inc()
			w.log.Error("drift of payloads is not found at the moment; events are not affected, and it tries again", "error", err)
		}
		if !sleep(ctx, backoff) {
			return nil
		}
		backoff = min(2*backoff, maxBackoff)
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

// wait waits until something was published, or for a while.
func (w *Worker) wait(ctx context.Context) bool {
	t := time.NewTimer(pollEvery)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	case <-w.wake:
		return sleep(ctx, linger)
	}
}

// work inspects until something goes wrong.
func (w *Worker) work(ctx context.Context) error {
	b, err := w.cfg.History.Bounds(ctx)
	for err == nil && b.Log.IsZero() { // it does not know its floor yet
		if !w.wait(ctx) {
			return ctx.Err()
		}
		b, err = w.cfg.History.Bounds(ctx)
	}
	if err != nil {
		return err
	}
	run, err := w.cfg.Store.Begin(ctx, w.cfg.Revision, b.Floor)
	if err != nil {
		return err
	}
	totals, err := w.cfg.Store.Totals(ctx)
	if err != nil {
		return err
	}
	w.m.totals(totals)
	r := &runner{w: w, run: run, begun: time.Now()}
	if b.Watermark > run.Watermark && b.Watermark-run.Watermark >= progressFrom {
		w.log.Info("payloads are compared with the published schema", "revision", run.Revision, "after", run.Watermark, "head", b.Watermark)
	}
	for {
		begin := time.Now()
		idle, err := r.step(ctx)
		if err != nil {
			return err
		}
		if e := w.failing.Swap(nil); e != nil {
			w.log.Info("drift: back in order", "was", *e)
		}
		var more bool
		if idle {
			more = w.wait(ctx)
		} else {
			more = sleep(ctx, min(time.Since(begin)*restFactor, maxPause))
		}
		if !more {
			return ctx.Err()
		}
	}
}

// runner is a run under way.
type runner struct {
	w   *Worker
	run bridge.DriftRun
	// complete says that the run has caught up.
	complete bool
	begun    time.Time
}

// step does the next batch. idle says that there is nothing to do.
func (r *runner) step(ctx context.Context) (idle bool, err error) {
	w := r.w
	b, err := w.cfg.History.Bounds(ctx)
	if err != nil {
		return false, err
	}
	if b.Watermark < r.run.Watermark {
		return false, bridge.ErrDriftMoved
	}
	w.m.watermark.Set(float64(r.run.Watermark))
	w.m.lag.Set(float64(b.Watermark - r.run.Watermark))
	if r.complete && b.Watermark == r.run.Watermark {
		return true, nil
	}
	batch, from, err := r.collect(ctx, b.Watermark)
	if err != nil {
		return false, err
	}
	batch.Complete = !r.complete && batch.Watermark >= b.Watermark
	return false, r.record(ctx, batch, from)
}

// record stores a batch and tells of it.
func (r *runner) record(ctx context.Context, batch *batch, from string) error {
	w := r.w
	change, err := w.cfg.Store.Record(ctx, batch.result())
	if err != nil {
		return err
	}
	r.run.Watermark = batch.Watermark
	r.run.Events += batch.Events
	r.run.Overflow += change.Overflow
	w.m.inspected.WithLabelValues(from).Add(float64(batch.Events))
	w.m.skipped.WithLabelValues("gone").Add(float64(batch.gone))
	w.m.skipped.WithLabelValues("failed").Add(float64(batch.failed))
	w.m.overflow.Set(float64(r.run.Overflow))
	w.m.watermark.Set(float64(r.run.Watermark))
	if batch.gone > 0 {
		w.log.Error("events left history before they were compared with the published schema; drift is not complete", "sequences", batch.gone)
	}
	if batch.failed > 0 {
		w.log.Error("the conversion of events failed; they go out without a typed payload, and drift is not complete", "events", batch.failed, "first", batch.failedID)
	}
	if change.Overflow > 0 {
		w.log.Warn("payloads differ from the published schema in too many ways to list", "occurrences", change.Overflow)
	}
	if batch.Complete {
		r.complete = true
	}
	if len(change.New) == 0 && !batch.Complete {
		return nil
	}
	totals, err := w.cfg.Store.Totals(ctx)
	if err != nil {
		return err
	}
	w.m.totals(totals)
	switch {
	case batch.Complete:
		w.log.Info("payloads were compared with the published schema", append(counts(totals), "revision", r.run.Revision, "watermark", r.run.Watermark,
			"events", r.run.Events, "took", time.Since(r.begun).Round(time.Millisecond).String())...)
	case r.complete:
		level := slog.LevelInfo // a field that is discouraged is no surprise
		for k := range change.New {
			if k != pb.IssueKind_ISSUE_KIND_DEPRECATED_FIELD {
				level = slog.LevelWarn
			}
		}
		w.log.Log(ctx, level, "payloads differ from the published schema in new ways; spotbridge drift shows them", counts(change.New)...)
	}
	return nil
}

// counts are attributes for a line of the log.
func counts(n map[pb.IssueKind]int64) (out []any) {
	for _, k := range kinds {
		if n[k] > 0 {
			out = append(out, kindName(k), n[k])
		}
	}
	return out
}

// collect inspects the next events: those at hand, or else those of history.
func (r *runner) collect(ctx context.Context, head uint64) (b *batch, from string, err error) {
	w, after := r.w, r.run.Watermark
	b = newBatch(r.run)
	if events, upTo, ok := w.hot.after(after, w.cfg.BatchEvents); ok && upTo <= head {
		b.inspect(events, upTo)
		return b, "live", nil
	}
	res, err := w.cfg.History.Scan(ctx, bridge.ScanRequest{After: after, UpTo: head, MaxEvents: w.cfg.BatchEvents, MaxBytes: w.cfg.BatchBytes, Bodies: true})
	if err != nil {
		return nil, "", err
	}
	// What was deleted before the scan is missing in it, and the floor tells. So it is looked at afterwards.
	bounds, err := w.cfg.History.Bounds(ctx)
	if err != nil {
		return nil, "", err
	}
	if bounds.Floor > after+1 {
		b.gone = int64(bounds.Floor - 1 - after)
		b.Watermark = bounds.Floor - 1
		return b, "history", nil
	}
	for _, e := range res.Events {
		e.Track()
	}
	b.inspect(res.Events, res.Next)
	return b, "history", nil
}
