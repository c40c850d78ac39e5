package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/test/bufconn"

	"github.com/spotbridge/spotbridge/bridge"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

// Reprocessor reads quarantined bodies again.
type Reprocessor interface {
	// Reprocess appends what is readable now. Errors are *bridge.Error with reason INVALID_FIELD, LOG_UNAVAILABLE or
	// HISTORY_UNAVAILABLE, or the context's.
	Reprocess(ctx context.Context, r *pb.ReprocessDeliveriesRequest) (*pb.ReprocessDeliveriesResponse, error)
}

// Config says what the server shows and how. Zero values mean the defaults that the fields name.
type Config struct {
	History     bridge.History
	Hub         bridge.Hub
	Deliveries  bridge.Deliveries
	Drift       bridge.DriftReader
	Reprocessor Reprocessor
	// Groups may be nil: then there are none.
	Groups bridge.Groups
	// Ready reports whether history has come to the head that the log had at the start; until then everything that needs it
	// answers STARTING. nil = it has.
	Ready func() bool
	// OpenAPI is the document at /openapi.json; nil = 404.
	OpenAPI []byte
	// LogID is the identity of the log, for cursors and page tokens; zero = history is asked.
	LogID bridge.LogID
	// Replica is the name of this process among the replicas; empty = the host's name.
	Replica string
	// Open says that there is no access control: REST then answers only requests for a loopback host. A web page of someone
	// else's could reach this machine's loopback by a name of its own.
	Open bool
	// SendTimeout ends REST streams whose client does not read, and connections of gRPC whose peer answers no ping; 0 = 15 min.
	// The hub and the consumer groups have their own, with the same default: a client that stands still for some minutes keeps
	// its stream, and one that does so for longer is told why it was ended.
	SendTimeout time.Duration
	// MaxStreams bounds the concurrent calls of one connection; 0 = 1,024.
	MaxStreams uint32
	// pingAfter is the silence after which a peer is pinged; 0 = 1 min.
	pingAfter time.Duration
	// Logger defaults to one that discards; Registerer may be nil.
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

const (
	maxRecvBytes = 4 << 20
	// readyWait is how long a call waits for history before it answers STARTING.
	readyWait  = 2 * time.Second
	pipeBuffer = 256 << 10
)

// Server is the gRPC server with its REST handler.
type Server struct {
	cfg    Config
	calls  *calls
	grpc   *grpc.Server
	health *health.Server
	rest   *rest
	pipe   *bufconn.Listener
	served sync.WaitGroup
}

// New returns a server that serves REST; the caller serves GRPC on a listener and must call Close.
func New(cfg Config) (*Server, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.MaxStreams == 0 {
		cfg.MaxStreams = 1024
	}
	if cfg.SendTimeout <= 0 {
		cfg.SendTimeout = 15 * time.Minute
	}
	if cfg.pingAfter <= 0 {
		cfg.pingAfter = time.Minute
	}
	if cfg.Ready == nil {
		cfg.Ready = func() bool { return true }
	}
	if cfg.Replica == "" {
		cfg.Replica, _ = os.Hostname() // without one it stays empty
	}
	if cfg.History == nil || cfg.Hub == nil || cfg.Deliveries == nil || cfg.Drift == nil {
		return nil, errors.New("server: History, Hub, Deliveries and Drift are required")
	}
	calls := newCalls(cfg.Logger, cfg.Registerer)
	s := &Server{cfg: cfg, calls: calls, health: health.NewServer(), pipe: bufconn.Listen(pipeBuffer)}
	s.grpc = grpc.NewServer(append(transportOptions(cfg),
		grpc.ForceServerCodecV2(newCodec()),
		grpc.UnaryInterceptor(calls.unary),
		grpc.StreamInterceptor(calls.stream),
		grpc.WaitForHandlers(true),
	)...)
	svc := &service{cfg: cfg, run: rand.Uint64()}
	pb.RegisterSubscriptionServiceServer(s.grpc, svc)
	pb.RegisterEventServiceServer(s.grpc, svc)
	pb.RegisterDeliveryServiceServer(s.grpc, svc)
	pb.RegisterCatalogServiceServer(s.grpc, svc)
	pb.RegisterConsumerGroupServiceServer(s.grpc, svc)
	healthpb.RegisterHealthServer(s.grpc, s.health)
	reflection.Register(s.grpc)
	s.SetServing(false)
	var err error
	if s.rest, err = newREST(cfg, s.pipe.DialContext); err != nil {
		s.grpc.Stop()
		return nil, fmt.Errorf("server: %w", err)
	}
	s.served.Go(func() {
		if err := s.grpc.Serve(s.pipe); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			cfg.Logger.Error("the in-memory connection of REST does not serve", "error", err)
		}
	})
	return s, nil
}

// transportOptions are the limits of connections.
func transportOptions(cfg Config) []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.MaxRecvMsgSize(maxRecvBytes),
		grpc.MaxConcurrentStreams(cfg.MaxStreams),
		// Clients may ping through idle load balancers; and a peer that has gone is noticed. A process that stands still answers
		// no ping either, nor does it read: the timeout is also that of the socket (TCP_USER_TIMEOUT).
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: cfg.pingAfter, Timeout: cfg.SendTimeout}),
	}
}

// SetServing sets what the health service says of every service; at first they do not serve.
func (s *Server) SetServing(serving bool) {
	status := healthpb.HealthCheckResponse_NOT_SERVING
	if serving {
		status = healthpb.HealthCheckResponse_SERVING
	}
	s.health.SetServingStatus("", status)
	for name := range s.grpc.GetServiceInfo() {
		s.health.SetServingStatus(name, status)
	}
}

// GRPC returns the gRPC server, for Serve.
func (s *Server) GRPC() *grpc.Server { return s.grpc }

// REST returns the handler of the REST surface.
func (s *Server) REST() http.Handler { return s.rest }

// Drain ends the service in good order: health says so, streams get goodbye, calls under way are finished. What is left
// when ctx ends is cut off. REST's http.Server should be shut down afterwards.
func (s *Server) Drain(ctx context.Context) error {
	s.health.Shutdown()
	var groups sync.WaitGroup
	var groupsErr error
	if s.cfg.Groups != nil {
		groups.Go(func() { groupsErr = s.cfg.Groups.Drain(ctx) })
	}
	err := s.cfg.Hub.Drain(ctx)
	groups.Wait()
	err = errors.Join(err, groupsErr)
	s.calls.drain()
	done := make(chan struct{})
	go func() {
		s.grpc.GracefulStop()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
		err = ctx.Err()
		s.grpc.Stop()
		<-done
	}
	return err
}

// Close stops everything at once. It may be called after Drain.
func (s *Server) Close() error {
	s.grpc.Stop()
	err := s.rest.close()
	s.served.Wait()
	return err
}

// service implements the RPCs.
type service struct {
	pb.UnimplementedSubscriptionServiceServer
	pb.UnimplementedEventServiceServer
	pb.UnimplementedDeliveryServiceServer
	pb.UnimplementedCatalogServiceServer
	pb.UnimplementedConsumerGroupServiceServer
	cfg Config
	// run tells this process from the one before it: what counts from its start means nothing in another.
	run uint64
}

// ready waits a little for history to be complete.
func (s *service) ready(ctx context.Context) error {
	if s.cfg.Ready() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, readyWait)
	defer cancel()
	t := time.NewTicker(20 * time.Millisecond)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			if s.cfg.Ready() {
				return nil
			}
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.Canceled) {
				return ctx.Err()
			}
			return &bridge.Error{
				Reason:  pb.ErrorReason_ERROR_REASON_STARTING,
				Message: "the bridge is starting and history is not complete yet; retry with backoff",
			}
		}
	}
}

// logID returns the identity of the log.
func (s *service) logID(ctx context.Context) (bridge.LogID, error) {
	if !s.cfg.LogID.IsZero() {
		return s.cfg.LogID, nil
	}
	b, err := s.cfg.History.Bounds(ctx)
	return b.Log, err
}
