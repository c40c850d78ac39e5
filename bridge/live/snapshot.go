package live

import (
	"context"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/spotbridge/spotbridge/bridge"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

// sendSnapshot reads a page of the snapshot and sends it. After the last one it ends the snapshot: the position is then the
// sequence that the snapshot was of, and everything after it comes from history or the ring as for any other stream.
//
// The snapshot is a listing in log order of the events up to its sequence, so a position in it is a sequence too. History
// forgets between two pages. An entity's latest event that goes before it was sent is then missing, and the latest of what
// is left takes its place if that lies ahead: it does, or it was sent, or the entity has gone.
func (s *Subscription) sendSnapshot(ctx context.Context) error {
	res, ready, err := s.snapshotPage(ctx)
	switch {
	case err != nil:
		return err
	case !ready && s.endsNow() != 0:
		return nil
	case !ready: // history is being rebuilt, and has not come to the snapshot's sequence again
		if s.silent() {
			return s.heartbeat()
		}
		return s.wait(ctx, s.wake, time.Now().Add(pollHistory))
	}
	if len(res.Events) > 0 {
		n := uint64(len(res.Events))
		if ended, err := s.sendPage(ctx, res.Events); ended || err != nil {
			return err
		}
		s.snapshotEvents += n
	}
	if res.Next != 0 {
		s.moveTo(res.Next)
		if s.silent() {
			return s.heartbeat()
		}
		return nil
	}
	s.inSnapshot = false
	s.moveTo(s.snapshot)
	return s.say(&pb.SubscribeResponse{Content: &pb.SubscribeResponse_SnapshotEnd{SnapshotEnd: &pb.SnapshotEnd{
		ServerTime: timestamppb.Now(), HeadSequence: max(s.h.Watermark(), s.pos), SnapshotSequence: s.snapshot, EventCount: s.snapshotEvents,
	}}})
}

// snapshotPage reads the next page of the snapshot when it is this subscription's turn; ready is false when there is none
// to be had now.
func (s *Subscription) snapshotPage(ctx context.Context) (res bridge.ListResult, ready bool, err error) {
	if s.pos >= s.snapshot {
		return bridge.ListResult{}, true, nil
	}
	h := s.h
	err = s.inTurn(ctx, func() error {
		b, err := h.cfg.History.Bounds(ctx)
		switch {
		case err != nil:
			return err
		case b.Log != s.log:
			return s.goodbye(endRewound)
		case b.Watermark < s.snapshot:
			return nil
		}
		res, err = h.cfg.History.List(ctx, bridge.ListRequest{
			Filter: s.req.Filter, OldestFirst: true, LatestPerEntity: true, PageSize: h.cfg.PageEvents, MaxBytes: h.pageBytes(),
			Bodies: bridge.ViewNeedsBody(s.req.View), Resume: s.pos, Snapshot: s.snapshot,
		})
		h.m.pages.Inc()
		ready = true
		return err
	})
	return res, ready, err
}
