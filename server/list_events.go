package server

import (
	"context"
	"encoding/binary"

	"github.com/spotbridge/spotbridge/bridge"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

// eventOverhead is more than what a listing needs around an event.
const eventOverhead = 16

// ListEvents implements EventService.
func (s *service) ListEvents(ctx context.Context, req *pb.ListEventsRequest) (*pb.ListEventsResponse, error) {
	filter, err := bridge.CompileFilter(req.GetFilter(), "filter")
	if err != nil {
		return nil, err
	}
	r := bridge.ListRequest{
		Filter: filter, OldestFirst: req.GetOrder() == pb.Order_ORDER_OLDEST_FIRST, LatestPerEntity: req.GetLatestPerEntity(), MaxBytes: maxPageBytes,
	}
	if r.StartTime, r.EndTime, err = checkTimes(req.GetStartTime(), req.GetEndTime()); err != nil {
		return nil, err
	}
	if !known(pb.Order_name, req.GetOrder()) {
		return nil, bridge.InvalidField("order", "is not an order; use NEWEST_FIRST or OLDEST_FIRST")
	}
	if r.PageSize, err = checkPageSize(req.GetPageSize()); err != nil {
		return nil, err
	}
	view, err := checkView(req.GetView())
	if err != nil {
		return nil, err
	}
	r.Bodies = bridge.ViewNeedsBody(view)
	if err := s.ready(ctx); err != nil {
		return nil, err
	}
	log, err := s.logID(ctx)
	if err != nil {
		return nil, err
	}
	bound := newBinding(log)
	bound.text(filter.Key())
	bound.time(r.StartTime)
	bound.time(r.EndTime)
	bound.flag(r.OldestFirst)
	bound.flag(r.LatestPerEntity)
	if token := req.GetPageToken(); token != "" {
		p, err := bound.position(tokenEvents, token)
		if err != nil {
			return nil, err
		}
		if len(p) != 16 {
			return nil, &bridge.Error{Reason: pb.ErrorReason_ERROR_REASON_INVALID_PAGE_TOKEN, Field: "page_token", Message: "not a page token of this method"}
		}
		r.Resume, r.Snapshot = binary.BigEndian.Uint64(p), binary.BigEndian.Uint64(p[8:])
	}
	res, events, err := s.page(ctx, r, view)
	if err != nil {
		return nil, err
	}
	out := &pb.ListEventsResponse{Events: events, Cursor: bridge.Cursor{Log: log, Sequence: res.Snapshot}.String(), Warnings: filter.Warnings}
	if res.Next != 0 {
		p := binary.BigEndian.AppendUint64(nil, res.Next)
		out.NextPageToken = bound.token(tokenEvents, binary.BigEndian.AppendUint64(p, res.Snapshot))
	}
	return out, nil
}

// page reads a page and encodes it. The converted payload may be larger than the body that history counted: then the page
// is read again with as many events as fit.
func (s *service) page(ctx context.Context, r bridge.ListRequest, view pb.EventView) (bridge.ListResult, []*pb.Event, error) {
	for {
		res, err := s.cfg.History.List(ctx, r)
		if err != nil {
			return res, nil, err
		}
		events := make([]*pb.Event, 0, len(res.Events))
		total := 0
		for _, e := range res.Events {
			ev, size := eventMessage(e, view, maxPageBytes)
			if total += size + eventOverhead; total > maxPageBytes && len(events) > 0 {
				break
			}
			events = append(events, ev)
		}
		if len(events) == len(res.Events) {
			return res, events, nil
		}
		r.PageSize, r.Snapshot = len(events), res.Snapshot
	}
}
