package server

import (
	"google.golang.org/protobuf/proto"

	"github.com/spotbridge/spotbridge/bridge"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

const (
	// defaultMessageBytes is what a client with default settings accepts, less some room.
	defaultMessageBytes = 4<<20 - 64<<10
	minMessageBytes     = 64 << 10
	maxMessageBytes     = 16 << 20
	// maxPageBytes is where pages end.
	maxPageBytes = 3 << 20
)

// eventParts appends the wire form of an event in a view, at most limit bytes.
func eventParts(dst [][]byte, e *bridge.Encoded, view pb.EventView, limit int) (parts [][]byte, size int) {
	parts, size = e.Parts(dst, view, limit)
	if size <= limit {
		return parts, size
	}
	small := smallEvent(e)
	return append(dst, small), len(small)
}

// smallEvent is what is sent of an event whose very envelope is too large: hundreds of ticket numbers, or a webhook id as
// long as a header can be. What it leaves out is in the body.
func smallEvent(e *bridge.Encoded) []byte {
	var full pb.Event
	small := &pb.Event{Id: e.EventID, Source: e.Source, EventType: e.EventType, Operation: e.Operation, Sequence: e.Sequence}
	if err := proto.Unmarshal(e.Envelope, &full); err == nil {
		small.OrganizationId, small.Entity, small.PnrId, small.TripId = full.GetOrganizationId(), full.GetEntity(), full.GetPnrId(), full.GetTripId()
		small.EventTime, small.ReceiveTime, small.AppendTime = full.GetEventTime(), full.GetReceiveTime(), full.GetAppendTime()
		small.Trace, small.Ordering = full.GetTrace(), full.GetOrdering()
	}
	small.Omitted = &pb.Omitted{Reason: pb.OmittedReason_OMITTED_REASON_TOO_LARGE, Bytes: int64(e.BodySize)}
	b, err := proto.Marshal(small)
	if err != nil {
		return nil // strings that came out of a valid message
	}
	return b
}

// eventMessage returns an event for a unary answer, and its size. Its bytes are kept as they are, as unknown fields, which
// are sent verbatim: decoding them only to encode them again would cost more than everything else.
func eventMessage(e *bridge.Encoded, view pb.EventView, limit int) (*pb.Event, int) {
	parts, size := eventParts(nil, e, view, limit)
	b := make([]byte, 0, size)
	for _, p := range parts {
		b = append(b, p...)
	}
	ev := &pb.Event{}
	ev.ProtoReflect().SetUnknown(b)
	return ev, size
}
