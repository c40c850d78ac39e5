package group

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sort"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/spotbridge/spotbridge/bridge"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

// describe returns a group without its state.
func describe(r *bridge.GroupRecord) *pb.ConsumerGroup {
	out := &pb.ConsumerGroup{
		Group: r.Name, Description: r.Settings.Description, View: r.Settings.View, AckDeadline: durationpb.New(r.Settings.AckDeadline),
		MaxDeliveries: int32(r.Settings.MaxDeliveries), Paused: r.Paused, CreateTime: timestamppb.New(r.CreateTime), UpdateTime: timestamppb.New(r.UpdateTime),
	}
	if !r.Settings.Filter.MatchesAll() {
		out.Filter = proto.CloneOf(r.Settings.Filter.Message)
	}
	return out
}

// describe returns a member; g.mu is held.
func (m *member) describe() *pb.GroupMember {
	return &pb.GroupMember{
		MemberId: fmt.Sprint(m.id), ClientName: m.req.ClientName, Peer: m.req.Peer, JoinTime: timestamppb.New(m.joined),
		InFlightEvents: int32(m.held), InFlightBytes: m.heldBytes, CreditEvents: m.events,
		Unresponsive: m.unresponsive,
	}
}

func sortMembers(ms []*pb.GroupMember) {
	slices.SortFunc(ms, func(a, b *pb.GroupMember) int {
		return cmp.Or(cmp.Compare(len(a.GetMemberId()), len(b.GetMemberId())), cmp.Compare(a.GetMemberId(), b.GetMemberId()))
	})
}

// position returns the sequence after which a group begins.
func (s *Groups) position(ctx context.Context, at bridge.GroupPosition) (uint64, error) {
	st, err := s.cfg.Log.State(ctx)
	if err != nil {
		return 0, err
	}
	switch {
	case at.AfterCursor != "":
		c, err := bridge.ParseCursor(at.AfterCursor, st.ID)
		if err != nil {
			return 0, err
		}
		if c.Sequence > st.Head {
			return 0, &bridge.Error{
				Reason: pb.ErrorReason_ERROR_REASON_CURSOR_AHEAD, Field: "after_cursor", Message: "the cursor lies beyond the head of the log",
				Metadata: map[string]string{"head_cursor": bridge.Cursor{Log: st.ID, Sequence: st.Head}.String()},
			}
		}
		if c.Sequence+1 < st.Floor {
			return 0, &bridge.Error{
				Reason: pb.ErrorReason_ERROR_REASON_CURSOR_EXPIRED, Field: "after_cursor", Message: "events after the cursor are no longer held; begin after earliest_cursor, or with start EARLIEST",
				Metadata: map[string]string{
					"earliest_cursor": bridge.Cursor{Log: st.ID, Sequence: st.Floor - 1}.String(), "earliest_time": st.FloorTime.UTC().Format(time.RFC3339Nano),
				},
			}
		}
		return c.Sequence, nil
	case !at.FromTime.IsZero():
		seq, err := s.cfg.History.SequenceAt(ctx, at.FromTime)
		if err != nil {
			return 0, err
		}
		return min(max(seq, st.Floor-1), st.Head), nil
	case at.Start == pb.Start_START_EARLIEST:
		return st.Floor - 1, nil
	}
	return st.Head, nil
}

// Create implements bridge.Groups.
func (s *Groups) Create(ctx context.Context, name string, settings bridge.GroupSettings, at bridge.GroupPosition, paused bool) (*pb.ConsumerGroup, error) {
	names, err := s.cfg.Store.Groups(ctx)
	if err != nil {
		return nil, err
	}
	if len(names) >= s.cfg.MaxGroups && !slices.Contains(names, name) {
		return nil, &bridge.Error{
			Reason: pb.ErrorReason_ERROR_REASON_TOO_MANY_GROUPS, Message: fmt.Sprintf("there are %d consumer groups, as many as groups.max allows; delete one, or have groups.max raised", len(names)),
		}
	}
	after, err := s.position(ctx, at)
	if err != nil {
		return nil, err
	}
	now := time.Now().UTC()
	rec := &bridge.GroupRecord{Name: name, Epoch: 1, After: after, Settings: settings, Paused: paused, CreateTime: now, UpdateTime: now}
	if err := s.cfg.Store.CreateGroup(ctx, rec); err != nil {
		return nil, storeError(name, err)
	}
	// So that a loss before the first delivery is noticed, also after a restart.
	if err := s.cfg.Store.SaveMark(ctx, name, bridge.GroupMark{Epoch: rec.Epoch, Settled: after, Delivered: after}); err != nil {
		s.log.Warn("the progress of a consumer group could not be kept", "group", name, "error", err)
	}
	s.audit(ctx, name, "created", map[string]string{"after": fmt.Sprint(after)})
	s.adopt(rec)
	return describe(rec), nil
}

func (s *Groups) audit(ctx context.Context, name, what string, details map[string]string) {
	if err := s.cfg.Store.Audit(ctx, name, what, details); err != nil {
		s.log.Warn("what was done to a consumer group could not be written down", "group", name, "what", what, "error", err)
	}
}

// Get implements bridge.Groups.
func (s *Groups) Get(ctx context.Context, name string) (*pb.ConsumerGroup, error) {
	rec, err := s.cfg.Store.Group(ctx, name)
	if err != nil {
		return nil, storeError(name, err)
	}
	g := s.adopt(rec)
	out := describe(rec)
	out.State, err = g.state(ctx, rec)
	return out, err
}

// List implements bridge.Groups.
func (s *Groups) List(ctx context.Context, after string, limit int) (groups []*pb.ConsumerGroup, more bool, err error) {
	names, err := s.cfg.Store.Groups(ctx)
	if err != nil {
		return nil, false, err
	}
	names = names[sort.SearchStrings(names, after+"\x00"):]
	if after == "" && len(names) == 0 {
		return nil, false, nil
	}
	for i, name := range names {
		if len(groups) == limit {
			return groups, i < len(names), nil
		}
		g, err := s.Get(ctx, name)
		if bridge.ReasonOf(err) == pb.ErrorReason_ERROR_REASON_GROUP_NOT_FOUND && err != nil {
			continue // deleted meanwhile
		}
		if err != nil {
			return nil, false, err
		}
		groups = append(groups, g)
	}
	return groups, false, nil
}

// change changes a group's record.
func (s *Groups) change(ctx context.Context, name, what string, f func(*bridge.GroupRecord) (changed bool)) (*bridge.GroupRecord, error) {
	rec, err := s.cfg.Store.Group(ctx, name)
	if err != nil {
		return nil, storeError(name, err)
	}
	next := *rec
	if !f(&next) {
		s.adopt(rec)
		return rec, nil
	}
	next.UpdateTime = time.Now().UTC()
	if err := s.cfg.Store.SaveGroup(ctx, &next); err != nil {
		return nil, storeError(name, err)
	}
	s.audit(ctx, name, what, nil)
	s.adopt(&next)
	return &next, nil
}

// Update implements bridge.Groups.
func (s *Groups) Update(ctx context.Context, name string, u bridge.GroupUpdate) (*pb.ConsumerGroup, error) {
	rec, err := s.change(ctx, name, "updated", func(r *bridge.GroupRecord) bool {
		set := &r.Settings
		if u.Description != nil {
			set.Description = *u.Description
		}
		if u.Filter != nil {
			set.Filter = u.Filter
		}
		if u.View != nil {
			set.View = *u.View
		}
		if u.AckDeadline != nil {
			set.AckDeadline = *u.AckDeadline
		}
		if u.MaxDeliveries != nil {
			set.MaxDeliveries = *u.MaxDeliveries
		}
		return true
	})
	if err != nil {
		return nil, err
	}
	return describe(rec), nil
}

// SetPaused implements bridge.Groups.
func (s *Groups) SetPaused(ctx context.Context, name string, paused bool) (*pb.ConsumerGroup, error) {
	what := "resumed"
	if paused {
		what = "paused"
	}
	rec, err := s.change(ctx, name, what, func(r *bridge.GroupRecord) bool {
		changed := r.Paused != paused
		r.Paused = paused
		return changed
	})
	if err != nil {
		return nil, err
	}
	return describe(rec), nil
}

// Seek implements bridge.Groups.
func (s *Groups) Seek(ctx context.Context, name string, at bridge.GroupPosition) (*pb.ConsumerGroup, uint64, error) {
	if _, err := s.cfg.Store.Group(ctx, name); err != nil {
		return nil, 0, storeError(name, err)
	}
	after, err := s.position(ctx, at)
	if err != nil {
		return nil, 0, err
	}
	rec, err := s.change(ctx, name, "moved", func(r *bridge.GroupRecord) bool {
		r.Epoch++
		r.After = after
		return true
	})
	if err != nil {
		return nil, 0, err
	}
	return describe(rec), after, nil
}

// Delete implements bridge.Groups.
func (s *Groups) Delete(ctx context.Context, name string, force bool) error {
	rec, err := s.cfg.Store.Group(ctx, name)
	if err != nil {
		return storeError(name, err)
	}
	if !force {
		qs, err := s.cfg.Store.QueueState(ctx, rec)
		if err != nil {
			return storeError(name, err)
		}
		if qs.DeadLetters > 0 || qs.Redriven > 0 {
			return &bridge.Error{
				Reason:   pb.ErrorReason_ERROR_REASON_GROUP_HAS_DEAD_LETTERS,
				Message:  fmt.Sprintf("the consumer group has %d dead letters and %d redriven events that are not settled; redrive or delete them first, or set force", qs.DeadLetters, qs.Redriven),
				Metadata: map[string]string{"dead_letters": fmt.Sprint(qs.DeadLetters), "redriven_events": fmt.Sprint(qs.Redriven)},
			}
		}
	}
	if err := s.cfg.Store.DeleteGroup(ctx, name); err != nil {
		return storeError(name, err)
	}
	s.audit(ctx, name, "deleted", nil)
	s.end(name)
	return nil
}

// lag is the age of the oldest event that is not settled, as history knows it.
func (g *group) lag(ctx context.Context, rec *bridge.GroupRecord, qs bridge.QueueState) (*durationpb.Duration, error) {
	if qs.Waiting+qs.InFlight == 0 {
		return durationpb.New(0), nil
	}
	b, err := g.s.cfg.History.Bounds(ctx)
	if err != nil {
		return nil, err
	}
	res, err := g.s.cfg.History.Scan(ctx, bridge.ScanRequest{Filter: rec.Settings.Filter, After: qs.Settled, UpTo: b.Watermark, MaxEvents: 1, MaxBytes: 1})
	if err != nil {
		return nil, err
	}
	if len(res.Events) == 0 {
		return durationpb.New(0), nil
	}
	return durationpb.New(max(time.Since(res.Events[0].AppendTime), 0)), nil
}
