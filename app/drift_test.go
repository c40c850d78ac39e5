package app_test

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/spotbridge/spotbridge/app"
	"github.com/spotbridge/spotbridge/bridge/bridgetest/samples"
	"github.com/spotbridge/spotbridge/bridge/payload"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

// drift returns all drift, when everything that came was inspected.
func (r *running) drift(t testing.TB, req *pb.ListSchemaDriftRequest) (out *pb.ListSchemaDriftResponse) {
	t.Helper()
	eventually(t, func() bool {
		var err error
		out, err = pb.NewCatalogServiceClient(r.conn).ListSchemaDrift(t.Context(), req)
		if status.Code(err) == codes.Unavailable { // history is being built
			return false
		}
		if err != nil {
			t.Fatal(err)
		}
		return out.GetHead() > 0 && out.GetInspection().GetWatermark() == out.GetHead() && out.GetNextInspection() == nil
	})
	return out
}

// expected is what inspecting the accepted bodies one by one gives.
func expected(accepted []*samples.Delivery) (out []string) {
	type key struct {
		eventType string
		kind      pb.IssueKind
		path      string
	}
	events, places := map[key]int{}, map[key]int{}
	c := payload.New()
	for _, d := range accepted {
		for _, x := range c.Inspect(d.EventType, d.Body).Drift {
			k := key{d.EventType, x.Kind, x.Path}
			events[k]++
			places[k] += x.Count
		}
	}
	for k, n := range events {
		out = append(out, fmt.Sprintf("%s %s %s %d %d", k.eventType, k.kind, k.path, n, places[k]))
	}
	slices.Sort(out)
	return out
}

func counted(r *pb.ListSchemaDriftResponse) (out []string) {
	for _, e := range r.GetEntries() {
		out = append(out, fmt.Sprintf("%s %s %s %d %d", e.GetEventType(), e.GetKind(), e.GetPath(), e.GetEventCount(), e.GetOccurrenceCount()))
	}
	slices.Sort(out)
	return out
}

// deliverAll delivers the samples and returns those that became events.
func (r *running) deliverAll(t testing.TB) (accepted []*samples.Delivery) {
	t.Helper()
	all := samples.Deliveries()
	for i := range all {
		code, status := r.deliver(t, &all[i])
		if code != http.StatusOK {
			t.Fatalf("%s: %d %s", all[i].File, code, status)
		}
		if status == "accepted" {
			accepted = append(accepted, &all[i])
		}
	}
	r.applied(t, len(accepted))
	return accepted
}

// metric returns the value of a metric, with its labels in the name.
func (r *running) metric(t testing.TB, name string) string {
	t.Helper()
	resp, err := http.Get("http://" + r.AdminAddr() + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// metricIs waits for a metric to have a value: it is set a moment after what it is about can be seen.
func (r *running) metricIs(t testing.TB, name string, want int) {
	t.Helper()
	eventually(t, func() bool { return r.metric(t, name) == strconv.Itoa(want) })
}

// TestDriftIsCompleteThoughNobodySubscribes: every event is inspected exactly once, live, after a restart, and when the
// projection is rebuilt.
func TestDriftIsCompleteThoughNobodySubscribes(t *testing.T) {
	cfg := testConfig(t)
	r := start(t, cfg, app.Options{})
	accepted := r.deliverAll(t)
	want := expected(accepted)
	check := func(what string, events int) *pb.ListSchemaDriftResponse {
		t.Helper()
		got := r.drift(t, &pb.ListSchemaDriftRequest{PageSize: 1000})
		if d := counted(got); !slices.Equal(d, want) {
			t.Errorf("%s:\n%s\nwant:\n%s", what, strings.Join(d, "\n"), strings.Join(want, "\n"))
		}
		if i := got.GetInspection(); i.GetEventCount() != int64(events) || i.GetSkippedCount() != 0 || i.GetOverflowCount() != 0 || i.GetSchemaRevision() != payload.New().Revision() {
			t.Errorf("%s: %v", what, i)
		}
		return got
	}
	all := check("live", len(accepted))
	r.metricIs(t, `spotbridge_drift_inspected_events_total{from="live"}`, len(accepted))
	kinds := map[pb.IssueKind]int{}
	for _, e := range all.GetEntries() {
		kinds[e.GetKind()]++
		got, err := pb.NewEventServiceClient(r.conn).GetEvent(t.Context(), &pb.GetEventRequest{EventId: e.GetExampleEventId()})
		if err != nil || got.GetEvent().GetEventType() != e.GetEventType() || !got.GetEvent().GetAppendTime().AsTime().Equal(e.GetLastSeenTime().AsTime()) {
			t.Errorf("%s: example %s: %v", e.GetPath(), e.GetExampleEventId(), err)
		}
	}
	if kinds[pb.IssueKind_ISSUE_KIND_UNKNOWN_FIELD] == 0 || kinds[pb.IssueKind_ISSUE_KIND_DEPRECATED_FIELD] == 0 {
		t.Errorf("the samples show nothing: %v", kinds)
	}
	for kind, n := range kinds {
		r.metricIs(t, fmt.Sprintf(`spotbridge_drift_entries{kind="%s"}`, strings.TrimPrefix(kind.String(), "ISSUE_KIND_")), n)
	}
	// Filters and pages, over REST.
	var unknown pb.ListSchemaDriftResponse
	r.get(t, "/v1/schemaDrift?kinds=UNKNOWN_FIELD&event_types=TRIP_DETAILS_V3&page_size=1", &unknown)
	if len(unknown.GetEntries()) != 1 || unknown.GetEntries()[0].GetKind() != pb.IssueKind_ISSUE_KIND_UNKNOWN_FIELD || unknown.GetEntries()[0].GetEventType() != "TRIP_DETAILS_V3" {
		t.Error(&unknown)
	}

	// A restart goes on where it was; an event that comes is added.
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	r = start(t, cfg, app.Options{})
	check("after a restart", len(accepted))
	if n := r.metric(t, `spotbridge_drift_inspected_events_total{from="history"}`); n != "" && n != "0" {
		t.Errorf("%s events were inspected again", n)
	}

	// It goes with the projection and comes back with it.
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	removeProjection(t, cfg.DataDir)
	r = start(t, cfg, app.Options{})
	check("rebuilt", len(accepted))
}
