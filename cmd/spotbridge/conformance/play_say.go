package conformance

import (
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/spotbridge/spotbridge/bridge"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

// say sends anything but an event.
func (p *play) say(c *call, m proto.Message) {
	p.check()
	if err := p.try(c, m); err != nil {
		p.fatalf("the client ended its stream while it was sent a message: %v", err)
	}
}

// try sends with a limit of time: a client that does not read must not hold the script up for ever.
func (p *play) try(c *call, m proto.Message) error {
	late := time.AfterFunc(p.patience, func() { c.finish(errScript) })
	defer late.Stop()
	if err := c.send(m); err != nil {
		return err
	}
	p.said = time.Now()
	return nil
}

// notice sends a message of a subscription that is not an event: it moves the client's cursor.
func (p *play) notice(c *call, m *pb.SubscribeResponse) (cursor string) {
	c.pos.others++
	m.Cursor = p.cursor(c.pos)
	p.say(c, m)
	c.told = true
	return m.Cursor
}

// confirm sends the first message, with the heartbeat interval that the client asked for.
func (p *play) confirm(c *call) { p.confirmWith(c, c.heartbeat) }

// confirmWith sends the first message with another heartbeat interval.
func (p *play) confirmWith(c *call, heartbeat time.Duration) {
	if c.sub == nil {
		p.say(c, &pb.ConsumeResponse{Content: &pb.ConsumeResponse_Joined{Joined: &pb.Joined{
			MemberId: "1", View: c.view, MaxMessageBytes: int32(c.join.MaxMessageBytes), HeartbeatInterval: durationpb.New(heartbeat),
			MaxInFlightEvents: 1000, MaxInFlightBytes: 64 << 20, ServerTime: timestamppb.Now(), MaxBatchEvents: int32(c.join.MaxBatchEvents),
			Group: &pb.ConsumerGroup{Group: groupName, View: pb.EventView_EVENT_VIEW_TYPED, AckDeadline: durationpb.New(p.group.deadline), MaxDeliveries: 20},
		}}})
		return
	}
	var filter *pb.EventFilter
	if c.sub.Filter != nil {
		filter = c.sub.Filter.Message
	}
	p.say(c, &pb.SubscribeResponse{Cursor: p.cursor(c.pos), Content: &pb.SubscribeResponse_Confirmation{Confirmation: &pb.Confirmation{
		Filter: filter, View: c.view, StartSequence: uint64(c.pos.events), HeadSequence: uint64(len(p.events)), HeartbeatInterval: durationpb.New(heartbeat),
		MaxMessageBytes: int32(c.sub.MaxMessageBytes), MaxBatchEvents: int32(c.sub.MaxBatchEvents), ServerTime: timestamppb.Now(),
	}}})
}

// heartbeat says that there is nothing to say. It returns the cursor, which members do not get.
func (p *play) heartbeat(c *call) (cursor string) {
	if c.sub == nil {
		p.say(c, &pb.ConsumeResponse{Content: &pb.ConsumeResponse_Heartbeat{Heartbeat: &pb.GroupHeartbeat{ServerTime: timestamppb.Now()}}})
		return ""
	}
	return p.notice(c, &pb.SubscribeResponse{Content: &pb.SubscribeResponse_Heartbeat{Heartbeat: &pb.Heartbeat{
		ServerTime: timestamppb.Now(), HeadSequence: uint64(len(p.events)),
	}}})
}

// caughtUp says that everything was sent. Members are not told.
func (p *play) caughtUp(c *call) {
	if c.sub != nil {
		p.notice(c, &pb.SubscribeResponse{Content: &pb.SubscribeResponse_CaughtUp{CaughtUp: &pb.CaughtUp{
			ServerTime: timestamppb.Now(), HeadSequence: uint64(len(p.events)),
		}}})
	}
}

// goodbye says that the stream ends, and ends it.
func (p *play) goodbye(c *call, reason pb.GoodbyeReason, retryAfter time.Duration) {
	g := &pb.Goodbye{Reason: reason}
	if retryAfter > 0 {
		g.RetryAfter = durationpb.New(retryAfter)
	}
	p.logf("goodbye: %v, retry after %v", reason, retryAfter)
	p.ended = time.Now()
	if c.sub == nil {
		p.say(c, &pb.ConsumeResponse{Content: &pb.ConsumeResponse_Goodbye{Goodbye: g}})
	} else {
		p.notice(c, &pb.SubscribeResponse{Content: &pb.SubscribeResponse_Goodbye{Goodbye: g}})
	}
	p.end(c, nil)
}

// end ends the stream in good order, with a status.
func (p *play) end(c *call, err error) {
	p.check()
	if err != nil {
		p.logf("the stream ends: %v", err)
		p.ended = time.Now()
	}
	p.owes = p.owes || c.told
	c.finish(err)
}

// message returns the response with an event.
func (p *play) message(c *call, i int) proto.Message {
	e := p.events[i].message(c)
	if p.alter != nil {
		e = proto.CloneOf(e)
		p.alter(i, e)
	}
	if c.sub != nil {
		p.sent = max(p.sent, i+1)
		return &pb.SubscribeResponse{Cursor: p.cursor(place{events: i + 1}), Content: &pb.SubscribeResponse_Event{Event: e}}
	}
	h := p.group.hand(c, i)
	m := &pb.ConsumeResponse{Content: &pb.ConsumeResponse_Delivery{Delivery: &pb.GroupDelivery{
		DeliveryId: h.id, Attempt: int32(h.attempt), AckDeadlineTime: timestamppb.New(time.Now().Add(p.group.deadline)), Event: e,
	}}}
	p.group.charge(h, proto.Size(m))
	return m
}

// event sends one event: the next one, or any one to a member.
func (p *play) event(c *call, i int) {
	m := p.message(c, i)
	p.logf("event %d", i+1)
	p.say(c, m)
	if c.sub != nil {
		c.pos, c.told, p.torn = place{events: i + 1}, true, 0
	}
}

// batch sends the events up to a number, in one message as far as the client has asked for that, else one by one. To a member
// it sends as its credits allow.
func (p *play) batch(c *call, upTo int) {
	upTo = min(upTo, len(p.events))
	if c.sub == nil {
		p.batchToMember(c, upTo)
		return
	}
	if n := min(upTo-c.pos.events, c.sub.MaxBatchEvents); n > 1 {
		m := &pb.SubscribeResponse{}
		batch := &pb.EventBatch{}
		for i := range n {
			one, _ := p.message(c, c.pos.events+i).(*pb.SubscribeResponse)
			m.Cursor, batch.Events = one.GetCursor(), append(batch.Events, one.GetEvent())
		}
		m.Content = &pb.SubscribeResponse_Events{Events: batch}
		p.logf("events %d to %d", c.pos.events+1, c.pos.events+n)
		p.say(c, m)
		c.pos, c.told, p.torn = place{events: c.pos.events + n}, true, 0
	}
	p.give(c, upTo)
}

func (p *play) batchToMember(c *call, upTo int) {
	var ds []*pb.GroupDelivery
	first := 0
	for len(ds) < max(c.join.MaxBatchEvents, 1) {
		i := p.nextNow(c, upTo)
		if i < 0 {
			break
		}
		one, _ := p.message(c, i).(*pb.ConsumeResponse)
		if ds = append(ds, one.GetDelivery()); len(ds) == 1 {
			first = i
		}
	}
	switch len(ds) {
	case 0:
	case 1:
		p.logf("event %d", first+1)
		p.say(c, &pb.ConsumeResponse{Content: &pb.ConsumeResponse_Delivery{Delivery: ds[0]}})
	default:
		p.logf("%d events from %d on", len(ds), first+1)
		p.say(c, &pb.ConsumeResponse{Content: &pb.ConsumeResponse_Deliveries{Deliveries: &pb.GroupDeliveryBatch{Deliveries: ds}}})
	}
}

// cut breaks the connection in the middle of an event: after a part of its bytes, or so many before its end.
func (p *play) cut(c *call, i int, part float64, fromEnd int, how breakage) {
	p.check()
	w := p.wire(c)
	if c.sub == nil {
		p.credit(c, i)
	}
	m := p.message(c, i)
	mark, size := "", proto.Size(m)
	switch m := m.(type) {
	case *pb.SubscribeResponse:
		mark = m.GetCursor()
		if p.protocol == sse {
			text, err := protojson.Marshal(m)
			if err != nil {
				p.fatalf("an event has no JSON: %v", err)
			}
			size = len("\ndata: ") + len(text)
		} else {
			size -= 2 + len(mark) // the cursor comes first
		}
	case *pb.ConsumeResponse:
		mark = m.GetDelivery().GetDeliveryId()
		size -= 10 + len(mark) // so does the delivery's id
	}
	more := int(part * float64(size))
	if fromEnd > 0 {
		more = size - fromEnd
	}
	w.breakAt(mark, more, how)
	p.logf("event %d, cut %d of %d bytes after its id", i+1, more, size)
	p.ended = time.Now()
	if c.sub != nil {
		p.torn = i + 1
	}
	_ = p.try(c, m) // it cannot all arrive
	p.await(w.broke, p.patience, "that the client reads up to where its connection is to break")
	c.finish(errScript)
}

// snap breaks the connection between two messages, once the client has what was sent before.
func (p *play) snap(c *call, how breakage) {
	p.check()
	w := p.wire(c)
	p.logf("the connection breaks")
	p.ended = time.Now()
	if c.sub == nil {
		w.breakNow(how) // what was sent has been answered
	} else {
		// What is sent is on its way for a while. The break comes right before a message that shows where it ends.
		c.pos.others++
		m := &pb.SubscribeResponse{Cursor: p.cursor(c.pos), Content: &pb.SubscribeResponse_Heartbeat{Heartbeat: &pb.Heartbeat{}}}
		head := 16 // of the frame, of the message in it, of the cursor
		if p.protocol == sse {
			head = len("event: heartbeat\nid: ")
		}
		w.breakAt(m.GetCursor(), -len(m.GetCursor())-head, how)
		_ = p.try(c, m) // it does not arrive
		p.await(w.broke, p.patience, "that the client reads up to where its connection is to break")
	}
	c.finish(errScript)
}

// wire returns the connection of a call.
func (p *play) wire(c *call) *wire {
	w := p.bridge.wireOf(c.peer)
	if w == nil {
		p.fatalf("the script does not know the connection of %q", c.peer)
	}
	return w
}

// refusal is an error of the bridge, by its reason.
func refusal(reason pb.ErrorReason, message string, metadata map[string]string) error {
	return &bridge.Error{Reason: reason, Message: message, Metadata: metadata}
}

// plainStatus is a status without a reason, as a proxy or a library makes it.
func plainStatus(code codes.Code) error { return status.Error(code, "on script") }
