package live

import (
	"context"
	"math/rand/v2"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/spotbridge/spotbridge/bridge"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

const defaultHeartbeat = 15 * time.Second

// Open checks where a subscription starts and registers it. The caller must call Run. Errors are those of
// bridge.Hub.Subscribe.
func (h *Hub) Open(ctx context.Context, r bridge.SubscribeRequest) (*Subscription, error) {
	select {
	case <-h.draining:
		return nil, draining()
	default:
	}
	b, err := h.cfg.History.Bounds(ctx)
	if err != nil {
		return nil, err
	}
	if b.Log.IsZero() {
		return nil, &bridge.Error{
			Reason: pb.ErrorReason_ERROR_REASON_STARTING, Message: "the bridge is starting and history is not ready; retry with backoff",
		}
	}
	h.begin(b.Watermark)
	if r.HeartbeatInterval <= 0 {
		r.HeartbeatInterval = defaultHeartbeat
	}
	r.MaxBatchEvents = max(r.MaxBatchEvents, 1)
	s := &Subscription{
		h: h, req: r, log: b.Log, bound: b.Watermark, head: max(h.head(), b.Watermark), stop: r.StopAtHead,
		wake: make(chan struct{}, 1), start: time.Now(),
	}
	s.maxAgeAt = s.start.Add(jitter(h.cfg.MaxAge))
	if err := s.position(ctx, b); err != nil {
		return nil, err
	}
	s.begin = s.pos
	s.sent.position.Store(s.pos)
	if err := h.add(s); err != nil {
		return nil, err
	}
	return s, nil
}

// jitter varies a duration by 10 %, so that thousands of clients do not move together.
func jitter(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (0.9 + 0.2*rand.Float64()))
}

// earliest is the position before everything that is held.
func earliest(b bridge.Bounds) uint64 { return max(b.Floor, 1) - 1 }

// position finds the position that the subscription starts after.
func (s *Subscription) position(ctx context.Context, b bridge.Bounds) error {
	switch r := &s.req; {
	case r.AfterCursor != "":
		c, err := bridge.ParseCursor(r.AfterCursor, b.Log)
		if err != nil {
			return err
		}
		// What a snapshot has yet to show may have left history meanwhile, as in one that begins now; what comes after it
		// may not.
		last := c.Sequence
		if c.InSnapshot {
			s.inSnapshot, s.snapshot, last = true, c.Snapshot, c.Snapshot
		}
		if last > s.head {
			return &bridge.Error{
				Reason: pb.ErrorReason_ERROR_REASON_CURSOR_AHEAD, Field: "after_cursor",
				Message:  "the cursor lies beyond the head of the log; find out where it came from, since events after it may be ones that you have not seen",
				Metadata: map[string]string{"head_cursor": bridge.Cursor{Log: b.Log, Sequence: s.head}.String()},
			}
		}
		if last < earliest(b) {
			return expired(b)
		}
		s.pos = c.Sequence
	case !r.FromTime.IsZero():
		seq, err := s.h.cfg.History.SequenceAt(ctx, r.FromTime)
		if err != nil {
			return err
		}
		// What is appended from now on may still be older than a time to come.
		s.pos, s.notBefore = seq, r.FromTime
		if b.Floor > 1 && (b.FloorTime.IsZero() || r.FromTime.Before(b.FloorTime)) {
			s.pos = max(s.pos, earliest(b))
			message := "events from before this stream's start are no longer held; it starts with the oldest one"
			if !b.FloorTime.IsZero() {
				message += ", of " + b.FloorTime.UTC().Format(time.RFC3339Nano)
			}
			r.Warnings = append(r.Warnings, &pb.Warning{Field: "from_time", Message: message})
		}
	case r.Start == pb.Start_START_EARLIEST:
		s.pos = earliest(b)
	case r.Start == pb.Start_START_SNAPSHOT:
		s.inSnapshot, s.snapshot = true, b.Watermark
	default:
		// The log's head, not the projection's: while a projection is built, what it comes to next is old.
		s.pos = s.head
	}
	return nil
}

// expired says that events after a position are no longer held.
func expired(b bridge.Bounds) error {
	e := &bridge.Error{
		Reason: pb.ErrorReason_ERROR_REASON_CURSOR_EXPIRED, Field: "after_cursor",
		Message:  "events after the cursor are no longer held and are lost for this client; reload state elsewhere, then resume after earliest_cursor",
		Metadata: map[string]string{"earliest_cursor": bridge.Cursor{Log: b.Log, Sequence: earliest(b)}.String()},
	}
	if !b.FloorTime.IsZero() {
		e.Metadata["earliest_time"] = b.FloorTime.UTC().Format(time.RFC3339Nano)
	}
	return e
}

// confirmation is the first message.
func (s *Subscription) confirmation() *pb.SubscribeResponse {
	c := &pb.Confirmation{
		Filter: &pb.EventFilter{}, View: s.req.View, StartSequence: s.pos, HeadSequence: s.head,
		HeartbeatInterval: durationpb.New(s.req.HeartbeatInterval), MaxMessageBytes: int32(s.req.MaxMessageBytes),
		MaxBatchEvents: int32(s.req.MaxBatchEvents),
		Warnings:       s.req.Warnings, ServerTime: timestamppb.Now(),
	}
	if s.inSnapshot {
		c.SnapshotSequence = proto.Uint64(s.snapshot)
	}
	if s.req.Filter != nil {
		c.Filter = s.req.Filter.Message
		c.Warnings = append(c.Warnings, s.req.Filter.Warnings...)
	}
	return &pb.SubscribeResponse{Content: &pb.SubscribeResponse_Confirmation{Confirmation: c}}
}
