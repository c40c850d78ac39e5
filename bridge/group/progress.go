package group

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/spotbridge/spotbridge/bridge"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

const (
	// countedLoss is how many events of a loss are counted in history at most.
	countedLoss = 100_000
	countPage   = 5000
	// floorFresh is how long the log's floor is believed when an event is given back.
	floorFresh = 50 * time.Millisecond
)

// progress is how far a group has come, as this process knows it. The store's queue jumps silently over what has left the
// log; that is noticed by comparing what it said before with the log's floor.
type progress struct {
	mu sync.Mutex
	// mark is loaded at the first look and kept in the store.
	mark   bridge.GroupMark
	loaded bool
	dirty  bool
	saved  time.Time
	// delivered is the newest sequence that is known to have been given out, or to be before the beginning.
	delivered uint64
	// inFlight says that at the last look events were held or waiting for another delivery.
	inFlight bool
}

// start loads the mark. p.mu is held.
func (g *group) start(ctx context.Context, rec *bridge.GroupRecord) error {
	p := &g.progress
	if !p.loaded {
		m, err := g.s.cfg.Store.Mark(ctx, g.name)
		if err != nil {
			return err
		}
		p.mark, p.loaded = m, true
		p.delivered = m.Delivered
		p.inFlight = m.InFlight
	}
	if p.mark.Epoch != rec.Epoch {
		lost, untold := p.mark.Lost, p.mark.Untold
		p.mark = bridge.GroupMark{Epoch: rec.Epoch, Settled: rec.After, Delivered: rec.After, Lost: lost, Untold: untold}
		p.delivered, p.inFlight, p.dirty = rec.After, false, true
	}
	return nil
}

// noticeGap looks whether the log's floor has passed events that were not given out, when the sequences of new ones leave a
// gap. The gaps that the filter makes are told apart by the floor.
func (g *group) noticeGap(ctx context.Context, ts []bridge.Taken) error {
	p := &g.progress
	first, last := uint64(0), uint64(0)
	for i := range ts {
		if !ts[i].Redriven && ts[i].Deliveries == 1 {
			if first == 0 || ts[i].Sequence < first {
				first = ts[i].Sequence
			}
			last = max(last, ts[i].Sequence)
		}
	}
	if first == 0 {
		return nil
	}
	rec, _, err := g.record()
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := g.start(ctx, rec); err != nil {
		return err
	}
	if first > p.delivered+1 {
		st, err := g.s.cfg.Log.State(ctx)
		if err != nil {
			return err
		}
		g.s.setFloor(st.Floor)
		if err := g.checkFloor(ctx, rec, min(st.Floor, first)); err != nil {
			return err
		}
	}
	p.delivered, p.inFlight, p.dirty = max(p.delivered, last), true, true
	return nil
}

// checkFloor tells of a loss when the floor has passed what was known of the group. p.mu is held.
func (g *group) checkFloor(ctx context.Context, rec *bridge.GroupRecord, floor uint64) error {
	p := &g.progress
	from := p.delivered + 1
	if p.inFlight {
		from = min(from, p.mark.Settled+1)
	}
	if from >= floor {
		return nil
	}
	n, known, err := g.countLost(ctx, rec, from, floor-1)
	if err != nil {
		return err
	}
	p.delivered = max(p.delivered, floor-1)
	p.mark.Settled = max(p.mark.Settled, floor-1)
	p.dirty = true
	if known && n == 0 {
		return nil // nothing that the group would have had
	}
	lost := &pb.Lost{FromSequence: from, ToSequence: floor - 1, Time: timestamppb.Now()}
	if known {
		lost.Events = &n
	}
	g.s.m.lost.WithLabelValues(g.name).Inc()
	g.s.log.Error("events left the log before a consumer group had them: raise log.max_bytes or log.max_age, or have the group keep up",
		"group", g.name, "from", lost.GetFromSequence(), "to", lost.GetToSequence(), "events", n)
	details := map[string]string{"from": fmt.Sprint(from), "to": fmt.Sprint(floor - 1)}
	if known {
		details["events"] = fmt.Sprint(n)
	}
	if err := g.s.cfg.Store.Audit(ctx, g.name, "lost", details); err != nil {
		return err
	}
	p.mark.Lost = lost
	p.mark.Untold = !g.tell(lost)
	return g.keep(ctx)
}

// countLost counts what the filter selects in a stretch, if history still holds it.
func (g *group) countLost(ctx context.Context, rec *bridge.GroupRecord, from, to uint64) (n int64, known bool, err error) {
	h := g.s.cfg.History
	for after := from - 1; after < to; {
		res, err := h.Scan(ctx, bridge.ScanRequest{Filter: rec.Settings.Filter, After: after, UpTo: to, MaxEvents: countPage, MaxBytes: 16 << 20})
		if err != nil {
			return 0, false, err
		}
		n += int64(len(res.Events))
		if res.Next <= after || n > countedLoss {
			return n, false, nil
		}
		after = res.Next
	}
	b, err := h.Bounds(ctx)
	if err != nil {
		return 0, false, err
	}
	return n, b.Floor <= from && b.Watermark >= to, nil
}

// tell tells the members of a loss, before their next event. It returns false when there is nobody to tell.
func (g *group) tell(lost *pb.Lost) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	told := false
	for m := range g.members {
		select {
		case m.words <- &pb.ConsumeResponse{Content: &pb.ConsumeResponse_Lost{Lost: lost}}:
			m.wakeUp()
			told = true
		default: // its words are many already; the state shows the loss
		}
	}
	return told
}

// untold returns a loss that no member has been told of.
func (g *group) untold(ctx context.Context) *pb.Lost {
	rec, _, err := g.record()
	if err != nil {
		return nil
	}
	p := &g.progress
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := g.look(ctx, rec); err != nil {
		g.s.log.Warn("the progress of a consumer group could not be looked at", "group", g.name, "error", err)
	}
	if !p.mark.Untold {
		return nil
	}
	return proto.CloneOf(p.mark.Lost)
}

// told remembers that a member has been told.
func (g *group) told(ctx context.Context) {
	p := &g.progress
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mark.Untold, p.dirty = false, true
	if err := g.keep(ctx); err != nil {
		g.s.log.Warn("the progress of a consumer group could not be kept", "group", g.name, "error", err)
	}
}

// keep stores the mark. p.mu is held.
func (g *group) keep(ctx context.Context) error {
	p := &g.progress
	if !p.dirty {
		return nil
	}
	p.mark.Delivered, p.mark.InFlight = p.delivered, p.inFlight
	if err := g.s.cfg.Store.SaveMark(ctx, g.name, p.mark); err != nil {
		return err
	}
	p.dirty, p.saved = false, time.Now()
	return nil
}

// look compares the group's queue with the log's floor. p.mu is held.
func (g *group) look(ctx context.Context, rec *bridge.GroupRecord) error {
	_, _, err := g.lookState(ctx, rec)
	return err
}

func (g *group) lookState(ctx context.Context, rec *bridge.GroupRecord) (qs bridge.QueueState, st bridge.LogState, err error) {
	p := &g.progress
	if err := g.start(ctx, rec); err != nil {
		return qs, st, err
	}
	// The queue first: if the floor has not passed the old mark afterwards, the queue has not jumped.
	if qs, err = g.s.cfg.Store.QueueState(ctx, rec); err != nil {
		return qs, st, err
	}
	if st, err = g.s.cfg.Log.State(ctx); err != nil {
		return qs, st, err
	}
	g.s.setFloor(st.Floor)
	if st.Floor > p.mark.Settled+1 {
		if err := g.checkFloor(ctx, rec, st.Floor); err != nil {
			return qs, st, err
		}
	}
	if qs.Settled > p.mark.Settled || qs.Delivered > p.delivered || (qs.InFlight > 0) != p.inFlight {
		p.dirty = true
	}
	p.mark.Settled = max(p.mark.Settled, qs.Settled)
	p.delivered = max(p.delivered, qs.Delivered)
	p.inFlight = qs.InFlight > 0
	return qs, st, nil
}

// state returns the state of the group.
func (g *group) state(ctx context.Context, rec *bridge.GroupRecord) (*pb.ConsumerGroupState, error) {
	p := &g.progress
	p.mu.Lock()
	qs, st, err := g.lookState(ctx, rec)
	lost := p.mark.Lost
	p.mu.Unlock()
	if err != nil {
		return nil, storeError(g.name, err)
	}
	out := &pb.ConsumerGroupState{
		SettledCursor: bridge.Cursor{Log: st.ID, Sequence: qs.Settled}.String(), SettledSequence: qs.Settled, HeadSequence: st.Head,
		LagEvents: qs.Waiting + qs.InFlight, InFlightEvents: qs.InFlight, DeadLetters: qs.DeadLetters, RedrivenEvents: qs.Redriven, LastLost: lost,
	}
	lag, err := g.lag(ctx, rec, qs)
	if err != nil {
		return nil, err
	}
	out.Lag = lag
	g.mu.Lock()
	for m := range g.members {
		out.Members = append(out.Members, m.describe())
	}
	g.mu.Unlock()
	sortMembers(out.Members)
	return out, nil
}

// watch looks at every group now and then: for the metrics, and for groups that fall below the log's floor while nobody
// consumes.
func (s *Groups) watch(ctx context.Context) {
	t := time.NewTicker(watchInterval)
	defer t.Stop()
	for {
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
		names, err := s.cfg.Store.Groups(ctx)
		if err != nil {
			if ctx.Err() == nil {
				s.log.Warn("consumer groups could not be looked at", "error", err)
			}
			continue
		}
		for _, name := range names {
			if err := s.lookAt(ctx, name); err != nil && ctx.Err() == nil && !errors.Is(err, bridge.ErrNoGroup) {
				s.log.Warn("a consumer group could not be looked at", "group", name, "error", err)
			}
		}
	}
}

func (s *Groups) lookAt(ctx context.Context, name string) error {
	g, err := s.open(ctx, name)
	if err != nil {
		return err
	}
	g.expire(ctx, func(l *lease) bool { return l.member == nil }, time.Now())
	rec, _, err := g.record()
	if err != nil {
		return err
	}
	state, err := g.state(ctx, rec)
	if errors.Is(err, bridge.ErrQueueGone) {
		return g.refresh(ctx)
	}
	if err != nil {
		return err
	}
	s.m.lagEvents.WithLabelValues(name).Set(float64(state.GetLagEvents()))
	s.m.lagSeconds.WithLabelValues(name).Set(state.GetLag().AsDuration().Seconds())
	s.m.inFlight.WithLabelValues(name).Set(float64(state.GetInFlightEvents()))
	s.m.dead.WithLabelValues(name).Set(float64(state.GetDeadLetters()))
	p := &g.progress
	p.mu.Lock()
	defer p.mu.Unlock()
	return g.keep(ctx)
}

// keepMarks stores what is known of every group's progress.
func (s *Groups) keepMarks(ctx context.Context) {
	s.mu.Lock()
	var all []*group
	for _, g := range s.groups {
		all = append(all, g)
	}
	s.mu.Unlock()
	for _, g := range all {
		rec, _, err := g.record()
		if err != nil {
			continue
		}
		p := &g.progress
		p.mu.Lock()
		err = g.look(ctx, rec)
		if err == nil {
			err = g.keep(ctx)
		}
		p.mu.Unlock()
		if err != nil {
			s.log.Warn("the progress of a consumer group could not be kept", "group", g.name, "error", err)
		}
	}
}

// freshFloor returns the log's floor as of a moment ago.
func (s *Groups) freshFloor(ctx context.Context) (uint64, error) {
	if time.Since(time.Unix(0, s.floorSeen.Load())) > floorFresh {
		st, err := s.cfg.Log.State(ctx)
		if err != nil {
			return 0, err
		}
		s.setFloor(st.Floor)
	}
	return s.floor.Load(), nil
}

func (s *Groups) setFloor(floor uint64) {
	s.floorSeen.Store(time.Now().UnixNano())
	for {
		old := s.floor.Load()
		if floor <= old || s.floor.CompareAndSwap(old, floor) {
			return
		}
	}
}
