package live

import (
	"context"
	"time"

	"github.com/spotbridge/spotbridge/bridge"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

// pollHistory is how often history is asked again when it is behind what was streamed already: it is being rebuilt.
const pollHistory = 100 * time.Millisecond

// catchUp reads a page of history and sends it.
func (s *Subscription) catchUp(ctx context.Context) (done bool, err error) {
	if s.stop && s.pos >= s.head {
		return true, s.sayCaughtUp()
	}
	res, err := s.page(ctx)
	if err != nil {
		return false, err
	}
	if s.silent() && len(res.Events) == 0 {
		s.moveTo(res.Next)
		return false, s.heartbeat()
	}
	if res.Next == s.pos && s.bound > s.pos {
		return false, nil // there is more than was known
	}
	if res.Next == s.pos {
		return false, s.wait(ctx, s.wake, time.Now().Add(pollHistory))
	}
	if len(res.Events) > 0 {
		if ended, err := s.sendPage(ctx, res.Events); ended || err != nil {
			return false, err
		}
	}
	s.moveTo(res.Next)
	return false, nil
}

// sendPage sends a page. ended says that the stream ends before the page did: the position is that of what was sent.
func (s *Subscription) sendPage(ctx context.Context, events []*bridge.Encoded) (ended bool, err error) {
	page := make([]bridge.Outgoing, 0, len(events))
	for i, e := range events {
		events[i] = nil
		if !e.AppendTime.Before(s.notBefore) {
			page = append(page, bridge.Outgoing{Encoded: e})
		}
	}
	return s.sendAll(ctx, page)
}

// inTurn calls read when it is this subscription's turn to read history, and not when the stream ends before that.
func (s *Subscription) inTurn(ctx context.Context, read func() error) error {
	h := s.h
	h.catchingUp.Add(1)
	defer h.catchingUp.Add(-1)
	turn := h.readers.enter()
	defer h.readers.leave(turn)
	for !admitted(turn) {
		if err := s.wait(ctx, turn, time.Time{}); err != nil {
			return err
		}
		if s.endsNow() != 0 {
			return nil
		}
		if s.silent() && !admitted(turn) {
			if err := s.heartbeat(); err != nil {
				return err
			}
		}
	}
	return read()
}

// page reads the next page of history when it is this subscription's turn. Next is the position when there is none.
func (s *Subscription) page(ctx context.Context) (res bridge.ScanResult, err error) {
	res.Next = s.pos
	err = s.inTurn(ctx, func() (err error) {
		res, err = s.readPage(ctx)
		return err
	})
	return res, err
}

func (s *Subscription) readPage(ctx context.Context) (bridge.ScanResult, error) {
	h := s.h
	nothing := bridge.ScanResult{Next: s.pos}
	res, upTo := nothing, s.bound
	if s.stop {
		upTo = min(upTo, s.head)
	}
	if s.pos < upTo {
		var err error
		res, err = h.cfg.History.Scan(ctx, bridge.ScanRequest{
			Filter: s.req.Filter, After: s.pos, UpTo: upTo, MaxEvents: h.cfg.PageEvents, MaxBytes: h.pageBytes(),
			Bodies: bridge.ViewNeedsBody(s.req.View),
		})
		if err != nil {
			return nothing, err
		}
		h.m.pages.Inc()
	}
	// What was deleted before the scan is missing in it, and the floor tells. So it is looked at afterwards.
	b, err := h.cfg.History.Bounds(ctx)
	if err != nil {
		return nothing, err
	}
	if b.Log != s.log {
		return nothing, s.goodbye(endRewound)
	}
	if earliest(b) > s.pos {
		if s.req.Start == pb.Start_START_EARLIEST && s.pos == s.begin {
			return bridge.ScanResult{Next: earliest(b)}, nil // it asked for whatever is held
		}
		return nothing, expired(b)
	}
	s.bound = b.Watermark
	return res, nil
}

func admitted(turn <-chan struct{}) bool {
	select {
	case <-turn:
		return true
	default:
		return false
	}
}

// pageBytes is the size of a page: smaller when many subscriptions catch up, so that their memory stays bounded together.
func (h *Hub) pageBytes() int {
	share := h.cfg.CatchUpBytes / int(max(h.catchingUp.Load(), 1))
	return max(min(h.cfg.PageBytes, share), min(minPageBytes, h.cfg.PageBytes))
}
