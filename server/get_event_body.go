package server

import (
	"google.golang.org/grpc"

	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

// chunkBytes is the size of the pieces of a body.
const chunkBytes = 64 << 10

// GetEventBody implements EventService.
func (s *service) GetEventBody(req *pb.GetEventBodyRequest, stream grpc.ServerStreamingServer[pb.GetEventBodyResponse]) error {
	if err := checkID("event_id", req.GetEventId()); err != nil {
		return err
	}
	if err := s.ready(stream.Context()); err != nil {
		return err
	}
	e, err := s.cfg.History.Get(stream.Context(), req.GetEventId())
	if err != nil {
		return err
	}
	return inChunks(e.Body, func(chunk []byte) error { return stream.Send(&pb.GetEventBodyResponse{Chunk: chunk}) })
}

// inChunks sends a body in pieces; none for an empty one.
func inChunks(body []byte, send func([]byte) error) error {
	for len(body) > 0 {
		n := min(len(body), chunkBytes)
		if err := send(body[:n]); err != nil {
			return err
		}
		body = body[n:]
	}
	return nil
}
