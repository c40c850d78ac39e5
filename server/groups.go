package server

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/spotbridge/spotbridge/bridge"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

const (
	minAckDeadline       = time.Second
	maxAckDeadline       = 10 * time.Minute
	defaultAckDeadline   = 30 * time.Second
	maxDeliveriesLimit   = 1000
	defaultMaxDeliveries = 20
	maxDescription       = 1024
)

// groups returns the groups when this server has them and history is complete.
func (s *service) groups(ctx context.Context, name string) (bridge.Groups, error) {
	if s.cfg.Groups == nil {
		return nil, status.Error(codes.Unimplemented, "this server has no consumer groups")
	}
	if err := checkGroup(name); err != nil {
		return nil, err
	}
	return s.cfg.Groups, s.ready(ctx)
}

func checkGroup(name string) error {
	if !bridge.ValidGroup(name) {
		return bridge.InvalidField("group", fmt.Sprintf("is no name of a group; names are 1 to %d characters of A-Z a-z 0-9 _ and -", bridge.MaxGroupName))
	}
	return nil
}

func checkDescription(text string) error {
	if len(text) > maxDescription {
		return bridge.InvalidField("description", fmt.Sprintf("is longer than %d bytes", maxDescription))
	}
	return nil
}

func checkAckDeadline(d *durationpb.Duration) (time.Duration, error) {
	if v := d.AsDuration(); d.CheckValid() == nil && v >= minAckDeadline && v <= maxAckDeadline {
		return v, nil
	}
	return 0, bridge.InvalidField("ack_deadline", "must be 1s to 600s; leave it out for 30s")
}

func checkMaxDeliveries(n int32) (int, error) {
	if n < 1 || n > maxDeliveriesLimit {
		return 0, bridge.InvalidField("max_deliveries", fmt.Sprintf("must be 1 to %d; leave it out for %d", maxDeliveriesLimit, defaultMaxDeliveries))
	}
	return int(n), nil
}

func checkPosition(start pb.Start, after string, from *timestamppb.Timestamp) (at bridge.GroupPosition, given int, err error) {
	at = bridge.GroupPosition{Start: start, AfterCursor: after}
	if !known(pb.Start_name, start) || start == pb.Start_START_SNAPSHOT {
		return at, 0, bridge.InvalidField("start", "is not where a group may begin; use LATEST or EARLIEST")
	}
	names := []string{}
	if start != pb.Start_START_UNSPECIFIED {
		names = append(names, "start")
	}
	if after != "" {
		names = append(names, "after_cursor")
	}
	if from != nil {
		names = append(names, "from_time")
	}
	if len(names) > 1 {
		return at, 0, bridge.InvalidField(names[1], "cannot be given together with "+names[0]+"; choose one place to start")
	}
	at.FromTime, err = checkTime("from_time", from)
	return at, len(names), err
}

// CreateConsumerGroup implements ConsumerGroupService.
func (s *service) CreateConsumerGroup(ctx context.Context, req *pb.CreateConsumerGroupRequest) (*pb.CreateConsumerGroupResponse, error) {
	groups, err := s.groups(ctx, req.GetGroup())
	if err != nil {
		return nil, err
	}
	set := bridge.GroupSettings{Description: req.GetDescription(), AckDeadline: defaultAckDeadline, MaxDeliveries: defaultMaxDeliveries}
	if err := checkDescription(set.Description); err != nil {
		return nil, err
	}
	if set.Filter, err = bridge.CompileFilter(req.GetFilter(), "filter"); err != nil {
		return nil, err
	}
	if set.View, err = checkView(req.GetView()); err != nil {
		return nil, err
	}
	if req.GetAckDeadline() != nil {
		if set.AckDeadline, err = checkAckDeadline(req.GetAckDeadline()); err != nil {
			return nil, err
		}
	}
	if req.GetMaxDeliveries() != 0 {
		if set.MaxDeliveries, err = checkMaxDeliveries(req.GetMaxDeliveries()); err != nil {
			return nil, err
		}
	}
	at, _, err := checkPosition(req.GetStart(), req.GetAfterCursor(), req.GetFromTime())
	if err != nil {
		return nil, err
	}
	g, err := groups.Create(ctx, req.GetGroup(), set, at, req.GetPaused())
	if err != nil {
		return nil, err
	}
	return &pb.CreateConsumerGroupResponse{Group: g, Warnings: set.Filter.Warnings}, nil
}

// GetConsumerGroup implements ConsumerGroupService.
func (s *service) GetConsumerGroup(ctx context.Context, req *pb.GetConsumerGroupRequest) (*pb.GetConsumerGroupResponse, error) {
	groups, err := s.groups(ctx, req.GetGroup())
	if err != nil {
		return nil, err
	}
	g, err := groups.Get(ctx, req.GetGroup())
	return &pb.GetConsumerGroupResponse{Group: g}, err
}

// ListConsumerGroups implements ConsumerGroupService.
func (s *service) ListConsumerGroups(ctx context.Context, req *pb.ListConsumerGroupsRequest) (*pb.ListConsumerGroupsResponse, error) {
	groups, err := s.groups(ctx, "any")
	if err != nil {
		return nil, err
	}
	size, err := checkPageSize(req.GetPageSize())
	if err != nil {
		return nil, err
	}
	log, err := s.logID(ctx)
	if err != nil {
		return nil, err
	}
	bound, after := newBinding(log), ""
	if t := req.GetPageToken(); t != "" {
		p, err := bound.position(tokenGroups, t)
		if err != nil {
			return nil, err
		}
		after = string(p)
	}
	list, more, err := groups.List(ctx, after, size)
	if err != nil {
		return nil, err
	}
	out := &pb.ListConsumerGroupsResponse{Groups: list}
	if more && len(list) > 0 {
		out.NextPageToken = bound.token(tokenGroups, []byte(list[len(list)-1].GetGroup()))
	}
	return out, nil
}

// UpdateConsumerGroup implements ConsumerGroupService.
func (s *service) UpdateConsumerGroup(ctx context.Context, req *pb.UpdateConsumerGroupRequest) (*pb.UpdateConsumerGroupResponse, error) {
	groups, err := s.groups(ctx, req.GetGroup())
	if err != nil {
		return nil, err
	}
	u := bridge.GroupUpdate{Description: req.Description}
	if err := checkDescription(req.GetDescription()); err != nil {
		return nil, err
	}
	out := &pb.UpdateConsumerGroupResponse{}
	if req.GetFilter() != nil {
		if u.Filter, err = bridge.CompileFilter(req.GetFilter(), "filter"); err != nil {
			return nil, err
		}
		out.Warnings = u.Filter.Warnings
	}
	if req.GetView() != pb.EventView_EVENT_VIEW_UNSPECIFIED {
		v, err := checkView(req.GetView())
		if err != nil {
			return nil, err
		}
		u.View = &v
	}
	if req.GetAckDeadline() != nil {
		d, err := checkAckDeadline(req.GetAckDeadline())
		if err != nil {
			return nil, err
		}
		u.AckDeadline = &d
	}
	if req.GetMaxDeliveries() != 0 {
		n, err := checkMaxDeliveries(req.GetMaxDeliveries())
		if err != nil {
			return nil, err
		}
		u.MaxDeliveries = &n
	}
	if u == (bridge.GroupUpdate{}) {
		return nil, bridge.InvalidField("group", "nothing to change was given: set description, filter, view, ack_deadline or max_deliveries")
	}
	out.Group, err = groups.Update(ctx, req.GetGroup(), u)
	return out, err
}

// DeleteConsumerGroup implements ConsumerGroupService.
func (s *service) DeleteConsumerGroup(ctx context.Context, req *pb.DeleteConsumerGroupRequest) (*pb.DeleteConsumerGroupResponse, error) {
	groups, err := s.groups(ctx, req.GetGroup())
	if err != nil {
		return nil, err
	}
	return &pb.DeleteConsumerGroupResponse{}, groups.Delete(ctx, req.GetGroup(), req.GetForce())
}

// PauseConsumerGroup implements ConsumerGroupService.
func (s *service) PauseConsumerGroup(ctx context.Context, req *pb.PauseConsumerGroupRequest) (*pb.PauseConsumerGroupResponse, error) {
	groups, err := s.groups(ctx, req.GetGroup())
	if err != nil {
		return nil, err
	}
	g, err := groups.SetPaused(ctx, req.GetGroup(), true)
	return &pb.PauseConsumerGroupResponse{Group: g}, err
}

// ResumeConsumerGroup implements ConsumerGroupService.
func (s *service) ResumeConsumerGroup(ctx context.Context, req *pb.ResumeConsumerGroupRequest) (*pb.ResumeConsumerGroupResponse, error) {
	groups, err := s.groups(ctx, req.GetGroup())
	if err != nil {
		return nil, err
	}
	g, err := groups.SetPaused(ctx, req.GetGroup(), false)
	return &pb.ResumeConsumerGroupResponse{Group: g}, err
}

// SeekConsumerGroup implements ConsumerGroupService.
func (s *service) SeekConsumerGroup(ctx context.Context, req *pb.SeekConsumerGroupRequest) (*pb.SeekConsumerGroupResponse, error) {
	groups, err := s.groups(ctx, req.GetGroup())
	if err != nil {
		return nil, err
	}
	at, given, err := checkPosition(req.GetStart(), req.GetAfterCursor(), req.GetFromTime())
	if err != nil {
		return nil, err
	}
	if given == 0 {
		return nil, bridge.InvalidField("start", "says where to go: give start, after_cursor or from_time")
	}
	g, after, err := groups.Seek(ctx, req.GetGroup(), at)
	return &pb.SeekConsumerGroupResponse{Group: g, AfterSequence: after}, err
}
