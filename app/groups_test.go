package app_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/spotbridge/spotbridge/app"
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
	cancel context.CancelFunc
	got    chan *pb.ConsumeResponse
	ended  chan error
}

func (r *running) groups() pb.ConsumerGroupServiceClient {
	return pb.NewConsumerGroupServiceClient(r.conn)
}

func (r *running) join(t testing.TB, j *pb.Join) *memberClient {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	s, err := r.groups().Consume(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Send(&pb.ConsumeRequest{Content: &pb.ConsumeRequest_Join{Join: j}}); err != nil {
		t.Fatal(err)
	}
	m := &memberClient{t: t, stream: s, cancel: cancel, got: make(chan *pb.ConsumeResponse, 100_000), ended: make(chan error, 1)}
	go func() {
		for {
			x, err := s.Recv()
			if err != nil {
				close(m.got)
				m.ended <- err
				return
			}
			m.got <- x
		}
	}()
	t.Cleanup(cancel)
	return m
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

// next returns the next message for which want is true.
func next[T any](m *memberClient, want func(*pb.ConsumeResponse) (T, bool)) T {
	m.t.Helper()
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
		case <-timeout:
			m.t.Fatal("nothing came")
		}
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

func TestAGroupDeliversEverythingOnceToAMemberThatAcknowledges(t *testing.T) {
	r := start(t, testConfig(t), app.Options{})
	want := r.put(t, "a", 50)
	r.create(t, &pb.CreateConsumerGroupRequest{Group: "g", Start: pb.Start_START_EARLIEST})
	m := r.join(t, &pb.Join{Group: "g", Credit: &pb.Credit{Events: 10}, AutoCredit: true})
	want = append(want, r.put(t, "b", 50)...)
	for i, id := range want {
		d := m.delivery()
		if d.GetEvent().GetId() != id || d.GetAttempt() != 1 || d.GetEvent().GetPnrV3() == nil {
			t.Fatalf("delivery %d: %v, want %s", i, d, id)
		}
		m.ack(d.GetDeliveryId())
	}
	waitUntil(t, "everything is settled", func() bool {
		st := r.state(t, "g")
		return st.GetLagEvents() == 0 && st.GetSettledSequence() == 100 && st.GetInFlightEvents() == 0
	})
}
