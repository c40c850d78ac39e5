package app_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/spotbridge/spotbridge/bridge"
	"github.com/spotbridge/spotbridge/bridge/bridgetest"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

// put appends n events to the log, with webhook ids <name>-0 and up, and returns their event ids.
func (r *running) put(t testing.TB, name string, n int, change ...func(i int, e *bridge.Entry)) []string {
	t.Helper()
	var ids []string
	for i := range n {
		e := bridgetest.Entry("sandbox", fmt.Sprintf("%s-%d", name, i), bridgetest.PNRBody("BOOKING_UPDATED", "org-1", fmt.Sprintf("%s-%d", name, i), 1))
		for _, f := range change {
			f(i, e)
		}
		if _, err := r.Log().Append(t.Context(), e); err != nil {
			t.Fatal(err)
		}
		ids = append(ids, e.EventID)
	}
	return ids
}

// memberClient is a member of a group, over real gRPC.
type memberClient struct {
	t      testing.TB
	stream pb.ConsumerGroupService_ConsumeClient
	conn   *cutConn
	cancel context.CancelFunc
	// got holds each event as a message of its own, also where it came with others; together is how many came at once at most.
	got      chan *pb.ConsumeResponse
	together atomic.Int32
	ended    chan error
	// kept are messages that were passed over.
	kept []*pb.ConsumeResponse
}

func (r *running) groups() pb.ConsumerGroupServiceClient {
	return pb.NewConsumerGroupServiceClient(r.conn)
}

// join connects a member over a connection of its own.
func (r *running) join(t testing.TB, j *pb.Join) *memberClient {
	t.Helper()
	var cut cutConn
	conn, err := grpc.NewClient("passthrough:///"+r.GRPCAddr(), grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithContextDialer(cut.dial))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	ctx, cancel := context.WithCancel(context.Background())
	s, err := pb.NewConsumerGroupServiceClient(conn).Consume(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Send(&pb.ConsumeRequest{Content: &pb.ConsumeRequest_Join{Join: j}}); err != nil {
		t.Fatal(err)
	}
	m := &memberClient{t: t, stream: s, conn: &cut, cancel: cancel, got: make(chan *pb.ConsumeResponse, 100_000), ended: make(chan error, 1)}
	go func() {
		for {
			x, err := s.Recv()
			if err != nil {
				close(m.got)
				m.ended <- err
				return
			}
			batch := x.GetDeliveries().GetDeliveries()
			if batch == nil {
				m.got <- x
				continue
			}
			if n := int32(len(batch)); n < 2 || n > j.GetMaxBatchEvents() {
				t.Errorf("%d events in a message, asked for %d", n, j.GetMaxBatchEvents())
			} else {
				m.together.Store(max(m.together.Load(), n))
			}
			for _, d := range batch {
				m.got <- &pb.ConsumeResponse{Content: &pb.ConsumeResponse_Delivery{Delivery: d}}
			}
		}
	}()
	t.Cleanup(cancel)
	return m
}

// cutConn is a TCP connection that a test can break as a crash would.
type cutConn struct{ net.Conn }

func (c *cutConn) dial(ctx context.Context, addr string) (net.Conn, error) {
	if c.Conn != nil {
		return nil, errors.New("it was cut")
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", addr)
	c.Conn = conn
	return conn, err
}

// cut breaks the member's connection: no goodbye, no half-close.
func (m *memberClient) cut() {
	m.t.Helper()
	if tcp, ok := m.conn.Conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	m.conn.Close()
}

func (m *memberClient) send(r *pb.ConsumeRequest) {
	m.t.Helper()
	if err := m.stream.Send(r); err != nil {
		m.t.Fatal(err)
	}
}

func (m *memberClient) ack(ids ...string) {
	m.t.Helper()
	m.send(&pb.ConsumeRequest{Content: &pb.ConsumeRequest_Ack{Ack: &pb.Ack{DeliveryIds: ids}}})
}

// next returns the next message for which want is true. Those before it stay for later calls.
func next[T any](m *memberClient, want func(*pb.ConsumeResponse) (T, bool)) T {
	m.t.Helper()
	for i, x := range m.kept {
		if v, ok := want(x); ok {
			m.kept = slices.Delete(m.kept, i, i+1)
			return v
		}
	}
	timeout := time.After(30 * time.Second)
	for {
		select {
		case x, ok := <-m.got:
			if !ok {
				m.t.Fatalf("the stream has ended: %v", <-m.ended)
			}
			if v, ok := want(x); ok {
				return v
			}
			m.kept = append(m.kept, x)
		case <-timeout:
			m.t.Fatal("nothing came")
		}
	}
}

func (m *memberClient) nack(action pb.NackAction, after time.Duration, reason string, ids ...string) {
	m.t.Helper()
	n := &pb.Nack{DeliveryIds: ids, Action: action, Reason: reason}
	if after >= 0 {
		n.RetryAfter = durationpb.New(after)
	}
	m.send(&pb.ConsumeRequest{Content: &pb.ConsumeRequest_Nack{Nack: n}})
}

// confirm acknowledges and waits until the log has it.
func (m *memberClient) confirm(ids ...string) {
	m.t.Helper()
	m.send(&pb.ConsumeRequest{Content: &pb.ConsumeRequest_Ack{Ack: &pb.Ack{DeliveryIds: ids, Confirm: true}}})
	got := next(m, func(x *pb.ConsumeResponse) (*pb.Settled, bool) { return x.GetSettled(), x.GetSettled() != nil })
	if !slices.Equal(got.GetDeliveryIds(), ids) {
		m.t.Fatalf("settled %v, want %v", got.GetDeliveryIds(), ids)
	}
}

func (m *memberClient) refused() *pb.Refused {
	m.t.Helper()
	return next(m, func(x *pb.ConsumeResponse) (*pb.Refused, bool) { return x.GetRefused(), x.GetRefused() != nil })
}

// leave ends the stream in good order.
func (m *memberClient) leave() {
	m.t.Helper()
	if err := m.stream.CloseSend(); err != nil {
		m.t.Fatal(err)
	}
	m.end(codes.OK)
}

// end waits for the end of the stream.
func (m *memberClient) end(want codes.Code) {
	m.t.Helper()
	select {
	case err := <-m.ended:
		m.ended <- err
		if got := status.Code(err); errors.Is(err, io.EOF) && want != codes.OK || !errors.Is(err, io.EOF) && got != want {
			m.t.Fatalf("the stream ended with %v, want %v", err, want)
		}
	case <-time.After(30 * time.Second):
		m.t.Fatal("the stream did not end")
	}
}

func (m *memberClient) delivery() *pb.GroupDelivery {
	m.t.Helper()
	return next(m, func(x *pb.ConsumeResponse) (*pb.GroupDelivery, bool) { return x.GetDelivery(), x.GetDelivery() != nil })
}

func (r *running) create(t testing.TB, req *pb.CreateConsumerGroupRequest) {
	t.Helper()
	if _, err := r.groups().CreateConsumerGroup(t.Context(), req); err != nil {
		t.Fatal(err)
	}
}

func (r *running) state(t testing.TB, group string) *pb.ConsumerGroupState {
	t.Helper()
	g, err := r.groups().GetConsumerGroup(t.Context(), &pb.GetConsumerGroupRequest{Group: group})
	if err != nil {
		t.Fatal(err)
	}
	return g.GetGroup().GetState()
}

// waitUntil waits until a condition holds.
func waitUntil(t testing.TB, what string, cond func() bool) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !cond() {
		if time.Now().After(deadline) {
			t.Fatalf("still not: %s", what)
		}
		<-time.After(5 * time.Millisecond)
	}
}

// joined waits until the server has taken the member in.
func (m *memberClient) joined() *pb.Joined {
	m.t.Helper()
	return next(m, func(x *pb.ConsumeResponse) (*pb.Joined, bool) { return x.GetJoined(), x.GetJoined() != nil })
}

func (r *running) pull(t testing.TB, req *pb.PullRequest) []*pb.GroupDelivery {
	t.Helper()
	res, err := r.groups().Pull(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	return res.GetDeliveries()
}

func (r *running) acknowledge(t testing.TB, req *pb.AcknowledgeRequest) *pb.AcknowledgeResponse {
	t.Helper()
	res, err := r.groups().Acknowledge(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

func (r *running) letters(t testing.TB, req *pb.ListDeadLettersRequest) []*pb.DeadLetter {
	t.Helper()
	res, err := r.groups().ListDeadLetters(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	return res.GetDeadLetters()
}

// cursorOf returns a cursor at an event, from a stream.
func (r *running) cursorOf(t testing.TB, eventID string) string {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	s, err := pb.NewSubscriptionServiceClient(r.conn).Subscribe(ctx, &pb.SubscribeRequest{Start: earliest})
	if err != nil {
		t.Fatal(err)
	}
	for {
		m, err := s.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if m.GetEvent().GetId() == eventID {
			return m.GetCursor()
		}
	}
}

// reason returns the reason of an error.
func reason(err error) string {
	for _, d := range status.Convert(err).Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			return info.GetReason()
		}
	}
	return fmt.Sprint("no reason: ", err)
}

func (m *memberClient) drainQueue() []*pb.ConsumeResponse {
	var out []*pb.ConsumeResponse
	for {
		select {
		case x, ok := <-m.got:
			if !ok {
				return out
			}
			out = append(out, x)
		default:
			return out
		}
	}
}
