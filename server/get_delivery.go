package server

import (
	"context"

	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

// GetDelivery implements DeliveryService.
func (s *service) GetDelivery(ctx context.Context, req *pb.GetDeliveryRequest) (*pb.GetDeliveryResponse, error) {
	if err := checkID("delivery_id", req.GetDeliveryId()); err != nil {
		return nil, err
	}
	d, err := s.cfg.Deliveries.GetDelivery(ctx, req.GetDeliveryId())
	if err != nil {
		return nil, err
	}
	return &pb.GetDeliveryResponse{Delivery: d}, nil
}
