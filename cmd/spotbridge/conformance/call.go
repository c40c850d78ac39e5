package conformance

import (
	"context"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/spotbridge/spotbridge/bridge"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

// Room that a response needs around an event, as the server has it.
const (
	subscriptionOverhead = 128
	deliveryOverhead     = 512
)

// call is one stream that a client has opened, a subscription or a membership, in the hands of the script.
type call struct {
	ctx  context.Context
	at   time.Time // when it came
	peer string
	// done takes how it is to end; closed is closed when it has ended, for whatever reason.
	done   chan error
	closed chan struct{}

	heartbeat time.Duration // as asked for
	view      pb.EventView
	limit     int // of an event
	overhead  int // of its response, at most

	// Of a subscription.
	sub  *bridge.SubscribeRequest
	to   bridge.Sender
	pos  place // where it is
	told bool  // something was said that has to move the client's cursor

	// Of a member.
	join    *bridge.JoinRequest
	stream  bridge.MemberStream
	sending sync.Mutex
	// Guarded by the group's lock.
	events, bytes int64 // credits
	left          bool  // it has sent leave
}

func newSubscription(ctx context.Context, r bridge.SubscribeRequest, to bridge.Sender) *call {
	return &call{
		ctx: ctx, at: time.Now(), peer: r.Peer, done: make(chan error, 1), closed: make(chan struct{}),
		heartbeat: r.HeartbeatInterval, view: r.View, limit: r.MaxMessageBytes - subscriptionOverhead, overhead: subscriptionOverhead, sub: &r, to: to,
	}
}

func newMember(ctx context.Context, r bridge.JoinRequest, stream bridge.MemberStream) *call {
	view := r.View
	if view == pb.EventView_EVENT_VIEW_UNSPECIFIED {
		view = pb.EventView_EVENT_VIEW_TYPED // the group's
	}
	return &call{
		ctx: ctx, at: time.Now(), peer: r.Peer, done: make(chan error, 1), closed: make(chan struct{}),
		heartbeat: r.HeartbeatInterval, view: view, limit: r.MaxMessageBytes - deliveryOverhead, overhead: deliveryOverhead, join: &r, stream: stream,
		events: r.Events, bytes: r.Bytes,
	}
}

// finish ends the stream; nil is OK. Only the first one counts.
func (c *call) finish(err error) {
	select {
	case c.done <- err:
	default:
	}
}

// above is how many messages lie around an event.
func (c *call) above() int {
	if c.sub != nil {
		return 1
	}
	return 2
}

// send sends a response of the call's kind. It blocks while the client does not read.
func (c *call) send(m proto.Message) error {
	c.sending.Lock()
	defer c.sending.Unlock()
	switch m := m.(type) {
	case *pb.SubscribeResponse:
		return c.to.SendMessage(m)
	case *pb.ConsumeResponse:
		return c.stream.Send(m)
	}
	return nil
}
