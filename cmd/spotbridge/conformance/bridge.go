package conformance

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spotbridge/spotbridge/bridge"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
	"github.com/spotbridge/spotbridge/server"
)

// maxWaiting is how many streams may wait for the script. Whoever opens more is told to come later, and fails the scenario.
const maxWaiting = 256

// scripted is a bridge that does what a scenario says. The scenario takes the streams that clients open from calls.
type scripted struct {
	calls chan *call
	// crowded says that a client has opened more streams than anybody could want.
	crowded atomic.Bool

	history    *history
	group      *group
	server     *server.Server
	rest       *http.Server
	grpc, http *tap
	serving    sync.WaitGroup
	// sse changes server-sent events on their way, one at a time; nil = none.
	sse atomic.Pointer[func([]byte) []byte]
	// proxy answers requests of REST in the server's place until it returns false; nil = none does.
	proxy atomic.Pointer[func(http.ResponseWriter, *http.Request) bool]
}

// startBridge serves on two addresses of this machine. Port 0 is any.
func startBridge(ctx context.Context, grpcAddr, restAddr string) (*scripted, error) {
	h := newHistory()
	s := &scripted{calls: make(chan *call, maxWaiting), history: h, group: newGroup()}
	var err error
	if s.server, err = server.New(server.Config{
		History: h, Hub: hub{s}, Groups: groups{s: s}, Deliveries: noDeliveries{}, Drift: noDrift{}, LogID: bridge.LogID{1},
	}); err != nil {
		return nil, err
	}
	var lc net.ListenConfig
	for _, l := range []struct {
		addr string
		into **tap
	}{{grpcAddr, &s.grpc}, {restAddr, &s.http}} {
		ln, err := lc.Listen(ctx, "tcp", l.addr)
		if err != nil {
			s.close()
			return nil, fmt.Errorf("listen: %w", err)
		}
		*l.into = newTap(ln)
	}
	s.server.SetServing(true)
	s.rest = &http.Server{Handler: s, ReadHeaderTimeout: 10 * time.Second}
	s.serving.Go(func() { _ = s.server.GRPC().Serve(s.grpc) }) // it ends with close
	s.serving.Go(func() { _ = s.rest.Serve(s.http) })
	return s, nil
}

// close cuts everything off.
func (s *scripted) close() {
	for _, t := range []*tap{s.grpc, s.http} {
		if t == nil {
			continue
		}
		_ = t.Close()
		t.mu.Lock()
		for _, w := range t.wires {
			_ = w.Close() // a frozen one would wait for ever
		}
		t.mu.Unlock()
	}
	if s.rest != nil {
		_ = s.rest.Close()
	}
	_ = s.server.Close()
	s.serving.Wait()
}

func (s *scripted) grpcAddr() string { return s.grpc.Addr().String() }
func (s *scripted) restURL() string  { return "http://" + s.http.Addr().String() }

// wireOf returns the connection of a client, by what the server says of its peer.
func (s *scripted) wireOf(peer string) *wire {
	if remote, ok := strings.CutPrefix(peer, "rest "); ok {
		return s.http.wire(remote)
	}
	return s.grpc.wire(peer)
}

// offer hands a stream to the script and waits for its end.
func (s *scripted) offer(ctx context.Context, c *call) error {
	select {
	case s.calls <- c:
	default:
		s.crowded.Store(true)
		return &bridge.Error{Reason: pb.ErrorReason_ERROR_REASON_TOO_MANY_STREAMS, Message: "the script has not looked at the streams before this one"}
	}
	defer close(c.closed)
	select {
	case err := <-c.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// ServeHTTP is REST, with what a scenario does to it.
func (s *scripted) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if f := s.proxy.Load(); f != nil && (*f)(w, r) {
		return
	}
	if s.sse.Load() != nil {
		w = &sseWriter{ResponseWriter: w, s: s}
	}
	s.server.REST().ServeHTTP(w, r)
}

// sseWriter changes server-sent events. The server writes each of them at once.
type sseWriter struct {
	http.ResponseWriter
	s *scripted
}

// Unwrap is for http.ResponseController, which flushes and sets deadlines.
func (w *sseWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// Write implements http.ResponseWriter.
func (w *sseWriter) Write(b []byte) (int, error) {
	if !strings.HasPrefix(w.Header().Get("Content-Type"), "text/event-stream") {
		return w.ResponseWriter.Write(b)
	}
	if _, err := w.ResponseWriter.Write((*w.s.sse.Load())(b)); err != nil {
		return 0, err
	}
	return len(b), nil
}

// hub offers subscriptions to the script. It implements bridge.Hub.
type hub struct{ s *scripted }

func (h hub) Subscribe(ctx context.Context, r bridge.SubscribeRequest, to bridge.Sender) error {
	return h.s.offer(ctx, newSubscription(ctx, r, to))
}
func (hub) Drain(context.Context) error              { return nil }
func (hub) Subscriptions() []bridge.SubscriptionInfo { return nil }

// groups offers members to the script. It implements bridge.Groups; what no script plays answers INTERNAL.
type groups struct {
	bridge.Groups
	s *scripted
}

func (g groups) Consume(ctx context.Context, r bridge.JoinRequest, stream bridge.MemberStream) error {
	c := newMember(ctx, r, stream)
	go g.s.group.receive(c) // it ends with the stream
	defer g.s.group.gone(c)
	return g.s.offer(ctx, c)
}

// Create implements bridge.Groups: a client may make sure that its group exists.
func (groups) Create(_ context.Context, name string, _ bridge.GroupSettings, _ bridge.GroupPosition, _ bool) (*pb.ConsumerGroup, error) {
	return nil, &bridge.Error{Reason: pb.ErrorReason_ERROR_REASON_GROUP_EXISTS, Message: "there is a consumer group " + name}
}

// Get implements bridge.Groups.
func (groups) Get(_ context.Context, name string) (*pb.ConsumerGroup, error) {
	return &pb.ConsumerGroup{Group: name, View: pb.EventView_EVENT_VIEW_TYPED}, nil
}

// Acknowledge implements bridge.Groups: a member may settle what it holds without its stream.
func (g groups) Acknowledge(_ context.Context, r *pb.AcknowledgeRequest) (*pb.AcknowledgeResponse, error) {
	return g.s.group.acknowledge(r), nil
}

// Drain implements bridge.Groups.
func (groups) Drain(context.Context) error { return nil }

// history has the events of a scenario, for GetEvent and GetEventBody.
type history struct {
	bridge.History
	mu     sync.Mutex
	events map[string]*bridge.Encoded
	asked  map[string]int
	// before is called before an event is given out; nil = nothing happens.
	before func(ctx context.Context, id string, times int) error
}

func newHistory() *history {
	return &history{events: map[string]*bridge.Encoded{}, asked: map[string]int{}}
}

// add makes events known.
func (h *history) add(events ...*bridge.Encoded) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, e := range events {
		h.events[e.EventID] = e
	}
}

// Get implements bridge.History.
func (h *history) Get(ctx context.Context, id string) (*bridge.Encoded, error) {
	h.mu.Lock()
	h.asked[id]++
	times, e, before := h.asked[id], h.events[id], h.before
	h.mu.Unlock()
	if before != nil {
		if err := before(ctx, id, times); err != nil {
			return nil, err
		}
	}
	if e == nil {
		return nil, &bridge.Error{Reason: pb.ErrorReason_ERROR_REASON_EVENT_NOT_FOUND, Message: "no event with this id is held"}
	}
	return e, nil
}

// times returns how often a body was asked for.
func (h *history) times(id string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.asked[id]
}

// The script has no deliveries and no drift: nobody may ask for them.
type (
	noDeliveries struct{ bridge.Deliveries }
	noDrift      struct{ bridge.DriftReader }
)
