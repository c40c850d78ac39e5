// Package app reads the configuration and wires the parts together. It is the only package that knows them all.
package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/gofrs/flock"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/spotbridge/spotbridge/bridge"
	"github.com/spotbridge/spotbridge/bridge/drift"
	"github.com/spotbridge/spotbridge/bridge/eventlog"
	"github.com/spotbridge/spotbridge/bridge/group"
	"github.com/spotbridge/spotbridge/bridge/live"
	"github.com/spotbridge/spotbridge/bridge/payload"
	"github.com/spotbridge/spotbridge/bridge/projection"
	"github.com/spotbridge/spotbridge/bridge/webhook"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
	"github.com/spotbridge/spotbridge/gen/openapi"
	"github.com/spotbridge/spotbridge/server"
)

// headTimeout is how long a new subscription waits for the log to say where its head is.
const headTimeout = 2 * time.Second

// Options are what a configuration cannot hold. Zero values are for production.
type Options struct {
	Logger  *slog.Logger
	Version string
	// Now is the clock of the door; FreeSpace and DedupWindow override the log's. For tests.
	Now         func() time.Time
	FreeSpace   func(dir string) (free, total uint64, err error)
	DedupWindow time.Duration
	// Converter makes typed payloads; nil = by the published schema. For tests of a change of the schema.
	Converter bridge.Inspector
}

// App is one bridge: its parts and its listeners.
type App struct {
	cfg  Config
	opts Options
	log  *slog.Logger
	reg  *prometheus.Registry

	eventlog   *eventlog.Log
	projection *projection.Projection
	ids        *projection.IDs
	deliveries *projection.Deliveries
	hub        *live.Hub
	drift      *drift.Worker
	groupStore *eventlog.GroupStore
	groups     *group.Groups
	server     *server.Server
	door       *webhook.Handler
	gate       gate

	// floorSeconds is how far back the log reaches.
	floorSeconds prometheus.Gauge

	webhookListener, restListener, grpcListener, adminListener net.Listener
	webhookServer, restServer, adminServer                     *http.Server

	ready    chan struct{}
	cleanups []func() error // undone last in, first out
}

// New opens everything and binds the listeners, so that their addresses are known. The caller must call Run.
func New(ctx context.Context, cfg Config, opts Options) (_ *App, err error) {
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	if opts.Converter == nil {
		opts.Converter = payload.New()
	}
	a := &App{cfg: cfg, opts: opts, log: opts.Logger, reg: prometheus.NewRegistry(), ready: make(chan struct{})}
	a.floorSeconds = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "spotbridge_app_log_floor_age_seconds", Help: "Age of the oldest entry of the log: how far back it reaches.",
	})
	a.reg.MustRegister(a.floorSeconds, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	defer func() {
		if err != nil {
			err = errors.Join(err, a.close())
		}
	}()
	for _, step := range []func(context.Context) error{a.lock, a.openLog, a.openProjection, a.openDoor, a.openGroups, a.openServer, a.listen} {
		if err := step(ctx); err != nil {
			return nil, err
		}
	}
	return a, nil
}

func (a *App) onClose(f func() error) { a.cleanups = append(a.cleanups, f) }

// close undoes what New did, in reverse order, and reports every error.
func (a *App) close() error {
	var errs []error
	for _, f := range slices.Backward(a.cleanups) {
		errs = append(errs, f())
	}
	a.cleanups = nil
	return errors.Join(errs...)
}

// lock makes this the only process on the data folder: two embedded logs would both write.
func (a *App) lock(context.Context) error {
	if err := os.MkdirAll(a.cfg.DataDir, 0o700); err != nil {
		return fmt.Errorf("make data_dir: %w; choose a folder that this user may write", err)
	}
	l := flock.New(filepath.Join(a.cfg.DataDir, "lock"))
	ok, err := l.TryLock()
	if err != nil {
		return fmt.Errorf("lock data_dir %s: %w", a.cfg.DataDir, err)
	}
	if !ok {
		return fmt.Errorf("data_dir %s is in use by another process: stop that one, or give this one a folder of its own", a.cfg.DataDir)
	}
	a.onClose(l.Unlock)
	return nil
}

func (a *App) openLog(ctx context.Context) error {
	maxBody := int64(defaultMaxBody)
	for i := range a.cfg.Sources {
		maxBody = max(maxBody, a.cfg.Sources[i].maxBody())
	}
	l, err := eventlog.Open(ctx, eventlog.Config{
		Dir: filepath.Join(a.cfg.DataDir, "log"), URL: a.cfg.Log.URL, CredentialsFile: a.cfg.Log.CredentialsFile,
		Replicas: a.cfg.Log.Replicas, Durability: a.cfg.Log.Durability, MaxAge: time.Duration(a.cfg.Log.MaxAge),
		MaxBytes: int64(a.cfg.Log.MaxBytes), MaxBody: maxBody, Reserve: int64(a.cfg.Log.Reserve), FreeSpace: a.opts.FreeSpace,
		DedupWindow: a.opts.DedupWindow, Logger: a.log, Registerer: a.reg,
	})
	if err != nil {
		return err
	}
	a.eventlog = l
	a.onClose(func() error { l.Close(); return nil })
	a.log.Info("the log is open", "durability", l.Durability())
	return nil
}

// idsMaxAge is how long webhook ids are remembered: longer than any retry and than anything that can be asked for.
func (a *App) idsMaxAge() time.Duration {
	longest := time.Duration(a.cfg.History.MaxAge)
	for i := range a.cfg.Sources {
		s := &a.cfg.Sources[i]
		longest = max(longest, s.maxAge())
		if s.maxAge() == 0 {
			a.log.Warn("the timestamp window of a source is off: replay protection ends with the memory of webhook ids", "source", s.Name)
		}
	}
	if longest == 0 {
		longest = defaultMaxAge
	}
	return longest + 24*time.Hour
}

func (a *App) openProjection(ctx context.Context) error {
	cfg := projection.Config{
		Dir: a.cfg.DataDir, Logger: a.log, Registerer: a.reg, Converter: a.opts.Converter,
		HistoryMaxAge: time.Duration(a.cfg.History.MaxAge), HistoryMaxBytes: int64(a.cfg.History.MaxBytes), IDsMaxAge: a.idsMaxAge(),
	}
	var err error
	if a.projection, err = projection.Open(ctx, cfg); err != nil {
		return err
	}
	a.onClose(a.projection.Close)
	if a.ids, err = projection.OpenIDs(ctx, cfg); err != nil {
		return err
	}
	a.onClose(a.ids.Close)
	if a.deliveries, err = projection.OpenDeliveries(ctx, cfg, a.projection); err != nil {
		return err
	}
	a.onClose(a.deliveries.Close)
	return nil
}

func (a *App) openDoor(context.Context) error {
	cfg := webhook.Config{
		Log: a.eventlog, IDs: a.ids, Recorder: a.deliveries, Gate: &a.gate, Logger: a.log, Registerer: a.reg, Now: a.opts.Now,
	}
	for i := range a.cfg.Sources {
		s := &a.cfg.Sources[i]
		src := webhook.Source{
			Name: s.Name, Path: s.path(), Organizations: s.Organizations, MaxAge: s.maxAge(), MaxBody: s.maxBody(), RequireHeaders: map[string]string{},
		}
		for _, ref := range s.Secrets {
			text, err := ref.Resolve()
			if err != nil {
				return fmt.Errorf("source %s: secret: %w", s.Name, err)
			}
			secret, err := webhook.ParseSecret(text)
			if err != nil {
				return fmt.Errorf("source %s: secret: %w", s.Name, err)
			}
			src.Secrets = append(src.Secrets, secret)
		}
		for name, ref := range s.RequireHeaders {
			text, err := ref.Resolve()
			if err != nil {
				return fmt.Errorf("source %s: required header %s: %w", s.Name, name, err)
			}
			src.RequireHeaders[name] = text
		}
		cfg.Sources = append(cfg.Sources, src)
	}
	var err error
	a.door, err = webhook.New(cfg)
	return err
}

// reprocessor gives the server the door's second reading of quarantined bodies.
type reprocessor struct {
	door       *webhook.Handler
	deliveries bridge.Deliveries
}

// Reprocess implements server.Reprocessor.
func (r reprocessor) Reprocess(ctx context.Context, req *pb.ReprocessDeliveriesRequest) (*pb.ReprocessDeliveriesResponse, error) {
	return r.door.Reprocess(ctx, r.deliveries, req)
}

func (a *App) openServer(context.Context) error {
	a.hub = live.New(live.Config{
		History: a.projection, Head: a.head,
		RingEvents: a.cfg.Streams.RingEvents, RingBytes: int64(a.cfg.Streams.RingBytes),
		SendTimeout: time.Duration(a.cfg.Streams.SendTimeout), MaxAge: time.Duration(a.cfg.Streams.MaxAge), Logger: a.log, Registerer: a.reg,
	})
	a.drift = drift.New(drift.Config{
		Revision: a.opts.Converter.Revision(), History: a.projection, Store: a.projection, Next: sinks{a.hub, a.groups}, Logger: a.log, Registerer: a.reg,
	})
	var err error
	a.server, err = server.New(server.Config{
		Hub: a.hub, History: a.projection, Deliveries: a.deliveries, Drift: a.projection, Reprocessor: reprocessor{a.door, a.deliveries}, Ready: a.projection.Ready,
		Groups: a.groups, OpenAPI: openapi.JSON, LogID: a.eventlog.ID(), Open: a.cfg.Auth.Mode == "none", SendTimeout: time.Duration(a.cfg.Streams.SendTimeout), Logger: a.log, Registerer: a.reg,
	})
	if err != nil {
		return err
	}
	a.onClose(a.server.Close)
	return nil
}

func (a *App) openGroups(ctx context.Context) error {
	var err error
	if a.groupStore, err = a.eventlog.OpenGroups(ctx, eventlog.GroupConfig{LetterBytes: int64(a.cfg.Groups.DeadLetterBytes)}); err != nil {
		return err
	}
	a.onClose(func() error { a.groupStore.Close(); return nil })
	a.groups = group.New(group.Config{
		Store: a.groupStore, Log: a.eventlog, History: a.projection, Converter: a.opts.Converter, MaxGroups: a.cfg.Groups.Max, MaxMembers: a.cfg.Groups.MaxMembers,
		SendTimeout: time.Duration(a.cfg.Streams.SendTimeout), MaxAge: time.Duration(a.cfg.Streams.MaxAge), RecentBytes: int(a.cfg.Streams.RingBytes) / 2,
		Logger: a.log, Registerer: a.reg,
	})
	return nil
}

// sinks hands what the projection publishes to each of them.
type sinks []bridge.Sink

// Publish implements bridge.Sink.
func (s sinks) Publish(events []*bridge.Encoded, watermark uint64) {
	for _, to := range s {
		to.Publish(events, watermark)
	}
}

// Lost implements bridge.Sink.
func (s sinks) Lost(floor uint64) {
	for _, to := range s {
		to.Lost(floor)
	}
}

// head asks the log for its newest sequence. The projection's own idea of it is seconds old, and a cursor from another
// replica may be newer than that. While the log is away the last idea must do.
func (a *App) head() uint64 {
	ctx, cancel := context.WithTimeout(context.Background(), headTimeout)
	defer cancel()
	st, err := a.eventlog.State(ctx)
	if err != nil {
		return a.projection.Watermark() + a.projection.Lag()
	}
	return st.Head
}

func (a *App) listen(ctx context.Context) error {
	var lc net.ListenConfig
	for _, l := range []struct {
		key, addr string
		into      *net.Listener
	}{
		{"listen.webhook", a.cfg.Listen.Webhook, &a.webhookListener}, {"listen.rest", a.cfg.Listen.REST, &a.restListener},
		{"listen.grpc", a.cfg.Listen.GRPC, &a.grpcListener}, {"listen.admin", a.cfg.Listen.Admin, &a.adminListener},
	} {
		ln, err := lc.Listen(ctx, "tcp", l.addr)
		if err != nil {
			return fmt.Errorf("%s: %w; choose another address, for example with %s", l.key, err, envOf(l.key))
		}
		*l.into = ln
		a.onClose(func() error { _ = ln.Close(); return nil }) // the servers have closed it already, as a rule
	}
	return nil
}

func envOf(path string) string {
	for _, k := range Keys() {
		if k.Path == path {
			return k.Env
		}
	}
	return path
}

// WebhookAddr returns the address of the door.
func (a *App) WebhookAddr() string { return a.webhookListener.Addr().String() }

// RESTAddr returns the address of REST.
func (a *App) RESTAddr() string { return a.restListener.Addr().String() }

// GRPCAddr returns the address of gRPC.
func (a *App) GRPCAddr() string { return a.grpcListener.Addr().String() }

// AdminAddr returns the address of health and metrics.
func (a *App) AdminAddr() string { return a.adminListener.Addr().String() }

// Log returns the log, for tests and benchmarks that fill it without the door.
func (a *App) Log() bridge.Log { return a.eventlog }

// Ready is closed when everything serves and the door is open for the first time.
func (a *App) Ready() <-chan struct{} { return a.ready }

// status is what /readyz says.
func (a *App) status() readiness {
	r := readiness{Status: "ready", Durability: a.eventlog.Durability(), Version: a.opts.Version, Watermark: a.projection.Watermark()}
	r.Head = r.Watermark + a.projection.Lag()
	reasons := a.gate.reasons()
	for _, err := range reasons {
		r.Reasons = append(r.Reasons, err.Error())
	}
	if len(reasons) > 0 {
		r.Status = "not ready"
	}
	// History that lags or cannot be written does not close the door: what is taken is on the log.
	for _, err := range []error{a.projection.Health(), a.ids.Health(), a.drift.Health()} {
		if err != nil {
			r.Warnings = append(r.Warnings, err.Error())
		}
	}
	if !a.projection.Ready() {
		r.Warnings = append(r.Warnings, fmt.Sprintf("history is being built: %d of %d", r.Watermark, r.Head))
	}
	return r
}
