package server

import (
	"bufio"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/spotbridge/spotbridge/bridge"
	"github.com/spotbridge/spotbridge/bridge/live"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

// source reads server-sent events as a browser does: by the rules of the HTML standard.
type source struct {
	*http.Response
	r *bufio.Reader
	// id and retry are what the events set, which the next connection uses.
	id    string
	retry int
}

// sse is one event.
type sse struct {
	name, id, data string
	m              *pb.SubscribeResponse
}

func (f *fixture) source(t testing.TB, query, lastID string) *source {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, f.url+"/v1/events:subscribe?"+query, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", "text/event-stream")
	if lastID != "" {
		req.Header.Set("Last-Event-ID", lastID)
	}
	resp, err := f.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	return &source{Response: resp, r: bufio.NewReader(resp.Body), id: lastID}
}

// next returns the next event, or what ended the stream.
func (s *source) next(t testing.TB) (sse, error) {
	t.Helper()
	var e sse
	for {
		line, err := s.r.ReadString('\n')
		if err != nil {
			if line != "" {
				t.Fatalf("the stream ends in the middle of a line: %q", line)
			}
			return e, err
		}
		line = strings.TrimSuffix(line, "\n")
		if line == "" {
			if e.data == "" {
				continue // a block without data dispatches nothing
			}
			e.id = s.id
			if e.name == "error" {
				return e, nil
			}
			e.m = &pb.SubscribeResponse{}
			if err := protojson.Unmarshal([]byte(e.data), e.m); err != nil {
				t.Fatalf("%v in %s", err, e.data)
			}
			return e, nil
		}
		field, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch field {
		case "event":
			e.name = value
		case "data":
			e.data += value
		case "id":
			s.id = value
		case "retry":
			if s.retry, err = strconv.Atoi(value); err != nil {
				t.Fatal(line)
			}
		default:
			t.Fatalf("line %q", line)
		}
	}
}

// must returns the next event, which must be of a kind.
func (s *source) must(t testing.TB, name string) sse {
	t.Helper()
	e, err := s.next(t)
	if err != nil || e.name != name {
		t.Fatalf("%+v %v, want %s", e, err, name)
	}
	return e
}

func (s *source) ends(t testing.TB) {
	t.Helper()
	if e, err := s.next(t); !errors.Is(err, io.EOF) {
		t.Errorf("%+v %v", e, err)
	}
}

func TestSSEHasTheMessagesOfTheStream(t *testing.T) {
	f := filled(t)
	s := f.source(t, "start=EARLIEST&stop_at_head=true&event_types=PNR_V3&view=RAW", "")
	if s.StatusCode != 200 || s.Header.Get("Content-Type") != "text/event-stream" || s.Header.Get("Cache-Control") != "no-store" ||
		s.Header.Get("X-Accel-Buffering") != "no" || !strings.Contains(s.Header.Get("Vary"), "Accept") {
		t.Fatalf("%d %v", s.StatusCode, s.Header)
	}
	plain := f.subscribe(t, &pb.SubscribeRequest{Start: pb.Start_START_EARLIEST, StopAtHead: true, Filter: &pb.EventFilter{EventTypes: []string{"PNR_V3"}}, View: pb.EventView_EVENT_VIEW_RAW})
	for n := 0; ; n++ {
		want, err := plain.Recv()
		if errors.Is(err, io.EOF) {
			if n != 1+10+1 {
				t.Errorf("%d messages", n)
			}
			break
		}
		e, err := s.next(t)
		if err != nil {
			t.Fatal(err)
		}
		if e.id != want.GetCursor() || e.m.GetCursor() != want.GetCursor() || e.name != kindOf(want) {
			t.Errorf("%s %s, want %s", e.name, e.id, kindOf(want))
		}
		if want.GetEvent() != nil && !proto.Equal(e.m, want) {
			t.Errorf("%v\nwant %v", e.m, want)
		}
		if s.retry < 1000 || s.retry > 3000 {
			t.Errorf("retry %d", s.retry)
		}
	}
	s.ends(t)
	// A browser reconnects after every end but 204.
	if again := f.source(t, "start=EARLIEST&stop_at_head=true", s.id); again.StatusCode != http.StatusNoContent {
		t.Errorf("%d", again.StatusCode)
	}
	f.put(makeEvent(21, []byte("{}")))
	again := f.source(t, "start=EARLIEST&stop_at_head=true", s.id)
	again.must(t, "confirmation")
	if e := again.must(t, "event"); e.m.GetEvent().GetSequence() != 21 {
		t.Error(e)
	}
	again.must(t, "caught_up")
	again.ends(t)
	// Without an id, a stream that has nothing says so.
	s = f.source(t, "stop_at_head=true", "")
	s.must(t, "confirmation")
	s.must(t, "caught_up")
	s.ends(t)
}

func kindOf(m *pb.SubscribeResponse) string {
	x := m.ProtoReflect()
	return string(x.WhichOneof(x.Descriptor().Oneofs().ByName("content")).Name())
}

// TestSSEResumes breaks the connection again and again, while events come.
func TestSSEResumes(t *testing.T) {
	f := newFixture(t, func(_ *Config, c *live.Config) { c.RingEvents = 16 })
	f.put(makeEvent(1, []byte("{}")))
	const n, perConnection = 600, 60
	more, done := make(chan struct{}, n), make(chan struct{})
	go func() {
		defer close(done)
		for seq := uint64(2); seq <= n; seq++ {
			if seq%perConnection == 2 {
				<-more // events come while each connection lasts, not all during the first one
			}
			f.put(makeEvent(seq, []byte(`{"text":"line\none\u2028"}`)))
		}
	}()
	last, seq, connections := "", uint64(0), 0
	for ; seq < n; connections++ {
		more <- struct{}{}
		s := f.source(t, "start=EARLIEST&view=RAW&client_name=browser", last)
		for left := 1 + rand.IntN(perConnection); left > 0 && seq < n; left-- {
			e, err := s.next(t)
			if err != nil {
				t.Fatal(err)
			}
			if x := e.m.GetEvent(); x != nil {
				if seq++; x.GetSequence() != seq {
					t.Fatalf("%d after %d", x.GetSequence(), seq-1)
				}
			}
			last = s.id
		}
		s.Body.Close()
	}
	<-done
	if connections < 5 {
		t.Errorf("only %d connections", connections)
	}
	// The id is a position like any other cursor, and wins over every start.
	for _, query := range []string{"from_time=2026-11-23T09:00:00Z", "after_cursor=" + cursorAt(1), "start=LATEST&stop_at_head=true", "after_cursor=rubbish"} {
		s := f.source(t, query, cursorAt(n-3))
		s.must(t, "confirmation")
		if e := s.must(t, "event"); e.m.GetEvent().GetSequence() != n-2 || e.id != cursorAt(n-2) {
			t.Error(e)
		}
		s.Body.Close()
	}
}

func TestSSEErrorsBeforeTheStartAreAnswers(t *testing.T) {
	f := filled(t)
	f.history.mu.Lock()
	f.history.floor = 5
	f.history.mu.Unlock()
	accept := []string{"Accept", "text/event-stream"}
	foreign := bridge.Cursor{Log: bridge.LogID{1}, Sequence: 1}.String()
	for _, c := range []struct {
		query, id     string
		status        int
		code          codes.Code
		reason, field string
	}{
		{"bogus=1", "", 400, codes.InvalidArgument, "UNKNOWN_PARAMETER", "bogus"},
		{"view=PRETTY", "", 400, codes.InvalidArgument, "INVALID_FIELD", "view"},
		{"", "rubbish", 400, codes.InvalidArgument, "INVALID_CURSOR", "after_cursor"},
		{"", foreign, 400, codes.InvalidArgument, "CURSOR_FOREIGN", "after_cursor"},
		{"", cursorAt(99), 400, codes.InvalidArgument, "CURSOR_AHEAD", "after_cursor"},
		{"", cursorAt(2), 410, codes.OutOfRange, "CURSOR_EXPIRED", "after_cursor"},
	} {
		header := accept
		if c.id != "" {
			header = append(header[:2:2], "Last-Event-ID", c.id)
		}
		f.do(t, http.MethodGet, "/v1/events:subscribe?"+c.query, "", header...).expect(t, c.status, c.code, c.reason, c.field)
	}
}

func TestAnErrorInAnSSEStreamIsItsLastEvent(t *testing.T) {
	f := filled(t)
	g := newFixture(t, func(_ *Config, lc *live.Config) {
		lc.History, lc.PageEvents = &failing{history: f.history, pages: 1}, 5
	})
	s := g.source(t, "start=EARLIEST", "")
	s.must(t, "confirmation")
	for range 5 {
		s.must(t, "event")
	}
	e := s.must(t, "error")
	if e.id != cursorAt(5) {
		t.Errorf("the id moved to %s", e.id)
	}
	answer{&http.Response{StatusCode: 503, Header: http.Header{"Content-Type": {"application/json"}}}, []byte(e.data)}.expect(t, 503, codes.Unavailable, "HISTORY_UNAVAILABLE", "")
	s.ends(t)
}

func TestSSESaysGoodbyeAtDrain(t *testing.T) {
	f := filled(t)
	s := f.source(t, "", "")
	s.must(t, "confirmation")
	s.must(t, "caught_up")
	drained := make(chan error, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	go func() { drained <- f.Drain(ctx) }()
	e := s.must(t, "goodbye")
	if e.id != cursorAt(20) || e.m.GetGoodbye().GetReason() != pb.GoodbyeReason_GOODBYE_REASON_DRAIN || s.retry != int(e.m.GetGoodbye().GetRetryAfter().AsDuration().Milliseconds()) {
		t.Errorf("%+v, retry %d", e, s.retry)
	}
	s.ends(t)
	if err := <-drained; err != nil {
		t.Error(err)
	}
	f.do(t, http.MethodGet, "/v1/events:subscribe", "", "Accept", "text/event-stream", "Last-Event-ID", s.id).expect(t, 503, codes.Unavailable, "DRAINING", "")
}

// saying is a hub that says one message of every kind.
type saying struct {
	bridge.Hub
	messages []*pb.SubscribeResponse
}

func (h *saying) Subscribe(_ context.Context, _ bridge.SubscribeRequest, to bridge.Sender) error {
	for _, m := range h.messages {
		if err := to.SendMessage(m); err != nil {
			return err
		}
	}
	return nil
}

func TestEveryKindOfMessageHasItsNameInSSE(t *testing.T) {
	hub := &saying{}
	kinds := (&pb.SubscribeResponse{}).ProtoReflect().Descriptor().Oneofs().ByName("content").Fields()
	for i := range kinds.Len() {
		m := &pb.SubscribeResponse{Cursor: cursorAt(uint64(i))}
		m.ProtoReflect().Set(kinds.Get(i), protoreflect.ValueOfMessage(m.ProtoReflect().NewField(kinds.Get(i)).Message()))
		if g := m.GetGoodbye(); g != nil {
			g.RetryAfter = durationpb.New(4321 * time.Millisecond)
		}
		hub.messages = append(hub.messages, m)
	}
	f := newFixture(t, func(c *Config, _ *live.Config) { c.Hub = hub })
	s := f.source(t, "", "")
	for i := range kinds.Len() {
		if e := s.must(t, string(kinds.Get(i).Name())); e.id != cursorAt(uint64(i)) || !proto.Equal(e.m, hub.messages[i]) {
			t.Errorf("%+v", e)
		}
	}
	s.ends(t)
	if s.retry != 4321 {
		t.Errorf("retry %d", s.retry)
	}
}

func TestWhoGetsSSE(t *testing.T) {
	for accept, want := range map[string]bool{
		"": false, "*/*": false, "application/json": false, "application/x-ndjson": false, "text/*": false, "text/event-stream;q=0": false, "text/event-stream;q=x": false,
		"text/event-stream": true, "Text/Event-Stream": true, "text/event-stream, */*": true, "application/json, text/event-stream;q=0.5": true,
		"text/event-stream;q=0.5, application/x-ndjson": false, "application/x-ndjson;q=0.1,text/event-stream;q=0.2": true, ";;,text/event-stream": true,
	} {
		if got := wantsSSE(http.Header{"Accept": {accept}}); got != want {
			t.Errorf("%q: %v", accept, got)
		}
	}
	// Lines know no Last-Event-ID.
	f := filled(t)
	a := f.do(t, http.MethodGet, "/v1/events:subscribe?stop_at_head=true", "", "Last-Event-ID", "rubbish")
	if a.StatusCode != 200 || a.Header.Get("Content-Type") != "application/x-ndjson" {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
}
