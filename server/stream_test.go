package server

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/spotbridge/spotbridge/bridge/bridgetest"
	"github.com/spotbridge/spotbridge/bridge/live"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

// tapped dials with connections behind a tap and with HTTP/2 windows as small as they can be.
func (f *fixture) tapped(t testing.TB, p *bridgetest.Tap) *grpc.ClientConn {
	conn := f.dial(t, grpc.WithContextDialer(p.Dial), grpc.WithInitialWindowSize(64<<10), grpc.WithInitialConnWindowSize(64<<10))
	t.Cleanup(func() {
		p.Start()
		conn.Close()
	})
	return conn
}

func TestAClientThatStopsReadingCostsNobodyElse(t *testing.T) {
	f := newFixture(t, func(_ *Config, c *live.Config) { c.RingEvents = 32 })
	p := bridgetest.NewTap()
	conn := f.tapped(t, p)
	slow, err := pb.NewSubscriptionServiceClient(conn).Subscribe(t.Context(), &pb.SubscribeRequest{View: pb.EventView_EVENT_VIEW_RAW, ClientName: "slow"})
	if err != nil {
		t.Fatal(err)
	}
	next(t, slow)
	next(t, slow)
	quick := f.subscribe(t, &pb.SubscribeRequest{View: pb.EventView_EVENT_VIEW_RAW, ClientName: "quick"})
	next(t, quick)
	next(t, quick)
	p.Stop()
	const n = 1500
	body := bytes.Repeat([]byte("x"), 20<<10)
	for seq := uint64(1); seq <= n; seq++ {
		f.put(makeEvent(seq, body))
		if m := next(t, quick); m.GetEvent().GetSequence() != seq {
			t.Fatalf("the quick one got %v", m.GetContent())
		}
	}
	for _, s := range f.hub.Subscriptions() {
		if s.ClientName == "slow" && (s.Head != n || s.Position > n/2) {
			t.Fatalf("the slow one was not slow: %+v", s)
		}
	}
	p.Start()
	seq, fell, caught := uint64(0), 0, 0
	for seq < n || fell != caught {
		m := next(t, slow)
		switch {
		case m.GetEvent() != nil:
			if seq++; m.GetEvent().GetSequence() != seq || len(m.GetEvent().GetRawBody()) != len(body) {
				t.Fatalf("%d after %d", m.GetEvent().GetSequence(), seq-1)
			}
		case m.GetFellBehind() != nil:
			fell++
		case m.GetCaughtUp() != nil:
			caught++
		default:
			t.Fatal(m)
		}
	}
	if fell == 0 {
		t.Error("it did not fall behind")
	}
	f.put(makeEvent(n+1, body))
	if m := next(t, slow); m.GetEvent().GetSequence() != n+1 {
		t.Errorf("%v", m)
	}
}

func TestAClientThatStopsReadingForTooLongIsEndedAndResumes(t *testing.T) {
	f := newFixture(t, func(_ *Config, c *live.Config) { c.SendTimeout = 400 * time.Millisecond })
	body := bytes.Repeat([]byte("x"), 20<<10)
	for seq := uint64(1); seq <= 500; seq++ {
		f.put(makeEvent(seq, body))
	}
	p := bridgetest.NewTap()
	conn := f.tapped(t, p)
	req := &pb.SubscribeRequest{View: pb.EventView_EVENT_VIEW_RAW, Start: pb.Start_START_EARLIEST}
	s, err := pb.NewSubscriptionServiceClient(conn).Subscribe(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	next(t, s)
	p.Stop()
	eventually(t, "the stream is ended", func() bool { return len(f.hub.Subscriptions()) == 0 })
	p.Start()
	seq, cursor := uint64(0), ""
	for {
		var m *pb.SubscribeResponse
		if m, err = s.Recv(); err != nil {
			break
		}
		if e := m.GetEvent(); e != nil {
			seq, cursor = e.GetSequence(), m.GetCursor()
		}
	}
	expectError(t, err, codes.ResourceExhausted, "SLOW_CONSUMER", "")
	if seq >= 500 {
		t.Fatal("it was not slow")
	}
	again, err := pb.NewSubscriptionServiceClient(conn).Subscribe(t.Context(), &pb.SubscribeRequest{AfterCursor: cursor, View: pb.EventView_EVENT_VIEW_RAW, StopAtHead: true})
	if err != nil {
		t.Fatal(err)
	}
	for m := range untilEnd(t, again) {
		if e := m.GetEvent(); e != nil {
			if seq++; e.GetSequence() != seq {
				t.Fatalf("%d after %d", e.GetSequence(), seq-1)
			}
		}
	}
	if seq != 500 {
		t.Errorf("%d", seq)
	}
	if err := f.hub.Drain(t.Context()); err != nil { // nothing of the ended stream is left
		t.Error(err)
	}
}

func TestDrainEndsStreamsWithGoodbyeAndOK(t *testing.T) {
	f := filled(t)
	f.SetServing(true)
	s := f.subscribe(t, &pb.SubscribeRequest{})
	next(t, s)
	next(t, s)
	resp, err := f.http.Get(f.url + "/v1/events:subscribe")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := bufio.NewReader(resp.Body)
	lineOf(t, lines)
	lineOf(t, lines)
	watch, err := healthpb.NewHealthClient(f.conn).Watch(t.Context(), &healthpb.HealthCheckRequest{Service: "spotbridge.v1.EventService"})
	if err != nil {
		t.Fatal(err)
	}
	if m, err := watch.Recv(); err != nil || m.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		t.Fatal(m, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	drained := make(chan error, 1)
	begin := time.Now()
	go func() { drained <- f.Drain(ctx) }()
	if m := next(t, s); m.GetGoodbye().GetReason() != pb.GoodbyeReason_GOODBYE_REASON_DRAIN || m.GetCursor() != cursorAt(20) {
		t.Error(m)
	}
	if _, err := s.Recv(); !errors.Is(err, io.EOF) {
		t.Error(err)
	}
	if m, e := lineOf(t, lines); m.GetGoodbye() == nil {
		t.Error(m, e)
	}
	if _, err := lines.ReadByte(); !errors.Is(err, io.EOF) {
		t.Error(err)
	}
	if m, err := watch.Recv(); err != nil || m.GetStatus() != healthpb.HealthCheckResponse_NOT_SERVING {
		t.Error(m, err)
	}
	if err := <-drained; err != nil {
		t.Error(err)
	}
	if d := time.Since(begin); d > 4*time.Second {
		t.Errorf("it took %v", d)
	}
	f.get(t, "/v1/events").expect(t, 503, codes.Unavailable, "DRAINING", "")
	f.get(t, "/v1/events:subscribe").expect(t, 503, codes.Unavailable, "DRAINING", "")
}

func TestDrainCutsOffWhatDoesNotEnd(t *testing.T) {
	f := newFixture(t)
	p := bridgetest.NewTap()
	conn := f.tapped(t, p)
	s, err := pb.NewSubscriptionServiceClient(conn).Subscribe(t.Context(), &pb.SubscribeRequest{View: pb.EventView_EVENT_VIEW_RAW})
	if err != nil {
		t.Fatal(err)
	}
	next(t, s)
	next(t, s)
	p.Stop()
	for seq := uint64(1); seq <= 500; seq++ {
		f.put(makeEvent(seq, bytes.Repeat([]byte("x"), 20<<10)))
	}
	// More than the client's window takes: whatever is sent from now on does not reach it.
	eventually(t, "the stream stands still", func() bool { return f.hub.Subscriptions()[0].EventsSent >= 4 })
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := f.Drain(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	p.Start()
	for err = nil; err == nil; {
		_, err = s.Recv()
	}
	if errors.Is(err, io.EOF) {
		t.Error("a stream that was cut off ended as if it were complete")
	}
}

func TestStreamsOfSeveralClientsAreListedWithTheirLag(t *testing.T) {
	f := filled(t)
	s := f.subscribe(t, &pb.SubscribeRequest{ClientName: "billing", Filter: &pb.EventFilter{EventTypes: []string{"PNR_V3"}}})
	next(t, s)
	next(t, s)
	list := f.hub.Subscriptions()
	if len(list) != 1 || list[0].ClientName != "billing" || list[0].Peer == "" || list[0].Position != 20 || fmt.Sprint(list[0].Filter.GetEventTypes()) != "[PNR_V3]" {
		t.Errorf("%+v", list)
	}
}
