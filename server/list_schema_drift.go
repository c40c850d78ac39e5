package server

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/spotbridge/spotbridge/bridge"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

const (
	maxDriftTypes = 100
	// maxTypeBytes is far more than an event type that has drift is long: it is one of the catalogue's.
	maxTypeBytes = 1024
)

// driftKinds are the kinds of issues that are drift.
var driftKinds = []pb.IssueKind{
	pb.IssueKind_ISSUE_KIND_UNKNOWN_FIELD, pb.IssueKind_ISSUE_KIND_UNKNOWN_ENUM_VALUE, pb.IssueKind_ISSUE_KIND_TYPE_MISMATCH,
	pb.IssueKind_ISSUE_KIND_OUT_OF_RANGE, pb.IssueKind_ISSUE_KIND_DEPRECATED_FIELD,
}

// ListSchemaDrift implements CatalogService.
func (s *service) ListSchemaDrift(ctx context.Context, req *pb.ListSchemaDriftRequest) (*pb.ListSchemaDriftResponse, error) {
	r := bridge.DriftListRequest{EventTypes: req.GetEventTypes(), Kinds: req.GetKinds()}
	if len(r.EventTypes) > maxDriftTypes {
		return nil, bridge.InvalidField("event_types", fmt.Sprintf("has more than %d values", maxDriftTypes))
	}
	for i, t := range r.EventTypes {
		if t == "" || len(t) > maxTypeBytes {
			return nil, bridge.InvalidField(fmt.Sprintf("event_types[%d]", i), "is not an event type; leave event_types empty for all")
		}
	}
	for i, k := range r.Kinds {
		if !slices.Contains(driftKinds, k) {
			return nil, bridge.InvalidField(fmt.Sprintf("kinds[%d]", i),
				"is not a kind of drift; use UNKNOWN_FIELD, UNKNOWN_ENUM_VALUE, TYPE_MISMATCH, OUT_OF_RANGE or DEPRECATED_FIELD")
		}
	}
	if len(r.Kinds) > maxDriftTypes {
		return nil, bridge.InvalidField("kinds", fmt.Sprintf("has more than %d values", maxDriftTypes))
	}
	var err error
	if r.FirstSeenSince, err = checkTime("first_seen_since", req.GetFirstSeenSince()); err != nil {
		return nil, err
	}
	if r.PageSize, err = checkPageSize(req.GetPageSize()); err != nil {
		return nil, err
	}
	if err := s.ready(ctx); err != nil {
		return nil, err
	}
	log, err := s.logID(ctx)
	if err != nil {
		return nil, err
	}
	bound := newBinding(log)
	bound.number(uint64(len(r.EventTypes)))
	for _, t := range r.EventTypes {
		bound.text(t)
	}
	bound.number(uint64(len(r.Kinds)))
	for _, k := range r.Kinds {
		bound.number(uint64(k))
	}
	bound.time(r.FirstSeenSince)
	if token := req.GetPageToken(); token != "" {
		p, err := bound.position(tokenDrift, token)
		if err != nil {
			return nil, err
		}
		if r.After = parseDriftKey(p); r.After == nil {
			return nil, &bridge.Error{Reason: pb.ErrorReason_ERROR_REASON_INVALID_PAGE_TOKEN, Field: "page_token", Message: "start from the first page"}
		}
	}
	res, err := s.cfg.Drift.ListDrift(ctx, r)
	if err != nil {
		return nil, err
	}
	out := &pb.ListSchemaDriftResponse{Inspection: inspection(&res.Run), NextInspection: inspection(res.Next), Head: res.Head}
	for _, e := range res.Entries {
		out.Entries = append(out.Entries, &pb.SchemaDrift{
			EventType: e.EventType, Kind: e.Kind, Path: e.Path, FirstSeenTime: timestamppb.New(e.FirstSeen), LastSeenTime: timestamppb.New(e.LastSeen),
			EventCount: e.Events, OccurrenceCount: e.Occurrences, ExampleEventId: e.Example,
		})
	}
	if n := len(res.Entries); res.More && n > 0 {
		e := res.Entries[n-1]
		out.NextPageToken = bound.token(tokenDrift, driftKey(bridge.DriftKey{EventType: e.EventType, Kind: e.Kind, Path: e.Path}))
	}
	return out, nil
}

// inspection returns nil for a run that is not there.
func inspection(r *bridge.DriftRun) *pb.SchemaInspection {
	if r == nil || r.ID == 0 {
		return nil
	}
	return &pb.SchemaInspection{
		SchemaRevision: r.Revision, FirstSequence: r.First, Watermark: r.Watermark, EventCount: r.Events, SkippedCount: r.Skipped, OverflowCount: r.Overflow,
	}
}

// driftKey is the form of a key in a page token: kind, length of the event type, event type, path.
func driftKey(k bridge.DriftKey) []byte {
	out := binary.AppendUvarint(nil, uint64(k.Kind))
	out = binary.AppendUvarint(out, uint64(len(k.EventType)))
	return append(append(out, k.EventType...), k.Path...)
}

// parseDriftKey returns nil for what driftKey did not make.
func parseDriftKey(b []byte) *bridge.DriftKey {
	kind, n := binary.Uvarint(b)
	if n <= 0 {
		return nil
	}
	size, m := binary.Uvarint(b[n:])
	if b = b[n+max(m, 0):]; m <= 0 || size > uint64(len(b)) {
		return nil
	}
	return &bridge.DriftKey{EventType: string(b[:size]), Kind: pb.IssueKind(kind), Path: string(b[size:])}
}
