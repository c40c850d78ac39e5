package group

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
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

	goodbyeRetry = time.Second
)

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
		ServerTime: timestamppb.Now(), MaxBatchEvents: int32(m.req.MaxBatchEvents),
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
