package app

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

// gate decides whether the door takes deliveries. It is asked for each of them, so it only looks at atomics.
type gate struct {
	draining atomic.Bool
	serving  atomic.Bool
	idsReady atomic.Bool
	logErr   atomic.Pointer[error]
	lagErr   atomic.Pointer[error]
}

const (
	gateInterval   = 250 * time.Millisecond
	retryStarting  = 5 * time.Second
	retryLogClosed = 30 * time.Second
)

// Accepting implements webhook.Gate.
func (g *gate) Accepting() (bool, pb.DeliveryCause, time.Duration) {
	switch {
	case g.draining.Load() || !g.idsReady.Load():
		return false, pb.DeliveryCause_DELIVERY_CAUSE_NOT_ACCEPTING, retryStarting
	case g.lagErr.Load() != nil:
		return false, pb.DeliveryCause_DELIVERY_CAUSE_NOT_ACCEPTING, retryStarting
	case g.logErr.Load() != nil:
		return false, pb.DeliveryCause_DELIVERY_CAUSE_LOG_UNAVAILABLE, retryLogClosed
	default:
		return true, 0, 0
	}
}

func (g *gate) setLog(err error) { store(&g.logErr, err) }
func (g *gate) setLag(err error) { store(&g.lagErr, err) }

func store(p *atomic.Pointer[error], err error) {
	if err == nil {
		p.Store(nil)
		return
	}
	p.Store(&err)
}

// reasons says why the bridge is not ready, for /readyz.
func (g *gate) reasons() []error {
	var out []error
	if g.draining.Load() {
		out = append(out, errors.New("draining: the process is shutting down"))
	}
	if !g.serving.Load() {
		out = append(out, errors.New("starting: not all listeners serve yet"))
	}
	if !g.idsReady.Load() {
		out = append(out, errors.New("starting: the memory of webhook ids is not complete yet, so duplicates could not be told"))
	}
	for _, p := range []*atomic.Pointer[error]{&g.logErr, &g.lagErr} {
		if err := p.Load(); err != nil {
			out = append(out, *err)
		}
	}
	return out
}

// lagError says that ids lag too far behind for the log's own window to cover the difference.
func lagError(lag, limit time.Duration) error {
	if lag <= limit {
		return nil
	}
	return fmt.Errorf("the memory of webhook ids lags %v behind the log and %v is the most: see the log for write errors in the data folder", lag.Round(time.Second), limit)
}
