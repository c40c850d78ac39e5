package server

import (
	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // the codec below falls back to it
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/spotbridge/spotbridge/bridge"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

// frame is a message in wire form. Its bytes are shared by all streams that send it, and nobody frees them.
type frame struct {
	parts mem.BufferSlice
	size  int
	// bytes and room are where what is in parts, and parts itself, lies, as a rule: a frame is made for each event.
	bytes [2]mem.SliceBuffer
	room  [2]mem.Buffer
}

// eventFrame is a frame that subscriptions share.
type eventFrame struct {
	bridge.Made
	frame
}

const (
	// batchBytes bounds a message with several events: a client that stops in the middle of it keeps it in memory.
	batchBytes = 256 << 10
	// responseOverhead is more than what a SubscribeResponse needs around an event: a cursor of 50 bytes at most, two tags, two
	// lengths.
	responseOverhead = 80
	// joinBelow is the size up to which what a frame is made of is copied into one piece with its neighbours: many small pieces
	// cost more than the copy, which is made once for all.
	joinBelow = 512
)

// newFrame returns the SubscribeResponse of an event.
func newFrame(e *bridge.Encoded, cursor bridge.Cursor, view pb.EventView, limit int) *eventFrame {
	var partsArray [4][]byte
	var headArray [responseOverhead]byte
	parts, size := eventParts(partsArray[:0], e, view, limit-responseOverhead)
	var cursorArray [responseOverhead]byte
	head := protowire.AppendTag(headArray[:0], 1, protowire.BytesType)
	head = protowire.AppendBytes(head, cursor.Append(cursorArray[:0]))
	head = protowire.AppendTag(head, 3, protowire.BytesType)
	head = protowire.AppendVarint(head, uint64(size))
	f := &eventFrame{}
	f.Value = &f.frame
	f.assemble(nil, head, parts, size)
	return f
}

// newPart returns an event as a part of a SubscribeResponse with several.
func newPart(e *bridge.Encoded, view pb.EventView, limit int) *eventFrame {
	var partsArray [4][]byte
	parts, size := eventParts(partsArray[:0], e, view, limit-responseOverhead)
	var headArray [16]byte
	head := protowire.AppendTag(headArray[:0], 1, protowire.BytesType)
	head = protowire.AppendVarint(head, uint64(size))
	f := &eventFrame{}
	f.Value = &f.frame
	f.assemble(nil, head, parts, size)
	return f
}

// newBatch returns the SubscribeResponse of several events.
func newBatch(cursor bridge.Cursor, events []*frame, size int) *frame {
	var cursorArray [responseOverhead]byte
	head := protowire.AppendTag(make([]byte, 0, responseOverhead), 1, protowire.BytesType)
	head = protowire.AppendBytes(head, cursor.Append(cursorArray[:0]))
	head = protowire.AppendTag(head, 9, protowire.BytesType)
	head = protowire.AppendVarint(head, uint64(size))
	f := &frame{size: len(head) + size, parts: make(mem.BufferSlice, 0, 1+len(frame{}.room)*len(events))}
	f.parts = append(f.parts, mem.SliceBuffer(head))
	for _, e := range events {
		f.parts = append(f.parts, e.parts...)
	}
	return f
}

// assemble makes a frame of what stands before an event, which may lie on the caller's stack, and the event's parts.
func (f *frame) assemble(outer, head []byte, parts [][]byte, size int) {
	n := len(outer) + len(head)
	f.size = n + size
	for _, p := range parts {
		if len(p) <= joinBelow {
			n += len(p)
		}
	}
	b := append(append(make([]byte, 0, n), outer...), head...)
	f.parts = f.room[:0]
	for _, p := range parts {
		if len(p) <= joinBelow {
			b = append(b, p...)
			continue
		}
		f.add(b)
		f.add(p)
		b = b[len(b):]
	}
	f.add(b)
}

// add adds a piece.
func (f *frame) add(b []byte) {
	if len(b) == 0 {
		return
	}
	if n := len(f.parts); n < len(f.bytes) {
		f.bytes[n] = b
		f.parts = append(f.parts, &f.bytes[n])
	} else {
		f.parts = append(f.parts, mem.SliceBuffer(b))
	}
}

// codec passes frames through and leaves everything else to protobuf.
type codec struct{ encoding.CodecV2 }

func newCodec() codec { return codec{encoding.GetCodecV2("proto")} }

// Marshal returns the wire form of a message.
func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	if f, ok := v.(*frame); ok {
		return f.parts, nil
	}
	return c.CodecV2.Marshal(v)
}
