package group

import (
	"context"
	"errors"
	"time"

	"github.com/spotbridge/spotbridge/bridge"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

// waiting is an entry that was taken and not sent yet.
type waiting struct {
	bridge.Taken
	at       time.Time // taken
	extended time.Time
	// found says what stands behind it, once that is known.
	found found
	known bool
}

func (m *member) enqueue(ts []bridge.Taken, now time.Time) {
	for i := range ts {
		m.queue = append(m.queue, waiting{Taken: ts[i], at: now, extended: now})
	}
}

// keepWaiting looks after entries that could not be sent yet: their deadline is extended, and after a while they go to
// others.
func (m *member) keepWaiting(ctx context.Context, now time.Time) error {
	if len(m.queue) == 0 {
		return nil
	}
	deadline := m.rec.Settings.AckDeadline
	if now.Sub(m.queue[0].at) > deadline {
		m.g.giveBack(ctx, m.rec, m.waitingTaken())
		return nil
	}
	for i := range m.queue {
		if w := &m.queue[i]; now.Sub(w.extended) > deadline/3 {
			if err := m.g.s.cfg.Store.Extend(ctx, m.rec, w.Receipt); err != nil {
				return err
			}
			w.extended = now
		}
	}
	m.due = soonest(m.due, now.Add(deadline/3))
	return nil
}

func soonest(a, b time.Time) time.Time {
	if a.IsZero() || b.Before(a) {
		return b
	}
	return a
}

// sendQueue sends what was taken, as far as there is room for it. later says that the projection is not there yet.
func (m *member) sendQueue(ctx context.Context, rec *bridge.GroupRecord, view pb.EventView, events int) (sent, later bool, err error) {
	g := m.g
	for len(m.queue) > 0 {
		w := &m.queue[0]
		if !w.known {
			if err := m.flush(); err != nil {
				return sent, false, err
			}
			if err := g.load.load(ctx, rec, m.queue[:min(len(m.queue), max(events, 1), takeAtOnce)], bridge.ViewNeedsBody(view)); err != nil {
				return sent, false, err
			}
			if !w.known {
				return sent, true, nil
			}
		}
		now := time.Now()
		l, verdict := m.lease(rec, w, now)
		switch verdict {
		case noRoom:
			return sent, false, m.flush()
		case void:
			m.pop()
			continue
		case undeliverable:
			t, f := w.Taken, w.found
			m.pop()
			sent = true
			if !f.refused { // a dead letter is waited for
				if err := m.flush(); err != nil {
					return sent, false, err
				}
			}
			if err := g.dispose(ctx, rec, t, f); err != nil {
				return sent, false, err
			}
			continue
		}
		e, late := w.found.event, now.Sub(w.extended) > time.Second
		m.pop()
		if late { // the queue's deadline must not come before the lease's
			if err := g.s.cfg.Store.Extend(ctx, rec, l.taken.Receipt); err != nil {
				return sent, false, errors.Join(err, m.flush())
			}
		}
		if err := m.sendEvent(l, e, view); err != nil {
			return sent, false, err
		}
		sent = true
		events--
	}
	return sent, false, m.flush()
}

// What becomes of an entry that was taken.
type verdict int

const (
	leased verdict = iota
	// noRoom: the member may not be sent more now.
	noRoom
	// undeliverable: the filter refuses it, nobody holds it, or it was delivered as often as the group allows.
	undeliverable
	// void: the group was moved or deleted meanwhile.
	void
)

// lease makes a lease of an entry. It comes before the event is sent: the ack may be faster than the send.
func (m *member) lease(rec *bridge.GroupRecord, w *waiting, now time.Time) (*lease, verdict) {
	g := m.g
	g.mu.Lock()
	defer g.mu.Unlock()
	spent := g.spentLocked(&w.Taken)
	if w.found.refused || w.found.lost || spent > rec.Settings.MaxDeliveries {
		return nil, undeliverable
	}
	if events, bytes := m.roomLocked(); events <= 0 || bytes <= 0 {
		return nil, noRoom
	}
	e := w.found.event
	l := &lease{
		rec: rec, taken: w.Taken, attempt: w.Before + spent, member: m, client: m.req.ClientName,
		size: int64(len(e.Envelope) + e.BodySize), deadline: now.Add(rec.Settings.AckDeadline),
	}
	if !g.holdLocked(l) {
		return nil, void
	}
	return l, leased
}

func (m *member) pop() {
	m.queue[0] = waiting{}
	if m.queue = m.queue[1:]; len(m.queue) == 0 {
		m.queue = nil
	}
}

// waitingTaken empties the queue.
func (m *member) waitingTaken() []bridge.Taken {
	ts := make([]bridge.Taken, 0, len(m.queue))
	for _, w := range m.queue {
		ts = append(ts, w.Taken)
	}
	m.queue = nil
	return ts
}

// sendEvent sends a leased event, or makes it part of the message that flush sends.
func (m *member) sendEvent(l *lease, e *bridge.Encoded, view pb.EventView) error {
	g := m.g
	m.due = soonest(m.due, l.deadline)
	d := bridge.GroupDelivery{ID: l.id, Attempt: l.attempt, Redriven: l.taken.Redriven, Deadline: l.deadline, Event: e}
	m.sending.Store(time.Now().UnixNano())
	size, err := m.stream.Add(&d, view, m.req.MaxMessageBytes)
	m.sending.Store(0)
	if err != nil {
		return err
	}
	g.charge(m, l, int64(size))
	m.average += (float64(size) - m.average) / 16
	g.m.count(l.attempt)
	if m.unsent++; m.unsent >= m.req.MaxBatchEvents {
		return m.flush()
	}
	return nil
}

// flush sends the events that wait for others.
func (m *member) flush() error {
	if m.unsent == 0 {
		return nil
	}
	m.unsent = 0
	m.sending.Store(time.Now().UnixNano())
	err := m.stream.Flush()
	m.sending.Store(0)
	m.spoken = time.Now()
	return err
}

// dispose settles what is not delivered: the filter refuses it, or it was delivered too often.
func (g *group) dispose(ctx context.Context, rec *bridge.GroupRecord, t bridge.Taken, f found) error {
	if f.refused {
		g.m.filtered.Inc()
		g.mu.Lock()
		delete(g.unseen, keyOf(&t))
		g.mu.Unlock()
		return storeError(g.name, g.s.cfg.Store.Settle(ctx, rec, t.Receipt, false))
	}
	l := &lease{rec: rec, taken: t, attempt: t.Before + g.spent(&t) - 1, busy: true}
	cause, reason := pb.DeadLetterCause_DEAD_LETTER_CAUSE_EXHAUSTED, "it was delivered as often as the group allows and not settled"
	if f.lost {
		cause, reason = pb.DeadLetterCause_DEAD_LETTER_CAUSE_UNDELIVERABLE, "neither log nor history holds it any more"
	}
	if err := g.bury(ctx, l, cause, reason); err != nil {
		g.giveBack(ctx, rec, []bridge.Taken{t})
		return err
	}
	return nil
}
