package server

import (
	"cmp"
	"context"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/spotbridge/spotbridge/bridge"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

// driftList is a bridge.DriftReader over a slice.
type driftList struct {
	entries []bridge.DriftEntry
	run     bridge.DriftRun
	next    *bridge.DriftRun
	err     error
}

func compareDrift(a bridge.DriftEntry, k bridge.DriftKey) int {
	return cmp.Or(cmp.Compare(a.EventType, k.EventType), cmp.Compare(a.Kind, k.Kind), cmp.Compare(a.Path, k.Path))
}

func (d *driftList) ListDrift(_ context.Context, r bridge.DriftListRequest) (bridge.DriftListResult, error) {
	out := bridge.DriftListResult{Run: d.run, Next: d.next, Head: 99}
	for _, e := range d.entries {
		if r.After != nil && compareDrift(e, *r.After) <= 0 || len(r.EventTypes) > 0 && !slices.Contains(r.EventTypes, e.EventType) ||
			len(r.Kinds) > 0 && !slices.Contains(r.Kinds, e.Kind) || e.FirstSeen.Before(r.FirstSeenSince) {
			continue
		}
		if out.More = len(out.Entries) == r.PageSize; out.More {
			break
		}
		out.Entries = append(out.Entries, e)
	}
	return out, d.err
}

func TestListSchemaDrift(t *testing.T) {
	f := newFixture(t)
	at := func(h int) time.Time { return epoch.Add(time.Duration(h) * time.Hour) }
	f.drift.run = bridge.DriftRun{ID: 1, Revision: "old", First: 3, Watermark: 90, Events: 80, Skipped: 2, Overflow: 1}
	f.drift.next = &bridge.DriftRun{ID: 2, Revision: "new", First: 5, Watermark: 40}
	entry := func(eventType string, kind pb.IssueKind, path string, first, last time.Time, events, n int64, example string) bridge.DriftEntry {
		return bridge.DriftEntry{EventType: eventType, Kind: kind, Path: path, FirstSeen: first, LastSeen: last, Events: events, Occurrences: n, Example: example}
	}
	f.drift.entries = []bridge.DriftEntry{
		entry("PNR_V3", pb.IssueKind_ISSUE_KIND_TYPE_MISMATCH, "$.payload.version", at(1), at(2), 3, 4, "sandbox.a"),
		entry("PNR_V3", pb.IssueKind_ISSUE_KIND_UNKNOWN_FIELD, "$.payload.a", at(1), at(2), 1, 1, "sandbox.b"),
		entry("PNR_V3", pb.IssueKind_ISSUE_KIND_UNKNOWN_FIELD, "$.payload.b", at(5), at(5), 1, 1, "sandbox.c"),
		entry("TRAVELER_V2", pb.IssueKind_ISSUE_KIND_DEPRECATED_FIELD, "$.payload.id", at(1), at(9), 7, 7, "sandbox.d"),
	}
	client := pb.NewCatalogServiceClient(f.conn)

	all, err := client.ListSchemaDrift(t.Context(), &pb.ListSchemaDriftRequest{})
	if err != nil || len(all.GetEntries()) != 4 || all.GetNextPageToken() != "" || all.GetHead() != 99 {
		t.Fatal(err, all)
	}
	if i := all.GetInspection(); i.GetSchemaRevision() != "old" || i.GetFirstSequence() != 3 || i.GetWatermark() != 90 || i.GetEventCount() != 80 || i.GetSkippedCount() != 2 || i.GetOverflowCount() != 1 {
		t.Error(i)
	}
	if n := all.GetNextInspection(); n.GetSchemaRevision() != "new" || n.GetWatermark() != 40 {
		t.Error(n)
	}
	if e := all.GetEntries()[0]; e.GetEventCount() != 3 || e.GetOccurrenceCount() != 4 || e.GetExampleEventId() != "sandbox.a" || !e.GetFirstSeenTime().AsTime().Equal(at(1)) || !e.GetLastSeenTime().AsTime().Equal(at(2)) {
		t.Error(e)
	}

	// Pages, and a token that belongs to another request.
	var paths []string
	req := &pb.ListSchemaDriftRequest{PageSize: 1, EventTypes: []string{"PNR_V3"}}
	for pages := 0; ; pages++ {
		page, err := client.ListSchemaDrift(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range page.GetEntries() {
			paths = append(paths, e.GetPath())
		}
		if req.PageToken = page.GetNextPageToken(); req.PageToken == "" || pages > 9 {
			break
		}
	}
	if !slices.Equal(paths, []string{"$.payload.version", "$.payload.a", "$.payload.b"}) {
		t.Error(paths)
	}
	first, err := client.ListSchemaDrift(t.Context(), &pb.ListSchemaDriftRequest{PageSize: 1})
	if err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string]*pb.ListSchemaDriftRequest{
		"INVALID_PAGE_TOKEN page_token": {PageToken: first.GetNextPageToken(), EventTypes: []string{"PNR_V3"}},
		"INVALID_FIELD kinds[1]":        {Kinds: []pb.IssueKind{pb.IssueKind_ISSUE_KIND_UNKNOWN_FIELD, pb.IssueKind_ISSUE_KIND_CONFLICT}},
		"INVALID_FIELD event_types[0]":  {EventTypes: []string{""}},
		"INVALID_FIELD event_types":     {EventTypes: slices.Repeat([]string{"x"}, 101)},
		"INVALID_FIELD page_size":       {PageSize: -1},
	} {
		_, err := client.ListSchemaDrift(t.Context(), bad)
		if code, info := infoOf(t, err); code != codes.InvalidArgument || info.GetReason()+" "+info.GetMetadata()["field"] != name {
			t.Errorf("%s: %v", name, err)
		}
	}

	// Filters; over REST with short names.
	got, err := client.ListSchemaDrift(t.Context(), &pb.ListSchemaDriftRequest{FirstSeenSince: timestamppb.New(at(5))})
	if err != nil || len(got.GetEntries()) != 1 || got.GetEntries()[0].GetPath() != "$.payload.b" {
		t.Error(err, got)
	}
	var rest pb.ListSchemaDriftResponse
	f.get(t, "/v1/schemaDrift?kinds=deprecated_field&kinds=TYPE_MISMATCH&page_size=9").decode(t, &rest)
	if len(rest.GetEntries()) != 2 || rest.GetInspection().GetWatermark() != 90 {
		t.Error(&rest)
	}

	// Before the first inspection, and when history cannot be read.
	f.drift.run, f.drift.next, f.drift.entries = bridge.DriftRun{}, nil, nil
	if got, err := client.ListSchemaDrift(t.Context(), &pb.ListSchemaDriftRequest{}); err != nil || got.Inspection != nil || got.NextInspection != nil {
		t.Error(err, got)
	}
	f.drift.err = bridge.HistoryUnavailable(context.DeadlineExceeded)
	if _, err := client.ListSchemaDrift(t.Context(), &pb.ListSchemaDriftRequest{}); status.Code(err) != codes.Unavailable {
		t.Error(err)
	}
}
