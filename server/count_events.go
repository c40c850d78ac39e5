package server

import (
	"context"
	"fmt"
	"slices"

	"github.com/spotbridge/spotbridge/bridge"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

const maxCountRows = 10_000

// CountEvents implements EventService.
func (s *service) CountEvents(ctx context.Context, req *pb.CountEventsRequest) (*pb.CountEventsResponse, error) {
	filter, err := bridge.CompileFilter(req.GetFilter(), "filter")
	if err != nil {
		return nil, err
	}
	r := bridge.CountRequest{Filter: filter, GroupBy: req.GetGroupBy(), MaxRows: maxCountRows}
	if r.StartTime, r.EndTime, err = checkTimes(req.GetStartTime(), req.GetEndTime()); err != nil {
		return nil, err
	}
	for i, g := range r.GroupBy {
		field := fmt.Sprintf("group_by[%d]", i)
		switch {
		case g == pb.CountGroup_COUNT_GROUP_UNSPECIFIED || !known(pb.CountGroup_name, g):
			return nil, bridge.InvalidField(field, "is not a property to count by; use EVENT_TYPE, OPERATION, ORGANIZATION or HOUR")
		case slices.Contains(r.GroupBy[:i], g):
			return nil, bridge.InvalidField(field, "is given twice")
		}
	}
	if err := s.ready(ctx); err != nil {
		return nil, err
	}
	res, err := s.cfg.History.Count(ctx, r)
	if err != nil {
		return nil, err
	}
	return &pb.CountEventsResponse{Counts: res.Counts, Total: res.Total, Truncated: res.Truncated, Warnings: filter.Warnings}, nil
}
