package server

import (
	"context"
	"encoding/binary"
	"sort"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/spotbridge/spotbridge/bridge"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

// ListSubscriptions implements SubscriptionService. It needs no history, so it answers also while that is built.
func (s *service) ListSubscriptions(_ context.Context, req *pb.ListSubscriptionsRequest) (*pb.ListSubscriptionsResponse, error) {
	size, err := checkPageSize(req.GetPageSize())
	if err != nil {
		return nil, err
	}
	bound := newBinding(s.cfg.LogID)
	bound.number(s.run)
	list := s.cfg.Hub.Subscriptions()
	if token := req.GetPageToken(); token != "" {
		p, err := bound.position(tokenSubscriptions, token)
		if err != nil {
			return nil, err
		}
		if len(p) != 8 {
			return nil, &bridge.Error{Reason: pb.ErrorReason_ERROR_REASON_INVALID_PAGE_TOKEN, Field: "page_token", Message: "start from the first page"}
		}
		after := binary.BigEndian.Uint64(p)
		list = list[sort.Search(len(list), func(i int) bool { return list[i].ID > after }):]
	}
	out := &pb.ListSubscriptionsResponse{Replica: s.cfg.Replica, ServerTime: timestamppb.Now()}
	if len(list) > size {
		list = list[:size]
		out.NextPageToken = bound.token(tokenSubscriptions, binary.BigEndian.AppendUint64(nil, list[size-1].ID))
	}
	for i := range list {
		out.Subscriptions = append(out.Subscriptions, s.subscription(&list[i]))
	}
	return out, nil
}

func (s *service) subscription(x *bridge.SubscriptionInfo) *pb.Subscription {
	out := &pb.Subscription{
		Id: x.ID, Replica: s.cfg.Replica, ClientName: x.ClientName, Peer: x.Peer, Filter: x.Filter, View: x.View, State: subscriptionStates[x.State],
		StartTime: timestamppb.New(x.StartTime), PositionSequence: x.Position, HeadSequence: x.Head, LagEvents: x.Head - min(x.Position, x.Head),
		EventsSent: x.EventsSent, BytesSent: x.BytesSent,
	}
	if x.Lag > 0 {
		out.Lag = durationpb.New(x.Lag)
	}
	return out
}

var subscriptionStates = map[bridge.SubscriptionState]pb.SubscriptionState{
	bridge.SubscriptionCatchingUp: pb.SubscriptionState_SUBSCRIPTION_STATE_CATCHING_UP,
	bridge.SubscriptionLive:       pb.SubscriptionState_SUBSCRIPTION_STATE_LIVE,
	bridge.SubscriptionBehind:     pb.SubscriptionState_SUBSCRIPTION_STATE_BEHIND,
}
