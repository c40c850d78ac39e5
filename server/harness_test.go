package server

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/spotbridge/spotbridge/bridge"
	"github.com/spotbridge/spotbridge/bridge/live"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

// TestMain fails when a test leaves a goroutine of this module or of gRPC's server behind.
func TestMain(m *testing.M) {
	code := m.Run()
	http.DefaultClient.CloseIdleConnections()
	deadline := time.Now().Add(10 * time.Second)
	for stacks := leftBehind(); len(stacks) > 0 && code == 0; stacks = leftBehind() {
		if time.Now().After(deadline) {
			fmt.Fprintf(os.Stderr, "goroutines were left behind:\n%s\n", strings.Join(stacks, "\n\n"))
			code = 1
		}
		runtime.Gosched()
	}
	os.Exit(code)
}

func leftBehind() []string {
	buf := make([]byte, 1<<20)
	all := strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n")
	return slices.DeleteFunc(all[1:], func(s string) bool {
		return !strings.Contains(s, "spotbridge/") && !strings.Contains(s, "google.golang.org/grpc")
	})
}

var testLog = bridge.LogID{7, 7, 7}

func cursorAt(seq uint64) string { return bridge.Cursor{Log: testLog, Sequence: seq}.String() }

// history is a bridge.History over a slice, with the real predicate.
type history struct {
	mu          sync.Mutex
	events      []*bridge.Encoded
	floor, mark uint64
	err         error
	lists       []bridge.ListRequest
	seen        []bridge.SeenType
	count       bridge.CountRequest
}

func (h *history) Bounds(context.Context) (bridge.Bounds, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	b := bridge.Bounds{Log: testLog, Floor: max(h.floor, 1), Watermark: h.mark}
	for _, e := range h.events {
		if e.Sequence >= b.Floor {
			b.FloorTime = e.AppendTime
			break
		}
	}
	return b, h.err
}

func (h *history) Scan(_ context.Context, r bridge.ScanRequest) (bridge.ScanResult, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	up := min(r.UpTo, h.mark)
	out := bridge.ScanResult{Next: max(r.After, up)}
	size := 0
	for _, e := range h.events {
		if e.Sequence <= r.After || e.Sequence > up || !r.Filter.Match(&e.Meta) {
			continue
		}
		if len(out.Events) == r.MaxEvents || len(out.Events) > 0 && size >= r.MaxBytes {
			out.Next = out.Events[len(out.Events)-1].Sequence
			break
		}
		out.Events = append(out.Events, e)
		size += len(e.Envelope) + len(e.Body)
	}
	return out, h.err
}

func (h *history) Load(_ context.Context, r bridge.LoadRequest) (out bridge.LoadResult, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, e := range h.events {
		if slices.Contains(r.Sequences, e.Sequence) && e.Sequence <= h.mark {
			out.Events = append(out.Events, e)
		}
	}
	out.Next = h.mark
	return out, h.err
}

func (h *history) List(_ context.Context, r bridge.ListRequest) (bridge.ListResult, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lists = append(h.lists, r)
	out := bridge.ListResult{Snapshot: cmp.Or(r.Snapshot, h.mark)}
	events := slices.Clone(h.events)
	if !r.OldestFirst {
		slices.Reverse(events)
	}
	if r.LatestPerEntity { // here the last in the log
		last := map[string]uint64{}
		for _, e := range h.events {
			if e.EntityID != "" && e.Sequence <= out.Snapshot && r.Filter.Match(&e.Meta) {
				last[e.EntityID] = e.Sequence
			}
		}
		events = slices.DeleteFunc(events, func(e *bridge.Encoded) bool { return last[e.EntityID] != e.Sequence })
	}
	size := 0
	for _, e := range events {
		past := r.Resume != 0 && (r.OldestFirst && e.Sequence <= r.Resume || !r.OldestFirst && e.Sequence >= r.Resume)
		if past || e.Sequence > out.Snapshot || !r.Filter.Match(&e.Meta) || e.AppendTime.Before(r.StartTime) || !r.EndTime.IsZero() && !e.AppendTime.Before(r.EndTime) {
			continue
		}
		if len(out.Events) == r.PageSize || len(out.Events) > 0 && size >= r.MaxBytes {
			out.Next = out.Events[len(out.Events)-1].Sequence
			break
		}
		out.Events = append(out.Events, e)
		size += len(e.Envelope) + len(e.Body)
	}
	return out, h.err
}

func (h *history) Count(_ context.Context, r bridge.CountRequest) (bridge.CountResult, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.count = r
	out := bridge.CountResult{}
	for _, e := range h.events {
		if r.Filter.Match(&e.Meta) {
			out.Total++
		}
	}
	if len(r.GroupBy) > 0 {
		out.Counts = []*pb.EventCount{{EventType: "PNR_V3", Count: out.Total}}
	}
	return out, h.err
}

func (h *history) Get(_ context.Context, id string) (*bridge.Encoded, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, e := range h.events {
		if e.EventID == id {
			return e, nil
		}
	}
	if h.err != nil {
		return nil, h.err
	}
	return nil, &bridge.Error{Reason: pb.ErrorReason_ERROR_REASON_EVENT_NOT_FOUND, Message: "no event with this id is held"}
}

func (h *history) SequenceAt(_ context.Context, t time.Time) (uint64, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, e := range h.events {
		if !e.AppendTime.Before(t) {
			return e.Sequence - 1, nil
		}
	}
	return h.mark, nil
}

func (h *history) EventTypes(context.Context) ([]bridge.SeenType, error) { return h.seen, h.err }

// deliveries is a bridge.Deliveries with two rows.
type deliveries struct {
	bridge.Deliveries
	last   bridge.DeliveryListRequest
	bodies map[string][]byte
}

func (d *deliveries) ListDeliveries(_ context.Context, r bridge.DeliveryListRequest) ([]*pb.Delivery, string, error) {
	d.last = r
	if r.Resume == "" {
		return []*pb.Delivery{{Id: "d2", Outcome: pb.DeliveryOutcome_DELIVERY_OUTCOME_QUARANTINED, Sequence: 9}}, "after d2", nil
	}
	return []*pb.Delivery{{Id: "d1", Outcome: pb.DeliveryOutcome_DELIVERY_OUTCOME_REFUSED}}, "", nil
}

func (d *deliveries) GetDelivery(_ context.Context, id string) (*pb.Delivery, error) {
	if id == "d1" || id == "d2" {
		return &pb.Delivery{Id: id}, nil
	}
	return nil, &bridge.Error{Reason: pb.ErrorReason_ERROR_REASON_DELIVERY_NOT_FOUND, Message: "no delivery with this id is held by this replica"}
}

func (d *deliveries) DeliveryBody(ctx context.Context, id string) ([]byte, error) {
	if b, ok := d.bodies[id]; ok {
		return b, nil
	}
	if _, err := d.GetDelivery(ctx, id); err != nil {
		return nil, err
	}
	return nil, &bridge.Error{Reason: pb.ErrorReason_ERROR_REASON_BODY_NOT_KEPT, Message: "the body of this delivery is not kept"}
}

// reprocessor echoes what it is asked.
type reprocessor struct {
	last *pb.ReprocessDeliveriesRequest
}

func (r *reprocessor) Reprocess(_ context.Context, req *pb.ReprocessDeliveriesRequest) (*pb.ReprocessDeliveriesResponse, error) {
	r.last = req
	return &pb.ReprocessDeliveriesResponse{Matched: 3, Appended: 2, StillUnreadable: 1}, nil
}

// converter makes a Value of the body's text, so that typed views have something in them. extra makes it larger.
type converter struct{ extra int }

func (c converter) Convert(_ string, body []byte) []byte {
	b, err := proto.Marshal(&pb.Event{
		Conversion: &pb.Conversion{Status: pb.ConversionStatus_CONVERSION_STATUS_RAW_ONLY},
		Payload:    &pb.Event_Other{Other: structpb.NewStringValue(string(body) + strings.Repeat("x", c.extra))},
	})
	if err != nil {
		panic(err)
	}
	return b
}

var epoch = time.Date(2026, 11, 23, 9, 0, 0, 0, time.UTC)

// makeEvent makes an event whose append time is its sequence in seconds.
func makeEvent(seq uint64, body []byte, change ...func(*bridge.Envelope)) *bridge.Encoded {
	return makeTyped(seq, body, converter{}, change...)
}

func makeTyped(seq uint64, body []byte, c bridge.Converter, change ...func(*bridge.Envelope)) *bridge.Encoded {
	env := &bridge.Envelope{EventType: "PNR_V3", Operation: "BOOKING_UPDATED", Organizations: []string{"org"}}
	for _, f := range change {
		f(env)
	}
	webhook := fmt.Sprintf("w%d", seq)
	entry := &bridge.Entry{Source: "sandbox", EventID: bridge.EventID("sandbox", webhook), WebhookID: webhook, Sequence: seq, ReceiveTime: epoch}
	e, meta, err := bridge.EncodeEnvelope(entry, env, epoch.Add(time.Duration(seq)*time.Second), pb.Ordering_ORDERING_IN_ORDER)
	if err != nil {
		panic(err)
	}
	return bridge.NewEncoded(meta, e, body, len(body), c)
}

func ofType(name string) func(*bridge.Envelope) {
	return func(e *bridge.Envelope) { e.EventType = name }
}

// logs collects the log.
type logs struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logs) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// fixture is a server on real sockets of the loopback interface.
type fixture struct {
	*Server
	history     *history
	deliveries  *deliveries
	reprocessor *reprocessor
	drift       *driftList
	hub         *live.Hub
	logs        *logs
	addr        string
	conn        *grpc.ClientConn
	url         string
	http        *http.Client
}

func newFixture(t testing.TB, change ...func(*Config, *live.Config)) *fixture {
	t.Helper()
	f := &fixture{
		history: &history{}, deliveries: &deliveries{bodies: map[string][]byte{"d2": []byte("\x00\xffexact")}}, reprocessor: &reprocessor{}, drift: &driftList{}, logs: &logs{},
	}
	lc := live.Config{History: f.history}
	cfg := Config{
		History: f.history, Deliveries: f.deliveries, Drift: f.drift, Reprocessor: f.reprocessor, LogID: testLog, OpenAPI: []byte(`{"openapi":"3.0.3"}`), Open: true,
		Logger: slog.New(slog.NewTextHandler(f.logs, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	for _, c := range change {
		c(&cfg, &lc)
	}
	f.hub = live.New(lc)
	if cfg.Hub == nil {
		cfg.Hub = f.hub
	}
	var err error
	if f.Server, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f.addr = l.Addr().String()
	served := make(chan error, 1)
	go func() { served <- f.GRPC().Serve(l) }()
	f.conn = f.dial(t)
	web := httptest.NewServer(f.REST())
	f.url, f.http = web.URL, web.Client()
	t.Cleanup(func() {
		f.conn.Close()
		if err := f.Close(); err != nil {
			t.Error(err)
		}
		if err := <-served; err != nil {
			t.Error(err)
		}
		web.CloseClientConnections()
		web.Close()
	})
	return f
}

func (f *fixture) dial(t testing.TB, opts ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	opts = append([]grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(32 << 20))}, opts...)
	conn, err := grpc.NewClient(f.addr, opts...)
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

// put commits and publishes events, as the follower does.
func (f *fixture) put(events ...*bridge.Encoded) {
	mark := events[len(events)-1].Sequence
	f.history.mu.Lock()
	f.history.events = append(f.history.events, events...)
	f.history.mark = mark
	f.history.mu.Unlock()
	f.hub.Publish(events, mark)
}

func (f *fixture) subscribe(t testing.TB, req *pb.SubscribeRequest) grpc.ServerStreamingClient[pb.SubscribeResponse] {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	s, err := pb.NewSubscriptionServiceClient(f.conn).Subscribe(ctx, req)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// next returns the next message.
func next(t testing.TB, s grpc.ServerStreamingClient[pb.SubscribeResponse]) *pb.SubscribeResponse {
	t.Helper()
	m, err := s.Recv()
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// untilEnd returns the messages of a stream that must end with OK.
func untilEnd(t testing.TB, s grpc.ServerStreamingClient[pb.SubscribeResponse]) iter.Seq[*pb.SubscribeResponse] {
	t.Helper()
	return func(yield func(*pb.SubscribeResponse) bool) {
		for {
			m, err := s.Recv()
			switch {
			case errors.Is(err, io.EOF):
				return
			case err != nil:
				t.Fatal(err)
			case !yield(m):
				return
			}
		}
	}
}

// answer is what REST answered.
type answer struct {
	*http.Response
	body []byte
}

func (f *fixture) do(t testing.TB, method, path, body string, header ...string) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, f.url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		if header[i] == "Host" {
			req.Host = header[i+1]
			continue
		}
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := f.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	checkDocumented(t, req, resp)
	return answer{resp, b}
}

func (f *fixture) get(t testing.TB, path string) answer {
	t.Helper()
	return f.do(t, http.MethodGet, path, "")
}

// decode reads an answer that must be OK.
func (a answer) decode(t testing.TB, into proto.Message) {
	t.Helper()
	if a.StatusCode != http.StatusOK || a.Header.Get("Content-Type") != "application/json" {
		t.Fatalf("%d %s %s", a.StatusCode, a.Header.Get("Content-Type"), a.body)
	}
	if err := protojson.Unmarshal(a.body, into); err != nil {
		t.Fatalf("%v in %s", err, a.body)
	}
}

// eventually waits for a condition.
func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !condition() {
		if time.Now().After(deadline) {
			t.Fatal("it does not come true: " + what)
		}
		runtime.Gosched()
	}
}
