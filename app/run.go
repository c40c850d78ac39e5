package app

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/spotbridge/spotbridge/bridge"
	"github.com/spotbridge/spotbridge/bridge/eventlog"
	"github.com/spotbridge/spotbridge/bridge/webhook"
)

const (
	// maxConnections bounds the door's connections; others wait to be accepted.
	maxConnections = 4096
	// readHeaderTimeout is for REST and admin; their answers may stream for long.
	readHeaderTimeout = 10 * time.Second
	floorInterval     = 10 * time.Minute
)

// Run serves until ctx ends, then drains and closes everything. It returns nil after an orderly end. It may be called once.
func (a *App) Run(ctx context.Context) (err error) {
	defer func() { err = errors.Join(err, a.close()) }()
	if err := a.prepareServers(); err != nil {
		return err
	}
	// The parts under the streams live longer than ctx: a drain needs them.
	under, stopUnder := context.WithCancel(context.WithoutCancel(ctx))
	defer stopUnder()
	failed := make(chan error, 8)
	var parts, serving sync.WaitGroup
	part := func(name string, run func(context.Context) error) {
		parts.Go(func() {
			if err := run(under); err != nil && under.Err() == nil {
				failed <- fmt.Errorf("%s: %w", name, err)
			}
		})
	}
	part("deliveries", a.deliveries.Run)
	part("projection", func(ctx context.Context) error { return a.projection.Run(ctx, a.eventlog, a.drift) })
	part("drift", a.drift.Run)
	part("groups", a.groups.Run)
	part("webhook ids", func(ctx context.Context) error { return a.ids.Run(ctx, a.eventlog) })
	part("floor", func(ctx context.Context) error { a.watchFloor(ctx); return nil })

	serve := func(name string, serve func() error) {
		serving.Go(func() {
			if err := serve(); err != nil && !errors.Is(err, http.ErrServerClosed) {
				failed <- fmt.Errorf("%s: %w", name, err)
			}
		})
	}
	serve("webhook listener", func() error {
		l := webhook.LimitConnections(a.webhookListener, maxConnections)
		if a.webhookServer.TLSConfig != nil {
			return a.webhookServer.ServeTLS(l, "", "")
		}
		return a.webhookServer.Serve(l)
	})
	serve("rest listener", func() error { return a.restServer.Serve(a.restListener) })
	serve("admin listener", func() error { return a.adminServer.Serve(a.adminListener) })
	serve("grpc listener", func() error { return a.server.GRPC().Serve(a.grpcListener) })
	a.gate.serving.Store(true)
	a.log.Info("listening", "webhook", a.WebhookAddr(), "rest", a.RESTAddr(), "grpc", a.GRPCAddr(), "admin", a.AdminAddr())
	// Last, so that whoever waits for the open door knows the addresses and finds all listeners serving.
	part("gate", func(ctx context.Context) error { a.watch(ctx); return nil })

	select {
	case <-ctx.Done():
	case err = <-failed:
		a.log.Error("a part of the bridge has ended; shutting down", "error", err)
	}
	a.drain(ctx)
	serving.Wait()
	stopUnder()
	parts.Wait()
	return err
}

func (a *App) prepareServers() error {
	var tlsConfig *tls.Config
	if c := a.cfg.TLS.Webhook; c.CertFile != "" {
		var err error
		if tlsConfig, err = webhook.TLSConfig(c.CertFile, c.KeyFile, a.log); err != nil {
			return err
		}
	}
	a.webhookServer = webhook.NewServer(a.door, tlsConfig, a.log)
	a.restServer = &http.Server{Handler: a.server.REST(), ReadHeaderTimeout: readHeaderTimeout}
	a.adminServer = &http.Server{Handler: adminHandler(a.reg, a.status), ReadHeaderTimeout: readHeaderTimeout}
	return nil
}

// drain ends the service in an order in which nothing that was taken is lost: not ready, the door answers 503 and finishes
// what it has read, streams get their goodbye, then the listeners close.
func (a *App) drain(ctx context.Context) {
	start := time.Now()
	a.gate.draining.Store(true)
	a.log.Info("draining", "timeout", time.Duration(a.cfg.DrainTimeout))
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Duration(a.cfg.DrainTimeout))
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := a.webhookServer.Shutdown(ctx); err != nil {
			a.log.Warn("deliveries were still under way at the end of the drain; the source sends them again", "error", err)
			_ = a.webhookServer.Close()
		}
	})
	wg.Go(func() {
		// Streams first: the REST ones end with the gRPC ones under them.
		if err := a.server.Drain(ctx); err != nil {
			a.log.Warn("streams or calls were still open at the end of the drain and were cut; clients resume with their cursors", "error", err)
		}
		if err := a.restServer.Shutdown(ctx); err != nil {
			_ = a.restServer.Close()
		}
	})
	wg.Wait()
	_ = a.adminServer.Close()
	a.log.Info("drained", "took", time.Since(start).Round(time.Millisecond))
}

// watch keeps the gate up to date: it is asked for each delivery and only looks at what stands here.
func (a *App) watch(ctx context.Context) {
	t := time.NewTicker(gateInterval)
	defer t.Stop()
	var lag lagMeter
	target, open := uint64(0), false // target is the head seen at the start, plus one
	for {
		a.gate.setLog(a.eventlog.Healthy())
		if st, err := a.eventlog.State(ctx); err == nil {
			if target == 0 {
				target = st.Head + 1
			}
			if a.ids.Watermark()+1 >= target {
				a.gate.idsReady.Store(true)
			}
			a.gate.setLag(lagError(lag.measure(st.Head, a.ids.Watermark(), time.Now()), eventlog.DedupWindow/2))
		}
		ok, _, _ := a.gate.Accepting()
		switch {
		case ok && !open:
			a.log.Info("the door is open")
			a.server.SetServing(true)
			select {
			case <-a.ready:
			default:
				close(a.ready)
			}
		case !ok && open:
			for _, err := range a.gate.reasons() {
				a.log.Error("the door is closed", "cause", err)
			}
		}
		open = ok
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
	}
}

// lagMeter measures how long the watermark has been behind what the head was then.
type lagMeter struct {
	mark  uint64
	since time.Time
}

func (m *lagMeter) measure(head, watermark uint64, now time.Time) time.Duration {
	if watermark >= m.mark {
		m.mark, m.since = head, now
	}
	if watermark >= m.mark {
		return 0
	}
	return now.Sub(m.since)
}

// watchFloor warns when the log holds less than the sources' retries may need, and says how long its bytes last.
func (a *App) watchFloor(ctx context.Context) {
	t := time.NewTicker(floorInterval)
	defer t.Stop()
	for first := true; ; first = false {
		if st, err := a.eventlog.State(ctx); err == nil {
			a.reportFloor(st, first)
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
	}
}

func (a *App) reportFloor(st bridge.LogState, first bool) {
	now := time.Now()
	held := now.Sub(st.FloorTime)
	if st.FloorTime.IsZero() {
		held = 0
	}
	a.floorSeconds.Set(held.Seconds())
	if first && st.MaxBytes > 0 && held > time.Hour && st.Bytes > 0 {
		rate := float64(st.Bytes) / held.Hours()
		a.log.Info("how long the log's bytes last at the recent rate", "max_bytes", st.MaxBytes, "bytes", st.Bytes,
			"lasts", (time.Duration(float64(st.MaxBytes)/rate*3600) * time.Second).String())
	}
	// Full by bytes before the age: then the floor moves up with the load.
	if st.Floor > 1 && st.MaxBytes > 0 && st.Bytes > st.MaxBytes*9/10 {
		for i := range a.cfg.Sources {
			if s := &a.cfg.Sources[i]; s.maxAge() > 0 && held < s.maxAge() {
				a.log.Warn("the log holds less than a source's retries may need: a delivery that is sent again after its event has left the log is still a duplicate, but its event cannot be had any more; raise log.max_bytes",
					"source", s.Name, "held", held.Round(time.Minute), "max_age", s.maxAge())
			}
		}
	}
}
