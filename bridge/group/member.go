package group

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/spotbridge/spotbridge/bridge"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

const (
	// takeAtOnce is how many entries a member handles before it looks at what else there is to say.
	takeAtOnce = 128
	// typicalSize is what an event is taken for before any has been sent.
	typicalSize = 4 << 10
	// redrivePoll is how often redriven events are asked for; a redrive at this replica wakes the group at once.
	redrivePoll = 2 * time.Second
	// laterPoll is how often something is tried again that is not there yet and that nothing tells about.
	laterPoll = 100 * time.Millisecond
	// maxWords bounds what is waiting to be said to a member, beside events. The member is not read meanwhile.
	maxWords = 1024

	maxIDs         = 10_000
	maxCredit      = 1 << 40
	maxGrantEvents = 100_000
	maxGrantBytes  = 1 << 30
	maxRetryAfter  = 24 * time.Hour
	maxReason      = 1024

	goodbyeRetry = time.Second
)

// member is a client that consumes.
type member struct {
	g      *group
	id     uint64
	req    bridge.JoinRequest
	stream bridge.MemberStream
	joined time.Time
	wake   chan struct{}
	// words is what is to be said beside events, in order.
	words chan *pb.ConsumeResponse
	// sending is when the send under way began, in Unix nanoseconds; 0 when none is.
	sending atomic.Int64
	// leaving says that the client wants no more events.
	leaving atomic.Bool

	// Below: guarded by g.mu.
	auto          bool
	events, bytes int64 // credits
	limitBytes    bool
	held          int
	gone          bool
	heldBytes     int64
	// heard is when the client said something last. unresponsive says that it has let a deadline pass without a word since.
	heard        time.Time
	unresponsive bool

	// Below: of the deliver loop.
	rec     *bridge.GroupRecord
	taker   bridge.Taker
	queue   []waiting
	average float64
	due     time.Time
	redrive uint64
	polled  time.Time
	spoken  time.Time
}

// waiting is an entry that was taken and not sent yet.
type waiting struct {
	bridge.Taken
	at       time.Time // taken
	extended time.Time
	// found says what stands behind it, once that is known.
	found found
	known bool
}

func (m *member) wakeUp() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// Consume implements bridge.Groups.
func (s *Groups) Consume(ctx context.Context, r bridge.JoinRequest, stream bridge.MemberStream) error {
	leave, err := s.enter(true)
	if err != nil {
		return err
	}
	g, err := s.open(ctx, r.Group)
	if err != nil {
		leave()
		return err
	}
	m := &member{
		g: g, id: s.nextID.Add(1), req: r, stream: stream, joined: time.Now(), wake: make(chan struct{}, 1), words: make(chan *pb.ConsumeResponse, maxWords),
		auto: r.AutoCredit, events: r.Events, bytes: r.Bytes, limitBytes: r.Bytes > 0, average: typicalSize,
		heard: time.Now(),
	}
	g.mu.Lock()
	g.members[m] = struct{}{}
	s.m.members.WithLabelValues(g.name).Set(float64(len(g.members)))
	g.mu.Unlock()

	ctx, cancel := context.WithCancelCause(ctx)
	received := make(chan error, 1)
	go func() { received <- m.receive(ctx) }() // it ends with the stream
	delivered := make(chan error, 1)
	go func() { // it ends with the stream, too; when a send blocks for ever, after Consume
		defer leave()
		defer m.leave()
		delivered <- m.deliver(ctx)
	}()
	watchdog := time.NewTicker(min(s.cfg.SendTimeout/4, 5*time.Second))
	defer watchdog.Stop()
	for {
		select {
		case err := <-delivered:
			cancel(errEnded)
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		case err := <-received:
			// Half-closed or gone: nobody can settle what is held. deliver gives it back and ends.
			cancel(err)
			received = nil
			if _, own := errors.AsType[*bridge.Error](err); own {
				return err // deliver may be in a send that only the stream's end ends
			}
		case <-watchdog.C:
			if at := m.sending.Load(); at != 0 && time.Since(time.Unix(0, at)) > s.cfg.SendTimeout {
				err := &bridge.Error{
					Reason:  pb.ErrorReason_ERROR_REASON_SLOW_CONSUMER,
					Message: fmt.Sprintf("the client did not read for %v; reconnect, and grant fewer credits or read faster", s.cfg.SendTimeout),
				}
				cancel(err)
				g.revoke(m)
				return err
			}
		}
	}
}

var errEnded = errors.New("the stream has ended")

// unasked gives back what was asked for and is not wanted any more.
func (m *member) unasked(ctx context.Context) {
	ts := m.waitingTaken()
	if m.taker != nil {
		ts = append(ts, m.taker.Close()...)
		m.taker = nil
	}
	m.g.giveBack(ctx, m.rec, ts)
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

// leave ends the membership: everything that is held goes to others at once.
func (m *member) leave() {
	g := m.g
	ctx, cancel := context.WithTimeout(context.Background(), settleTimeout)
	defer cancel()
	if m.rec != nil {
		m.unasked(ctx)
	}
	g.revoke(m)
	g.mu.Lock()
	delete(g.members, m)
	if !g.gone {
		g.s.m.members.WithLabelValues(g.name).Set(float64(len(g.members)))
	}
	g.mu.Unlock()
}

// revoke gives back what a member holds.
func (g *group) revoke(m *member) {
	ctx, cancel := context.WithTimeout(context.Background(), settleTimeout)
	defer cancel()
	g.mu.Lock()
	m.gone = true
	var ls []*lease
	for _, l := range g.leases {
		if l.member == m && !l.busy {
			ls = append(ls, l)
		}
	}
	for _, l := range ls {
		g.forget(l)
	}
	g.mu.Unlock()
	for _, l := range ls {
		if err := g.s.cfg.Store.Release(ctx, l.rec, l.taken.Receipt, 0); err != nil {
			g.s.log.Debug("an event was not given back; it comes again after the queue's deadline", "group", g.name, "error", err)
		}
	}
}

// say queues a message that is no event. It waits while the member does not read.
func (m *member) say(ctx context.Context, msg *pb.ConsumeResponse) error {
	select {
	case m.words <- msg:
		m.wakeUp()
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
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

// deliver is the loop that sends. Nobody else does.
func (m *member) deliver(ctx context.Context) error {
	g, s := m.g, m.g.s
	rec, _, err := g.record()
	if err != nil {
		return err
	}
	view := m.req.View
	if view == pb.EventView_EVENT_VIEW_UNSPECIFIED {
		view = rec.Settings.View
	}
	if err := m.send(&pb.ConsumeResponse{Content: &pb.ConsumeResponse_Joined{Joined: &pb.Joined{
		MemberId: fmt.Sprint(m.id), Group: describe(rec), View: view, MaxMessageBytes: int32(m.req.MaxMessageBytes),
		HeartbeatInterval: durationpb.New(m.req.HeartbeatInterval), MaxInFlightEvents: maxMemberEvents, MaxInFlightBytes: maxMemberBytes,
		ServerTime: timestamppb.Now(),
	}}}); err != nil {
		return err
	}
	if lost := g.untold(ctx); lost != nil {
		if err := m.send(&pb.ConsumeResponse{Content: &pb.ConsumeResponse_Lost{Lost: lost}}); err != nil {
			return err
		}
		g.told(ctx)
	}
	maxAge := time.NewTimer(jitter(s.cfg.MaxAge))
	defer maxAge.Stop()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	beat := jitter(m.req.HeartbeatInterval)
	for {
		rec, changed, err := g.record()
		if err != nil {
			return err
		}
		if err := m.sayWords(); err != nil {
			return err
		}
		now := time.Now()
		if !m.due.IsZero() && !now.Before(m.due) {
			m.due = g.expire(ctx, func(l *lease) bool { return l.member == m }, now)
			if m.rec != nil && m.silent() {
				m.unasked(ctx)
			}
		}
		if m.leaving.Load() && m.holds() == 0 {
			return m.sayWords()
		}
		again, err := m.step(ctx, rec, view, now)
		if err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return err
		}
		if again == 0 {
			continue
		}
		wait := min(again, beat-now.Sub(m.spoken))
		if !m.due.IsZero() {
			wait = min(wait, time.Until(m.due))
		}
		timer.Reset(max(wait, 0))
		var ready <-chan struct{}
		if m.taker != nil {
			ready = m.taker.Ready()
		}
		select {
		case <-ready:
		case <-m.wake:
		case <-changed:
		case <-timer.C:
			if time.Since(m.spoken) >= beat {
				if err := m.heartbeat(rec); err != nil {
					return err
				}
				beat = jitter(m.req.HeartbeatInterval)
			}
		case <-maxAge.C:
			return m.goodbye(pb.GoodbyeReason_GOODBYE_REASON_MAX_AGE, 0)
		case <-s.draining:
			return m.goodbye(pb.GoodbyeReason_GOODBYE_REASON_DRAIN, goodbyeRetry)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func jitter(d time.Duration) time.Duration { return d - d/10 + rand.N(d/5+1) }

func (m *member) holds() int {
	m.g.mu.Lock()
	defer m.g.mu.Unlock()
	return m.held
}

// send sends a message that is no event.
func (m *member) send(msg *pb.ConsumeResponse) error {
	m.sending.Store(time.Now().UnixNano())
	err := m.stream.Send(msg)
	m.sending.Store(0)
	m.spoken = time.Now()
	return err
}

func (m *member) sayWords() error {
	for {
		select {
		case w := <-m.words:
			if err := m.send(w); err != nil {
				return err
			}
		default:
			return nil
		}
	}
}

func (m *member) heartbeat(rec *bridge.GroupRecord) error {
	g := m.g
	g.mu.Lock()
	h := &pb.GroupHeartbeat{ServerTime: timestamppb.Now(), Paused: rec.Paused, Credit: &pb.Credit{Events: m.events}, InFlightEvents: int32(m.held)}
	if m.limitBytes {
		h.Credit.Bytes = m.bytes
	}
	g.mu.Unlock()
	return m.send(&pb.ConsumeResponse{Content: &pb.ConsumeResponse_Heartbeat{Heartbeat: h}})
}

func (m *member) goodbye(reason pb.GoodbyeReason, retry time.Duration) error {
	if err := m.sayWords(); err != nil {
		return err
	}
	return m.send(&pb.ConsumeResponse{Content: &pb.ConsumeResponse_Goodbye{Goodbye: &pb.Goodbye{Reason: reason, RetryAfter: durationpb.New(retry)}}})
}

// silent reports whether the member has let a deadline pass without a word since.
func (m *member) silent() bool {
	m.g.mu.Lock()
	defer m.g.mu.Unlock()
	return m.unresponsive
}

// room is how many events, and of how many bytes, the member may still be sent.
func (m *member) room() (events int, bytes int64) {
	m.g.mu.Lock()
	defer m.g.mu.Unlock()
	return m.roomLocked()
}

// roomLocked is room; g.mu is held.
func (m *member) roomLocked() (events int, bytes int64) {
	bytes = maxMemberBytes - m.heldBytes
	if m.limitBytes {
		bytes = min(bytes, m.bytes)
	}
	if bytes <= 0 {
		return 0, 0
	}
	limit := maxMemberEvents
	if m.unresponsive { // it may hang or be gone: one event at a time finds out
		limit = 1
	}
	return int(max(min(m.events, int64(limit-m.held)), 0)), bytes
}

// step takes, sends and asks for events. It returns how long to wait before it is to be called again at the latest; zero =
// at once.
func (m *member) step(ctx context.Context, rec *bridge.GroupRecord, view pb.EventView, now time.Time) (time.Duration, error) {
	g := m.g
	if !m.leaving.Load() {
		if err := m.follow(ctx, rec); err != nil {
			return m.later(ctx, err)
		}
	}
	if m.rec != rec { // the filter may be another
		for i := range m.queue {
			m.queue[i].known = false
		}
	}
	m.rec = rec
	if err := m.keepWaiting(ctx, now); err != nil {
		return 0, err
	}
	events, bytes := m.room()
	if m.leaving.Load() {
		m.unasked(ctx)
		return time.Hour, nil
	}
	if events == 0 {
		return time.Hour, nil
	}
	if !rec.Paused {
		if err := m.ask(events-len(m.queue), bytes); err != nil {
			return m.later(ctx, err)
		}
	}
	if len(m.queue) > 0 {
		sent, later, err := m.sendQueue(ctx, rec, view, events)
		if err != nil {
			return m.later(ctx, err)
		}
		if later {
			return laterPoll, nil
		}
		if sent || len(m.queue) == 0 {
			return 0, nil
		}
		return time.Hour, nil
	}
	if rec.Paused {
		return time.Hour, nil
	}
	g.mu.Lock()
	redrives := g.redrive
	g.mu.Unlock()
	if redrives != m.redrive || now.Sub(m.polled) >= redrivePoll {
		m.redrive, m.polled = redrives, now
		ts, err := m.taker.TakeRedriven(ctx, min(events, takeAtOnce))
		if err != nil {
			return m.later(ctx, err)
		}
		m.enqueue(ts, now)
		if len(ts) > 0 {
			m.polled = time.Time{} // there may be more
			return 0, nil
		}
	}
	ts, err := m.taker.Take(min(events, takeAtOnce))
	if err != nil {
		return m.later(ctx, err)
	}
	if len(ts) > 0 {
		if err := g.noticeGap(ctx, ts); err != nil {
			g.giveBack(ctx, rec, ts)
			return m.later(ctx, err)
		}
		m.enqueue(ts, now)
		return 0, m.sayWords() // a loss is told before the next event
	}
	return redrivePoll, nil
}

// ask asks for as many events as fit, by what events were like so far; those that do not fit after all wait here. It does so
// before others are sent, so that the queue works meanwhile.
func (m *member) ask(events int, bytes int64) error {
	fit := min(events, max(int(float64(bytes)/m.average)-len(m.queue), 1))
	if fit <= 0 {
		return nil
	}
	if asked := m.taker.Requested(); fit > asked && (asked == 0 || fit-asked >= max(fit/4, 1)) {
		return m.taker.Request(fit - asked)
	}
	return nil
}

// later decides what an error of store or history means: a queue that is gone is opened anew, everything else ends the
// stream.
func (m *member) later(ctx context.Context, err error) (time.Duration, error) {
	if !errors.Is(err, bridge.ErrQueueGone) {
		return 0, err
	}
	if err := m.g.refresh(ctx); err != nil {
		return 0, err
	}
	return laterPoll, nil
}

// follow opens the queue of the record, after closing that of an earlier epoch.
func (m *member) follow(ctx context.Context, rec *bridge.GroupRecord) error {
	if m.taker != nil && m.rec.Queue == rec.Queue {
		return nil
	}
	if m.taker != nil {
		// What came from the old queue is void; redriven events are not.
		var keep []bridge.Taken
		for _, t := range m.taker.Close() {
			if t.Redriven {
				keep = append(keep, t)
			}
		}
		m.taker = nil
		queue := m.queue
		m.queue = nil
		for _, w := range queue {
			if w.Redriven {
				m.queue = append(m.queue, w)
			}
		}
		m.enqueue(keep, time.Now())
	}
	var err error
	m.taker, err = m.g.s.cfg.Store.OpenTaker(ctx, rec)
	return err
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
			return sent, false, nil
		case void:
			m.pop()
			continue
		case undeliverable:
			t, f := w.Taken, w.found
			m.pop()
			sent = true
			if err := g.dispose(ctx, rec, t, f); err != nil {
				return sent, false, err
			}
			continue
		}
		e, late := w.found.event, now.Sub(w.extended) > time.Second
		m.pop()
		if late { // the queue's deadline must not come before the lease's
			if err := g.s.cfg.Store.Extend(ctx, rec, l.taken.Receipt); err != nil {
				return sent, false, err
			}
		}
		if err := m.sendEvent(l, e, view); err != nil {
			return sent, false, err
		}
		sent = true
		events--
	}
	return sent, false, nil
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

// sendEvent sends a leased event.
func (m *member) sendEvent(l *lease, e *bridge.Encoded, view pb.EventView) error {
	g := m.g
	m.due = soonest(m.due, l.deadline)
	d := bridge.GroupDelivery{ID: l.id, Attempt: l.attempt, Redriven: l.taken.Redriven, Deadline: l.deadline, Event: e}
	m.sending.Store(time.Now().UnixNano())
	size, err := m.stream.SendDelivery(&d, view, m.req.MaxMessageBytes)
	m.sending.Store(0)
	if err != nil {
		return err
	}
	m.spoken = time.Now()
	g.charge(m, l, int64(size))
	m.average += (float64(size) - m.average) / 16
	g.m.count(l.attempt)
	return nil
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
