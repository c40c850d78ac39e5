package server

import (
	"context"

	"github.com/spotbridge/spotbridge/bridge"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

// GetEvent implements EventService.
func (s *service) GetEvent(ctx context.Context, req *pb.GetEventRequest) (*pb.GetEventResponse, error) {
	if err := checkID("event_id", req.GetEventId()); err != nil {
		return nil, err
	}
	view, err := checkView(req.GetView())
	if err != nil {
		return nil, err
	}
	if err := s.ready(ctx); err != nil {
		return nil, err
	}
	e, err := s.cfg.History.Get(ctx, req.GetEventId())
	if err != nil {
		return nil, err
	}
	log, err := s.logID(ctx)
	if err != nil {
		return nil, err
	}
	ev, _ := eventMessage(e, view, defaultMessageBytes-responseOverhead)
	return &pb.GetEventResponse{Event: ev, Cursor: bridge.Cursor{Log: log, Sequence: e.Sequence}.String()}, nil
}
