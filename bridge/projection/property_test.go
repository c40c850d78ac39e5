package projection

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/spotbridge/spotbridge/bridge"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

// Few values, so that filters meet events; some that no event has, some hostile.
var (
	genTypes  = []string{"PNR_V3", "TRIP_DETAILS_V3", "TRAVELER_V2", "NEW_TYPE", "with \"quote\" and ' and \x01", "never"}
	genOps    = []string{"", "BOOKING_CREATED", "BOOKING_UPDATED", "TICKETED", "a.b*>", "never"}
	genOrgs   = []string{"org-1", "org-2", "org-3", "org-with-a-very-long-name-that-is-not-short", "never"}
	genSrcs   = []string{"sandbox", "production", "never"}
	genIDs    = []string{"1", "2", "3", "6789533589", "an-id-that-is-longer-than-sixteen-bytes", "never"}
	genPeople = []string{"p1", "p2", "p3", "a-traveler-id-longer-than-sixteen-bytes", "never"}
)

// but returns all values but the last, which no event has.
func but(values []string) []string { return values[:len(values)-1] }

func genBody(r *rapid.T) string {
	var f []string
	typ := rapid.SampledFrom(but(genTypes)).Draw(r, "type")
	f = append(f, fmt.Sprintf(`"event_type":%s`, quoteJSON(typ)))
	if op := rapid.SampledFrom(but(genOps)).Draw(r, "op"); op != "" {
		f = append(f, fmt.Sprintf(`"operation":%s`, quoteJSON(op)))
	}
	if rapid.Bool().Draw(r, "timed") {
		f = append(f, fmt.Sprintf(`"timestamp":%q`, t0.Add(time.Duration(rapid.IntRange(0, 5).Draw(r, "time"))*time.Minute).Format(time.RFC3339)))
	}
	var orgs []string
	for range rapid.SampledFrom([]int{0, 1, 1, 1, 2, 3}).Draw(r, "orgs") {
		orgs = append(orgs, fmt.Sprintf(`{"organizationId":%q}`, genMany(r, "org", genOrgs)))
	}
	f = append(f, `"audience":[`+strings.Join(orgs, ",")+`]`)
	var people []string
	for range rapid.IntRange(0, 3).Draw(r, "people") {
		people = append(people, fmt.Sprintf(`{"userId":{"id":%q}}`, genMany(r, "person", genPeople)))
	}
	id, trip := genMany(r, "id", genIDs), rapid.SampledFrom(but(genIDs)).Draw(r, "trip")
	payload := fmt.Sprintf(`"pnrId":%q,"tripId":%q,"id":%q,"basicTripInfo":{"tripId":%q},"pnrTravelers":[%s]`, id, trip, rapid.SampledFrom(but(genPeople)).Draw(r, "user"), trip, strings.Join(people, ","))
	if rapid.Bool().Draw(r, "versioned") {
		payload += fmt.Sprintf(`,"version":%d`, rapid.IntRange(0, 4).Draw(r, "version"))
	}
	return "{" + strings.Join(f, ",") + `,"payload":{` + payload + "}}"
}

// genMany draws one of the values, or one of many others.
func genMany(r *rapid.T, name string, values []string) string {
	if rapid.IntRange(0, 2).Draw(r, name+" many") == 0 {
		return fmt.Sprintf("many-%d", rapid.IntRange(0, 149).Draw(r, name))
	}
	return rapid.SampledFrom(but(values)).Draw(r, name)
}

func quoteJSON(s string) string {
	return `"` + strings.NewReplacer(`"`, `\"`, "\x01", `\u0001`).Replace(s) + `"`
}

func genLog(r *rapid.T, n int) *fakeLog {
	log := newFakeLog()
	at := t0
	seq := uint64(0)
	for i := range n {
		at = at.Add(time.Duration(rapid.SampledFrom([]int{-5, 0, 0, 1, 7, 61, 1800, 4000}).Draw(r, "step")) * time.Second)
		seq += uint64(rapid.SampledFrom([]int{1, 1, 1, 2, 5}).Draw(r, "gap"))
		var e *bridge.Entry
		if id := fmt.Sprintf("w%d", i); rapid.IntRange(0, 9).Draw(r, "kind") == 0 {
			e = quarantine(id, "not json", pb.DeliveryCause_DELIVERY_CAUSE_NOT_JSON, at)
		} else {
			e = event(id, genBody(r), at)
			e.Source = rapid.SampledFrom(but(genSrcs)).Draw(r, "source")
			e.EventID = bridge.EventID(e.Source, id)
		}
		e.Sequence = seq
		log.append(e)
	}
	return log
}

func genFilter(r *rapid.T) *bridge.Filter {
	some := func(name string, values []string) []string {
		n := rapid.SampledFrom([]int{0, 0, 0, 1, 1, 2, 3}).Draw(r, name)
		var out []string
		for range n {
			if v := rapid.SampledFrom(values).Draw(r, name); v != "" {
				out = append(out, v)
			}
		}
		return out
	}
	m := &pb.EventFilter{
		EventTypes: some("types", genTypes), Operations: some("operations", genOps), OrganizationIds: some("organizations", genOrgs),
		Sources: some("sources", genSrcs), ExcludeStale: rapid.Bool().Draw(r, "fresh"),
	}
	if rapid.Bool().Draw(r, "by id") {
		m.EntityIds, m.PnrIds, m.TripIds, m.TravelerIds = some("entities", append(genIDs, "p1")), some("pnrs", genIDs), some("trips", genIDs), some("travelers", genPeople)
	}
	if rapid.IntRange(0, 3).Draw(r, "many") == 0 {
		// More values than a statement lists.
		dst := rapid.SampledFrom([]*[]string{&m.OrganizationIds, &m.PnrIds, &m.TravelerIds, &m.EntityIds, &m.EventTypes}).Draw(r, "where")
		for i := range 150 {
			*dst = append(*dst, fmt.Sprintf("many-%d", i))
		}
	}
	for _, op := range some("excluded", genOps) {
		if !slices.Contains(m.Operations, op) {
			m.ExcludeOperations = append(m.ExcludeOperations, op)
		}
	}
	f, err := bridge.CompileFilter(m, "filter")
	if err != nil {
		r.Fatalf("filter: %v", err)
	}
	return f
}

// model is what the projection should hold: the events as the sink got them.
type model struct{ events []*bridge.Encoded }

func (m model) match(f *bridge.Filter, start, end time.Time) []*bridge.Encoded {
	var out []*bridge.Encoded
	for _, e := range m.events {
		if f.Match(&e.Meta) && (start.IsZero() || !e.AppendTime.Before(start)) && (end.IsZero() || e.AppendTime.Before(end)) {
			out = append(out, e)
		}
	}
	return out
}

func seqsOf(events []*bridge.Encoded) []uint64 {
	out := []uint64{}
	for _, e := range events {
		out = append(out, e.Sequence)
	}
	return out
}

func genTimes(r *rapid.T) (start, end time.Time) {
	span := rapid.SampledFrom([]int{10, 4000, 40000, 400000}).Draw(r, "span")
	if rapid.Bool().Draw(r, "start") {
		start = t0.Add(time.Duration(rapid.IntRange(-10, span).Draw(r, "from")) * time.Second)
	}
	if rapid.Bool().Draw(r, "end") {
		end = t0.Add(time.Duration(rapid.IntRange(-10, span).Draw(r, "to")) * time.Second)
	}
	if rapid.Bool().Draw(r, "hours") {
		start, end = start.Truncate(time.Hour), end.Truncate(time.Hour)
	}
	return start, end
}

// TestQueriesAgreeWithFilterMatch holds List, Scan, Load, Count and the live predicate to one verdict on every event.
func TestQueriesAgreeWithFilterMatch(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		log := genLog(r, rapid.IntRange(0, 120).Draw(r, "entries"))
		sink := &collector{}
		p := projectedInto(t, r, log, sink)
		m := model{sink.all()}
		rounds := 12
		if testing.Short() {
			rounds = 4
		}
		for range rounds {
			f := genFilter(r)
			start, end := genTimes(r)
			checkList(t, r, p, m, f, start, end)
			checkScan(t, r, p, m, f)
			checkLoad(t, r, p, m)
			checkCount(t, r, p, m, f, start, end)
		}
	})
}

func checkList(t *testing.T, r *rapid.T, p *Projection, m model, f *bridge.Filter, start, end time.Time) {
	oldest, latest, bodies := rapid.Bool().Draw(r, "oldest"), rapid.IntRange(0, 2).Draw(r, "latest") == 0, rapid.Bool().Draw(r, "bodies")
	want := m.match(f, start, end)
	if latest {
		want = bruteLatest(want)
	}
	if !oldest {
		slices.Reverse(want)
	}
	var got []*bridge.Encoded
	req := bridge.ListRequest{Filter: f, StartTime: start, EndTime: end, OldestFirst: oldest, LatestPerEntity: latest, Bodies: bodies}
	for pages := 0; ; pages++ {
		req.PageSize, req.MaxBytes = rapid.SampledFrom([]int{1, 2, 3, 7, 50, 1000}).Draw(r, "size"), rapid.SampledFrom([]int{0, 1, 2000}).Draw(r, "bytes")
		out, err := p.List(t.Context(), req)
		if err != nil {
			r.Fatalf("list %v: %v", f.Message, err)
		}
		if len(out.Events) > req.PageSize {
			r.Fatalf("page of %d events instead of %d", len(out.Events), req.PageSize)
		}
		got = append(got, out.Events...)
		if out.Next == 0 {
			break
		}
		if out.Next == req.Resume || pages > 1000 {
			r.Fatalf("the listing does not come on: %d", out.Next)
		}
		req.Resume, req.Snapshot = out.Next, out.Snapshot
	}
	if !slices.Equal(seqsOf(got), seqsOf(want)) {
		r.Fatalf("list %v from %v to %v, oldest %v, latest %v:\n got %v\nwant %v", f.Message, start, end, oldest, latest, seqsOf(got), seqsOf(want))
	}
	checkSame(r, got, want, bodies)
}

func checkSame(r *rapid.T, got, want []*bridge.Encoded, bodies bool) {
	for i, e := range got {
		w := want[i]
		if string(e.Envelope) != string(w.Envelope) || e.BodySize != w.BodySize || (bodies && string(e.Body) != string(w.Body)) || (!bodies && e.Body != nil) {
			r.Fatalf("event %d is not as it was published", e.Sequence)
		}
		if g, w := fmt.Sprintf("%+v", e.Meta), fmt.Sprintf("%+v", w.Meta); g != w {
			r.Fatalf("meta:\n got %v\nwant %v", g, w)
		}
	}
}

func checkScan(t *testing.T, r *rapid.T, p *Projection, m model, f *bridge.Filter) {
	after := uint64(rapid.IntRange(0, int(p.Watermark())+2).Draw(r, "after"))
	upTo := uint64(rapid.IntRange(0, int(p.Watermark())+2).Draw(r, "up to"))
	bodies := rapid.Bool().Draw(r, "scan bodies")
	var want, got []*bridge.Encoded
	for _, e := range m.match(f, time.Time{}, time.Time{}) {
		if e.Sequence > after && e.Sequence <= upTo {
			want = append(want, e)
		}
	}
	for last := min(upTo, p.Watermark()); after < last; {
		out, err := p.Scan(t.Context(), bridge.ScanRequest{
			Filter: f, After: after, UpTo: upTo, Bodies: bodies,
			MaxEvents: rapid.SampledFrom([]int{1, 3, 100}).Draw(r, "events"), MaxBytes: rapid.SampledFrom([]int{1, 3000, 1 << 20}).Draw(r, "scan bytes"),
		})
		if err != nil {
			r.Fatalf("scan %v: %v", f.Message, err)
		}
		if out.Next <= after {
			r.Fatalf("scan does not come on from %d", after)
		}
		got, after = append(got, out.Events...), out.Next
	}
	if !slices.Equal(seqsOf(got), seqsOf(want)) {
		r.Fatalf("scan %v:\n got %v\nwant %v", f.Message, seqsOf(got), seqsOf(want))
	}
	checkSame(r, got, want, bodies)
}

func checkLoad(t *testing.T, r *rapid.T, p *Projection, m model) {
	bodies := rapid.Bool().Draw(r, "load bodies")
	var seqs []uint64
	step := rapid.SampledFrom([]int{1, 1, 2, 10}).Draw(r, "step")
	for seq := 0; seq <= int(p.Watermark())+3; {
		seq += rapid.IntRange(1, step).Draw(r, "next")
		seqs = append(seqs, uint64(seq))
	}
	var want, got []*bridge.Encoded
	for _, e := range m.match(nil, time.Time{}, time.Time{}) {
		if slices.Contains(seqs, e.Sequence) {
			want = append(want, e)
		}
	}
	for {
		out, err := p.Load(t.Context(), bridge.LoadRequest{Sequences: seqs, Bodies: bodies, MaxBytes: rapid.SampledFrom([]int{0, 1, 3000, 1 << 20}).Draw(r, "load bytes")})
		if err != nil {
			r.Fatalf("load: %v", err)
		}
		got = append(got, out.Events...)
		looked, _ := slices.BinarySearch(seqs, out.Next+1)
		if seqs = seqs[looked:]; looked == 0 {
			break
		}
	}
	if len(seqs) == 0 || seqs[0] <= p.Watermark() {
		r.Fatalf("load ends before %v, with the watermark %d", seqs, p.Watermark())
	}
	if !slices.Equal(seqsOf(got), seqsOf(want)) {
		r.Fatalf("load:\n got %v\nwant %v", seqsOf(got), seqsOf(want))
	}
	checkSame(r, got, want, bodies)
}

func checkCount(t *testing.T, r *rapid.T, p *Projection, m model, f *bridge.Filter, start, end time.Time) {
	var groups []pb.CountGroup
	for _, g := range []pb.CountGroup{pb.CountGroup_COUNT_GROUP_EVENT_TYPE, pb.CountGroup_COUNT_GROUP_OPERATION, pb.CountGroup_COUNT_GROUP_ORGANIZATION, pb.CountGroup_COUNT_GROUP_HOUR} {
		if rapid.Bool().Draw(r, "group") {
			groups = append(groups, g)
		}
	}
	out, err := p.Count(t.Context(), bridge.CountRequest{Filter: f, StartTime: start, EndTime: end, GroupBy: groups, MaxRows: 10_000})
	if err != nil {
		r.Fatalf("count %v: %v", f.Message, err)
	}
	want := map[string]int64{}
	events := m.match(f, start, end)
	for _, e := range events {
		orgs := []string{""}
		if slices.Contains(groups, pb.CountGroup_COUNT_GROUP_ORGANIZATION) && len(e.Organizations) > 0 {
			orgs = e.Organizations
		}
		for _, org := range orgs {
			key := fmt.Sprintf("%q", org)
			if slices.Contains(groups, pb.CountGroup_COUNT_GROUP_EVENT_TYPE) {
				key += " " + e.EventType
			}
			if slices.Contains(groups, pb.CountGroup_COUNT_GROUP_OPERATION) {
				key += " " + e.Operation
			}
			if slices.Contains(groups, pb.CountGroup_COUNT_GROUP_HOUR) {
				key += " " + e.AppendTime.Truncate(time.Hour).String()
			}
			want[key]++
		}
	}
	got := map[string]int64{}
	for _, c := range out.Counts {
		key := fmt.Sprintf("%q", c.GetOrganizationId())
		if slices.Contains(groups, pb.CountGroup_COUNT_GROUP_EVENT_TYPE) {
			key += " " + c.GetEventType()
		}
		if slices.Contains(groups, pb.CountGroup_COUNT_GROUP_OPERATION) {
			key += " " + c.GetOperation()
		}
		if slices.Contains(groups, pb.CountGroup_COUNT_GROUP_HOUR) {
			key += " " + c.GetHour().AsTime().String()
		}
		got[key] += c.GetCount()
	}
	if out.Total != int64(len(events)) || fmt.Sprint(got) != fmt.Sprint(want) {
		r.Fatalf("count %v from %v to %v by %v:\n got %d %v\nwant %d %v", f.Message, start, end, groups, out.Total, got, len(events), want)
	}
}

// bruteLatest leaves the highest event of each entity, in log order.
func bruteLatest(events []*bridge.Encoded) []*bridge.Encoded {
	type rank struct {
		versioned bool
		version   int32
		timed     bool
		time      time.Time
		seq       uint64
	}
	higher := func(a, b rank) bool {
		switch {
		case a.versioned != b.versioned:
			return a.versioned
		case a.versioned && a.version != b.version:
			return a.version > b.version
		case !a.versioned && a.timed != b.timed:
			return a.timed
		case !a.versioned && !a.time.Equal(b.time):
			return a.time.After(b.time)
		}
		return a.seq > b.seq
	}
	best := map[string]rank{}
	for _, e := range events {
		var ev pb.Event
		if err := proto.Unmarshal(e.Envelope, &ev); err != nil {
			panic(err)
		}
		if ev.Entity == nil {
			continue
		}
		x := rank{ev.Entity.Version != nil, ev.Entity.GetVersion(), ev.EventTime != nil, ev.EventTime.AsTime(), e.Sequence}
		key := fmt.Sprint(ev.Entity.Kind, ev.Entity.Id)
		if old, ok := best[key]; !ok || higher(x, old) {
			best[key] = x
		}
	}
	var out []*bridge.Encoded
	for _, e := range events {
		for _, b := range best {
			if b.seq == e.Sequence {
				out = append(out, e)
			}
		}
	}
	return out
}

func projectedInto(t *testing.T, r *rapid.T, log *fakeLog, sink *collector) *Projection {
	dir := t.TempDir()
	p, err := Open(t.Context(), Config{Dir: dir, BatchEntries: rapid.SampledFrom([]int{1, 7, 256}).Draw(r, "batch"), ReadConns: 2})
	if err != nil {
		r.Fatalf("open: %v", err)
	}
	r.Cleanup(func() { p.Close() })
	p.looked = rapid.SampledFrom([]int{1, 3, 10, 50, maxLooked}).Draw(r, "looked")
	stop := run(t, func(ctx context.Context) error { return p.Run(ctx, log, sink) })
	caughtUp(t, p, log)
	stop()
	return p
}
