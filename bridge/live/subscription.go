package live

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/spotbridge/spotbridge/bridge"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

const (
	// maxBatch and maxBatchBytes bound what is taken from the ring at once. A reader that stops in the middle of a batch
	// keeps it in memory, so it is small.
	maxBatch      = 64
	maxBatchBytes = 256 << 10
	// maxLook bounds the ring's events that are compared at once, since the ring is locked meanwhile.
	maxLook = 256
	// drainGrace is how long a stream whose client does not read is waited for at drain.
	drainGrace = 2 * time.Second
)

// endReason says why the hub ends a stream.
type endReason int32

const (
	endDrain endReason = 1 + iota
	endMaxAge
	endRewound
)

// Subscription is one client's read: a position, and what it takes to move it on. All of it but the atomics belongs to the
// goroutine of run.
type Subscription struct {
	h     *Hub
	id    uint64
	req   bridge.SubscribeRequest
	log   bridge.LogID
	start time.Time
	to    bridge.Sender
	// cursorAt is cursor, made a function once and not for each message.
	cursorAt func(seq uint64) bridge.Cursor

	// group and slot are guarded by the hub's lock.
	group *group
	slot  int

	// pos is the sequence up to which everything was sent, begin where that began. head is the log's head as of the request;
	// stop ends there.
	pos, head uint64
	begin     uint64
	stop      bool
	// inSnapshot says that the snapshot as of this sequence is being sent, and pos is a position in it. snapshotEvents
	// counts what was sent of it.
	inSnapshot     bool
	snapshot       uint64
	snapshotEvents uint64
	// notBefore leaves out events with an earlier append time; zero = none.
	notBefore time.Time
	// next is the index of the next entry of the ring; it means something while inRing is set.
	next     uint64
	inRing   bool
	caughtUp bool
	// bound is up to where history can be read, as far as is known.
	bound uint64
	batch []bridge.Outgoing

	timer                 *time.Timer
	timerAt               time.Time
	heartbeatAt, maxAgeAt time.Time

	// wake has a token when there is something to look at. waiting says that run waits for a match.
	wake    chan struct{}
	waiting atomic.Bool
	ending  atomic.Int32
	// sends is odd while a send is under way.
	sends atomic.Uint64
	sent  struct{ position, events, bytes atomic.Uint64 }
	// handled is the append time of the last event that was sent, in nanoseconds.
	handled atomic.Int64
	state   atomic.Int32
}

// poke makes run look around.
func (s *Subscription) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// end makes run end the stream after the message that is under way.
func (s *Subscription) end(why endReason) {
	s.ending.CompareAndSwap(0, int32(why))
	s.poke()
}

// Run serves the subscription until it ends; see bridge.Hub. It may be called once.
func (s *Subscription) Run(ctx context.Context, to bridge.Sender) error {
	defer s.h.remove(s)
	s.to, s.cursorAt = to, s.cursor
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// A send can block for as long as the client does not read. So the stream has a goroutine of its own, and this one
	// watches it and can return.
	done := make(chan error, 1)
	go func() {
		defer s.h.wg.Done()
		defer func() {
			if p := recover(); p != nil {
				done <- fmt.Errorf("panic: %v\n%s", p, debug.Stack())
			}
		}()
		done <- s.run(ctx)
	}()
	err := s.watch(done)
	s.h.m.ended.WithLabelValues(endLabel(err)).Inc()
	return err
}

// watch waits for the end of run, but no longer than the client may keep it waiting.
func (s *Subscription) watch(done <-chan error) error {
	interval := max(s.h.cfg.SendTimeout/8, time.Millisecond)
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	grace := time.NewTimer(time.Hour)
	defer grace.Stop()
	drain := s.h.draining
	var stuck uint64
	var since time.Time
	for {
		select {
		case err := <-done:
			return err
		case <-drain:
			drain = nil
			grace.Reset(drainGrace)
		case <-grace.C:
			if drain == nil && s.sends.Load()%2 == 1 {
				return draining()
			}
			grace.Reset(drainGrace)
		case now := <-ticker.C:
			switch n := s.sends.Load(); {
			case n%2 == 0:
				stuck = 0
			case n != stuck:
				stuck, since = n, now
			case now.Sub(since) >= s.h.cfg.SendTimeout-interval/2:
				return &bridge.Error{
					Reason:  pb.ErrorReason_ERROR_REASON_SLOW_CONSUMER,
					Message: fmt.Sprintf("the client did not read for %v; resume with the cursor, and read faster", s.h.cfg.SendTimeout),
				}
			}
		}
	}
}

// run is the state machine: from history to the ring and, when overtaken, back.
func (s *Subscription) run(ctx context.Context) error {
	s.timer = time.NewTimer(time.Hour)
	defer s.timer.Stop()
	s.timer.Stop()
	if err := s.say(s.confirmation()); err != nil {
		return err
	}
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		if why := s.endsNow(); why != 0 {
			return s.goodbye(why)
		}
		var done bool
		var err error
		switch {
		case s.inSnapshot:
			err = s.sendSnapshot(ctx)
		case s.inRing || s.enterRing():
			done, err = s.follow(ctx)
		default:
			done, err = s.catchUp(ctx)
		}
		if err != nil || done {
			return err
		}
	}
}

// enterRing reports whether the ring has everything after the position.
func (s *Subscription) enterRing() bool {
	h := s.h
	h.mu.RLock()
	defer h.mu.RUnlock()
	if s.pos < h.ring.floor {
		return false
	}
	s.next, s.inRing = h.ring.after(s.pos), true
	return true
}

// look is what there is for a subscription in the ring.
type look struct {
	// upTo is the sequence up to which everything was looked at, once the batch is sent.
	upTo uint64
	// more says that there is more to look at. overtaken says that the ring has dropped something that was still needed.
	more, overtaken bool
}

// take fills the batch from the ring. When there is nothing it arranges for a wake-up at the next match.
func (s *Subscription) take() look {
	h := s.h
	s.batch = s.batch[:0]
	h.mu.RLock()
	defer h.mu.RUnlock()
	r, g := &h.ring, s.group
	out := look{upTo: s.pos}
	bytes := int64(0)
	// add takes an entry and reports whether there is room for another.
	add := func(e *entry) bool {
		if e.Sequence <= s.pos || e.AppendTime.Before(s.notBefore) {
			return true
		}
		s.batch = append(s.batch, bridge.Outgoing{Encoded: e.Encoded, Shared: &e.shared})
		bytes += e.size
		return len(s.batch) < maxBatch && bytes < maxBatchBytes
	}
	switch {
	case s.next >= g.complete:
		matches := g.from(s.next)
		if len(matches) > 0 && matches[0] < r.base {
			out.overtaken = true
			return out
		}
		for _, i := range matches {
			e := r.at(i)
			if s.stop && e.Sequence > s.head {
				break
			}
			room := add(e)
			s.next = i + 1
			if out.upTo = max(out.upTo, e.Sequence); !room {
				out.more = true
				return out
			}
		}
		s.next = r.end
	case s.next >= r.base:
		for n := 0; s.next < r.end; n++ {
			e := r.at(s.next)
			if s.stop && e.Sequence > s.head {
				s.next = r.end
				break
			}
			s.next++
			room := !g.filter.Match(&e.Meta) || add(e)
			if out.upTo = max(out.upTo, e.Sequence); !room || n >= maxLook {
				out.more = true
				return out
			}
		}
	default:
		out.overtaken = true
		return out
	}
	if out.upTo = max(out.upTo, r.watermark); s.stop {
		out.upTo = max(s.pos, min(out.upTo, s.head))
	}
	if len(s.batch) == 0 {
		s.waiting.Store(true)
	}
	return out
}

// follow sends what the ring has, or waits for more.
func (s *Subscription) follow(ctx context.Context) (done bool, err error) {
	l := s.take()
	if l.overtaken {
		watermark := s.h.Watermark()
		s.inRing, s.bound = false, max(s.bound, watermark)
		if !s.caughtUp {
			return false, nil // it has not been told that it is live
		}
		s.caughtUp = false
		s.state.Store(int32(bridge.SubscriptionBehind))
		s.h.m.fellBehind.Inc()
		return false, s.say(&pb.SubscribeResponse{Content: &pb.SubscribeResponse_FellBehind{FellBehind: &pb.FellBehind{
			ServerTime: timestamppb.Now(), HeadSequence: watermark, BehindEvents: max(watermark, s.pos) - s.pos,
		}}})
	}
	if len(s.batch) > 0 {
		if ended, err := s.sendAll(ctx, s.batch); ended || err != nil {
			return false, err // run ends the stream; the position is that of what was sent
		}
	}
	s.moveTo(l.upTo)
	switch {
	case l.more:
		return false, nil
	case s.stop && s.pos >= s.head:
		return true, s.sayCaughtUp()
	case !s.caughtUp && !s.stop:
		s.caughtUp = true
		s.state.Store(int32(bridge.SubscriptionLive))
		return false, s.sayCaughtUp()
	case len(s.batch) > 0:
		return false, nil // look again before waiting
	case s.silent():
		return false, s.heartbeat()
	}
	return false, s.wait(ctx, s.wake, time.Time{})
}

func (s *Subscription) sayCaughtUp() error {
	return s.say(&pb.SubscribeResponse{Content: &pb.SubscribeResponse_CaughtUp{CaughtUp: &pb.CaughtUp{
		ServerTime: timestamppb.Now(), HeadSequence: max(s.h.Watermark(), s.pos),
	}}})
}

// wait waits for a signal, or until a time (zero = none), or until something is due, or until it is woken.
func (s *Subscription) wait(ctx context.Context, signal <-chan struct{}, until time.Time) error {
	due := s.heartbeatAt
	for _, t := range []time.Time{s.maxAgeAt, until} {
		if !t.IsZero() && t.Before(due) {
			due = t
		}
	}
	// Events put heartbeats off all the time. The timer is left as it is: when it fires too early it is set again.
	if s.timerAt.IsZero() || due.Before(s.timerAt) {
		s.timerAt = due
		s.timer.Reset(time.Until(due))
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-signal:
	case <-s.wake:
	case <-s.timer.C:
		s.timerAt = time.Time{}
	}
	return nil
}

// silent reports whether a heartbeat is due.
func (s *Subscription) silent() bool { return !time.Now().Before(s.heartbeatAt) }

// heartbeat says that there is nothing else to say.
func (s *Subscription) heartbeat() error {
	return s.say(&pb.SubscribeResponse{Content: &pb.SubscribeResponse_Heartbeat{Heartbeat: &pb.Heartbeat{
		ServerTime: timestamppb.Now(), HeadSequence: max(s.h.Watermark(), s.pos),
	}}})
}

// endsNow says whether, and why, the hub ends the stream.
func (s *Subscription) endsNow() endReason {
	if why := s.ending.Load(); why != 0 {
		return endReason(why)
	}
	if !time.Now().Before(s.maxAgeAt) {
		return endMaxAge
	}
	return 0
}

// goodbye is the last message.
func (s *Subscription) goodbye(why endReason) error {
	g := &pb.Goodbye{}
	switch why {
	case endRewound:
		return &bridge.Error{
			Reason:  pb.ErrorReason_ERROR_REASON_HISTORY_UNAVAILABLE,
			Message: "the log is not the one that this stream began with; reconnect, and choose a new start if the cursor is refused",
		}
	case endDrain:
		g.Reason = pb.GoodbyeReason_GOODBYE_REASON_DRAIN
		// Spread the clients over the time that a restart takes.
		g.RetryAfter = durationpb.New(time.Duration(500+rand.IntN(1500)) * time.Millisecond)
	case endMaxAge:
		g.Reason = pb.GoodbyeReason_GOODBYE_REASON_MAX_AGE
	}
	return s.say(&pb.SubscribeResponse{Content: &pb.SubscribeResponse_Goodbye{Goodbye: g}})
}

// say sends a message that is not an event, with the position.
func (s *Subscription) say(m *pb.SubscribeResponse) error {
	m.Cursor = s.cursor(s.pos).String()
	s.sends.Add(1)
	err := s.to.SendMessage(m)
	s.sends.Add(1)
	s.spoke()
	return err
}

// spoke puts the next heartbeat off.
func (s *Subscription) spoke() { s.heartbeatAt = time.Now().Add(jitter(s.req.HeartbeatInterval)) }

// sendAll sends events in order, several in a message where the client wants that, and lets go of each that was sent. ended
// says that the stream ends before all were.
func (s *Subscription) sendAll(ctx context.Context, events []bridge.Outgoing) (ended bool, err error) {
	total := len(events)
	for len(events) > 0 {
		if s.ending.Load() != 0 || ctx.Err() != nil {
			return true, nil
		}
		n, err := s.send(events)
		if err != nil {
			return false, err
		}
		clear(events[:n]) // they need not wait for the rest
		events = events[n:]
	}
	s.h.m.events.Add(float64(total))
	s.spoke()
	return false, nil
}

// send sends one or more events in a message and moves to the last of them. It returns how many it has sent.
func (s *Subscription) send(events []bridge.Outgoing) (int, error) {
	s.sends.Add(1)
	n, bytes, err := s.to.SendEvents(events, s.req.MaxBatchEvents, s.cursorAt)
	s.sends.Add(1)
	if err != nil {
		return 0, err
	}
	last := events[n-1].Encoded
	s.moveTo(last.Sequence)
	s.sent.events.Add(uint64(n))
	s.sent.bytes.Add(uint64(bytes))
	s.handled.Store(last.AppendTime.UnixNano())
	return n, nil
}

// cursor is the position at a sequence.
func (s *Subscription) cursor(seq uint64) bridge.Cursor {
	c := bridge.Cursor{Log: s.log, Sequence: seq}
	if s.inSnapshot {
		c.InSnapshot, c.Snapshot = true, s.snapshot
	}
	return c
}

func (s *Subscription) moveTo(seq uint64) {
	if seq > s.pos {
		s.pos = seq
		s.sent.position.Store(seq)
	}
}

// info describes the subscription. The hub's lock must be held.
func (s *Subscription) info(now time.Time) bridge.SubscriptionInfo {
	out := bridge.SubscriptionInfo{
		ID: s.id, ClientName: s.req.ClientName, Peer: s.req.Peer, View: s.req.View, StartTime: s.start,
		State: bridge.SubscriptionState(s.state.Load()), Position: s.sent.position.Load(), Head: s.h.ring.watermark,
		EventsSent: s.sent.events.Load(), BytesSent: s.sent.bytes.Load(), Filter: &pb.EventFilter{},
	}
	if s.req.Filter != nil {
		out.Filter = s.req.Filter.Message
	}
	if out.State == bridge.SubscriptionLive && s.waiting.Load() {
		out.Position = out.Head // it waits: nothing matches
	}
	if r := &s.h.ring; out.Position >= r.floor {
		if i := r.after(out.Position); i < r.end {
			out.Lag = now.Sub(r.at(i).AppendTime)
		}
	} else if t := s.handled.Load(); t != 0 {
		out.Lag = now.Sub(time.Unix(0, t))
	}
	return out
}
