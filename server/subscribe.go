package server

import (
	"fmt"
	"time"

	"google.golang.org/grpc"

	"github.com/spotbridge/spotbridge/bridge"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

const (
	minHeartbeat     = 5 * time.Second
	maxHeartbeat     = 60 * time.Second
	defaultHeartbeat = 15 * time.Second
	maxClientName    = 128
	maxBatchEvents   = 1000
)

// Subscribe implements SubscriptionService.
func (s *service) Subscribe(req *pb.SubscribeRequest, stream grpc.ServerStreamingServer[pb.SubscribeResponse]) error {
	ctx := stream.Context()
	r, err := subscribeRequest(req)
	if err != nil {
		return err
	}
	if err := s.ready(ctx); err != nil {
		return err
	}
	r.Peer = peerOf(ctx)
	return s.cfg.Hub.Subscribe(ctx, r, &sender{stream: stream, view: r.View, limit: r.MaxMessageBytes})
}

// subscribeRequest checks a request and fills in the defaults.
func subscribeRequest(req *pb.SubscribeRequest) (r bridge.SubscribeRequest, err error) {
	r = bridge.SubscribeRequest{
		Start: req.GetStart(), AfterCursor: req.GetAfterCursor(), StopAtHead: req.GetStopAtHead(), HeartbeatInterval: defaultHeartbeat,
		MaxMessageBytes: defaultMessageBytes, ClientName: req.GetClientName(),
	}
	if r.Filter, err = bridge.CompileFilter(req.GetFilter(), "filter"); err != nil {
		return r, err
	}
	if !known(pb.Start_name, r.Start) {
		return r, bridge.InvalidField("start", "is not a start; use LATEST, EARLIEST or SNAPSHOT")
	}
	starts := []string{}
	if r.Start != pb.Start_START_UNSPECIFIED {
		starts = append(starts, "start")
	}
	if r.AfterCursor != "" {
		starts = append(starts, "after_cursor")
	}
	if req.GetFromTime() != nil {
		starts = append(starts, "from_time")
	}
	if len(starts) > 1 {
		return r, bridge.InvalidField(starts[1], "cannot be given together with "+starts[0]+"; choose one place to start")
	}
	if r.FromTime, err = checkTime("from_time", req.GetFromTime()); err != nil {
		return r, err
	}
	if r.View, err = checkView(req.GetView()); err != nil {
		return r, err
	}
	if d := req.GetHeartbeatInterval(); d != nil {
		if r.HeartbeatInterval = d.AsDuration(); d.CheckValid() != nil || r.HeartbeatInterval < minHeartbeat || r.HeartbeatInterval > maxHeartbeat {
			return r, bridge.InvalidField("heartbeat_interval", "must be 5s to 60s; leave it out for 15s")
		}
	}
	if len(r.ClientName) > maxClientName {
		return r, bridge.InvalidField("client_name", fmt.Sprintf("is longer than %d bytes", maxClientName))
	}
	if n := req.GetMaxMessageBytes(); n != 0 {
		if n < minMessageBytes || n > maxMessageBytes {
			return r, bridge.InvalidField("max_message_bytes", fmt.Sprintf("must be %d to %d; leave it out for %d", minMessageBytes, maxMessageBytes, defaultMessageBytes))
		}
		r.MaxMessageBytes = int(n)
	}
	if n := req.GetMaxBatchEvents(); n < 0 || n > maxBatchEvents {
		return r, bridge.InvalidField("max_batch_events", fmt.Sprintf("must be 0 to %d; leave it out to get each event in a message of its own", maxBatchEvents))
	}
	r.MaxBatchEvents = max(int(req.GetMaxBatchEvents()), 1)
	return r, nil
}

// sender writes one subscription's messages to its stream.
type sender struct {
	stream grpc.ServerStream
	view   pb.EventView
	limit  int
	maker
}

// SendEvents implements bridge.Sender. An event's bytes are made once for all streams with the same view and limit.
func (s *sender) SendEvents(events []bridge.Outgoing, most int, cursor func(uint64) bridge.Cursor) (n, bytes int, err error) {
	s.ready = len(events)
	events = events[:min(most, len(events))]
	f, n := s.batch(events, cursor)
	if n == 1 {
		f = s.single(&events[0], cursor)
	}
	return n, f.size, s.stream.SendMsg(f)
}

func (s *sender) single(e *bridge.Outgoing, cursor func(uint64) bridge.Cursor) *frame {
	f, _ := e.Shared.Get(bridge.Form{View: s.view, Limit: s.limit}, func() *bridge.Made {
		return s.newFrame(e.Encoded, cursor(e.Sequence), s.view, s.limit)
	}).(*frame)
	return f
}

// batch returns as many of the events as fit into one message; 1 = there is no batch.
func (s *sender) batch(events []bridge.Outgoing, cursor func(uint64) bridge.Cursor) (f *frame, n int) {
	if len(events) == 1 {
		return nil, 1
	}
	form := bridge.Form{View: s.view, Limit: s.limit, Batched: true}
	room := min(s.limit, batchBytes) - responseOverhead
	parts, size := make([]*frame, 0, len(events)), 0
	for i := range events {
		e := &events[i]
		f, _ := e.Shared.Get(form, func() *bridge.Made { return s.newPart(e.Encoded, s.view, s.limit) }).(*frame)
		if size+f.size > room && i > 0 {
			break
		}
		parts, size = append(parts, f), size+f.size
	}
	if n = len(parts); n == 1 {
		return nil, 1
	}
	return newBatch(cursor(events[n-1].Sequence), parts, size), n
}

// SendMessage implements bridge.Sender.
func (s *sender) SendMessage(m *pb.SubscribeResponse) error { return s.stream.SendMsg(m) }
