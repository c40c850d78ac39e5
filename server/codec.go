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

const (
	// batchBytes bounds a message with several events: a client that stops in the middle of it keeps it in memory.
	batchBytes = 256 << 10
	// responseOverhead is more than what a SubscribeResponse needs around an event: a cursor of 50 bytes at most, two tags, two
	// lengths.
	responseOverhead = 80
	// joinBelow is the size up to which what a frame is made of is copied into one piece with its neighbours: many small pieces
	// cost more than the copy, which is made once for all.
	joinBelow = 512
	// blockFrames and blockBytes bound what frames of events in a row share: what is in use keeps the rest.
	blockFrames = 16
	blockBytes  = 4 << 10
)

// maker makes frames; those of small events that are ready together in few allocations. nil makes each by itself.
type maker struct {
	// ready is how many events are to be sent, this one included.
	ready  int
	frames []sharedFrame
	bytes  []byte
}

// sharedFrame is a frame and what holds it for others.
type sharedFrame struct {
	bridge.Made
	frame
}

// frame returns an empty frame for an event of size bytes.
func (m *maker) frame(size int) *sharedFrame {
	if size > bridge.BlockBytes {
		return &sharedFrame{}
	}
	if len(m.frames) == 0 {
		m.frames = make([]sharedFrame, max(min(m.ready, blockFrames), 1))
	}
	f := &m.frames[0]
	m.frames = m.frames[1:]
	return f
}

// take returns an empty slice with the capacity n.
func (m *maker) take(n int) []byte {
	if m == nil {
		return make([]byte, 0, n)
	}
	if n > len(m.bytes) {
		m.bytes = make([]byte, n*max(min(m.ready, blockFrames, blockBytes/max(n, 1)), 1))
	}
	b := m.bytes[:0:n]
	m.bytes = m.bytes[n:]
	return b
}

// newFrame returns the SubscribeResponse of an event: a *frame that streams share.
func (m *maker) newFrame(e *bridge.Encoded, cursor bridge.Cursor, view pb.EventView, limit int) *bridge.Made {
	var partsArray [4][]byte
	var headArray [responseOverhead]byte
	parts, size := eventParts(partsArray[:0], e, view, limit-responseOverhead)
	return m.share(appendHead(headArray[:0], cursor, 3, size), parts, size)
}

// newPart returns an event as a part of a SubscribeResponse with several: a *frame that streams share.
func (m *maker) newPart(e *bridge.Encoded, view pb.EventView, limit int) *bridge.Made {
	var partsArray [4][]byte
	var headArray [16]byte
	parts, size := eventParts(partsArray[:0], e, view, limit-responseOverhead)
	head := protowire.AppendTag(headArray[:0], 1, protowire.BytesType)
	return m.share(protowire.AppendVarint(head, uint64(size)), parts, size)
}

// share makes a frame that others can have, too.
func (m *maker) share(head []byte, parts [][]byte, size int) *bridge.Made {
	f := m.frame(size)
	f.Value = &f.frame
	f.assemble(m, nil, head, parts, size)
	return &f.Made
}

// newBatch returns the SubscribeResponse of several events, of size bytes together.
func newBatch(cursor bridge.Cursor, events []*frame, size int) *frame {
	return joinFrames(appendHead(make([]byte, 0, responseOverhead), cursor, 9, size), events, size)
}

// joinFrames returns a frame of others, of size bytes together, with a head.
func joinFrames(head []byte, frames []*frame, size int) *frame {
	f := &frame{size: len(head) + size, parts: make(mem.BufferSlice, 0, 1+len(frame{}.room)*len(frames))}
	f.parts = append(f.parts, mem.SliceBuffer(head))
	for _, e := range frames {
		f.parts = append(f.parts, e.parts...)
	}
	return f
}

// appendHead appends what stands in a SubscribeResponse before its content: the cursor, and the content's field and size.
func appendHead(dst []byte, cursor bridge.Cursor, content protowire.Number, size int) []byte {
	var array [responseOverhead]byte
	dst = protowire.AppendTag(dst, 1, protowire.BytesType)
	dst = protowire.AppendBytes(dst, cursor.Append(array[:0]))
	dst = protowire.AppendTag(dst, content, protowire.BytesType)
	return protowire.AppendVarint(dst, uint64(size))
}

// assemble makes a frame of what stands before an event, which may lie on the caller's stack, and the event's parts.
func (f *frame) assemble(m *maker, outer, head []byte, parts [][]byte, size int) {
	n := len(outer) + len(head)
	f.size = n + size
	for _, p := range parts {
		if len(p) <= joinBelow {
			n += len(p)
		}
	}
	b := append(append(m.take(n), outer...), head...)
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
