package projection

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/spotbridge/spotbridge/bridge"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

func filter(t testing.TB, m *pb.EventFilter) *bridge.Filter {
	t.Helper()
	f, err := bridge.CompileFilter(m, "filter")
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// TestGetFindsTheExactBody for small, large and odd bodies.
func TestGetFindsTheExactBody(t *testing.T) {
	log := newFakeLog()
	bodies := map[string]string{
		"tiny":   `{"event_type":"X"}`,
		"spaces": "  {\"event_type\" : \"X\"}\r\n",
		"bom":    "\xef\xbb\xbf{\"event_type\":\"X\"}",
		"utf8":   "{\"event_type\":\"X\",\"a\":\"\xff\xfe\"}",
		"large":  `{"event_type":"X","a":"` + strings.Repeat("repeated text ", 100_000) + `"}`,
		"odd id": `{"event_type":"X"}`,
	}
	for name, body := range bodies {
		e := event(name, body, t0)
		if name == "odd id" {
			e.WebhookID, e.EventID = "späte/ID?", bridge.EventID("sandbox", "späte/ID?")
		}
		log.append(e)
	}
	p := projected(t, Config{}, log)
	for name, body := range bodies {
		id := bridge.EventID("sandbox", name)
		if name == "odd id" {
			id = bridge.EventID("sandbox", "späte/ID?")
		}
		e, err := p.Get(t.Context(), id)
		if err != nil || string(e.Body) != body || e.BodySize != len(body) || e.EventID != id {
			t.Errorf("%s: %v", name, err)
			continue
		}
		ev, err := e.Event(pb.EventView_EVENT_VIEW_RAW, 0)
		if err != nil || string(ev.GetRawBody()) != body || !strings.HasPrefix(ev.GetTrace().GetTraceId(), "trace-") {
			t.Errorf("%s: %v %v", name, ev, err)
		}
		if got, want := fmt.Sprintf("%+v", e.Meta), fmt.Sprintf("%+v", bridge.MetaOf(ev)); got != want {
			t.Errorf("meta:\n got %s\nwant %s", got, want)
		}
	}
	for _, id := range []string{"", "sandbox.", "sandbox.TINY", "production.tiny"} {
		if _, err := p.Get(t.Context(), id); bridge.ReasonOf(err) != pb.ErrorReason_ERROR_REASON_EVENT_NOT_FOUND {
			t.Errorf("%q: %v", id, err)
		}
	}
}

// TestMetaOf holds metaOf and bridge.MetaOf together, on messages with every field.
func TestMetaOf(t *testing.T) {
	version := int32(-3)
	for _, ev := range []*pb.Event{
		{},
		{OtherOrganizationIds: []string{"without a first one"}},
		{
			Id: "s.1", Source: "s", WebhookId: "1", EventType: "T", Operation: "O", OrganizationId: "a", OtherOrganizationIds: []string{"b", "c"},
			Entity: &pb.EntityRef{Kind: pb.EntityKind_ENTITY_KIND_PNR, Id: "e", Version: &version}, PnrId: "p", TripId: "t", TravelerIds: []string{"x", "y"},
			Sequence: 1 << 60, Ordering: pb.Ordering_ORDERING_STALE, ApiVersion: "v", OperationSummary: &pb.OperationSummary{TicketsIssued: []string{"1"}},
		},
	} {
		b, err := proto.Marshal(ev)
		if err != nil {
			t.Fatal(err)
		}
		got, err := metaOf(b)
		want := bridge.MetaOf(ev)
		if ev.AppendTime == nil {
			want.AppendTime = time.Time{} // an event always has one
		}
		if err != nil || fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", want) {
			t.Errorf("got %+v, %v\nwant %+v", got, err, want)
		}
	}
	if _, err := metaOf([]byte("\x0a\xff")); !isCorrupt(err) {
		t.Errorf("damaged envelope: %v", err)
	}
}

// TestListSeesASnapshot: what comes after the first page is not part of the listing.
func TestListSeesASnapshot(t *testing.T) {
	for _, oldest := range []bool{false, true} {
		log := newFakeLog()
		for i := range 10 {
			log.append(event(fmt.Sprint(i), pnr("OP", "o", fmt.Sprint(i), 1, ""), t0))
		}
		p := projected(t, Config{}, log)
		f := filter(t, &pb.EventFilter{Operations: []string{"OP"}})
		req := bridge.ListRequest{Filter: f, PageSize: 4, OldestFirst: oldest, LatestPerEntity: true}
		var got []uint64
		for {
			out, err := p.List(t.Context(), req)
			if err != nil {
				t.Fatal(err)
			}
			if got = append(got, seqsOf(out.Events)...); out.Next == 0 {
				break
			}
			req.Resume, req.Snapshot = out.Next, out.Snapshot
			log.append(event(fmt.Sprint("late", len(got)), pnr("OP", "o", "1", 9, ""), t0))
			caughtUp(t, p, log)
		}
		slices.Sort(got)
		if !slices.Equal(got, []uint64{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}) {
			t.Errorf("oldest %v: %v", oldest, got)
		}
	}
}

// TestUnknownValueAnswersAtOnce without looking at a row.
func TestUnknownValueAnswersAtOnce(t *testing.T) {
	log := newFakeLog()
	log.append(event("1", pnr("OP", "o", "1", 1, ""), t0))
	p := projected(t, Config{}, log)
	for _, m := range []*pb.EventFilter{
		{EventTypes: []string{"unseen"}}, {Operations: []string{"unseen"}}, {OrganizationIds: []string{"unseen"}}, {Sources: []string{"unseen"}}, {EntityIds: []string{"unseen"}},
		{Operations: []string{"OP"}, OrganizationIds: []string{"unseen"}},
	} {
		st := p.st
		pl, err := p.plan(t.Context(), st, filter(t, m), 1)
		if err != nil || !pl.empty {
			t.Errorf("%v: %+v, %v", m, pl, err)
		}
		if out, err := p.List(t.Context(), bridge.ListRequest{Filter: filter(t, m), PageSize: 10}); err != nil || len(out.Events) != 0 || out.Next != 0 {
			t.Errorf("%v: %+v, %v", m, out, err)
		}
		if out, err := p.Scan(t.Context(), bridge.ScanRequest{Filter: filter(t, m), UpTo: 1, MaxEvents: 10}); err != nil || len(out.Events) != 0 || out.Next != 1 {
			t.Errorf("%v: %+v, %v", m, out, err)
		}
	}
}

// TestShortPageHasAToken: a call looks at a bounded number of rows and then says where to go on, for every kind of
// driving selection.
func TestShortPageHasAToken(t *testing.T) {
	log := newFakeLog()
	for i := range 1000 {
		body := pnr("COMMON", "org", "1", i, "")
		if i == 3 || i == 990 {
			body = strings.Replace(pnr("COMMON", "org", "1", i, ""), `"payload":{`, `"payload":{"pnrTravelers":[{"userId":"p"}],`, 1)
			body = strings.Replace(body, "T1", "T2", 1)
		}
		log.append(event(fmt.Sprint(i), body, t0))
	}
	p := projected(t, Config{}, log)
	p.looked = 100
	for name, m := range map[string]*pb.EventFilter{
		"primary key": {TripIds: nil, EventTypes: []string{"PNR_V3"}, TravelerIds: nil, ExcludeOperations: []string{"COMMON"}},
		"id":          {PnrIds: []string{"1"}, TripIds: []string{"T2"}},
		"entity":      {EntityIds: []string{"1"}, TripIds: []string{"T2"}},
	} {
		for _, oldest := range []bool{false, true} {
			req := bridge.ListRequest{Filter: filter(t, m), PageSize: 50, OldestFirst: oldest}
			var pages, events int
			for {
				out, err := p.List(t.Context(), req)
				if err != nil {
					t.Fatal(err)
				}
				pages++
				if events += len(out.Events); out.Next == 0 {
					break
				}
				req.Resume, req.Snapshot = out.Next, out.Snapshot
			}
			want := 2
			if name == "primary key" {
				want = 0
			}
			if pages != 10 || events != want {
				t.Errorf("%s, oldest %v: %d events in %d pages", name, oldest, events, pages)
			}
		}
		var scans, events int
		for after := uint64(0); after < 1000; scans++ {
			out, err := p.Scan(t.Context(), bridge.ScanRequest{Filter: filter(t, m), After: after, UpTo: 1000, MaxEvents: 50})
			if err != nil || out.Next <= after {
				t.Fatalf("%s: %+v, %v", name, out, err)
			}
			after, events = out.Next, events+len(out.Events)
		}
		if scans != 10 {
			t.Errorf("%s: %d scans, %d events", name, scans, events)
		}
	}
}

// TestHotEntity: an entity with very many events, whose highest is the oldest, costs one comparison and not one for each.
func TestHotEntity(t *testing.T) {
	log := newFakeLog()
	log.append(event("first", pnr("OP", "o", "1", 99, ""), t0))
	for i := range 1000 {
		log.append(event(fmt.Sprint(i), pnr("OP", "o", "1", 1, ""), t0))
	}
	p := projected(t, Config{}, log)
	begin := time.Now()
	out, err := p.List(t.Context(), bridge.ListRequest{PageSize: 10, LatestPerEntity: true})
	if err != nil || len(out.Events) != 1 || out.Events[0].Sequence != 1 || out.Next != 0 {
		t.Errorf("%v, next %d, %v", seqsOf(out.Events), out.Next, err)
	}
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("took %v", took)
	}
}

// TestSequenceAt finds the position before a time, whatever lies between.
func TestSequenceAt(t *testing.T) {
	log := newFakeLog()
	for i, s := range []int{0, 0, 10, 10, 20} {
		log.append(event(fmt.Sprint(i), `{"event_type":"X"}`, t0.Add(time.Duration(s)*time.Second)))
	}
	log.append(quarantine("q", "", pb.DeliveryCause_DELIVERY_CAUSE_EMPTY_BODY, t0.Add(time.Minute)))
	p := projected(t, Config{}, log)
	for s, want := range map[float64]uint64{-1e6: 0, 0: 0, 0.1: 2, 10: 2, 10.000000001: 4, 20: 4, 21: 6, 1e9: 6} {
		got, err := p.SequenceAt(t.Context(), t0.Add(time.Duration(s*1e9)))
		if err != nil || got != want {
			t.Errorf("%v: %d, %v, want %d", s, got, err, want)
		}
	}
}

// TestEmptyProjection answers everything.
func TestEmptyProjection(t *testing.T) {
	p := projected(t, Config{}, newFakeLog())
	b, err := p.Bounds(t.Context())
	if err != nil || b.Floor != 1 || b.Watermark != 0 || !b.FloorTime.IsZero() {
		t.Errorf("bounds %+v, %v", b, err)
	}
	if out, err := p.List(t.Context(), bridge.ListRequest{PageSize: 10, LatestPerEntity: true}); err != nil || len(out.Events) != 0 || out.Next != 0 {
		t.Errorf("list %+v, %v", out, err)
	}
	if out, err := p.Count(t.Context(), bridge.CountRequest{GroupBy: []pb.CountGroup{pb.CountGroup_COUNT_GROUP_HOUR}}); err != nil || out.Total != 0 || len(out.Counts) != 0 {
		t.Errorf("count %+v, %v", out, err)
	}
	if types, err := p.EventTypes(t.Context()); err != nil || len(types) != 0 {
		t.Errorf("types %v, %v", types, err)
	}
}

// TestEventTypes counts what came, by type and operation.
func TestEventTypes(t *testing.T) {
	log := newFakeLog()
	for i := range 3 {
		log.append(event(fmt.Sprint(i), pnr("OP", "o", "1", i, ""), t0.Add(time.Duration(i)*time.Second)))
	}
	log.append(event("x", `{"event_type":"X"}`, t0.Add(time.Hour)))
	p := projected(t, Config{}, log)
	got, err := p.EventTypes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := []bridge.SeenType{
		{EventType: "PNR_V3", Operation: "OP", Count: 3, LastSeen: t0.Add(2 * time.Second)},
		{EventType: "X", Count: 1, LastSeen: t0.Add(time.Hour)},
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// TestCountLeavesOutTheSmallest above the limit, and keeps the total.
func TestCountLeavesOutTheSmallest(t *testing.T) {
	log := newFakeLog()
	for i := range 20 {
		for n := range i + 1 {
			log.append(event(fmt.Sprint(i, "-", n), pnr(fmt.Sprintf("OP%02d", i), "o", "1", 1, ""), t0.Add(time.Duration(i/18)*time.Hour)))
		}
	}
	p := projected(t, Config{}, log)
	out, err := p.Count(t.Context(), bridge.CountRequest{GroupBy: []pb.CountGroup{pb.CountGroup_COUNT_GROUP_HOUR, pb.CountGroup_COUNT_GROUP_OPERATION}, MaxRows: 4})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range out.Counts {
		got = append(got, fmt.Sprint(c.GetOperation(), c.GetCount(), c.GetHour().AsTime().Hour()))
	}
	if !out.Truncated || out.Total != 210 || !slices.Equal(got, []string{"OP1718 12", "OP1617 12", "OP1920 13", "OP1819 13"}) {
		t.Errorf("%v %d %v", out.Truncated, out.Total, got)
	}
}

// TestErrorsAreOfTheDomain: a closed file is HISTORY_UNAVAILABLE, an ended context is the context's error.
func TestErrorsAreOfTheDomain(t *testing.T) {
	log := newFakeLog()
	log.append(event("1", `{"event_type":"X"}`, t0))
	dir := t.TempDir()
	p, err := Open(t.Context(), Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	stop := run(t, func(ctx context.Context) error { return p.Run(ctx, log, nil) })
	caughtUp(t, p, log)
	stop()
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := p.List(ended, bridge.ListRequest{PageSize: 1}); !errors.Is(err, context.Canceled) {
		t.Errorf("ended context: %v", err)
	}
	p.Close()
	if _, err := p.List(t.Context(), bridge.ListRequest{PageSize: 1}); bridge.ReasonOf(err) != pb.ErrorReason_ERROR_REASON_HISTORY_UNAVAILABLE {
		t.Errorf("closed: %v", err)
	}
	if _, err := p.Get(t.Context(), "x"); bridge.ReasonOf(err) != pb.ErrorReason_ERROR_REASON_HISTORY_UNAVAILABLE {
		t.Errorf("closed: %v", err)
	}
}
