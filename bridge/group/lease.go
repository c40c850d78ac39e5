package group

import (
	"context"
	"fmt"
	"time"

	"github.com/spotbridge/spotbridge/bridge"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

const (
	minRetry = time.Second
	maxRetry = 10 * time.Minute
)

// lease is one delivery that a client holds.
type lease struct {
	rec     *bridge.GroupRecord
	taken   bridge.Taken
	attempt int
	// member is nil for what Pull gave, and for what another process gave.
	member   *member
	foreign  bool
	client   string
	size     int64
	deadline time.Time
	// id is the delivery id that the client got first; empty when another process gave it.
	id string
	// busy says that it is being settled; paid that it cost credits in bytes.
	busy, paid bool
}

func keyOf(t *bridge.Taken) leaseKey { return leaseKey{t.Redriven, t.Key} }

// spent is how many of the deliveries that the group grants were used.
func (g *group) spent(t *bridge.Taken) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.spentLocked(t)
}

// spentLocked is spent; g.mu is held.
func (g *group) spentLocked(t *bridge.Taken) int {
	return max(t.Deliveries-g.unseen[keyOf(t)], 1)
}

// hold makes a lease of what was taken, and its delivery id. An older one of the same entry is stale from then on. It returns
// false when the group was moved or deleted meanwhile: then what was taken is void.
func (g *group) hold(l *lease) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.holdLocked(l)
}

// holdLocked is hold; g.mu is held.
func (g *group) holdLocked(l *lease) bool {
	if g.gone || l.rec.Key != g.rec.Key || l.rec.Epoch != g.rec.Epoch && !l.taken.Redriven {
		return false
	}
	k := keyOf(&l.taken)
	if old := g.leases[k]; old != nil {
		g.forget(old)
	}
	g.leases[k] = l
	l.id = g.newIDLocked(l)
	if l.member == nil {
		g.pulled++
		return true
	}
	l.member.held++
	l.member.heldBytes += l.size
	return true
}

// forget ends a lease. g.mu is held.
func (g *group) forget(l *lease) {
	k := keyOf(&l.taken)
	if g.leases[k] != l {
		return
	}
	delete(g.leases, k)
	m := l.member
	if m == nil {
		g.pulled--
		return
	}
	m.held--
	m.heldBytes -= l.size
	if m.auto {
		m.events++
		if l.paid {
			m.bytes += l.size
		}
	}
	m.wakeUp()
}

// dropped ends a lease if it still is one.
func (g *group) drop(l *lease) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.forget(l)
}

func stale(why string) *bridge.Error {
	return &bridge.Error{Reason: pb.ErrorReason_ERROR_REASON_STALE_DELIVERY, Message: why + "; the event comes again if nobody settles it"}
}

// claim finds the lease of a delivery id, for a member or (nil) for a call without one. It is busy until it is dropped or
// freed.
func (g *group) claim(id string, by *member, now time.Time) (*lease, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.claimLocked(id, by, now)
}

// claimLocked is claim; g.mu is held.
func (g *group) claimLocked(id string, by *member, now time.Time) (*lease, error) {
	if g.gone {
		return nil, notFound(g.name)
	}
	t, raw, err := readToken(id)
	if err != nil {
		return nil, err
	}
	l := g.leases[leaseKey{t.receipt.Redriven, t.receipt.Entry}]
	// What this process gave is known to the letter. Everything else has to prove itself.
	if (l == nil || l.id != id) && !g.signer.genuine(raw) {
		return nil, errToken
	}
	if t.epoch != g.rec.Epoch && !t.receipt.Redriven {
		return nil, stale("the group was moved since this delivery")
	}
	switch {
	case l != nil && l.taken.Receipt == t.receipt:
		switch {
		case l.busy:
			return nil, stale("this delivery is being settled already")
		case !now.Before(l.deadline):
			return nil, stale("the deadline of this delivery has passed")
		case by != nil && l.member != by:
			return nil, stale("this delivery went to another member")
		}
		l.busy = true
		return l, nil
	case l != nil || t.instance == g.s.instance:
		return nil, stale("this delivery is no longer held: it was settled, its deadline passed, or its stream ended")
	case !now.Before(t.deadline):
		return nil, stale("the deadline of this delivery has passed")
	}
	// Another process gave it: one that was here before a restart, or another replica. The signature proves it, and until the
	// deadline the queue gives it to nobody else.
	l = &lease{
		rec: g.rec, attempt: t.attempt, foreign: true, deadline: t.deadline, busy: true,
		taken: bridge.Taken{
			Redriven: t.receipt.Redriven, Key: t.receipt.Entry, Sequence: t.receipt.Entry, Deliveries: int(t.receipt.Deliveries), Receipt: t.receipt,
			Before: max(t.attempt-int(t.receipt.Deliveries), 0),
		},
	}
	// It is remembered here, so that it is not settled twice.
	g.leases[keyOf(&l.taken)] = l
	g.pulled++
	return l, nil
}

// free gives a claimed lease back unsettled.
func (g *group) free(l *lease) {
	g.mu.Lock()
	l.busy = false
	left := l.member != nil && l.member.gone && g.leases[keyOf(&l.taken)] == l
	if left {
		g.forget(l)
	}
	g.mu.Unlock()
	if left { // its member went while it was being settled
		if err := g.s.cfg.Store.Release(context.Background(), l.rec, l.taken.Receipt, 0); err != nil {
			g.s.log.Debug("an event was not given back; it comes again after the queue's deadline", "group", g.name, "error", err)
		}
	}
}

// newID returns a delivery id of a lease.
func (g *group) newID(l *lease) string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.newIDLocked(l)
}

// newIDLocked is newID; g.mu is held.
func (g *group) newIDLocked(l *lease) string {
	t := token{instance: g.s.instance, epoch: l.rec.Epoch, attempt: l.attempt, receipt: l.taken.Receipt, deadline: l.deadline}
	return t.encode(g.signer)
}

// ack settles claimed leases. With confirm it returns when the store has them. It returns how many were settled.
func (g *group) ack(ctx context.Context, ls []*lease, confirm bool) (n int, err error) {
	// The store takes them in order, so the last one of each queue answers for the others.
	last := map[bool]int{}
	if confirm {
		for i, l := range ls {
			last[l.taken.Redriven] = i
		}
	}
	for ; n < len(ls); n++ {
		l := ls[n]
		at, ok := last[l.taken.Redriven]
		if err = g.s.cfg.Store.Settle(ctx, l.rec, l.taken.Receipt, ok && at == n); err != nil {
			break
		}
	}
	g.settledHere(ls[:n]...)
	g.freeAll(ls[n:])
	g.m.acked.Add(float64(n))
	return n, storeError(g.name, err)
}

// settledHere ends leases whose events are done.
func (g *group) settledHere(ls ...*lease) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, l := range ls {
		if len(g.unseen) > 0 {
			delete(g.unseen, keyOf(&l.taken))
		}
		g.forget(l)
	}
}

// nack handles a claimed lease whose event is not done.
func (g *group) nack(ctx context.Context, l *lease, n *pb.Nack) (err error) {
	defer func() {
		if err != nil {
			g.free(l)
		}
	}()
	l.client = orText(l.client, "")
	switch n.GetAction() {
	case pb.NackAction_NACK_ACTION_SKIP:
		if err := g.s.cfg.Store.Settle(ctx, l.rec, l.taken.Receipt, true); err != nil {
			return storeError(g.name, err)
		}
		g.settledHere(l)
		g.s.m.settled.WithLabelValues(g.name, "skip").Inc()
		return nil
	case pb.NackAction_NACK_ACTION_PARK:
		if err := g.bury(ctx, l, pb.DeadLetterCause_DEAD_LETTER_CAUSE_PARKED, n.GetReason()); err != nil {
			return err
		}
		g.s.m.settled.WithLabelValues(g.name, "park").Inc()
		return nil
	}
	delay := retryDelay(l.attempt)
	if d := n.GetRetryAfter(); d != nil {
		delay = d.AsDuration()
	}
	g.s.m.settled.WithLabelValues(g.name, "retry").Inc()
	return g.retry(ctx, l, delay, n.GetReason())
}

func orText(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

// retryDelay is the time before the next delivery: it doubles with each attempt.
func retryDelay(attempt int) time.Duration {
	return min(minRetry<<min(max(attempt-1, 0), 16), maxRetry)
}

// retry gives an event back after a failed delivery, or up.
func (g *group) retry(ctx context.Context, l *lease, delay time.Duration, reason string) error {
	rec, _, err := g.record()
	if err != nil {
		return err
	}
	if g.spent(&l.taken) >= rec.Settings.MaxDeliveries {
		return g.bury(ctx, l, pb.DeadLetterCause_DEAD_LETTER_CAUSE_EXHAUSTED, reason)
	}
	floor, err := g.s.freshFloor(ctx)
	if err != nil {
		return err
	}
	if !l.taken.Redriven && l.taken.Sequence < floor {
		// The queue cannot deliver again what has left the log; history may still hold it.
		return g.bury(ctx, l, pb.DeadLetterCause_DEAD_LETTER_CAUSE_UNDELIVERABLE, orText(reason, "it left the log before it could be delivered again"))
	}
	if err := g.s.cfg.Store.Release(ctx, l.rec, l.taken.Receipt, delay); err != nil {
		return storeError(g.name, err)
	}
	g.drop(l)
	return nil
}

// bury makes a dead letter of an event: first it is written down, then it is settled.
func (g *group) bury(ctx context.Context, l *lease, cause pb.DeadLetterCause, reason string) error {
	letter, err := g.letterOf(ctx, l)
	if err != nil {
		return err
	}
	if letter == nil {
		// Nobody holds it any more: there is nothing to keep but the fact.
		g.s.log.Error("an event of a consumer group has left log and history before it was handled", "group", g.name, "sequence", l.taken.Sequence, "cause", cause)
		if err := g.s.cfg.Store.Audit(ctx, g.name, "lost", map[string]string{"from": fmt.Sprint(l.taken.Sequence), "to": fmt.Sprint(l.taken.Sequence)}); err != nil {
			return err
		}
		g.s.m.lost.WithLabelValues(g.name).Inc()
	} else {
		letter.Cause, letter.Attempts, letter.Time, letter.Reason, letter.ClientName = cause, l.attempt, time.Now().UTC(), reason, l.client
		id := fmt.Sprintf("%x.%d.%t.%d", l.rec.Key[:8], l.rec.Epoch, l.taken.Redriven, l.taken.Key)
		if err := g.s.cfg.Store.Bury(ctx, g.name, id, letter); err != nil {
			return err
		}
		g.s.m.buried.WithLabelValues(g.name, causeLabel(cause)).Inc()
	}
	if err := g.s.cfg.Store.Settle(ctx, l.rec, l.taken.Receipt, true); err != nil {
		return storeError(g.name, err)
	}
	g.settledHere(l)
	return nil
}

func (g *group) letterOf(ctx context.Context, l *lease) (*bridge.StoredLetter, error) {
	switch {
	case l.taken.Letter != nil:
		copied := *l.taken.Letter
		return &copied, nil
	case l.taken.Redriven:
		return g.s.cfg.Store.Redriven(ctx, g.name, l.taken.Key)
	}
	return g.load.letter(ctx, l.taken.Sequence)
}

func causeLabel(c pb.DeadLetterCause) string {
	switch c {
	case pb.DeadLetterCause_DEAD_LETTER_CAUSE_EXHAUSTED:
		return "exhausted"
	case pb.DeadLetterCause_DEAD_LETTER_CAUSE_PARKED:
		return "parked"
	}
	return "undeliverable"
}

// expire ends leases whose deadline has passed: their events go to others at once. It returns when the next one is due.
func (g *group) expire(ctx context.Context, mine func(*lease) bool, now time.Time) (next time.Time) {
	g.mu.Lock()
	var due []*lease
	var mute []*member
	for _, l := range g.leases {
		switch {
		case l.busy || !mine(l):
		case !now.Before(l.deadline):
			l.busy = true
			due = append(due, l)
			// What it was given or has extended since it was heard last.
			if m := l.member; m != nil && !m.unresponsive && !m.heard.After(l.deadline.Add(-l.rec.Settings.AckDeadline)) {
				m.unresponsive = true
				mute = append(mute, m)
			}
		case next.IsZero() || l.deadline.Before(next):
			next = l.deadline
		}
	}
	g.mu.Unlock()
	for _, m := range mute {
		g.s.log.Warn("a member let a deadline pass and said nothing since; it gets one event at a time until it does", "group", g.name, "member", m.id, "client_name", m.req.ClientName)
	}
	for _, l := range due {
		g.s.m.expired.WithLabelValues(g.name).Inc()
		if l.foreign { // it was only remembered
			g.drop(l)
			continue
		}
		if err := g.retry(ctx, l, 0, "the ack deadline passed"); err != nil {
			// The queue's own deadline gives it back.
			g.drop(l)
			g.s.log.Warn("an event whose deadline passed was not given back; it comes again after the queue's deadline", "group", g.name, "error", err)
		}
	}
	return next
}

// giveBack returns what was taken and no client has seen. A member may do so late, for a queue that a seek has replaced
// meanwhile: the new one counts anew.
func (g *group) giveBack(ctx context.Context, rec *bridge.GroupRecord, ts []bridge.Taken) {
	for i := range ts {
		g.mu.Lock()
		if rec.Key == g.rec.Key && (rec.Epoch == g.rec.Epoch || ts[i].Redriven) {
			g.unseen[keyOf(&ts[i])]++
		}
		g.mu.Unlock()
		if err := g.s.cfg.Store.Release(ctx, rec, ts[i].Receipt, 0); err != nil {
			g.s.log.Debug("an event was not given back; it comes again after the queue's deadline", "group", g.name, "error", err)
		}
	}
}

// charge takes the credits of a delivery that is sent. It comes before the message goes out, which may hold more of them.
func (g *group) charge(m *member, l *lease, size int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	m.events--
	held := g.leases[keyOf(&l.taken)] == l
	if held {
		m.heldBytes += size - l.size
		l.size = size
	}
	if m.limitBytes && (held || !m.auto) { // else it has ended already, and would have been given back
		m.bytes -= size
		l.paid = true
	}
}
