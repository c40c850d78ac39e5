package projection

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	"github.com/spotbridge/spotbridge/bridge"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

func openDeliveries(t testing.TB, cfg Config, p *Projection) *Deliveries {
	t.Helper()
	if cfg.Dir == "" {
		cfg.Dir = t.TempDir()
	}
	if cfg.Now == nil {
		cfg.Now = func() time.Time { return t0.Add(time.Hour) }
	}
	d, err := OpenDeliveries(t.Context(), cfg, p)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

// metric is the sum of a counter or gauge over its labels.
func metric(t testing.TB, reg prometheus.Gatherer, name string) (sum float64) {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return sum
}

func refused(source string, cause pb.DeliveryCause, at time.Time) *pb.Delivery {
	return &pb.Delivery{Source: source, WebhookId: "w", Outcome: pb.DeliveryOutcome_DELIVERY_OUTCOME_REFUSED, Cause: cause, HttpStatus: 401, ReceiveTime: timestamppb.New(at)}
}

// put writes deliveries as Run does.
func put(t testing.TB, d *Deliveries, now time.Time, xs ...*pb.Delivery) {
	t.Helper()
	var rows []*counted
	for _, x := range xs {
		rows = d.limiter.add(rows, x, now)
	}
	if err := d.write(rows); err != nil {
		t.Fatal(err)
	}
}

// TestDeliveriesMergeAgreesWithBruteForce pages through deliveries of all three places, with random filters.
func TestDeliveriesMergeAgreesWithBruteForce(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		log := newFakeLog()
		at := t0
		webhooks := []string{"1", "2", "späte?", "bad\xff%41", "never"}
		var all []*pb.Delivery
		for range rapid.IntRange(0, 40).Draw(r, "entries") {
			at = at.Add(time.Duration(rapid.IntRange(0, 2).Draw(r, "step")) * time.Second)
			raw := rapid.SampledFrom(webhooks[:4]).Draw(r, "webhook")
			source := rapid.SampledFrom([]string{"sandbox", "production"}).Draw(r, "source")
			e := event("x", pnr("OP", "o", "1", 1, ""), at)
			d := &pb.Delivery{Outcome: pb.DeliveryOutcome_DELIVERY_OUTCOME_ACCEPTED, EventType: "PNR_V3", Operation: "OP", OrganizationId: "o"}
			switch rapid.IntRange(0, 3).Draw(r, "kind") {
			case 0:
				e = quarantine("x", "no", pb.DeliveryCause_DELIVERY_CAUSE_NOT_JSON, at)
				d = &pb.Delivery{Outcome: pb.DeliveryOutcome_DELIVERY_OUTCOME_QUARANTINED, Cause: e.Cause}
			case 1:
				e = quarantine("x", pnr("OP2", "o2", "1", 1, ""), pb.DeliveryCause_DELIVERY_CAUSE_CONFLICT, at)
				d = &pb.Delivery{Outcome: pb.DeliveryOutcome_DELIVERY_OUTCOME_CONFLICT, Cause: e.Cause, EventType: "PNR_V3", Operation: "OP2", OrganizationId: "o2"}
			}
			e.Source, e.EventID, e.WebhookID = source, bridge.EventID(source, raw), bridge.WebhookIDText(raw)
			log.append(e)
			d.Id, d.Source, d.WebhookId, d.Sequence, d.HttpStatus, d.Count = logID(e.Sequence), source, e.WebhookID, e.Sequence, 200, 1
			d.ReceiveTime, d.TimestampText, d.Trace = timestamppb.New(e.ReceiveTime), e.TimestampText, &pb.Trace{TraceId: e.TraceID, SpanId: e.SpanID}
			d.BodyBytes, d.BodySha256 = int64(len(e.Body)), hex.EncodeToString(e.BodyHash[:])
			if d.Outcome != pb.DeliveryOutcome_DELIVERY_OUTCOME_QUARANTINED {
				d.EventId = e.EventID
			}
			all = append(all, d)
		}
		places := map[string]place{}
		for i, d := range all {
			places[d.Id] = place{nanos(log.entries[i].AppendTime), false, d.Sequence}
		}
		p := projectedInto(t, r, log, &collector{})
		d := openDeliveries(t, Config{}, p)
		defer d.Close()
		for i := range rapid.IntRange(0, 30).Draw(r, "local") {
			x := refused("sandbox", rapid.SampledFrom([]pb.DeliveryCause{0, pb.DeliveryCause_DELIVERY_CAUSE_TOO_OLD, pb.DeliveryCause_DELIVERY_CAUSE_TOO_LARGE}).Draw(r, "cause"),
				t0.Add(time.Duration(rapid.IntRange(0, 40).Draw(r, "at"))*time.Second))
			if x.WebhookId = bridge.WebhookIDText(rapid.SampledFrom(webhooks[:4]).Draw(r, "webhook")); x.Cause == 0 {
				x.Outcome, x.HttpStatus = pb.DeliveryOutcome_DELIVERY_OUTCOME_DUPLICATE, 200
			}
			put(t, d, t0.Add(time.Duration(i)*time.Minute), x)
			x = proto.CloneOf(x)
			x.Id, x.Count = localID(uint64(i+1)), 1
			places[x.Id] = place{nanos(x.ReceiveTime.AsTime()), true, uint64(i + 1)}
			all = append(all, x)
		}
		slices.SortFunc(all, func(a, b *pb.Delivery) int { return places[a.Id].compare(places[b.Id]) })
		for range 8 {
			req := bridge.DeliveryListRequest{}
			req.StartTime, req.EndTime = genTimes(r)
			if rapid.Bool().Draw(r, "by outcome") {
				req.Outcomes = []pb.DeliveryOutcome{pb.DeliveryOutcome(rapid.IntRange(1, 5).Draw(r, "outcome")), pb.DeliveryOutcome(rapid.IntRange(1, 5).Draw(r, "outcome"))}
			}
			if rapid.Bool().Draw(r, "by cause") {
				req.Causes = []pb.DeliveryCause{rapid.SampledFrom([]pb.DeliveryCause{0, 5, 8, 21, 28}).Draw(r, "cause"), 28}
			}
			if rapid.Bool().Draw(r, "by source") {
				req.Sources = []string{rapid.SampledFrom([]string{"sandbox", "production", "never", "Not A Name"}).Draw(r, "source")}
			}
			if rapid.Bool().Draw(r, "by webhook") {
				req.WebhookID = bridge.WebhookIDText(rapid.SampledFrom(webhooks).Draw(r, "webhook"))
			}
			var want, got []*pb.Delivery
			for _, x := range all {
				ts := fromNanos(places[x.Id].ts)
				if (len(req.Outcomes) == 0 || slices.Contains(req.Outcomes, x.Outcome)) && (len(req.Causes) == 0 || slices.Contains(req.Causes, x.Cause)) &&
					(len(req.Sources) == 0 || slices.Contains(req.Sources, x.Source)) && (req.WebhookID == "" || req.WebhookID == x.WebhookId) &&
					(req.StartTime.IsZero() || !ts.Before(req.StartTime)) && (req.EndTime.IsZero() || ts.Before(req.EndTime)) {
					want = append(want, x)
				}
			}
			for pages := 0; ; pages++ {
				req.PageSize = rapid.SampledFrom([]int{1, 2, 5, 100}).Draw(r, "size")
				page, next, err := d.ListDeliveries(t.Context(), req)
				if err != nil || len(page) > req.PageSize || pages > 200 {
					r.Fatalf("page %d of %d: %v", pages, len(page), err)
				}
				if got = append(got, page...); next == "" {
					break
				}
				req.Resume = next
			}
			if len(got) != len(want) {
				r.Fatalf("%+v: %d deliveries instead of %d", req, len(got), len(want))
			}
			for i := range got {
				if !proto.Equal(got[i], want[i]) {
					r.Fatalf("%+v:\n got %v\nwant %v", req, got[i], want[i])
				}
			}
		}
		for _, want := range all {
			got, err := d.GetDelivery(t.Context(), want.Id)
			if err != nil || !proto.Equal(got, want) {
				r.Fatalf("get %s:\n got %v, %v\nwant %v", want.Id, got, err, want)
			}
		}
	})
}

// TestDeliveryBody gives the exact bytes of what is in the log, and only that.
func TestDeliveryBody(t *testing.T) {
	log := newFakeLog()
	log.append(event("1", pnr("OP", "o", "1", 1, ""), t0), quarantine("2", "\xff\xfenot json", pb.DeliveryCause_DELIVERY_CAUSE_NOT_JSON, t0),
		quarantine("3", "", pb.DeliveryCause_DELIVERY_CAUSE_EMPTY_BODY, t0), &bridge.Entry{AppendTime: t0})
	p := projected(t, Config{}, log)
	d := openDeliveries(t, Config{}, p)
	put(t, d, t0, refused("sandbox", pb.DeliveryCause_DELIVERY_CAUSE_TOO_OLD, t0))
	for id, want := range map[string]string{"l-1": pnr("OP", "o", "1", 1, ""), "l-2": "\xff\xfenot json", "l-3": ""} {
		if body, err := d.DeliveryBody(t.Context(), id); err != nil || string(body) != want || body == nil {
			t.Errorf("%s: %q, %v", id, body, err)
		}
	}
	for id, want := range map[string]pb.ErrorReason{
		"d-1": pb.ErrorReason_ERROR_REASON_BODY_NOT_KEPT, "d-2": pb.ErrorReason_ERROR_REASON_DELIVERY_NOT_FOUND, "l-4": pb.ErrorReason_ERROR_REASON_DELIVERY_NOT_FOUND,
		"l-99": pb.ErrorReason_ERROR_REASON_DELIVERY_NOT_FOUND, "": pb.ErrorReason_ERROR_REASON_DELIVERY_NOT_FOUND, "l-01": pb.ErrorReason_ERROR_REASON_DELIVERY_NOT_FOUND,
		"l--1": pb.ErrorReason_ERROR_REASON_DELIVERY_NOT_FOUND, "x": pb.ErrorReason_ERROR_REASON_DELIVERY_NOT_FOUND, "l-99999999999999999999": pb.ErrorReason_ERROR_REASON_DELIVERY_NOT_FOUND,
	} {
		if _, err := d.DeliveryBody(t.Context(), id); bridge.ReasonOf(err) != want {
			t.Errorf("%q: %v, want %v", id, err, want)
		}
	}
	for _, token := range []string{"x", "AAAA", place{1, true, 2}.String() + "A", strings.ToLower(place{1, true, 200}.String())} {
		if _, _, err := d.ListDeliveries(t.Context(), bridge.DeliveryListRequest{PageSize: 1, Resume: token}); bridge.ReasonOf(err) != pb.ErrorReason_ERROR_REASON_INVALID_PAGE_TOKEN {
			t.Errorf("token %q: %v", token, err)
		}
	}
}

// TestDeliveriesAboveTheRateAreCounted: ten a second have rows of their own, the rest one a minute.
func TestDeliveriesAboveTheRateAreCounted(t *testing.T) {
	p := projected(t, Config{}, newFakeLog())
	d := openDeliveries(t, Config{}, p)
	cause := pb.DeliveryCause_DELIVERY_CAUSE_WRONG_SIGNATURE
	total := 0
	send := func(at time.Time, n int) {
		var xs []*pb.Delivery
		for range n {
			xs = append(xs, refused("sandbox", cause, at))
		}
		total += n
		put(t, d, at, xs...)
	}
	send(t0, 1000)                     // 10 and one counted 990
	send(t0.Add(time.Second), 500)     // 10, and the counted one has 490 more
	send(t0.Add(30*time.Second), 5)    // 5
	send(t0.Add(59*time.Second), 11)   // 10, and the counted one has 1 more
	send(t0.Add(60*time.Second), 100)  // a new minute: 10 and one counted 90
	send(t0.Add(3600*time.Second), 10) // 10
	put(t, d, t0, refused("production", cause, t0), refused("sandbox", pb.DeliveryCause_DELIVERY_CAUSE_TOO_OLD, t0))
	page, next, err := d.ListDeliveries(t.Context(), bridge.DeliveryListRequest{PageSize: 1000, Sources: []string{"sandbox"}, Causes: []pb.DeliveryCause{cause}})
	if err != nil || next != "" {
		t.Fatal(next, err)
	}
	var counts []int32
	sum := 0
	for _, x := range page {
		if sum += int(x.GetCount()); x.GetCount() > 1 {
			counts = append(counts, x.GetCount())
			if x.GetWebhookId() != "" {
				t.Error("a row for many has the id of one")
			}
		}
	}
	if !slices.Equal(counts, []int32{90, 1481}) || sum != total || len(page) != 57 {
		t.Errorf("counted rows %v, %d deliveries of %d in %d rows", counts, sum, total, len(page))
	}
}

// TestDeliveriesArePruned by number and by age.
func TestDeliveriesArePruned(t *testing.T) {
	p := projected(t, Config{}, newFakeLog())
	now := t0
	d := openDeliveries(t, Config{DeliveriesMaxRows: 50, DeliveriesMaxAge: time.Hour, Now: func() time.Time { return now }}, p)
	count := func() int {
		page, _, err := d.ListDeliveries(t.Context(), bridge.DeliveryListRequest{PageSize: 1000})
		if err != nil {
			t.Fatal(err)
		}
		if int64(len(page)) != d.rows {
			t.Errorf("%d rows, counted %d", len(page), d.rows)
		}
		return len(page)
	}
	for i := range 80 {
		now = t0.Add(time.Duration(i) * time.Second)
		put(t, d, now, refused("sandbox", pb.DeliveryCause_DELIVERY_CAUSE_TOO_OLD, now))
	}
	if n := count(); n != 50 {
		t.Errorf("%d rows", n)
	}
	now = t0.Add(time.Hour + 70*time.Second)
	put(t, d, now, refused("sandbox", pb.DeliveryCause_DELIVERY_CAUSE_TOO_OLD, now))
	if n := count(); n != 11 {
		t.Errorf("%d rows after an hour", n)
	}
}

// TestRecordNeverBlocks: what does not fit is counted; what was recorded is written, also at the end.
func TestRecordNeverBlocks(t *testing.T) {
	reg := prometheus.NewRegistry()
	dir := t.TempDir()
	p := projected(t, Config{}, newFakeLog())
	d := openDeliveries(t, Config{Dir: dir, Registerer: reg}, p)
	for i := range recordQueue + 7 { // nobody is writing yet
		d.Record(refused(fmt.Sprint("s", i), pb.DeliveryCause_DELIVERY_CAUSE_TOO_OLD, t0))
	}
	if n := metric(t, reg, "spotbridge_projection_deliveries_dropped_total"); n != 7 {
		t.Errorf("%v dropped", n)
	}
	stop := run(t, d.Run)
	stop()
	if d.rows != recordQueue {
		t.Errorf("%d rows", d.rows)
	}
	d.Close()
	again := openDeliveries(t, Config{Dir: dir}, p)
	if again.rows != recordQueue {
		t.Errorf("%d rows after a restart", again.rows)
	}
}

// TestDeliveriesWithABrokenDisk are dropped and counted, and the recorder goes on.
func TestDeliveriesWithABrokenDisk(t *testing.T) {
	logged, reg := &logBuffer{}, prometheus.NewRegistry()
	p := projected(t, Config{}, newFakeLog())
	d := openDeliveries(t, Config{Registerer: reg, Logger: slog.New(slog.NewTextHandler(logged, nil))}, p)
	stop := run(t, d.Run)
	for _, text := range []string{"CREATE TRIGGER no BEFORE INSERT ON deliveries BEGIN SELECT raise(ABORT, 'no'); END", "DROP TRIGGER no"} {
		if _, err := d.st.write.ExecContext(t.Context(), text); err != nil {
			t.Fatal(err)
		}
		for i := range 3 {
			d.Record(refused(fmt.Sprint("s", i), pb.DeliveryCause_DELIVERY_CAUSE_TOO_OLD, t0))
		}
		if strings.HasPrefix(text, "CREATE") {
			until(t, "the loss to be counted", func() bool { return metric(t, reg, "spotbridge_projection_deliveries_dropped_total") == 3 })
		}
	}
	until(t, "the rows", func() bool {
		page, _, err := d.ListDeliveries(context.Background(), bridge.DeliveryListRequest{PageSize: 10})
		return err == nil && len(page) == 3
	})
	stop()
	if s := logged.String(); strings.Count(s, "cannot be written") != 1 || !strings.Contains(s, "back in order") {
		t.Errorf("log: %s", s)
	}
}

// TestDamagedDeliveriesBeginAnew.
func TestDamagedDeliveriesBeginAnew(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "deliveries.db"), bytes.Repeat([]byte("damaged "), 1000), 0o600); err != nil {
		t.Fatal(err)
	}
	p := projected(t, Config{}, newFakeLog())
	d := openDeliveries(t, Config{Dir: dir}, p)
	put(t, d, t0, refused("sandbox", pb.DeliveryCause_DELIVERY_CAUSE_TOO_OLD, t0))
	if aside, err := filepath.Glob(filepath.Join(dir, "deliveries.db.unusable-*")); err != nil || len(aside) != 1 {
		t.Errorf("moved aside: %v, %v", aside, err)
	}
	if _, err := d.GetDelivery(t.Context(), "d-1"); err != nil {
		t.Error(err)
	}
}

// TestQuarantinedGivesWhatIsNeededToReadAgain, oldest first, and leaves conflicts out.
func TestQuarantinedGivesWhatIsNeededToReadAgain(t *testing.T) {
	log := newFakeLog()
	for i := range 350 {
		at := t0.Add(time.Duration(i) * time.Second)
		switch i % 3 {
		case 0:
			log.append(quarantine(fmt.Sprint(i), fmt.Sprint("not json ", i), pb.DeliveryCause_DELIVERY_CAUSE_NOT_JSON, at))
		case 1:
			log.append(quarantine(fmt.Sprint(i), `{"event_type":"X"}`, pb.DeliveryCause_DELIVERY_CAUSE_CONFLICT, at))
		default:
			e := quarantine(fmt.Sprint(i), "", pb.DeliveryCause_DELIVERY_CAUSE_EMPTY_BODY, at)
			e.Source = "production"
			log.append(e)
		}
	}
	p := projected(t, Config{}, log)
	d := openDeliveries(t, Config{}, p)
	for name, x := range map[string]struct {
		r    *pb.ReprocessDeliveriesRequest
		want func(i int) bool
	}{
		"all":    {&pb.ReprocessDeliveriesRequest{}, func(i int) bool { return i%3 != 1 }},
		"cause":  {&pb.ReprocessDeliveriesRequest{Causes: []pb.DeliveryCause{pb.DeliveryCause_DELIVERY_CAUSE_NOT_JSON}}, func(i int) bool { return i%3 == 0 }},
		"source": {&pb.ReprocessDeliveriesRequest{Sources: []string{"production"}}, func(i int) bool { return i%3 == 2 }},
		"time": {&pb.ReprocessDeliveriesRequest{StartTime: timestamppb.New(t0.Add(9 * time.Second)), EndTime: timestamppb.New(t0.Add(15 * time.Second))},
			func(i int) bool { return i%3 != 1 && i >= 9 && i < 15 }},
		"ids":       {&pb.ReprocessDeliveriesRequest{DeliveryIds: []string{"l-1", "l-2", "l-3", "d-4", "junk"}}, func(i int) bool { return i == 0 || i == 2 }},
		"other ids": {&pb.ReprocessDeliveriesRequest{DeliveryIds: []string{"d-1"}}, func(int) bool { return false }},
	} {
		var got []int
		err := d.Quarantined(t.Context(), x.r, func(q bridge.QuarantinedBody) error {
			i := int(q.Entry.Sequence) - 1
			got = append(got, i)
			w := *log.entries[i]
			w.BodySize = len(w.Body)
			if w.Body == nil {
				w.Body = []byte{}
			}
			if fmt.Sprintf("%+v", *q.Entry) != fmt.Sprintf("%+v", w) {
				t.Errorf("entry:\n got %+v\nwant %+v", *q.Entry, w)
			}
			if q.Delivery.GetId() != logID(q.Entry.Sequence) || q.Delivery.GetOutcome() != pb.DeliveryOutcome_DELIVERY_OUTCOME_QUARANTINED {
				t.Errorf("delivery %v", q.Delivery)
			}
			return nil
		})
		var want []int
		for i := range 350 {
			if x.want(i) {
				want = append(want, i)
			}
		}
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	stop := errors.New("stop")
	if err := d.Quarantined(t.Context(), &pb.ReprocessDeliveriesRequest{}, func(bridge.QuarantinedBody) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("error of handle: %v", err)
	}
}
