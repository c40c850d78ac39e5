package app_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/spotbridge/spotbridge/app"
	"github.com/spotbridge/spotbridge/bridge"
	"github.com/spotbridge/spotbridge/bridge/bridgetest/samples"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

// testConfig is a bridge on free ports and a folder of its own, with the samples' secrets and no window.
func testConfig(t testing.TB) app.Config {
	cfg := app.DefaultConfig()
	cfg.DataDir = t.TempDir()
	cfg.Listen = app.ListenConfig{Webhook: "127.0.0.1:0", REST: "127.0.0.1:0", GRPC: "127.0.0.1:0", Admin: "127.0.0.1:0"}
	off := app.Duration(0)
	src := app.Source{Name: "sandbox", MaxAge: &off}
	for _, s := range samples.Secrets() {
		src.Secrets = append(src.Secrets, app.Secret(s))
	}
	cfg.Sources = []app.Source{src}
	cfg.Log.MaxBytes, cfg.Log.Reserve = 2<<30, 1
	return cfg
}

// running is a bridge that runs in this process.
type running struct {
	*app.App
	conn *grpc.ClientConn
	stop func() error
}

func start(t testing.TB, cfg app.Config, opts app.Options) *running {
	t.Helper()
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelWarn}))
	}
	a, err := app.New(t.Context(), cfg, opts)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	conn, err := grpc.NewClient(a.GRPCAddr(), grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(17<<20)))
	if err != nil {
		t.Fatal(err)
	}
	stopped := false
	r := &running{App: a, conn: conn}
	r.stop = func() error {
		if stopped {
			return nil
		}
		stopped = true
		conn.Close()
		cancel()
		return <-done
	}
	t.Cleanup(func() {
		if err := r.stop(); err != nil {
			t.Error("run:", err)
		}
	})
	select {
	case <-a.Ready():
	case err := <-done:
		done <- err
		t.Fatal("the bridge ended before it was ready:", err)
	case <-time.After(60 * time.Second):
		t.Fatal("not ready within a minute")
	}
	return r
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}

func (r *running) deliver(t testing.TB, d *samples.Delivery) (int, string) {
	t.Helper()
	req, err := http.NewRequest(http.MethodPost, "http://"+r.WebhookAddr()+"/webhooks/sandbox", bytes.NewReader(d.Body))
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range d.Headers {
		req.Header.Set(k, v)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var answer struct{ Status string }
	_ = json.Unmarshal(b, &answer)
	return resp.StatusCode, answer.Status
}

// get asks REST and decodes the answer.
func (r *running) get(t testing.TB, path string, into proto.Message) {
	t.Helper()
	status, body := r.getRaw(t, path)
	if status != http.StatusOK {
		t.Fatalf("GET %s: %d %s", path, status, body)
	}
	if err := unmarshalJSON(body, into); err != nil {
		t.Fatalf("GET %s: %v", path, err)
	}
}

func (r *running) getRaw(t testing.TB, path string) (int, []byte) {
	t.Helper()
	resp, err := http.Get("http://" + r.RESTAddr() + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, b
}

// collect subscribes and returns the events up to the head, and the last cursor.
func (r *running) collect(t testing.TB, req *pb.SubscribeRequest) ([]*pb.Event, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	req.StopAtHead = true
	r.applied(t, 0) // after a start history may have to be built
	stream, err := pb.NewSubscriptionServiceClient(r.conn).Subscribe(ctx, req)
	if err != nil {
		t.Fatal(err)
	}
	var events []*pb.Event
	cursor := ""
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return events, cursor
		}
		if err != nil {
			t.Fatal(err)
		}
		cursor = m.GetCursor()
		if e := m.GetEvent(); e != nil {
			events = append(events, e)
		}
	}
}

// applied waits until everything on the log is in the projection.
func (r *running) applied(t testing.TB, events int) {
	t.Helper()
	eventually(t, func() bool {
		got, err := pb.NewEventServiceClient(r.conn).CountEvents(t.Context(), &pb.CountEventsRequest{})
		return err == nil && got.GetTotal() >= int64(events)
	})
}

func eventually(t testing.TB, condition func() bool) {
	t.Helper()
	deadline := time.Now().Add(60 * time.Second)
	for !condition() {
		if time.Now().After(deadline) {
			t.Fatal("the condition did not come true within a minute")
		}
		<-time.After(5 * time.Millisecond)
	}
}

func TestSamplesEndToEnd(t *testing.T) {
	r := start(t, testConfig(t), app.Options{})

	// A live subscriber from before the first delivery.
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	live, err := pb.NewSubscriptionServiceClient(r.conn).Subscribe(ctx, &pb.SubscribeRequest{View: pb.EventView_EVENT_VIEW_FULL})
	if err != nil {
		t.Fatal(err)
	}
	if m, err := live.Recv(); err != nil || m.GetConfirmation() == nil {
		t.Fatalf("%v, %v", m, err)
	}

	before := time.Now().Add(-time.Second)
	first := map[string]*samples.Delivery{}
	var order []*samples.Delivery
	all := samples.Deliveries()
	for i := range all {
		d := &all[i]
		want := "accepted"
		if first[d.WebhookID()] != nil {
			want = "duplicate"
		} else {
			first[d.WebhookID()] = d
			order = append(order, d)
		}
		if code, status := r.deliver(t, d); code != 200 || status != want {
			t.Fatalf("delivery %d: %d %s, want %s", d.Seq, code, status, want)
		}
	}

	// The stream: log order, right fields, exact bytes.
	for i := 0; i < len(order); {
		m, err := live.Recv()
		if err != nil {
			t.Fatal(err)
		}
		e := m.GetEvent()
		if e == nil {
			continue
		}
		d := order[i]
		i++
		if e.GetId() != bridge.EventID("sandbox", d.WebhookID()) || e.GetEventType() != d.EventType || e.GetOperation() != d.Operation ||
			e.GetOrganizationId() != d.Organization || e.GetPnrId() != d.PNRID || e.GetTripId() != d.TripID || e.GetEventTimeText() != d.Timestamp ||
			e.GetEntity().GetVersion() != d.Version || e.GetTrace().GetTraceId() != d.Headers["X-B3-TraceId"] || e.GetTrace().GetSpanId() != d.Headers["X-B3-SpanId"] {
			t.Errorf("event %d of delivery %d differs: %v", i, d.Seq, e.GetId())
		}
		if !bytes.Equal(e.GetRawBody(), d.Body) {
			t.Errorf("delivery %d: the body is not the one that was sent", d.Seq)
		}
		if e.GetConversion() == nil || e.GetPayload() == nil {
			t.Errorf("delivery %d: the full view has no converted payload", d.Seq)
		}
	}
	cancel()

	// The history, by every field.
	r.applied(t, len(order))
	want := func(match func(*samples.Delivery) bool) []string {
		var ids []string
		for _, d := range order {
			if match(d) {
				ids = append(ids, bridge.EventID("sandbox", d.WebhookID()))
			}
		}
		return ids
	}
	check := func(query string, ids []string) {
		t.Helper()
		var got []string
		token := ""
		for {
			var page pb.ListEventsResponse
			r.get(t, "/v1/events?order=OLDEST_FIRST&view=ENVELOPE&page_size=7&"+query+"&page_token="+url.QueryEscape(token), &page)
			for _, e := range page.GetEvents() {
				got = append(got, e.GetId())
			}
			if token = page.GetNextPageToken(); token == "" {
				break
			}
		}
		if !slices.Equal(got, ids) {
			t.Errorf("%s: %d events, want %d", query, len(got), len(ids))
		}
	}
	for _, d := range order {
		check("filter.event_types="+d.EventType, want(func(x *samples.Delivery) bool { return x.EventType == d.EventType }))
		check("operations="+d.Operation+"&filter.organization_ids="+d.Organization, want(func(x *samples.Delivery) bool { return x.Operation == d.Operation && x.Organization == d.Organization }))
		if d.PNRID != "" {
			check("pnr_ids="+d.PNRID, want(func(x *samples.Delivery) bool { return x.PNRID == d.PNRID }))
		}
		if d.TripID != "" {
			check("filter.trip_ids="+d.TripID, want(func(x *samples.Delivery) bool { return x.TripID == d.TripID }))
		}
	}
	check("start_time="+url.QueryEscape(before.UTC().Format(time.RFC3339Nano)), want(func(*samples.Delivery) bool { return true }))
	check("end_time="+url.QueryEscape(before.UTC().Format(time.RFC3339Nano)), nil)

	// The exact bytes, over REST and gRPC.
	for _, d := range order {
		status, body := r.getRaw(t, "/v1/events/"+url.PathEscape(bridge.EventID("sandbox", d.WebhookID()))+"/body")
		if sum := sha256.Sum256(body); status != 200 || hex.EncodeToString(sum[:]) != d.SHA256 {
			t.Errorf("delivery %d: the body over REST differs (%d)", d.Seq, status)
		}
	}

	// The deliveries: 44 accepted, 5 duplicates.
	eventually(t, func() bool {
		var page pb.ListDeliveriesResponse
		r.get(t, "/v1/deliveries?outcomes=DUPLICATE&page_size=100", &page)
		return len(page.GetDeliveries()) == len(all)-len(order)
	})
	var page pb.ListDeliveriesResponse
	r.get(t, "/v1/deliveries?outcomes=ACCEPTED&page_size=100", &page)
	if len(page.GetDeliveries()) != len(order) {
		t.Errorf("%d accepted deliveries, want %d", len(page.GetDeliveries()), len(order))
	}
}

func TestAStreamResumesAcrossARestart(t *testing.T) {
	cfg := testConfig(t)
	r := start(t, cfg, app.Options{})
	all := samples.Deliveries()
	for i := range 10 {
		r.deliver(t, &all[i])
	}
	events, cursor := r.collect(t, &pb.SubscribeRequest{Start: pb.Start_START_EARLIEST, View: pb.EventView_EVENT_VIEW_ENVELOPE})
	if len(events) != 10 {
		t.Fatalf("%d events", len(events))
	}
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	r = start(t, cfg, app.Options{})
	for i := 10; i < 12; i++ {
		r.deliver(t, &all[i])
	}
	r.applied(t, 12)
	events, _ = r.collect(t, &pb.SubscribeRequest{AfterCursor: cursor, View: pb.EventView_EVENT_VIEW_ENVELOPE})
	if len(events) != 2 || events[0].GetSequence() != 11 {
		t.Fatalf("resumed with %d events", len(events))
	}
}

func TestARebuiltProjectionHasTheSameRows(t *testing.T) {
	cfg := testConfig(t)
	r := start(t, cfg, app.Options{})
	all := samples.Deliveries()
	for i := range all {
		r.deliver(t, &all[i])
	}
	r.applied(t, 44)
	before, _ := r.collect(t, &pb.SubscribeRequest{Start: pb.Start_START_EARLIEST, View: pb.EventView_EVENT_VIEW_FULL})
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	removeProjection(t, cfg.DataDir)
	r = start(t, cfg, app.Options{})
	// A re-send during the rebuild is a duplicate all the same.
	if code, status := r.deliver(t, &all[0]); code != 200 || status != "duplicate" {
		t.Errorf("re-send during a rebuild: %d %s", code, status)
	}
	r.applied(t, 44)
	after, _ := r.collect(t, &pb.SubscribeRequest{Start: pb.Start_START_EARLIEST, View: pb.EventView_EVENT_VIEW_FULL})
	if len(before) != 44 || len(after) != 44 {
		t.Fatalf("%d and %d events", len(before), len(after))
	}
	for i := range before {
		if !proto.Equal(before[i], after[i]) {
			t.Errorf("event %d differs after the rebuild:\n%v\n%v", i, before[i].GetId(), after[i].GetId())
		}
	}
}

func TestFiftySendsOfOneWebhookStoreOne(t *testing.T) {
	cfg := testConfig(t)
	// A window that is over at once: the exactness must not come from the log's own deduplication.
	opts := app.Options{DedupWindow: 100 * time.Millisecond}
	r := start(t, cfg, opts)
	d := samples.Deliveries()[5]
	answers := make(chan string, 50)
	for range 50 {
		go func() {
			code, status := r.deliver(t, &d)
			answers <- fmt.Sprint(code, " ", status)
		}()
	}
	count := map[string]int{}
	for range 50 {
		count[<-answers]++
	}
	if count["200 accepted"] != 1 || count["200 duplicate"] != 49 {
		t.Fatalf("answers: %v", count)
	}
	other := samples.Deliveries()[6]
	for range 3 { // across restarts, and past the window
		if err := r.stop(); err != nil {
			t.Fatal(err)
		}
		r = start(t, cfg, opts)
		<-time.After(2 * opts.DedupWindow) // the window really has to pass
		if code, status := r.deliver(t, &d); code != 200 || status != "duplicate" {
			t.Fatalf("after a restart: %d %s", code, status)
		}
	}
	r.deliver(t, &other)
	r.applied(t, 2)
	got, err := pb.NewEventServiceClient(r.conn).CountEvents(t.Context(), &pb.CountEventsRequest{})
	if err != nil || got.GetTotal() != 2 {
		t.Fatalf("%v, %v", got, err)
	}
}

func TestALockedDataDirIsRefusedWithItsName(t *testing.T) {
	cfg := testConfig(t)
	start(t, cfg, app.Options{})
	_, err := app.New(t.Context(), cfg, app.Options{})
	if err == nil || !strings.Contains(err.Error(), cfg.DataDir) || !strings.Contains(err.Error(), "another process") {
		t.Fatalf("got %v", err)
	}
}

func TestTheDoorClosesBeforeTheDiskIsFullAndOpensAgain(t *testing.T) {
	cfg := testConfig(t)
	cfg.Log.Reserve = 1 << 30
	free := make(chan uint64, 1)
	now := uint64(10 << 30)
	opts := app.Options{FreeSpace: func(string) (uint64, uint64, error) {
		select {
		case now = <-free:
		default:
		}
		return now, 100 << 30, nil
	}}
	r := start(t, cfg, opts)
	all := samples.Deliveries()
	if code, _ := r.deliver(t, &all[0]); code != 200 {
		t.Fatal(code)
	}
	free <- 1 << 20
	eventually(t, func() bool { code, _ := r.deliver(t, &all[1]); return code == http.StatusServiceUnavailable })
	if status, body := r.admin(t, "/readyz"); status != http.StatusServiceUnavailable || !strings.Contains(string(body), "free some space") {
		t.Fatalf("%d %s", status, body)
	}
	free <- 10 << 30
	eventually(t, func() bool { code, _ := r.deliver(t, &all[2]); return code == http.StatusOK })
	if status, body := r.admin(t, "/readyz"); status != http.StatusOK {
		t.Fatalf("%d %s", status, body)
	}
}

func (r *running) admin(t testing.TB, path string) (int, []byte) {
	t.Helper()
	resp, err := http.Get("http://" + r.AdminAddr() + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, b
}

func TestQuarantinedBodiesAreShownAndReprocessed(t *testing.T) {
	cfg := testConfig(t)
	cfg.Sources[0].Organizations = []string{"someone-else"}
	r := start(t, cfg, app.Options{})
	all := samples.Deliveries()
	for i := range 3 {
		if code, status := r.deliver(t, &all[i]); code != 200 || status != "quarantined" {
			t.Fatalf("%d %s", code, status)
		}
	}
	deliveries := pb.NewDeliveryServiceClient(r.conn)
	var page *pb.ListDeliveriesResponse
	eventually(t, func() bool {
		var err error
		page, err = deliveries.ListDeliveries(t.Context(), &pb.ListDeliveriesRequest{Outcomes: []pb.DeliveryOutcome{pb.DeliveryOutcome_DELIVERY_OUTCOME_QUARANTINED}})
		return err == nil && len(page.GetDeliveries()) == 3
	})
	d := page.GetDeliveries()[2]
	if d.GetCause() != pb.DeliveryCause_DELIVERY_CAUSE_ORGANIZATION_NOT_ALLOWED {
		t.Fatalf("%v", d)
	}
	if status, body := r.getRaw(t, "/v1/deliveries/"+url.PathEscape(d.GetId())+"/body"); status != 200 || !bytes.Equal(body, all[0].Body) {
		t.Fatalf("the quarantined body differs: %d, %d bytes", status, len(body))
	}
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	cfg.Sources[0].Organizations = nil
	r = start(t, cfg, app.Options{})
	deliveries = pb.NewDeliveryServiceClient(r.conn)
	dry, err := deliveries.ReprocessDeliveries(t.Context(), &pb.ReprocessDeliveriesRequest{DryRun: true})
	if err != nil || dry.GetMatched() != 3 || dry.GetAppended() != 3 {
		t.Fatalf("%v, %v", dry, err)
	}
	got, err := deliveries.ReprocessDeliveries(t.Context(), &pb.ReprocessDeliveriesRequest{})
	if err != nil || got.GetAppended() != 3 {
		t.Fatalf("%v, %v", got, err)
	}
	r.applied(t, 3)
	got, err = deliveries.ReprocessDeliveries(t.Context(), &pb.ReprocessDeliveriesRequest{})
	if err != nil || got.GetAppended() != 0 || got.GetAlreadyEvents() != 3 {
		t.Fatalf("a second time: %v, %v", got, err)
	}
	e, err := pb.NewEventServiceClient(r.conn).GetEvent(t.Context(), &pb.GetEventRequest{EventId: bridge.EventID("sandbox", all[0].WebhookID())})
	if err != nil || e.GetEvent().GetEventType() != all[0].EventType {
		t.Fatalf("%v, %v", e, err)
	}
}

func TestTheDoorOpensWhenEverythingServes(t *testing.T) {
	logs := &safeBuffer{}
	r := start(t, testConfig(t), app.Options{Logger: slog.New(slog.NewTextHandler(logs, nil))})
	got, err := healthpb.NewHealthClient(r.conn).Check(t.Context(), &healthpb.HealthCheckRequest{Service: "spotbridge.v1.SubscriptionService"})
	if err != nil || got.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		t.Fatalf("%v, %v", got, err)
	}
	if status, body := r.admin(t, "/readyz"); status != http.StatusOK {
		t.Fatalf("%d %s", status, body)
	}
	// Scripts read the addresses, and go on when the door is open.
	if _, after, found := strings.Cut(logs.String(), "msg=listening "); !found || !strings.Contains(after, `msg="the door is open"`) {
		t.Fatal(logs.String())
	}
}

func TestFromTimeStartsThere(t *testing.T) {
	r := start(t, testConfig(t), app.Options{})
	all := samples.Deliveries()
	r.deliver(t, &all[0])
	r.applied(t, 1)
	first, err := pb.NewEventServiceClient(r.conn).ListEvents(t.Context(), &pb.ListEventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	after := first.GetEvents()[0].GetAppendTime().AsTime().Add(time.Nanosecond)
	r.deliver(t, &all[1])
	r.applied(t, 2)
	events, _ := r.collect(t, &pb.SubscribeRequest{FromTime: timestamppb.New(after)})
	if len(events) != 1 || events[0].GetSequence() != 2 {
		t.Fatalf("%d events", len(events))
	}
}
