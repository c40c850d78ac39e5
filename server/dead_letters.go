package server

import (
	"context"
	"encoding/binary"
	"fmt"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/spotbridge/spotbridge/bridge"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

// deadLetterQuery checks what selects dead letters.
func deadLetterQuery(group string, filter *pb.EventFilter, causes []pb.DeadLetterCause, ids []string, before *timestamppb.Timestamp, dryRun bool) (q bridge.DeadLetterQuery, err error) {
	q = bridge.DeadLetterQuery{Group: group, Causes: causes, IDs: ids, DryRun: dryRun}
	if q.Filter, err = bridge.CompileFilter(filter, "filter"); err != nil {
		return q, err
	}
	for i, c := range causes {
		if c == pb.DeadLetterCause_DEAD_LETTER_CAUSE_UNSPECIFIED || !known(pb.DeadLetterCause_name, c) {
			return q, bridge.InvalidField(fmt.Sprintf("causes[%d]", i), "is not a cause; use EXHAUSTED, PARKED or UNDELIVERABLE")
		}
	}
	if len(causes) > maxListValues || len(ids) > maxListValues {
		return q, bridge.InvalidField("ids", fmt.Sprintf("has more than %d values", maxListValues))
	}
	for i, id := range ids {
		if err := checkID(fmt.Sprintf("ids[%d]", i), id); err != nil {
			return q, err
		}
	}
	q.Before, err = checkTime("before", before)
	return q, err
}

// ListDeadLetters implements ConsumerGroupService.
func (s *service) ListDeadLetters(ctx context.Context, req *pb.ListDeadLettersRequest) (*pb.ListDeadLettersResponse, error) {
	groups, err := s.groups(ctx, req.GetGroup())
	if err != nil {
		return nil, err
	}
	q, err := deadLetterQuery(req.GetGroup(), req.GetFilter(), req.GetCauses(), nil, nil, false)
	if err != nil {
		return nil, err
	}
	view := pb.EventView_EVENT_VIEW_ENVELOPE
	if req.GetView() != pb.EventView_EVENT_VIEW_UNSPECIFIED {
		if view, err = checkView(req.GetView()); err != nil {
			return nil, err
		}
	}
	page := bridge.DeadLetterPage{DeadLetterQuery: q, MaxBytes: maxPageBytes}
	if page.PageSize, err = checkPageSize(req.GetPageSize()); err != nil {
		return nil, err
	}
	log, err := s.logID(ctx)
	if err != nil {
		return nil, err
	}
	bound := newBinding(log)
	bound.text(q.Group)
	bound.text(q.Filter.Key())
	bound.number(uint64(len(q.Causes)))
	for _, c := range q.Causes {
		bound.number(uint64(c))
	}
	if t := req.GetPageToken(); t != "" {
		p, err := bound.position(tokenLetters, t)
		if err != nil {
			return nil, err
		}
		if len(p) != 8 {
			return nil, &bridge.Error{Reason: pb.ErrorReason_ERROR_REASON_INVALID_PAGE_TOKEN, Field: "page_token", Message: "not a page token of this method; start from the first page"}
		}
		page.After = binary.BigEndian.Uint64(p)
	}
	letters, next, err := groups.DeadLetters(ctx, page)
	if err != nil {
		return nil, err
	}
	out := &pb.ListDeadLettersResponse{}
	for _, l := range letters {
		ev, _ := eventMessage(l.Event, view, maxPageBytes)
		out.DeadLetters = append(out.DeadLetters, &pb.DeadLetter{
			Id: l.ID, Cause: l.Cause, Attempts: int32(l.Attempts), Time: timestamppb.New(l.Time), Reason: l.Reason, ClientName: l.ClientName, Event: ev,
		})
	}
	if next != 0 {
		out.NextPageToken = bound.token(tokenLetters, binary.BigEndian.AppendUint64(nil, next))
	}
	return out, nil
}

// RedriveDeadLetters implements ConsumerGroupService.
func (s *service) RedriveDeadLetters(ctx context.Context, req *pb.RedriveDeadLettersRequest) (*pb.RedriveDeadLettersResponse, error) {
	groups, err := s.groups(ctx, req.GetGroup())
	if err != nil {
		return nil, err
	}
	q, err := deadLetterQuery(req.GetGroup(), req.GetFilter(), req.GetCauses(), req.GetIds(), req.GetBefore(), req.GetDryRun())
	if err != nil {
		return nil, err
	}
	c, err := groups.Redrive(ctx, q)
	if err != nil {
		return nil, err
	}
	return &pb.RedriveDeadLettersResponse{Matched: c.Matched, Redriven: c.Handled, Bytes: c.Bytes, Done: c.Done}, nil
}

// DeleteDeadLetters implements ConsumerGroupService.
func (s *service) DeleteDeadLetters(ctx context.Context, req *pb.DeleteDeadLettersRequest) (*pb.DeleteDeadLettersResponse, error) {
	groups, err := s.groups(ctx, req.GetGroup())
	if err != nil {
		return nil, err
	}
	q, err := deadLetterQuery(req.GetGroup(), req.GetFilter(), req.GetCauses(), req.GetIds(), req.GetBefore(), req.GetDryRun())
	if err != nil {
		return nil, err
	}
	if q.Filter.MatchesAll() && len(q.Causes) == 0 && len(q.IDs) == 0 && !req.GetAll() {
		return nil, bridge.InvalidField("all", "must be set to delete every dead letter of the group; or give filter, causes or ids")
	}
	c, err := groups.DeleteDeadLetters(ctx, q)
	if err != nil {
		return nil, err
	}
	return &pb.DeleteDeadLettersResponse{Matched: c.Matched, Deleted: c.Handled, Done: c.Done}, nil
}
