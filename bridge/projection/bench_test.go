package projection

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/spotbridge/spotbridge/bridge"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

// sample is a booking of about the given size: nested, with the repetition of real ones.
func sample(r *rand.Rand, size int) []byte {
	leg := func() map[string]any {
		return map[string]any{
			"legId": strconv.FormatUint(r.Uint64(), 36), "flightNumber": fmt.Sprintf("%03d", r.IntN(1000)), "marketingAirline": "UA",
			"origin": "SFO", "destination": "JFK", "departureDateTime": map[string]any{"iso8601": "2026-04-01T08:30:00"}, "bookingCode": "Y", "cabin": "ECONOMY",
			"price": map[string]any{"amount": float64(r.IntN(100000)) / 100, "currencyCode": "USD"}, "amenities": []string{"WIFI_AVAILABLE", "POWER_OUTLET", "STANDARD_SEAT"},
			"status": "CONFIRMED", "vendorConfirmationId": strconv.FormatUint(r.Uint64(), 36),
		}
	}
	payload := map[string]any{
		"pnrId": strconv.Itoa(1000000 + r.IntN(20000)), "tripId": strconv.Itoa(1000000 + r.IntN(15000)), "version": 1 + r.IntN(5),
		"pnrTravelers": []any{map[string]any{"userId": map[string]any{"id": fmt.Sprintf("%08x-0000-4000-8000-000000000000", r.IntN(5000))}}},
	}
	var legs []any
	for len(legs)*420 < size-500 {
		legs = append(legs, leg())
	}
	payload["legs"] = legs
	// The shape of traffic: operations and organizations are not equally common.
	org := int(float64(3000) * r.Float64() * r.Float64() * r.Float64())
	b, err := json.Marshal(map[string]any{
		"event_type": benchTypes[r.IntN(len(benchTypes))], "operation": fmt.Sprintf("OPERATION_%d", r.IntN(60)), "timestamp": t0.Add(time.Duration(r.IntN(1e9)) * time.Microsecond).Format(time.RFC3339Nano),
		"audience": map[string]any{"organizationId": benchOrg(org)}, "payload": payload,
	})
	if err != nil {
		panic(err)
	}
	return b
}

var benchTypes = []string{"PNR_V3", "PNR_V3", "PNR_V3", "TRIP_DETAILS_V3", "TRIP_DETAILS_V3", "TRAVELER_V2", "SERVICE_CHARGE", "PNR_APPROVAL"}

func benchOrg(i int) string { return fmt.Sprintf("%08x-1111-4000-8000-000000000000", i) }

func benchEntries(n, size int) []*bridge.Entry {
	r := rand.New(rand.NewPCG(1, 2))
	out := make([]*bridge.Entry, n)
	for i := range out {
		body := sample(r, size)
		if r.IntN(10000) == 0 {
			body = []byte(`{"event_type":"RARE_TYPE","operation":"RARE","payload":{}}`)
		}
		id := strconv.FormatUint(r.Uint64(), 36) + strconv.Itoa(i)
		out[i] = &bridge.Entry{
			Kind: bridge.EntryEvent, Source: "sandbox", EventID: "sandbox." + id, WebhookID: id, Sequence: uint64(i + 1),
			ReceiveTime: t0, AppendTime: t0.Add(time.Duration(i) * 100 * time.Millisecond), TimestampText: "1772366400",
			Body: body, BodySize: len(body), BodyHash: sha256.Sum256(body),
		}
	}
	return out
}

// BenchmarkApply writes events of 20 KB in batches: one operation is one event.
func BenchmarkApply(b *testing.B) {
	for _, batch := range []int{1, 16, 256} {
		b.Run(fmt.Sprintf("batch=%d", batch), func(b *testing.B) {
			entries := benchEntries(256, 20_000)
			p := open(b, Config{})
			var seq uint64
			b.SetBytes(20_000)
			b.ReportAllocs()
			b.ResetTimer()
			for done := 0; done < b.N; done += batch {
				part := make([]*bridge.Entry, min(batch, b.N-done))
				for i := range part {
					e := *entries[int(seq)%len(entries)]
					seq++
					e.Sequence, e.EventID = seq, "sandbox."+strconv.FormatUint(seq*2654435761, 36)
					part[i] = &e
				}
				if _, err := p.apply(b.Context(), prepare(part, p.codec)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

var listBench struct {
	once sync.Once
	p    *Projection
	dir  string
}

// benchRows is how many events the listings are measured on; SPOTBRIDGE_BENCH_ROWS raises it.
func benchRows() int {
	if n, err := strconv.Atoi(os.Getenv("SPOTBRIDGE_BENCH_ROWS")); err == nil {
		return n
	}
	return 200_000
}

func listProjection(b *testing.B) *Projection {
	listBench.once.Do(func() {
		dir, err := os.MkdirTemp("", "projection-bench")
		if err != nil {
			b.Fatal(err)
		}
		p, err := Open(context.Background(), Config{Dir: dir})
		if err != nil {
			b.Fatal(err)
		}
		entries := benchEntries(benchRows(), 600)
		begin := time.Now()
		for len(entries) > 0 {
			n := min(1000, len(entries))
			if _, err := p.apply(context.Background(), prepare(entries[:n], p.codec)); err != nil {
				b.Fatal(err)
			}
			entries = entries[n:]
		}
		b.Logf("%d events in %v", benchRows(), time.Since(begin))
		listBench.p, listBench.dir = p, dir
	})
	return listBench.p
}

func TestMain(m *testing.M) {
	code := m.Run()
	if listBench.p != nil {
		listBench.p.Close()
		os.RemoveAll(listBench.dir)
	}
	os.Exit(code)
}

// BenchmarkListNewest50 reads the newest 50 events, ENVELOPE view. "none" is the page of the primary key.
func BenchmarkListNewest50(b *testing.B) {
	ops := func(ns ...int) (out []string) {
		for _, n := range ns {
			out = append(out, fmt.Sprintf("OPERATION_%d", n))
		}
		return out
	}
	orgs := func(ns ...int) (out []string) {
		for _, n := range ns {
			out = append(out, benchOrg(n))
		}
		return out
	}
	last := t0.Add(time.Duration(benchRows()) * 100 * time.Millisecond)
	for _, x := range []struct {
		name       string
		filter     *pb.EventFilter
		start, end time.Time
		latest     bool
	}{
		{name: "none"},
		{name: "op", filter: &pb.EventFilter{Operations: ops(7)}},
		{name: "org", filter: &pb.EventFilter{OrganizationIds: orgs(3)}},
		{name: "org-rare", filter: &pb.EventFilter{OrganizationIds: orgs(2500)}},
		{name: "type", filter: &pb.EventFilter{EventTypes: []string{"TRAVELER_V2"}}},
		{name: "type-common", filter: &pb.EventFilter{EventTypes: []string{"PNR_V3"}}},
		{name: "type-rare", filter: &pb.EventFilter{EventTypes: []string{"RARE_TYPE"}}},
		{name: "source", filter: &pb.EventFilter{Sources: []string{"sandbox"}}},
		{name: "unknown", filter: &pb.EventFilter{Operations: []string{"NO_SUCH"}}},
		{name: "pnr", filter: &pb.EventFilter{PnrIds: []string{"1000007"}}},
		{name: "traveler", filter: &pb.EventFilter{TravelerIds: []string{"00000007-0000-4000-8000-000000000000"}}},
		{name: "org+op", filter: &pb.EventFilter{OrganizationIds: orgs(3), Operations: ops(7)}},
		{name: "org+type", filter: &pb.EventFilter{OrganizationIds: orgs(3), EventTypes: []string{"TRAVELER_V2"}}},
		{name: "op+type", filter: &pb.EventFilter{Operations: ops(7), EventTypes: []string{"TRAVELER_V2"}}},
		{name: "3x3", filter: &pb.EventFilter{OrganizationIds: orgs(3, 30, 300), Operations: ops(7, 8, 9)}},
		{name: "org+pnr", filter: &pb.EventFilter{OrganizationIds: orgs(3), PnrIds: []string{"1000007"}}},
		{name: "op-stale", filter: &pb.EventFilter{Operations: ops(7), ExcludeStale: true}},
		{name: "time+op", filter: &pb.EventFilter{Operations: ops(7)}, start: t0.Add(last.Sub(t0) / 4), end: t0.Add(last.Sub(t0) / 2)},
		{name: "time", start: t0.Add(last.Sub(t0) / 4), end: t0.Add(last.Sub(t0) / 2)},
		{name: "latest", latest: true},
		{name: "latest+org", filter: &pb.EventFilter{OrganizationIds: orgs(3)}, latest: true},
	} {
		b.Run(x.name, func(b *testing.B) {
			p := listProjection(b)
			f, err := bridge.CompileFilter(x.filter, "filter")
			if err != nil {
				b.Fatal(err)
			}
			req := bridge.ListRequest{Filter: f, StartTime: x.start, EndTime: x.end, LatestPerEntity: x.latest, PageSize: 50, MaxBytes: 3 << 20}
			var n int
			b.ReportAllocs()
			for b.Loop() {
				out, err := p.List(b.Context(), req)
				if err != nil {
					b.Fatal(err)
				}
				n = len(out.Events)
			}
			b.ReportMetric(float64(n), "events")
		})
	}
}

// BenchmarkScan replays events of 20 KB with their bodies: one operation is one event.
func BenchmarkScan(b *testing.B) {
	p := open(b, Config{})
	const n = 4096
	entries := benchEntries(n, 20_000)
	for i := 0; i < n; i += 256 {
		if _, err := p.apply(b.Context(), prepare(entries[i:i+256], p.codec)); err != nil {
			b.Fatal(err)
		}
	}
	for name, m := range map[string]*pb.EventFilter{"all": nil, "1-in-60": {Operations: []string{"OPERATION_7"}}} {
		b.Run(name, func(b *testing.B) {
			f, err := bridge.CompileFilter(m, "filter")
			if err != nil {
				b.Fatal(err)
			}
			b.SetBytes(20_000)
			b.ReportAllocs()
			b.ResetTimer()
			for done, after := 0, uint64(0); done < b.N; {
				out, err := p.Scan(b.Context(), bridge.ScanRequest{Filter: f, After: after, UpTo: n, MaxEvents: min(256, b.N-done), MaxBytes: 4 << 20, Bodies: true})
				if err != nil {
					b.Fatal(err)
				}
				done += len(out.Events)
				if after = out.Next; after == n {
					after = 0
				}
			}
		})
	}
}
