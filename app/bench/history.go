package main

import (
	"context"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"github.com/spotbridge/spotbridge/bridge"
	"github.com/spotbridge/spotbridge/bridge/projection"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

const pageSize = 50

// synthetic is a log of made-up events: enough of bridge.Reader for a projection to be built from it.
type synthetic struct {
	n    int
	id   bridge.LogID
	base time.Time
}

func (s *synthetic) State(context.Context) (bridge.LogState, error) {
	return bridge.LogState{ID: s.id, Floor: 1, Head: uint64(s.n), Entries: uint64(s.n)}, nil
}

func (s *synthetic) Get(_ context.Context, sequence uint64) (*bridge.Entry, error) {
	return s.entry(sequence), nil
}

func (s *synthetic) Follow(ctx context.Context, after uint64, opts bridge.FollowOptions, handle func([]*bridge.Entry) error) error {
	for after < uint64(s.n) {
		var batch []*bridge.Entry
		for len(batch) < max(opts.MaxBatch, 1) && after < uint64(s.n) {
			after++
			batch = append(batch, s.entry(after))
		}
		if err := handle(batch); err != nil {
			return err
		}
	}
	<-ctx.Done()
	return ctx.Err()
}

var (
	operations = []string{"BOOKING_UPDATED", "BOOKING_CREATED", "BOOKING_TICKETED", "BOOKING_OTHER_UPDATE", "INVOICE_GENERATED", "TICKET_VOIDED", "TICKET_REFUNDED",
		"FLIGHT_CHANGED", "FLIGHT_CANCELLED", "FLIGHT_SEAT_CHANGED", "BOOKING_CANCELED_BY_VENDOR", "BOOKING_CANCELED_BY_TRAVELER"}
	types = []string{"PNR_V3", "PNR_V3", "PNR_V3", "TRIP_DETAILS_V3", "SERVICE_CHARGE", "PNR_APPROVAL"}
)

func (s *synthetic) entry(sequence uint64) *bridge.Entry {
	r := rand.New(rand.NewPCG(1, sequence))
	org := int(r.ExpFloat64() * 12) // few large organizations, many small ones
	pnr := r.IntN(s.n/8 + 1)
	body := fmt.Appendf(nil, `{"event_type":%q,"operation":%q,"audience":{"organizationId":"org-%04d"},"timestamp":%q,"payload":{"pnrId":"pnr-%d","tripId":"trip-%d","approvalId":"a-%d","chargeId":"c-%d","basicTripInfo":{"tripId":"trip-%d"},"version":%d,"pnrTravelers":[{"userId":{"id":"user-%d"}}]}}`,
		types[r.IntN(len(types))], operations[r.IntN(len(operations))], org, s.base.Add(time.Duration(sequence)*time.Second).Format(time.RFC3339), pnr, pnr/2, pnr, sequence, pnr/2, int(sequence)%9+1, pnr/3)
	id := fmt.Sprintf("msg_%d", sequence)
	return &bridge.Entry{
		Kind: bridge.EntryEvent, Source: "bench", EventID: bridge.EventID("bench", id), WebhookID: id, ReceiveTime: s.base, Body: body, BodySize: len(body),
		BodyHash: sha256.Sum256(body), Sequence: sequence, AppendTime: s.base.Add(time.Duration(sequence) * time.Second),
	}
}

// history: the newest 50 events under each kind of filter, ENVELOPE view, beside the newest 50 without a filter, which is a
// walk of the same table's primary key.
func (b *bench) history(ctx context.Context) error {
	dir := filepath.Join(b.dir, "history")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	p, err := projection.Open(ctx, projection.Config{Dir: dir})
	if err != nil {
		return err
	}
	defer func() { _ = p.Close() }()
	log := &synthetic{n: b.events, id: bridge.LogID{1}, base: time.Now().Add(-time.Duration(b.events) * time.Second)}
	run, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	start := time.Now()
	go func() { done <- p.Run(run, log, nil) }()
	for !p.Ready() {
		select {
		case err := <-done:
			cancel()
			return err
		case <-time.After(100 * time.Millisecond):
		}
	}
	cancel()
	if err := <-done; err != nil {
		return err
	}
	built := time.Since(start)
	b.add(row{fmt.Sprintf("projection of %d small events built", b.events), fmt.Sprintf("%v, %.0f/s", built.Round(time.Millisecond), float64(b.events)/built.Seconds()), "", "", ""})

	page := func(r bridge.ListRequest) (time.Duration, int, error) {
		r.PageSize, r.MaxBytes = pageSize, 3<<20
		var all []time.Duration
		events := 0
		for range 60 {
			t := time.Now()
			got, err := p.List(ctx, r)
			if err != nil {
				return 0, 0, err
			}
			all, events = append(all, time.Since(t)), len(got.Events)
		}
		return median(all), events, nil
	}
	half := log.base.Add(time.Duration(b.events/2) * time.Second)
	for _, q := range []struct {
		name, goal string
		f          *pb.EventFilter
		from, to   time.Time
	}{
		{"operation", "<= 10", &pb.EventFilter{Operations: []string{"TICKET_VOIDED"}}, time.Time{}, time.Time{}},
		{"event type", "<= 10", &pb.EventFilter{EventTypes: []string{"SERVICE_CHARGE"}}, time.Time{}, time.Time{}},
		{"large organization", "<= 10", &pb.EventFilter{OrganizationIds: []string{"org-0003"}}, time.Time{}, time.Time{}},
		{"rare organization", "<= 10", &pb.EventFilter{OrganizationIds: []string{"org-0080"}}, time.Time{}, time.Time{}},
		{"PNR", "<= 10", &pb.EventFilter{PnrIds: []string{"pnr-77"}}, time.Time{}, time.Time{}},
		{"traveler", "<= 10", &pb.EventFilter{TravelerIds: []string{"user-77"}}, time.Time{}, time.Time{}},
		{"unknown value", "<= 10", &pb.EventFilter{OrganizationIds: []string{"nobody"}}, time.Time{}, time.Time{}},
		{"organization and operation", "<= 30", &pb.EventFilter{OrganizationIds: []string{"org-0003"}, Operations: []string{"TICKET_VOIDED"}}, time.Time{}, time.Time{}},
		{"organization and type", "<= 30", &pb.EventFilter{OrganizationIds: []string{"org-0003"}, EventTypes: []string{"PNR_APPROVAL"}}, time.Time{}, time.Time{}},
		{"3 organizations, 3 operations", "<= 30", &pb.EventFilter{OrganizationIds: []string{"org-0003", "org-0010", "org-0030"}, Operations: operations[3:6]}, time.Time{}, time.Time{}},
		{"half of the time range and operation", "<= 30", &pb.EventFilter{Operations: []string{"TICKET_VOIDED"}}, log.base, half},
	} {
		f, err := bridge.CompileFilter(q.f, "filter")
		if err != nil {
			return err
		}
		var xs, ys []time.Duration
		var ratios []float64
		events := 0
		for range b.rounds {
			y, _, err := page(bridge.ListRequest{})
			if err != nil {
				return err
			}
			x, n, err := page(bridge.ListRequest{Filter: f, StartTime: q.from, EndTime: q.to})
			if err != nil {
				return err
			}
			events = n
			xs, ys, ratios = append(xs, x), append(ys, y), append(ratios, float64(x)/float64(y))
		}
		b.add(row{fmt.Sprintf("history, newest %d of %d by %s (primary key)", events, b.events, q.name), short(median(xs)), short(median(ys)),
			fmt.Sprintf("%.1f", median(ratios)), q.goal})
	}
	return nil
}
