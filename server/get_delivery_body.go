package server

import (
	"google.golang.org/grpc"

	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

// GetDeliveryBody implements DeliveryService.
func (s *service) GetDeliveryBody(req *pb.GetDeliveryBodyRequest, stream grpc.ServerStreamingServer[pb.GetDeliveryBodyResponse]) error {
	if err := checkID("delivery_id", req.GetDeliveryId()); err != nil {
		return err
	}
	body, err := s.cfg.Deliveries.DeliveryBody(stream.Context(), req.GetDeliveryId())
	if err != nil {
		return err
	}
	return inChunks(body, func(chunk []byte) error { return stream.Send(&pb.GetDeliveryBodyResponse{Chunk: chunk}) })
}
