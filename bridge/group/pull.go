package group

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/spotbridge/spotbridge/bridge"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

// instantWait is how long a Pull that does not want to wait gives the queue to answer.
const instantWait = 250 * time.Millisecond

// Pull implements bridge.Groups.
func (s *Groups) Pull(ctx context.Context, r bridge.PullGroupRequest) (*bridge.PullGroupResult, error) {
	leave, err := s.enter(false)
	if err != nil {
		return nil, err
	}
	defer leave()
	g, err := s.open(ctx, r.Group)
	if err != nil {
		return nil, err
	}
	rec, changed, err := g.record()
	if err != nil {
		return nil, err
	}
	p := &puller{g: g, rec: rec, r: r, out: &bridge.PullGroupResult{View: r.View, Paused: rec.Paused}}
	if p.out.View == pb.EventView_EVENT_VIEW_UNSPECIFIED {
		p.out.View = rec.Settings.View
	}
	if rec.Paused {
		return p.out, nil
	}
	g.expire(ctx, func(l *lease) bool { return l.member == nil }, time.Now())
	g.mu.Lock()
	room := maxPulledEvents - g.pulled
	g.mu.Unlock()
	if p.want = min(r.MaxEvents, room); p.want <= 0 {
		return nil, &bridge.Error{
			Reason: pb.ErrorReason_ERROR_REASON_SLOW_CONSUMER, Message: fmt.Sprintf("%d events were pulled from this group at this replica and not settled, as many as it gives out; acknowledge them", maxPulledEvents),
		}
	}
	if p.taker, err = s.cfg.Store.OpenTaker(ctx, rec); err != nil {
		return nil, storeError(g.name, err)
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
		defer cancel()
		g.giveBack(ctx, rec, p.rest)
		g.giveBack(ctx, rec, p.taker.Close())
		if err != nil || ctx.Err() != nil {
			p.abandon(ctx)
		}
	}()
	if err = p.run(ctx, changed); err != nil {
		return nil, storeError(g.name, err)
	}
	return p.out, nil
}

// puller is one Pull.
type puller struct {
	g     *group
	rec   *bridge.GroupRecord
	r     bridge.PullGroupRequest
	taker bridge.Taker
	out   *bridge.PullGroupResult
	want  int
	bytes int
	rest  []bridge.Taken
	held  []*lease
}

func (p *puller) run(ctx context.Context, changed <-chan struct{}) error {
	g := p.g
	if lost := g.untold(ctx); lost != nil {
		p.out.Lost = append(p.out.Lost, lost)
		g.told(ctx)
	}
	ts, err := p.taker.TakeRedriven(ctx, p.want)
	if err != nil {
		return err
	}
	if done, err := p.add(ctx, ts); done || err != nil {
		return err
	}
	deadline := time.NewTimer(max(p.r.Wait, instantWait))
	defer deadline.Stop()
	for {
		ts, err := p.taker.Take(p.want)
		if err != nil {
			return err
		}
		if len(ts) > 0 {
			if err := g.noticeGap(ctx, ts); err != nil {
				p.rest = append(p.rest, ts...)
				return err
			}
			if lost := g.untoldNow(ctx); lost != nil {
				p.out.Lost = append(p.out.Lost, lost)
			}
			if done, err := p.add(ctx, ts); done || err != nil {
				return err
			}
			continue
		}
		if p.taker.Requested() == 0 {
			// What is there is enough; but an empty answer waits for the first event.
			if len(p.out.Deliveries) > 0 {
				return nil
			}
			if err := p.taker.Request(p.want); err != nil {
				return err
			}
		}
		wait := deadline.C
		var settle <-chan time.Time
		if len(p.out.Deliveries) > 0 {
			// More may be on its way; but what is there does not wait for long.
			t := time.NewTimer(20 * time.Millisecond)
			defer t.Stop()
			settle = t.C
		}
		select {
		case <-p.taker.Ready():
		case <-settle:
			return nil
		case <-wait:
			return nil
		case <-changed:
			return nil // paused, moved or changed: what is there is still good
		case <-g.s.draining:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// add makes deliveries of what was taken. It returns true when the answer is full.
func (p *puller) add(ctx context.Context, ts []bridge.Taken) (done bool, err error) {
	g := p.g
	ws := make([]waiting, len(ts))
	for i := range ts {
		ws[i].Taken = ts[i]
	}
	for i := range ws {
		t := ws[i].Taken
		for {
			if err = g.load.load(ctx, p.rec, ws[i:min(i+takeAtOnce, len(ws))], bridge.ViewNeedsBody(p.out.View)); err != nil || ws[i].known {
				break
			}
			// The projection is behind by milliseconds, as a rule.
			if err = g.s.waitFor(ctx, t.Sequence); err != nil {
				break
			}
		}
		f := ws[i].found
		ws[i].found = found{} // the body is large
		if err != nil {
			p.rest = append(p.rest, ts[i:]...)
			return false, err
		}
		if f.refused || f.lost || g.spent(&t) > p.rec.Settings.MaxDeliveries {
			if err := g.dispose(ctx, p.rec, t, f); err != nil {
				p.rest = append(p.rest, ts[i+1:]...)
				return false, err
			}
			continue
		}
		size := len(f.event.Envelope) + f.event.BodySize
		if p.want == 0 || len(p.out.Deliveries) > 0 && p.bytes+size > p.r.MaxBytes {
			p.rest = append(p.rest, ts[i:]...)
			return true, nil
		}
		now := time.Now()
		l := &lease{
			rec: p.rec, taken: t, attempt: t.Before + g.spent(&t), client: p.r.ClientName, size: int64(size), deadline: now.Add(p.rec.Settings.AckDeadline),
		}
		if !g.hold(l) {
			return true, nil // moved: what is left is void
		}
		p.held = append(p.held, l)
		p.want--
		p.bytes += size
		p.out.Deliveries = append(p.out.Deliveries, &bridge.GroupDelivery{
			ID: l.id, Attempt: l.attempt, Redriven: t.Redriven, Deadline: l.deadline, Event: f.event,
		})
		g.m.count(l.attempt)
	}
	return p.want == 0, nil
}

// abandon gives back what an answer that is not sent would have held.
func (p *puller) abandon(ctx context.Context) {
	var ts []bridge.Taken
	for _, l := range p.held {
		p.g.drop(l)
		ts = append(ts, l.taken)
	}
	p.g.giveBack(ctx, p.rec, ts)
}

// waitFor waits until the projection has a sequence.
func (s *Groups) waitFor(ctx context.Context, seq uint64) error {
	mark, advanced := s.recent.mark()
	if mark >= seq {
		advanced = nil // published; history has it in a moment, or is being rebuilt
	}
	t := time.NewTimer(laterPoll)
	defer t.Stop()
	select {
	case <-advanced:
	case <-t.C:
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}

// untoldNow returns a loss that was just noticed and that nobody was there to be told of.
func (g *group) untoldNow(ctx context.Context) *pb.Lost {
	p := &g.progress
	p.mu.Lock()
	lost, untold := p.mark.Lost, p.mark.Untold
	p.mu.Unlock()
	if !untold {
		return nil
	}
	g.told(ctx)
	return lost
}

// Acknowledge implements bridge.Groups.
func (s *Groups) Acknowledge(ctx context.Context, r *pb.AcknowledgeRequest) (*pb.AcknowledgeResponse, error) {
	for i, n := range r.GetNacks() {
		if err := checkNack(n, fmt.Sprintf("nacks[%d]", i)); err != nil {
			return nil, err
		}
	}
	if err := errors.Join(checkIDs(r.GetAck().GetDeliveryIds(), "ack"), checkIDs(r.GetExtend().GetDeliveryIds(), "extend")); err != nil {
		return nil, err
	}
	g, err := s.open(ctx, r.GetGroup())
	if err != nil {
		return nil, err
	}
	out := &pb.AcknowledgeResponse{}
	refuse := func(id string, err error) {
		x := refusal(id, err)
		s.m.refused.WithLabelValues(g.name, x.GetReason()).Inc()
		if bridge.ReasonOf(err) == pb.ErrorReason_ERROR_REASON_INTERNAL {
			s.log.Error("settling an event failed", "group", g.name, "error", err)
		}
		out.Refused = append(out.Refused, x)
	}
	var ls []*lease
	var ids []string
	for _, id := range r.GetAck().GetDeliveryIds() {
		l, err := g.claim(id, nil, time.Now())
		if err != nil {
			refuse(id, err)
			continue
		}
		ls, ids = append(ls, l), append(ids, id)
	}
	n, err := g.ack(ctx, ls, true)
	out.Settled = append(out.Settled, ids[:n]...)
	for _, id := range ids[n:] {
		refuse(id, err)
	}
	for _, nack := range r.GetNacks() {
		for _, id := range nack.GetDeliveryIds() {
			l, err := g.claim(id, nil, time.Now())
			if err == nil {
				err = g.nack(ctx, l, nack)
			}
			if err != nil {
				refuse(id, err)
				continue
			}
			out.Settled = append(out.Settled, id)
		}
	}
	for _, id := range r.GetExtend().GetDeliveryIds() {
		l, err := g.claim(id, nil, time.Now())
		var deadline time.Time
		if err == nil {
			deadline, err = g.extend(ctx, l)
		}
		if err != nil {
			refuse(id, err)
			continue
		}
		out.Extended = append(out.Extended, &pb.Extended{DeliveryId: id, NewDeliveryId: g.newID(l), AckDeadlineTime: timestamppb.New(deadline)})
	}
	return out, ctx.Err()
}
