package app_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spotbridge/spotbridge/app"
	"github.com/spotbridge/spotbridge/bridge"
	"github.com/spotbridge/spotbridge/bridge/bridgetest"
	"github.com/spotbridge/spotbridge/bridge/bridgetest/samples"
	"github.com/spotbridge/spotbridge/bridge/drift"
	"github.com/spotbridge/spotbridge/bridge/eventlog"
	"github.com/spotbridge/spotbridge/bridge/payload"
	"github.com/spotbridge/spotbridge/bridge/projection"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

// counter counts conversions, and fails on purpose.
type counter struct {
	*payload.Converter
	conversions atomic.Int64
	fault       string // bodies with it make the converter panic
}

func (c *counter) Convert(eventType string, body []byte) []byte {
	c.count(body)
	return c.Converter.Convert(eventType, body)
}

func (c *counter) Inspect(eventType string, body []byte) bridge.Inspection {
	c.count(body)
	return c.Converter.Inspect(eventType, body)
}

func (c *counter) count(body []byte) {
	c.conversions.Add(1)
	if c.fault != "" && bytes.Contains(body, []byte(c.fault)) {
		panic("on purpose")
	}
}

// parts are a log, a projection and a worker, without the rest of the bridge.
type parts struct {
	log        *eventlog.Log
	projection *projection.Projection
	worker     *drift.Worker
	logs       *safeBuffer
}

type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(b)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func newParts(t testing.TB, log *eventlog.Log, cfg projection.Config, wcfg drift.Config) *parts {
	t.Helper()
	p := &parts{log: log, logs: &safeBuffer{}}
	if cfg.Converter == nil {
		cfg.Converter = payload.New()
	}
	if cfg.Dir == "" {
		cfg.Dir = t.TempDir()
	}
	var err error
	if p.projection, err = projection.Open(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.projection.Close() })
	wcfg.Revision, wcfg.History, wcfg.Logger = "r", p.projection, slog.New(slog.NewTextHandler(p.logs, nil))
	if wcfg.Store == nil {
		wcfg.Store = p.projection
	}
	if f, ok := wcfg.Store.(*failingStore); ok {
		f.DriftStore = p.projection
	}
	p.worker = drift.New(wcfg)
	return p
}

// run runs parts until the function that is returned is called, or the test ends.
func runParts(t testing.TB, runs ...func(context.Context) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for _, f := range runs {
		wg.Go(func() {
			if err := f(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	stop = sync.OnceFunc(func() { cancel(); wg.Wait() })
	t.Cleanup(stop)
	return stop
}

func (p *parts) follow(sink bridge.Sink) func(context.Context) error {
	return func(ctx context.Context) error { return p.projection.Run(ctx, p.log, sink) }
}

// inspected waits until everything on the log was inspected, and returns all drift.
func (p *parts) inspected(t testing.TB) (out bridge.DriftListResult) {
	t.Helper()
	eventually(t, func() bool {
		st, err := p.log.State(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if out, err = p.projection.ListDrift(t.Context(), bridge.DriftListRequest{PageSize: 10_000}); err != nil {
			t.Fatal(err)
		}
		return out.Next == nil && out.Run.Watermark == st.Head
	})
	return out
}

func (p *parts) append(t testing.TB, from, n int, payload func(i int) string) {
	t.Helper()
	for i := from; i < from+n; i++ {
		body := fmt.Sprintf(`{"event_type":"PNR_V3","operation":"X","payload":%s}`, payload(i))
		if _, err := p.log.Append(t.Context(), bridgetest.Entry("s", fmt.Sprintf("w%d", i), body)); err != nil {
			t.Fatal(err)
		}
	}
}

func unknownName(i int) string { return fmt.Sprintf(`{"pnrId":"p","new%c":1}`, 'A'+i%7) }

// events sums up the events of all entries.
func events(r bridge.DriftListResult) (n int64) {
	for _, e := range r.Entries {
		n += e.Events
	}
	return n
}

// TestDriftReadsFromHistoryWhatIsNotAtHand: events from before the worker began, and more than it keeps.
func TestDriftReadsFromHistoryWhatIsNotAtHand(t *testing.T) {
	p := newParts(t, bridgetest.NewLog(t), projection.Config{}, drift.Config{HotEvents: 5, BatchEvents: 3})
	p.append(t, 0, 40, unknownName)
	runParts(t, p.follow(p.worker))
	eventually(t, func() bool { return p.projection.Watermark() == 40 })
	runParts(t, p.worker.Run)
	p.append(t, 40, 60, unknownName)
	got := p.inspected(t)
	if events(got) != 100 || got.Run.Events != 100 || got.Run.Skipped != 0 || len(got.Entries) != 7 {
		t.Errorf("%d events in %d entries; %+v", events(got), len(got.Entries), got.Run)
	}
	for _, e := range got.Entries {
		if !e.FirstSeen.Before(e.LastSeen) || e.Example == "" {
			t.Error(e)
		}
	}
}

// failingStore fails to record for a while.
type failingStore struct {
	bridge.DriftStore
	failures atomic.Int64
}

func (s *failingStore) Record(ctx context.Context, b bridge.DriftBatch) (bridge.DriftChange, error) {
	if s.failures.Add(-1) >= 0 {
		return bridge.DriftChange{}, errors.New("no space on purpose")
	}
	return s.DriftStore.Record(ctx, b)
}

// collected is a sink that counts.
type collected struct{ events, watermark atomic.Int64 }

func (c *collected) Lost(uint64) {}

func (c *collected) Publish(events []*bridge.Encoded, watermark uint64) {
	c.events.Add(int64(len(events)))
	c.watermark.Store(int64(watermark))
}

// TestADriftFaultIsLoudAndHoldsNobodyUp: events go on while drift cannot be written, and nothing is counted twice after.
func TestADriftFaultIsLoudAndHoldsNobodyUp(t *testing.T) {
	store, sink := &failingStore{}, &collected{}
	store.failures.Store(1 << 40)
	p := newParts(t, bridgetest.NewLog(t), projection.Config{}, drift.Config{Store: store, Next: sink, BatchEvents: 4})
	runParts(t, p.follow(p.worker), p.worker.Run)
	p.append(t, 0, 20, unknownName)
	eventually(t, func() bool { return sink.events.Load() == 20 && p.worker.Health() != nil })
	if err := p.worker.Health(); !strings.Contains(err.Error(), "no space on purpose") {
		t.Error(err)
	}
	if !strings.Contains(p.logs.String(), "level=ERROR") {
		t.Error("nothing was logged")
	}
	store.failures.Store(2)
	got := p.inspected(t)
	eventually(t, func() bool { return p.worker.Health() == nil })
	if events(got) != 20 || got.Run.Events != 20 || got.Run.Skipped != 0 {
		t.Errorf("%d events; %+v", events(got), got.Run)
	}
}

// TestDriftCountsWhatHistoryHasDropped: what was gone before the worker came to it is counted, not passed over in silence.
func TestDriftCountsWhatHistoryHasDropped(t *testing.T) {
	log, dir := bridgetest.NewLog(t), t.TempDir()
	p := newParts(t, log, projection.Config{Dir: dir}, drift.Config{})
	stop := runParts(t, p.follow(p.worker), p.worker.Run)
	p.append(t, 0, 10, unknownName)
	p.inspected(t)
	stop()
	stop = runParts(t, p.follow(nil)) // without the worker
	p.append(t, 10, 15, unknownName)
	eventually(t, func() bool { return p.projection.Watermark() == 25 })
	stop()
	if err := p.projection.Close(); err != nil {
		t.Fatal(err)
	}

	// Retention deletes all of it at the next start.
	p = newParts(t, log, projection.Config{Dir: dir, HistoryMaxAge: time.Minute, Now: func() time.Time { return time.Now().Add(time.Hour) }}, drift.Config{})
	runParts(t, p.follow(nil))
	eventually(t, func() bool {
		b, err := p.projection.Bounds(t.Context())
		return err == nil && b.Floor == 26
	})
	runParts(t, p.worker.Run)
	got := p.inspected(t)
	if got.Run.Skipped != 15 || got.Run.Events != 10 || events(got) != 10 {
		t.Errorf("%d events; %+v", events(got), got.Run)
	}
	if !strings.Contains(p.logs.String(), "left history before") {
		t.Error("nothing was logged")
	}
}

// TestHostileBodiesDoNotFillTheDrift: whatever has no place is counted.
func TestHostileBodiesDoNotFillTheDrift(t *testing.T) {
	p := newParts(t, bridgetest.NewLog(t), projection.Config{}, drift.Config{})
	runParts(t, p.follow(p.worker), p.worker.Run)
	const perEvent, count = 1500, 6
	p.append(t, 0, count, func(i int) string {
		var b strings.Builder
		for j := range perEvent {
			n := i*perEvent + j
			fmt.Fprintf(&b, `,"x%c%c%c%c":1`, 'a'+n%26, 'a'+n/26%26, 'a'+n/676%26, 'a'+n/17576%26)
		}
		return `{"pnrId":"p"` + b.String() + `,"5550100` + fmt.Sprint(i) + `":1}`
	})
	got := p.inspected(t)
	places := got.Run.Overflow
	for _, e := range got.Entries {
		places += e.Occurrences
		if strings.Contains(e.Path, "555") {
			t.Error("a key of a map is in a path")
		}
	}
	if places != count*(perEvent+1) || len(got.Entries) > 500 {
		t.Errorf("%d entries, %d places of %d accounted for", len(got.Entries), places, count*(perEvent+1))
	}
}

// TestAnEventIsConvertedOnce: however many subscribers and the drift there are.
func TestAnEventIsConvertedOnce(t *testing.T) {
	c := &counter{Converter: payload.New()}
	r := start(t, testConfig(t), app.Options{Converter: c})
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	var streams []interface {
		Recv() (*pb.SubscribeResponse, error)
	}
	for range 5 {
		s, err := pb.NewSubscriptionServiceClient(r.conn).Subscribe(ctx, &pb.SubscribeRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Recv(); err != nil {
			t.Fatal(err)
		}
		streams = append(streams, s)
	}
	accepted := r.deliverAll(t)
	for _, s := range streams {
		for n := 0; n < len(accepted); {
			m, err := s.Recv()
			if err != nil {
				t.Fatal(err)
			}
			if e := m.GetEvent(); e != nil {
				n++
				if e.GetConversion().GetStatus() != pb.ConversionStatus_CONVERSION_STATUS_FULL {
					t.Error(e.GetConversion())
				}
			}
		}
	}
	r.drift(t, &pb.ListSchemaDriftRequest{})
	if n := c.conversions.Load(); n != int64(len(accepted)) {
		t.Errorf("%d conversions of %d events", n, len(accepted))
	}
}

// TestAFaultOfTheConverterEndsNothing: the event goes out without a typed payload, and drift counts it.
func TestAFaultOfTheConverterEndsNothing(t *testing.T) {
	all := samples.Deliveries()
	bad := slices.IndexFunc(all, func(d samples.Delivery) bool { return d.EventType == "TRAVELER_V2" })
	id := "sandbox." + all[bad].WebhookID()
	r := start(t, testConfig(t), app.Options{Converter: &counter{Converter: payload.New(), fault: all[bad].TravelerID}, Logger: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	s, err := pb.NewSubscriptionServiceClient(r.conn).Subscribe(ctx, &pb.SubscribeRequest{Filter: &pb.EventFilter{EventTypes: []string{"TRAVELER_V2"}}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Recv(); err != nil {
		t.Fatal(err)
	}
	accepted := r.deliverAll(t)
	faults := 0
	for _, d := range accepted {
		if bytes.Contains(d.Body, []byte(all[bad].TravelerID)) {
			faults++
		}
	}
	for {
		m, err := s.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if e := m.GetEvent(); e.GetId() == id {
			if e.GetConversion().GetStatus() != pb.ConversionStatus_CONVERSION_STATUS_RAW_ONLY || e.GetTravelerV2() != nil {
				t.Error(e.GetConversion())
			}
			break
		}
	}
	held, err := pb.NewEventServiceClient(r.conn).GetEvent(t.Context(), &pb.GetEventRequest{EventId: id, View: pb.EventView_EVENT_VIEW_FULL})
	if err != nil || held.GetEvent().GetConversion().GetStatus() != pb.ConversionStatus_CONVERSION_STATUS_RAW_ONLY || !bytes.Equal(held.GetEvent().GetRawBody(), all[bad].Body) {
		t.Error("from history:", err, held.GetEvent().GetConversion())
	}
	got := r.drift(t, &pb.ListSchemaDriftRequest{})
	if i := got.GetInspection(); i.GetSkippedCount() != int64(faults) || i.GetEventCount() != int64(len(accepted)-faults) {
		t.Errorf("%d faults: %v", faults, i)
	}
	r.metricIs(t, `spotbridge_drift_skipped_total{cause="failed"}`, faults)
}
