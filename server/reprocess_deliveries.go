package server

import (
	"context"
	"fmt"
	"slices"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/spotbridge/spotbridge/bridge"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

// ReprocessDeliveries implements DeliveryService.
func (s *service) ReprocessDeliveries(ctx context.Context, req *pb.ReprocessDeliveriesRequest) (*pb.ReprocessDeliveriesResponse, error) {
	if s.cfg.Reprocessor == nil {
		return nil, status.Error(codes.Unimplemented, "this server does not reprocess deliveries")
	}
	if err := checkCauses(req.GetCauses()); err != nil {
		return nil, err
	}
	if i := slices.Index(req.GetCauses(), pb.DeliveryCause_DELIVERY_CAUSE_CONFLICT); i >= 0 {
		return nil, bridge.InvalidField(fmt.Sprintf("causes[%d]", i), "conflicting bodies stay where they are: their webhook id is an event already")
	}
	if err := checkSources(req.GetSources()); err != nil {
		return nil, err
	}
	for i, id := range req.GetDeliveryIds() {
		if err := checkID(fmt.Sprintf("delivery_ids[%d]", i), id); err != nil {
			return nil, err
		}
	}
	if len(req.GetDeliveryIds()) > maxListValues {
		return nil, bridge.InvalidField("delivery_ids", fmt.Sprintf("has more than %d values", maxListValues))
	}
	if _, _, err := checkTimes(req.GetStartTime(), req.GetEndTime()); err != nil {
		return nil, err
	}
	return s.cfg.Reprocessor.Reprocess(ctx, req)
}
