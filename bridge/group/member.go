package group

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/spotbridge/spotbridge/bridge"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
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
	unsent  int // events that wait for flush
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
