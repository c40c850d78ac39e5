package server

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/spotbridge/spotbridge/bridge"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

const (
	defaultPull = 100
	maxPull     = 1000
	maxPullWait = time.Minute

	maxGrantEvents = 100_000
	maxGrantBytes  = 1 << 30
	// deliveryOverhead is more than what a ConsumeResponse needs around an event: a delivery id, a time, tags and lengths.
	deliveryOverhead = 512
)

// Consume implements ConsumerGroupService.
func (s *service) Consume(stream grpc.BidiStreamingServer[pb.ConsumeRequest, pb.ConsumeResponse]) error {
	ctx := stream.Context()
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	join := first.GetJoin()
	if join == nil {
		return bridge.InvalidField("join", "must be the first message of the stream")
	}
	groups, err := s.groups(ctx, join.GetGroup())
	if err != nil {
		return err
	}
	r, err := joinRequest(join)
	if err != nil {
		return err
	}
	r.Peer = peerOf(ctx)
	return groups.Consume(ctx, r, &memberStream{stream: stream})
}

// joinRequest checks a request and fills in the defaults.
func joinRequest(req *pb.Join) (r bridge.JoinRequest, err error) {
	r = bridge.JoinRequest{
		Group: req.GetGroup(), ClientName: req.GetClientName(), Events: req.GetCredit().GetEvents(), Bytes: req.GetCredit().GetBytes(),
		AutoCredit: req.GetAutoCredit(), View: req.GetView(), MaxMessageBytes: defaultMessageBytes, HeartbeatInterval: defaultHeartbeat,
	}
	if len(r.ClientName) > maxClientName {
		return r, bridge.InvalidField("join.client_name", fmt.Sprintf("is longer than %d bytes", maxClientName))
	}
	if r.Events < 0 || r.Events > maxGrantEvents {
		return r, bridge.InvalidField("join.credit.events", fmt.Sprintf("must be 0 to %d", maxGrantEvents))
	}
	if r.Bytes < 0 || r.Bytes > maxGrantBytes {
		return r, bridge.InvalidField("join.credit.bytes", fmt.Sprintf("must be 0 to %d", maxGrantBytes))
	}
	if r.View != pb.EventView_EVENT_VIEW_UNSPECIFIED {
		if r.View, err = checkView(r.View); err != nil {
			return r, bridge.InvalidField("join.view", "is not a view; use ENVELOPE, TYPED, RAW or FULL")
		}
	}
	if d := req.GetHeartbeatInterval(); d != nil {
		if r.HeartbeatInterval = d.AsDuration(); d.CheckValid() != nil || r.HeartbeatInterval < minHeartbeat || r.HeartbeatInterval > maxHeartbeat {
			return r, bridge.InvalidField("join.heartbeat_interval", "must be 5s to 60s; leave it out for 15s")
		}
	}
	if n := req.GetMaxMessageBytes(); n != 0 {
		if n < minMessageBytes || n > maxMessageBytes {
			return r, bridge.InvalidField("join.max_message_bytes", fmt.Sprintf("must be %d to %d; leave it out for %d", minMessageBytes, maxMessageBytes, defaultMessageBytes))
		}
		r.MaxMessageBytes = int(n)
	}
	if n := req.GetMaxBatchEvents(); n < 0 || n > maxBatchEvents {
		return r, bridge.InvalidField("join.max_batch_events", fmt.Sprintf("must be 0 to %d; leave it out to get each event in a message of its own", maxBatchEvents))
	}
	r.MaxBatchEvents = max(int(req.GetMaxBatchEvents()), 1)
	return r, nil
}

// memberStream is a member's connection. It implements bridge.MemberStream.
type memberStream struct {
	stream grpc.BidiStreamingServer[pb.ConsumeRequest, pb.ConsumeResponse]
	// added are the deliveries of the next message, of size bytes together.
	added []*frame
	size  int
}

// Send implements bridge.MemberStream.
func (m *memberStream) Send(msg *pb.ConsumeResponse) error { return m.stream.SendMsg(msg) }

// Receive implements bridge.MemberStream.
func (m *memberStream) Receive() (*pb.ConsumeRequest, error) { return m.stream.Recv() }

// Add implements bridge.MemberStream.
func (m *memberStream) Add(d *bridge.GroupDelivery, view pb.EventView, limit int) (int, error) {
	f := newDelivery(d, view, limit)
	if len(m.added) > 0 && m.size+f.size > min(limit, batchBytes)-deliveryOverhead {
		if err := m.Flush(); err != nil {
			return 0, err
		}
	}
	m.added, m.size = append(m.added, f), m.size+f.size
	return f.size, nil
}

// Flush implements bridge.MemberStream.
func (m *memberStream) Flush() error {
	var f *frame
	switch len(m.added) {
	case 0:
		return nil
	case 1:
		f = m.added[0]
	default:
		head := protowire.AppendTag(make([]byte, 0, 2*maxVarint), 8, protowire.BytesType)
		f = joinFrames(protowire.AppendVarint(head, uint64(m.size)), m.added, m.size)
		for _, d := range m.added {
			d.bytes[0][0] = batchedTag
		}
	}
	clear(m.added)
	m.added, m.size = m.added[:0], 0
	return m.stream.SendMsg(f)
}

const (
	// singleTag and batchedTag stand before a delivery in a ConsumeResponse and in a GroupDeliveryBatch.
	singleTag  = 2<<3 | byte(protowire.BytesType)
	batchedTag = 1<<3 | byte(protowire.BytesType)
	maxVarint  = 10
)

// newDelivery returns the ConsumeResponse of a delivery, around the event's shared bytes. It writes the fields itself, in
// their order: a test holds it to the message. With batchedTag as the first byte, which is nobody else's, it is an element
// of a GroupDeliveryBatch.
func newDelivery(d *bridge.GroupDelivery, view pb.EventView, limit int) *frame {
	var partsArray [4][]byte
	parts, size := eventParts(partsArray[:0], d.Event, view, limit-deliveryOverhead)
	var timeArray [24]byte
	t := timeArray[:0]
	if sec := d.Deadline.Unix(); sec != 0 {
		t = protowire.AppendVarint(protowire.AppendTag(t, 1, protowire.VarintType), uint64(sec))
	}
	if ns := d.Deadline.Nanosecond(); ns != 0 {
		t = protowire.AppendVarint(protowire.AppendTag(t, 2, protowire.VarintType), uint64(ns))
	}
	var headArray [deliveryOverhead]byte
	head := protowire.AppendTag(headArray[:0], 1, protowire.BytesType)
	head = protowire.AppendString(head, d.ID)
	if d.Attempt != 0 {
		head = protowire.AppendVarint(protowire.AppendTag(head, 2, protowire.VarintType), uint64(d.Attempt))
	}
	if d.Redriven {
		head = protowire.AppendVarint(protowire.AppendTag(head, 3, protowire.VarintType), 1)
	}
	head = protowire.AppendBytes(protowire.AppendTag(head, 4, protowire.BytesType), t)
	head = protowire.AppendVarint(protowire.AppendTag(head, 5, protowire.BytesType), uint64(size))
	var outerArray [16]byte
	outer := append(outerArray[:0], singleTag)
	outer = protowire.AppendVarint(outer, uint64(len(head)+size))
	f := &frame{}
	f.assemble(nil, outer, head, parts, size)
	return f
}

// Pull implements ConsumerGroupService.
func (s *service) Pull(ctx context.Context, req *pb.PullRequest) (*pb.PullResponse, error) {
	groups, err := s.groups(ctx, req.GetGroup())
	if err != nil {
		return nil, err
	}
	r := bridge.PullGroupRequest{
		Group: req.GetGroup(), ClientName: req.GetClientName(), Peer: peerOf(ctx), MaxEvents: defaultPull, MaxBytes: maxPageBytes, View: req.GetView(),
	}
	switch n := req.GetMaxEvents(); {
	case n < 0:
		return nil, bridge.InvalidField("max_events", fmt.Sprintf("is negative; leave it out for %d, the most is %d", defaultPull, maxPull))
	case n > 0:
		r.MaxEvents = min(int(n), maxPull)
	}
	if d := req.GetWait(); d != nil {
		if r.Wait = d.AsDuration(); d.CheckValid() != nil || r.Wait < 0 || r.Wait > maxPullWait {
			return nil, bridge.InvalidField("wait", "must be 0s to 60s")
		}
	}
	if r.View != pb.EventView_EVENT_VIEW_UNSPECIFIED {
		if r.View, err = checkView(r.View); err != nil {
			return nil, err
		}
	}
	if len(r.ClientName) > maxClientName {
		return nil, bridge.InvalidField("client_name", fmt.Sprintf("is longer than %d bytes", maxClientName))
	}
	res, err := groups.Pull(ctx, r)
	if err != nil {
		return nil, err
	}
	out := &pb.PullResponse{Lost: res.Lost, Paused: res.Paused}
	for _, d := range res.Deliveries {
		ev, _ := eventMessage(d.Event, res.View, maxPageBytes)
		out.Deliveries = append(out.Deliveries, &pb.GroupDelivery{
			DeliveryId: d.ID, Attempt: int32(d.Attempt), Redriven: d.Redriven, AckDeadlineTime: timestamppb.New(d.Deadline), Event: ev,
		})
	}
	return out, nil
}

// Acknowledge implements ConsumerGroupService.
func (s *service) Acknowledge(ctx context.Context, req *pb.AcknowledgeRequest) (*pb.AcknowledgeResponse, error) {
	groups, err := s.groups(ctx, req.GetGroup())
	if err != nil {
		return nil, err
	}
	return groups.Acknowledge(ctx, req)
}
