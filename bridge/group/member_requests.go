package group

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spotbridge/spotbridge/bridge"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

const (
	maxIDs         = 10_000
	maxCredit      = 1 << 40
	maxGrantEvents = 100_000
	maxGrantBytes  = 1 << 30
	maxRetryAfter  = 24 * time.Hour
	maxReason      = 1024
)

// receive handles what the client sends.
func (m *member) receive(ctx context.Context) error {
	for {
		req, err := m.stream.Receive()
		if err != nil {
			return err
		}
		m.hear(time.Now())
		switch c := req.GetContent().(type) {
		case *pb.ConsumeRequest_Join:
			err = &bridge.Error{Reason: pb.ErrorReason_ERROR_REASON_INVALID_FIELD, Field: "join", Message: "the stream has joined already; open another stream for another member"}
			return err
		case *pb.ConsumeRequest_Credit:
			err = m.grant(ctx, c.Credit)
		case *pb.ConsumeRequest_Ack:
			err = m.ack(ctx, c.Ack)
		case *pb.ConsumeRequest_Nack:
			err = m.nack(ctx, c.Nack)
		case *pb.ConsumeRequest_Extend:
			err = m.extend(ctx, c.Extend)
		case *pb.ConsumeRequest_Leave:
			m.leaving.Store(true)
			m.wakeUp()
		default: // of a newer client
			err = m.refuse(ctx, "", bridge.InvalidField("content", "is empty or of a kind that this server does not know"))
		}
		if err != nil {
			return err
		}
	}
}

// hear notes that the client has said something.
func (m *member) hear(now time.Time) {
	m.g.mu.Lock()
	m.heard = now
	back := m.unresponsive
	m.unresponsive = false
	m.g.mu.Unlock()
	if back {
		m.wakeUp()
	}
}

func checkCredit(c *pb.Credit, field string) error {
	switch {
	case c.GetEvents() < 0 || c.GetEvents() > maxGrantEvents:
		return bridge.InvalidField(field+".events", fmt.Sprintf("must be 0 to %d", maxGrantEvents))
	case c.GetBytes() < 0 || c.GetBytes() > maxGrantBytes:
		return bridge.InvalidField(field+".bytes", fmt.Sprintf("must be 0 to %d", maxGrantBytes))
	}
	return nil
}

func (m *member) grant(ctx context.Context, c *pb.Credit) error {
	if err := checkCredit(c, "credit"); err != nil {
		return m.refuse(ctx, "", err)
	}
	m.g.mu.Lock()
	m.events = min(m.events+c.GetEvents(), maxCredit)
	if c.GetBytes() > 0 {
		m.bytes, m.limitBytes = min(m.bytes+c.GetBytes(), maxCredit), true
	}
	m.g.mu.Unlock()
	m.wakeUp()
	return nil
}

func checkIDs(ids []string, field string) error {
	if len(ids) > maxIDs {
		return bridge.InvalidField(field+".delivery_ids", fmt.Sprintf("has more than %d values", maxIDs))
	}
	return nil
}

func (m *member) ack(ctx context.Context, a *pb.Ack) error {
	if err := checkIDs(a.GetDeliveryIds(), "ack"); err != nil {
		return m.refuse(ctx, "", err)
	}
	g := m.g
	now := time.Now()
	ls, ids := make([]*lease, 0, len(a.GetDeliveryIds())), make([]string, 0, len(a.GetDeliveryIds()))
	var refused []string
	var why []error
	g.mu.Lock()
	for _, id := range a.GetDeliveryIds() {
		l, err := g.claimLocked(id, m, now)
		if err != nil {
			refused, why = append(refused, id), append(why, err)
			continue
		}
		ls, ids = append(ls, l), append(ids, id)
	}
	g.mu.Unlock()
	for i, id := range refused {
		if err := m.refuse(ctx, id, why[i]); err != nil {
			g.freeAll(ls)
			return err
		}
	}
	if len(ls) == 0 {
		return nil
	}
	// The end of the stream does not undo what the member said before.
	settling, done := context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
	defer done()
	n, err := g.ack(settling, ls, a.GetConfirm())
	if a.GetConfirm() && n > 0 && err == nil {
		return m.say(ctx, &pb.ConsumeResponse{Content: &pb.ConsumeResponse_Settled{Settled: &pb.Settled{DeliveryIds: ids}}})
	}
	if err != nil {
		for _, id := range ids[n:] {
			if err := m.refuse(ctx, id, err); err != nil {
				return err
			}
		}
	}
	return nil
}

func (g *group) freeAll(ls []*lease) {
	for _, l := range ls {
		g.free(l)
	}
}

func checkNack(n *pb.Nack, field string) error {
	if err := checkIDs(n.GetDeliveryIds(), field); err != nil {
		return err
	}
	if _, known := pb.NackAction_name[int32(n.GetAction())]; !known {
		return bridge.InvalidField(field+".action", "is not an action; use RETRY, PARK or SKIP")
	}
	if len(n.GetReason()) > maxReason {
		return bridge.InvalidField(field+".reason", fmt.Sprintf("is longer than %d bytes", maxReason))
	}
	if d := n.GetRetryAfter(); d != nil {
		switch {
		case d.CheckValid() != nil || d.AsDuration() < 0 || d.AsDuration() > maxRetryAfter:
			return bridge.InvalidField(field+".retry_after", "must be 0s to 24h; leave it out for the bridge's own delay")
		case n.GetAction() == pb.NackAction_NACK_ACTION_PARK || n.GetAction() == pb.NackAction_NACK_ACTION_SKIP:
			return bridge.InvalidField(field+".retry_after", "goes with RETRY only")
		}
	}
	return nil
}

func (m *member) nack(ctx context.Context, n *pb.Nack) error {
	if err := checkNack(n, "nack"); err != nil {
		return m.refuse(ctx, "", err)
	}
	for _, id := range n.GetDeliveryIds() {
		l, err := m.g.claim(id, m, time.Now())
		if err == nil {
			err = m.g.nackFor(ctx, l, n)
		}
		if err != nil {
			if err := m.refuse(ctx, id, err); err != nil {
				return err
			}
		}
	}
	return nil
}

// nackFor finishes also when the stream ends meanwhile.
func (g *group) nackFor(ctx context.Context, l *lease, n *pb.Nack) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
	defer cancel()
	return g.nack(ctx, l, n)
}

func (m *member) extend(ctx context.Context, x *pb.Extend) error {
	if err := checkIDs(x.GetDeliveryIds(), "extend"); err != nil {
		return m.refuse(ctx, "", err)
	}
	for _, id := range x.GetDeliveryIds() {
		l, err := m.g.claim(id, m, time.Now())
		if err == nil {
			_, err = m.g.extend(ctx, l)
		}
		if err != nil {
			if err := m.refuse(ctx, id, err); err != nil {
				return err
			}
		}
	}
	return nil
}

// extend starts the deadline of a claimed lease anew, and frees it.
func (g *group) extend(ctx context.Context, l *lease) (time.Time, error) {
	defer g.free(l)
	// The queue first: its deadline must not come before this one.
	if err := g.s.cfg.Store.Extend(ctx, l.rec, l.taken.Receipt); err != nil {
		return time.Time{}, storeError(g.name, err)
	}
	deadline := time.Now().Add(l.rec.Settings.AckDeadline)
	g.mu.Lock()
	defer g.mu.Unlock()
	l.deadline = deadline
	return deadline, nil
}

func refusal(id string, err error) *pb.Refused {
	out := &pb.Refused{DeliveryId: id, Reason: shortReason(bridge.ReasonOf(err)), Message: "internal error; the server's log has the cause"}
	if e, ok := errors.AsType[*bridge.Error](err); ok {
		out.Message, out.Field = e.Message, e.Field
	}
	return out
}

func shortReason(r pb.ErrorReason) string {
	const prefix = "ERROR_REASON_"
	return r.String()[len(prefix):]
}

// refuse tells the member that something was not done.
func (m *member) refuse(ctx context.Context, id string, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	r := refusal(id, err)
	m.g.s.m.refused.WithLabelValues(m.g.name, r.GetReason()).Inc()
	if bridge.ReasonOf(err) == pb.ErrorReason_ERROR_REASON_INTERNAL {
		m.g.s.log.Error("settling an event failed", "group", m.g.name, "member", m.id, "error", err)
	}
	return m.say(ctx, &pb.ConsumeResponse{Content: &pb.ConsumeResponse_Refused{Refused: r}})
}
