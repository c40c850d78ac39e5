package server

import (
	"context"
	"encoding/hex"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"path"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	"github.com/spotbridge/spotbridge/bridge"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

// calls is what is done around every call: panics and errors become statuses, the call is counted and logged.
type calls struct {
	log *slog.Logger
	m   *metrics
	// drained is closed when the streams of health and reflection are to end. Our own end by themselves.
	drained chan struct{}
	once    sync.Once
}

func newCalls(log *slog.Logger, reg prometheus.Registerer) *calls {
	return &calls{log: log, m: newMetrics(reg), drained: make(chan struct{})}
}

func (c *calls) drain() { c.once.Do(func() { close(c.drained) }) }

// call is one call.
type call struct {
	*calls
	ctx    context.Context
	method string
	id     string
	start  time.Time
	stream bool
}

func (c *calls) begin(ctx context.Context, fullMethod string, stream bool) *call {
	var id [8]byte
	for i, n := 0, rand.Uint64(); i < len(id); i, n = i+1, n>>8 {
		id[i] = byte(n)
	}
	x := &call{calls: c, ctx: ctx, method: path.Base(fullMethod), id: hex.EncodeToString(id[:]), start: time.Now(), stream: stream}
	c.m.inFlight.WithLabelValues(x.method).Inc()
	return x
}

func (c *calls) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (resp any, err error) {
	x := c.begin(ctx, info.FullMethod, false)
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
		if err = x.end(err); err != nil {
			resp = nil
		}
	}()
	return handler(ctx, req)
}

func (c *calls) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
	x := c.begin(ss.Context(), info.FullMethod, true)
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
		err = x.end(err)
	}()
	if strings.HasPrefix(info.FullMethod, ownServices) {
		return handler(srv, ss)
	}
	return c.foreign(srv, ss, handler)
}

const (
	ownServices = "/spotbridge."
	// lastWord is the time that streams of health have to say that nothing serves any more.
	lastWord = 100 * time.Millisecond
)

// foreign serves a stream that knows nothing of draining: health's Watch and reflection last as long as their clients like.
func (c *calls) foreign(srv any, ss grpc.ServerStream, handler grpc.StreamHandler) error {
	done := make(chan error, 1)
	go func() { // it ends with the call
		defer func() {
			if p := recover(); p != nil {
				done <- fmt.Errorf("panic: %v\n%s", p, debug.Stack())
			}
		}()
		done <- handler(srv, ss)
	}()
	select {
	case err := <-done:
		return err
	case <-c.drained:
	}
	select {
	case err := <-done:
		return err
	case <-time.After(lastWord):
		return draining()
	}
}

func draining() error {
	return &bridge.Error{Reason: pb.ErrorReason_ERROR_REASON_DRAINING, Message: "the bridge is shutting down; reconnect with backoff"}
}

// end counts and logs the call and returns its status as an error. Messages of requests and answers are never logged: they
// hold travelers' data.
func (x *call) end(err error) error {
	s := statusOf(err, x.id)
	took := time.Since(x.start)
	x.m.inFlight.WithLabelValues(x.method).Dec()
	x.m.calls.WithLabelValues(x.method, s.Code().String()).Inc()
	if !x.stream {
		x.m.seconds.WithLabelValues(x.method).Observe(took.Seconds())
	}
	level := slog.LevelDebug // the client's own doing
	switch s.Code() {
	case codes.Internal, codes.Unknown, codes.DataLoss:
		level = slog.LevelError
	case codes.Unavailable, codes.ResourceExhausted:
		level = slog.LevelWarn
	}
	if x.log.Enabled(x.ctx, level) {
		attrs := []slog.Attr{
			slog.String("method", x.method), slog.String("code", s.Code().String()), slog.String("request_id", x.id),
			slog.Duration("took", took), slog.String("peer", peerOf(x.ctx)),
		}
		if reason := reasonOf(s); reason != "" {
			attrs = append(attrs, slog.String("reason", reason))
		}
		if err != nil && level >= slog.LevelWarn {
			attrs = append(attrs, slog.String("error", err.Error()))
		}
		x.log.LogAttrs(x.ctx, level, "call", attrs...)
	}
	return s.Err()
}

// restPeer is the metadata key by which the REST handler names its client. It counts on the in-memory connection only.
const restPeer = "spotbridge-rest-peer"

// peerOf returns the address of the client.
func peerOf(ctx context.Context) string {
	p, ok := peer.FromContext(ctx)
	if !ok || p.Addr == nil {
		return ""
	}
	if p.Addr.Network() != "bufconn" {
		return p.Addr.String()
	}
	if v := metadata.ValueFromIncomingContext(ctx, restPeer); len(v) > 0 {
		return "rest " + v[0]
	}
	return "rest"
}
