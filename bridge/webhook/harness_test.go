package webhook_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/proto"

	"github.com/spotbridge/spotbridge/bridge"
	"github.com/spotbridge/spotbridge/bridge/webhook"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

const (
	secretText = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
	otherText  = "whsec_ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8="
	orgA       = "11111111-1111-4111-8111-111111111111"
	orgB       = "22222222-2222-4222-8222-222222222222"
)

// now is the injected clock's time in every test.
var now = time.Date(2026, 3, 10, 12, 0, 0, 0, time.UTC)

// fakeLog is an Appender in memory, with faults on demand. The real one is tested in eventlog.
type fakeLog struct {
	mu      sync.Mutex
	entries []*bridge.Entry
	first   map[string]*bridge.Entry // by message id
	// window says whether the log knows message ids, as JetStream does for a while.
	window bool
	// before is called before an entry is stored, after when it is; an error goes to the caller.
	before, after func(ctx context.Context, e *bridge.Entry) error
}

func (l *fakeLog) Append(ctx context.Context, e *bridge.Entry) (bridge.Appended, error) {
	l.mu.Lock()
	before, after := l.before, l.after
	l.mu.Unlock()
	if before != nil {
		if err := before(ctx, e); err != nil {
			return bridge.Appended{}, bridge.LogUnavailable(err)
		}
	}
	a := l.store(e)
	if after != nil {
		if err := after(ctx, e); err != nil {
			return bridge.Appended{}, bridge.LogUnavailable(err)
		}
	}
	return a, nil
}

func (l *fakeLog) store(e *bridge.Entry) bridge.Appended {
	l.mu.Lock()
	defer l.mu.Unlock()
	id := e.EventID
	if e.Kind == bridge.EntryQuarantine {
		id += "." + hex.EncodeToString(e.BodyHash[:])
	}
	if f := l.first[id]; f != nil && l.window {
		return bridge.Appended{Sequence: f.Sequence, Duplicate: true, FirstHash: f.BodyHash}
	}
	c := *e
	c.Body = bytes.Clone(e.Body)
	c.Sequence = uint64(len(l.entries) + 1)
	l.entries = append(l.entries, &c)
	if l.first == nil {
		l.first = map[string]*bridge.Entry{}
	}
	l.first[id] = &c
	return bridge.Appended{Sequence: c.Sequence}
}

func (l *fakeLog) faults(before, after func(ctx context.Context, e *bridge.Entry) error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.before, l.after = before, after
}

func (l *fakeLog) all() []*bridge.Entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]*bridge.Entry(nil), l.entries...)
}

// fakeIDs is the memory of ids, fed from a fakeLog up to a watermark that tests move.
type fakeIDs struct {
	log       *fakeLog
	mu        sync.Mutex
	watermark uint64
	states    map[string]bridge.IDState
	// slow is called by Lookup after it has read its answer and before it returns it.
	slow func(ctx context.Context, eventID string) error
}

func (s *fakeIDs) Lookup(ctx context.Context, eventID string) (bridge.IDState, error) {
	s.mu.Lock()
	state, slow := s.states[eventID], s.slow
	s.mu.Unlock()
	if slow != nil {
		if err := slow(ctx, eventID); err != nil {
			return bridge.IDState{}, err
		}
	}
	return state, nil
}

func (s *fakeIDs) Watermark() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.watermark
}

// follow applies the log up to a sequence.
func (s *fakeIDs) follow(upTo uint64) {
	entries := s.log.all()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.states == nil {
		s.states = map[string]bridge.IDState{}
	}
	for _, e := range entries {
		if e.Sequence <= s.watermark || e.Sequence > upTo {
			continue
		}
		state := s.states[e.EventID]
		if e.Kind == bridge.EntryEvent && !state.Found {
			state.Found, state.Sequence, state.BodyHash = true, e.Sequence, e.BodyHash
		}
		if e.Kind == bridge.EntryQuarantine {
			q := map[[32]byte]uint64{e.BodyHash: e.Sequence}
			for h, n := range state.Quarantined {
				q[h] = n
			}
			state.Quarantined = q
		}
		s.states[e.EventID] = state
	}
	s.watermark = max(s.watermark, min(upTo, uint64(len(entries))))
}

func (s *fakeIDs) followAll() { s.follow(uint64(len(s.log.all()))) }

func (s *fakeIDs) lookups(slow func(ctx context.Context, eventID string) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.slow = slow
}

type recorder struct{ rows chan *pb.Delivery }

func (r *recorder) Record(d *pb.Delivery) { r.rows <- d }

// next returns the next row; it waits for it.
func (r *recorder) next(t *testing.T) *pb.Delivery {
	t.Helper()
	select {
	case d := <-r.rows:
		return d
	case <-time.After(10 * time.Second):
		t.Fatal("no delivery row came")
		return nil
	}
}

func (r *recorder) none(t *testing.T) {
	t.Helper()
	select {
	case d := <-r.rows:
		t.Fatalf("a delivery row came: %v", d)
	default:
	}
}

type gate struct {
	mu    sync.Mutex
	shut  bool
	cause pb.DeliveryCause
	after time.Duration
}

func (g *gate) Accepting() (bool, pb.DeliveryCause, time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return !g.shut, g.cause, g.after
}

func (g *gate) close(cause pb.DeliveryCause, after time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shut, g.cause, g.after = true, cause, after
}

func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shut = false
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// front is a front door over fakes, served on a real socket.
type front struct {
	t        *testing.T
	handler  *webhook.Handler
	log      *fakeLog
	ids      *fakeIDs
	recorder *recorder
	gate     *gate
	lines    *lockedBuffer
	registry *prometheus.Registry
	url      string
	client   *http.Client
}

func parseSecret(t testing.TB, text string) webhook.Secret {
	t.Helper()
	s, err := webhook.ParseSecret(text)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func newFront(t *testing.T, change ...func(*webhook.Config)) *front {
	t.Helper()
	f := &front{
		t: t, log: &fakeLog{}, recorder: &recorder{rows: make(chan *pb.Delivery, 1000)}, gate: &gate{},
		lines: &lockedBuffer{}, registry: prometheus.NewPedanticRegistry(),
	}
	f.ids = &fakeIDs{log: f.log}
	cfg := webhook.Config{
		Sources: []webhook.Source{{
			Name: "sandbox", Secrets: []webhook.Secret{parseSecret(t, secretText)}, MaxAge: webhook.DefaultMaxAge, MaxBody: 200_000,
		}},
		Log: f.log, IDs: f.ids, Recorder: f.recorder, Gate: f.gate,
		Logger: slog.New(slog.NewJSONHandler(f.lines, nil)), Registerer: f.registry, Now: func() time.Time { return now },
		AppendTimeout: 20 * time.Second,
	}
	for _, c := range change {
		c(&cfg)
	}
	h, err := webhook.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	f.handler = h
	srv := httptest.NewUnstartedServer(nil)
	srv.Config = webhook.NewServer(h, nil, slog.New(slog.NewJSONHandler(f.lines, nil)))
	srv.Start()
	t.Cleanup(srv.Close)
	f.url, f.client = srv.URL, srv.Client()
	return f
}

// post is a delivery to be sent; what is left out is made right.
type post struct {
	path      string // /webhooks/sandbox
	method    string // POST
	id        string // msg_1
	body      string
	timestamp string            // now
	secret    string            // secretText
	signature string            // made with secret
	without   []string          // headers to leave out
	headers   map[string]string // more headers
	chunked   bool
}

type reply struct {
	code   int
	status string // the word in the answer
	header http.Header
}

func (p post) request(t testing.TB, url string) *http.Request {
	t.Helper()
	set := func(s *string, v string) {
		if *s == "" {
			*s = v
		}
	}
	set(&p.path, "/webhooks/sandbox")
	set(&p.method, http.MethodPost)
	set(&p.id, "msg_1")
	set(&p.timestamp, strconv.FormatInt(now.Unix(), 10))
	set(&p.secret, secretText)
	set(&p.signature, webhook.Sign(parseSecret(t, p.secret), p.id, p.timestamp, []byte(p.body)))
	var body io.Reader = strings.NewReader(p.body)
	if p.chunked {
		body = io.NopCloser(body) // hides the length
	}
	r, err := http.NewRequestWithContext(t.Context(), p.method, url+p.path, body)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("x-spotnana-webhook-id", p.id)
	r.Header.Set("x-spotnana-webhook-timestamp", p.timestamp)
	r.Header.Set("x-spotnana-webhook-signature", p.signature)
	for _, name := range p.without {
		r.Header.Del(name)
	}
	for name, value := range p.headers {
		r.Header.Set(name, value)
	}
	return r
}

func (f *front) send(p post) reply {
	f.t.Helper()
	a, err := f.try(p)
	if err != nil {
		f.t.Fatal(err)
	}
	return a
}

func (f *front) try(p post) (reply, error) {
	res, err := f.client.Do(p.request(f.t, f.url))
	if err != nil {
		return reply{}, err
	}
	return readReply(res)
}

func readReply(res *http.Response) (reply, error) {
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		return reply{}, err
	}
	var word struct {
		Status string `json:"status"`
	}
	if err := json.Unmarshal(b, &word); err != nil && len(b) > 0 {
		return reply{}, fmt.Errorf("answer %q: %w", b, err)
	}
	return reply{code: res.StatusCode, status: word.Status, header: res.Header}, nil
}

// want sends and checks status and word.
func (f *front) want(p post, code int, status string) reply {
	f.t.Helper()
	a := f.send(p)
	if a.code != code || a.status != status {
		f.t.Fatalf("answer %d %q, want %d %q", a.code, a.status, code, status)
	}
	return a
}

// events and quarantine return what the log holds.
func (f *front) events() []*bridge.Entry     { return f.kind(bridge.EntryEvent) }
func (f *front) quarantine() []*bridge.Entry { return f.kind(bridge.EntryQuarantine) }

func (f *front) kind(k bridge.EntryKind) []*bridge.Entry {
	var out []*bridge.Entry
	for _, e := range f.log.all() {
		if e.Kind == k {
			out = append(out, e)
		}
	}
	return out
}

func (f *front) wantStored(events, quarantined int) {
	f.t.Helper()
	if e, q := len(f.events()), len(f.quarantine()); e != events || q != quarantined {
		f.t.Fatalf("%d events and %d quarantined bodies in the log, want %d and %d", e, q, events, quarantined)
	}
}

// metric returns the value of a series, the count of a histogram; -1 when there is none.
func (f *front) metric(name string, labels ...string) float64 {
	f.t.Helper()
	families, err := f.registry.Gather()
	if err != nil {
		f.t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() != name {
			continue
		}
		for _, m := range family.GetMetric() {
			fits := 0
			for _, l := range m.GetLabel() {
				for i := 0; i < len(labels); i += 2 {
					if l.GetName() == labels[i] && l.GetValue() == labels[i+1] {
						fits++
					}
				}
			}
			if fits == len(labels)/2 {
				switch {
				case m.Counter != nil:
					return m.GetCounter().GetValue()
				case m.Gauge != nil:
					return m.GetGauge().GetValue()
				case m.Histogram != nil:
					return float64(m.GetHistogram().GetSampleCount())
				}
			}
		}
	}
	return -1
}

func (f *front) delivered(outcome, cause string) float64 {
	f.t.Helper()
	return f.metric("spotbridge_webhook_deliveries_total", "source", "sandbox", "outcome", outcome, "cause", cause)
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	timeout := time.After(20 * time.Second)
	for !condition() {
		select {
		case <-tick.C:
		case <-timeout:
			t.Fatalf("waited too long: %s", what)
		}
	}
}

// pnr returns a readable body of an organization.
func pnr(organization, canary string) string {
	return fmt.Sprintf(`{"event_type":"PNR_V3","operation":"BOOKING_CREATED","audience":{"organizationId":%q},"timestamp":"2026-03-10T11:59:58Z","payload":{"pnrId":"6789533589","tripId":"6926658168","version":1,"note":%q}}`, organization, canary)
}

// padded returns a readable body of exactly size bytes.
func padded(size int) string {
	b := pnr(orgA, "")
	return b + strings.Repeat(" ", size-len(b))
}

func wantRow(t *testing.T, got, want *pb.Delivery) {
	t.Helper()
	want.Count, want.Peer = 1, "127.0.0.1"
	if got.GetReceiveTime().AsTime() != now {
		t.Errorf("receive time %v, want that of the injected clock", got.GetReceiveTime().AsTime())
	}
	got = proto.CloneOf(got)
	got.ReceiveTime = nil
	if !proto.Equal(got, want) {
		t.Errorf("row\n  %v\nwant\n  %v", got, want)
	}
}

var errTest = errors.New("told to fail")

// untilDone is a fault: it stalls until the caller gives up.
func untilDone(ctx context.Context, _ *bridge.Entry) error {
	<-ctx.Done()
	return ctx.Err()
}

// writer is a ResponseWriter that keeps only the status.
type writer struct {
	header http.Header
	code   int
}

func newWriter() *writer { return &writer{header: http.Header{}} }

func (w *writer) Header() http.Header         { return w.header }
func (w *writer) Write(b []byte) (int, error) { return len(b), nil }
func (w *writer) WriteHeader(code int)        { w.code = code }
