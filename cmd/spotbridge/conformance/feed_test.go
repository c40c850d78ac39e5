package conformance

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

// The test binary is the client under test, too: with feedEnv set it is a feed that reads by that protocol, with the faults of
// faultEnv, and no test.
const (
	feedEnv  = "TEST_FEED"
	faultEnv = "TEST_FAULT"
)

func TestMain(m *testing.M) {
	if p := os.Getenv(feedEnv); p != "" {
		os.Exit(feedMain(protocol(p), os.Getenv(faultEnv)))
	}
	os.Exit(m.Run())
}

// feed is a small client that does what the contract says, but for its fault.
type feed struct {
	protocol  protocol
	fault     string
	heartbeat time.Duration
	store     *store
	// resume is what a fault takes for the cursor.
	resume string
	// late is what faults store no sooner than something else than events comes, or the stream ends.
	late []func() error
	// leaving is closed with SIGTERM.
	leaving <-chan struct{}
}

func feedMain(p protocol, fault string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	s, err := openStore(filepath.Join(os.Getenv("CONFORMANCE_DIR"), "store"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if fault == "forgets" {
		s.cursor = ""
	}
	heartbeat, err := time.ParseDuration(os.Getenv("SPOTBRIDGE_HEARTBEAT"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	f := &feed{protocol: p, fault: fault, heartbeat: heartbeat, store: s, leaving: ctx.Done()}
	if err := f.run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// said is one message of a stream, whatever it came through.
type said struct {
	cursor   string
	event    *pb.Event
	batch    *pb.EventBatch
	delivery string
	confirm  *durationpb.Duration // the heartbeat interval, of a confirmation
	goodbye  *pb.Goodbye
	refused  bool
	late     bool // a fault stores it later
}

// source is a stream.
type source interface {
	next() (said, error)
	ack(delivery string)
	close()
}

// run reads until SIGTERM, or until an answer means stop.
func (f *feed) run(ctx context.Context) error {
	const first, longest = 250 * time.Millisecond, 15 * time.Second
	for base := first; ; base = min(2*base, longest) {
		progress, notBefore, err := f.stream(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case f.fault == "restarts" && status.Code(err) == codes.OutOfRange:
			f.store.cursor = ""
		case stops(err):
			return err
		}
		if progress {
			base = first
		}
		wait := max(base/2+rand.N(base/2), time.Until(notBefore))
		switch f.fault {
		case "busy":
			wait = max(time.Millisecond, time.Until(notBefore))
		case "early":
			wait = base / 2
		}
		fmt.Fprintf(os.Stderr, "%v; again in %v\n", err, wait)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return nil
		}
	}
}

func stops(err error) bool {
	switch status.Code(err) {
	case codes.InvalidArgument, codes.NotFound, codes.OutOfRange, codes.PermissionDenied, codes.Unauthenticated, codes.FailedPrecondition, codes.Unimplemented, codes.DataLoss:
		return true
	}
	return false
}

// stream reads one stream to its end.
func (f *feed) stream(ctx context.Context) (progress bool, notBefore time.Time, err error) {
	streaming, cancel := context.WithCancel(ctx)
	if f.protocol == grouped {
		streaming, cancel = context.WithCancel(context.WithoutCancel(ctx)) // leave comes first
	}
	defer cancel()
	interval := f.heartbeat
	watchdog := time.AfterFunc(3*interval, cancel)
	defer watchdog.Stop()
	if f.fault == "deaf" {
		watchdog.Stop()
	}
	src, err := f.open(streaming)
	if err != nil {
		return false, notBefore, err
	}
	defer src.close()
	for {
		if f.fault != "deaf" {
			watchdog.Reset(3 * interval)
		}
		m, err := src.next()
		if errors.Is(err, io.EOF) {
			err = nil
		}
		if m.event == nil && m.batch == nil {
			for _, store := range f.late {
				err = errors.Join(err, store())
			}
			f.late = nil
		}
		if m == (said{}) || err != nil {
			return progress, notBefore, err
		}
		if m.confirm != nil {
			interval = m.confirm.AsDuration()
		} else {
			progress = true
		}
		watchdog.Stop() // its own work is not the server's silence
		if m.goodbye != nil {
			notBefore = time.Now().Add(m.goodbye.GetRetryAfter().AsDuration())
		}
		if m.refused && f.fault == "dies-on-refused" {
			return progress, notBefore, status.Error(codes.DataLoss, "refused")
		}
		if m.batch != nil {
			if err := f.handleBatch(streaming, src, m); err != nil {
				return progress, notBefore, err
			}
			continue
		}
		if m.event == nil {
			if err := f.store.moved(m.cursor); err != nil {
				return progress, notBefore, err
			}
			continue
		}
		if err := f.handle(streaming, src, m); err != nil {
			return progress, notBefore, err
		}
	}
}

// handleBatch processes the events of a batch one by one: the cursor is stored with the last of them.
func (f *feed) handleBatch(ctx context.Context, src source, m said) error {
	cursor, events := m.cursor, m.batch.GetEvents()
	m.batch = nil
	for i, e := range events {
		m.event, m.cursor = e, f.store.cursor
		if i == len(events)-1 || f.fault == "batch-cursor-first" {
			m.cursor = cursor
		}
		m.late = i > 0 && f.fault == "batch-cursor-first"
		if i > 0 && f.fault == "first-of-batch" {
			return f.store.moved(cursor)
		}
		if err := f.handle(ctx, src, m); err != nil {
			return err
		}
	}
	return nil
}

// handle processes an event: its id and the cursor are stored together.
func (f *feed) handle(ctx context.Context, src source, m said) error {
	if f.fault == "acks-first" {
		src.ack(m.delivery)
		m.late = true
	}
	if m.event.GetOmitted() != nil {
		if err := f.body(ctx, m.event.GetId()); err != nil {
			return err
		}
	}
	if f.fault == "cursor-first" {
		if err := f.store.moved(m.cursor); err != nil {
			return err
		}
		m.late = true
	}
	store := func() error { return f.store.processed(m.event.GetId(), m.cursor) }
	known := m.event.GetEventType() == "PNR_V3" && strings.Contains("BOOKING_TICKETED TICKET_VOIDED TICKET_REFUNDED", m.event.GetOperation())
	switch {
	case f.fault == "drops-unknown" && !known:
		store = func() error { return f.store.moved(m.cursor) }
	case m.late:
		f.late = append(f.late, store)
		return nil
	}
	if err := store(); err != nil {
		return err
	}
	if f.protocol == grouped && f.fault != "never-acks" && f.fault != "acks-first" {
		src.ack(m.delivery)
	}
	return nil
}

func (f *feed) open(ctx context.Context) (source, error) {
	if f.protocol == sse {
		return f.openSSE(ctx)
	}
	// A connection for each stream: one that is dead must not be used again.
	conn, err := dialGRPC()
	if err != nil {
		return nil, err
	}
	if f.protocol == grouped {
		return f.openMember(ctx, conn)
	}
	r := &pb.SubscribeRequest{Start: pb.Start_START_EARLIEST, HeartbeatInterval: durationpb.New(f.heartbeat), View: f.view(), MaxBatchEvents: 20}
	if f.store.cursor != "" {
		r.Start, r.AfterCursor = pb.Start_START_UNSPECIFIED, f.store.cursor
	}
	stream, err := pb.NewSubscriptionServiceClient(conn).Subscribe(ctx, r)
	if err != nil {
		conn.Close()
		return nil, err
	}
	return &subscription{conn, stream}, nil
}

// view leaves payloads out where they do not matter: reading the first one costs more than all else that a faulty feed does.
func (f *feed) view() pb.EventView {
	if f.fault != "" && f.fault != "short-lines" {
		return pb.EventView_EVENT_VIEW_ENVELOPE
	}
	return pb.EventView_EVENT_VIEW_TYPED
}

func dialGRPC() (*grpc.ClientConn, error) {
	return grpc.NewClient(os.Getenv("SPOTBRIDGE_GRPC"), grpc.WithTransportCredentials(insecure.NewCredentials()))
}

func fromResponse(m *pb.SubscribeResponse) said {
	s := said{cursor: m.GetCursor(), event: m.GetEvent(), batch: m.GetEvents(), goodbye: m.GetGoodbye()}
	if c := m.GetConfirmation(); c != nil {
		s.confirm = c.GetHeartbeatInterval()
	}
	return s
}

type subscription struct {
	conn   *grpc.ClientConn
	stream grpc.ServerStreamingClient[pb.SubscribeResponse]
}

func (s *subscription) next() (said, error) {
	m, err := s.stream.Recv()
	if err != nil {
		return said{}, err
	}
	return fromResponse(m), nil
}
func (s *subscription) ack(string) {}
func (s *subscription) close()     { s.conn.Close() }

// body reads the body of an event that came without.
func (f *feed) body(ctx context.Context, id string) error {
	if f.protocol == sse {
		resp, err := get(ctx, "/v1/events/"+url.PathEscape(id)+"/body", "")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		return json.NewDecoder(resp.Body).Decode(&struct{}{})
	}
	conn, err := dialGRPC()
	if err != nil {
		return err
	}
	defer conn.Close()
	stream, err := pb.NewEventServiceClient(conn).GetEventBody(ctx, &pb.GetEventBodyRequest{EventId: id})
	if err != nil {
		return err
	}
	var body []byte
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return json.Unmarshal(body, &struct{}{})
		}
		if err != nil {
			return err
		}
		body = append(body, m.GetChunk()...)
	}
}

func (f *feed) openMember(ctx context.Context, conn *grpc.ClientConn) (source, error) {
	stream, err := pb.NewConsumerGroupServiceClient(conn).Consume(ctx)
	if err != nil {
		conn.Close()
		return nil, err
	}
	m := &membership{conn: conn, stream: stream, firstOnly: f.fault == "first-of-batch"}
	m.send(&pb.ConsumeRequest{Content: &pb.ConsumeRequest_Join{Join: &pb.Join{
		Group: os.Getenv("SPOTBRIDGE_GROUP"), Credit: &pb.Credit{Events: 8}, AutoCredit: true, HeartbeatInterval: durationpb.New(f.heartbeat), View: f.view(),
		MaxBatchEvents: 20,
	}}})
	go func() { // it ends with the stream
		select {
		case <-f.leaving:
			m.send(&pb.ConsumeRequest{Content: &pb.ConsumeRequest_Leave{Leave: &pb.Leave{}}})
		case <-stream.Context().Done():
		}
	}()
	return m, nil
}

type membership struct {
	conn    *grpc.ClientConn
	sending sync.Mutex
	stream  grpc.BidiStreamingClient[pb.ConsumeRequest, pb.ConsumeResponse]
	// queue is what came together and is handled one by one; firstOnly is a fault.
	queue     []*pb.GroupDelivery
	firstOnly bool
}

func (m *membership) send(r *pb.ConsumeRequest) {
	m.sending.Lock()
	defer m.sending.Unlock()
	_ = m.stream.Send(r) // Recv tells of the end
}

func (m *membership) next() (said, error) {
	if len(m.queue) > 0 {
		d := m.queue[0]
		m.queue = m.queue[1:]
		return said{cursor: "-", event: d.GetEvent(), delivery: d.GetDeliveryId()}, nil
	}
	r, err := m.stream.Recv()
	if err != nil {
		return said{}, err
	}
	if ds := r.GetDeliveries().GetDeliveries(); len(ds) > 0 {
		if m.firstOnly {
			ds = ds[:1]
		}
		m.queue = ds
		return m.next()
	}
	d := r.GetDelivery()
	s := said{cursor: "-", event: d.GetEvent(), delivery: d.GetDeliveryId(), goodbye: r.GetGoodbye(), refused: r.GetRefused() != nil}
	if j := r.GetJoined(); j != nil {
		s.confirm = j.GetHeartbeatInterval()
	}
	return s, nil
}

func (m *membership) ack(delivery string) {
	m.send(&pb.ConsumeRequest{Content: &pb.ConsumeRequest_Ack{Ack: &pb.Ack{DeliveryIds: []string{delivery}}}})
}
func (m *membership) close() { m.conn.Close() }

func get(ctx context.Context, path, lastID string) (*http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, os.Getenv("SPOTBRIDGE_REST")+path, nil)
	if err != nil {
		return nil, err
	}
	r.Header.Set("Accept", "text/event-stream")
	if lastID != "" {
		r.Header.Set("Last-Event-ID", lastID)
	}
	resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(r)
	if err != nil {
		return nil, status.Error(codes.Unavailable, err.Error())
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	resp.Body.Close()
	switch resp.StatusCode {
	case 429, 500, 502, 503, 504:
		return nil, status.Error(codes.Unavailable, resp.Status)
	}
	return nil, status.Error(codes.FailedPrecondition, resp.Status)
}

func (f *feed) openSSE(ctx context.Context) (source, error) {
	last := f.store.cursor
	if f.resume != "" {
		last = f.resume
	}
	resp, err := get(ctx, "/v1/events:subscribe?start=EARLIEST&view="+f.view().String()+"&heartbeat_interval="+f.heartbeat.String(), last)
	if err != nil {
		return nil, err
	}
	lines := bufio.NewReader(resp.Body)
	if f.fault == "short-lines" {
		lines = bufio.NewReaderSize(resp.Body, 64<<10)
	}
	return &serverSent{resp.Body, lines, f}, nil
}

type serverSent struct {
	io.Closer
	lines *bufio.Reader
	feed  *feed
}

func (s *serverSent) line() (string, error) {
	if s.feed.fault == "short-lines" {
		b, err := s.lines.ReadSlice('\n')
		return string(b), err
	}
	return s.lines.ReadString('\n')
}

func (s *serverSent) next() (said, error) {
	var name, id, data string
	for {
		line, err := s.line()
		if err != nil {
			return said{}, status.Error(codes.Unavailable, err.Error())
		}
		field, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ":")
		switch value = strings.TrimPrefix(value, " "); field {
		case "event":
			name = value
		case "data":
			data = value
		case "id":
			if id = value; s.feed.fault == "id-at-once" {
				s.feed.resume = id
			}
		}
		if line != "\n" {
			continue
		}
		if name == "error" {
			var e struct{ Code codes.Code }
			if err := json.Unmarshal([]byte(data), &e); err != nil {
				return said{}, status.Error(codes.Internal, err.Error())
			}
			return said{}, status.Error(e.Code, "an error event")
		}
		if id == "" {
			name, data = "", ""
			continue // of a kind that it does not know
		}
		m := &pb.SubscribeResponse{}
		if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal([]byte(data), m); err != nil {
			return said{}, status.Error(codes.Internal, err.Error())
		}
		out := fromResponse(m)
		out.cursor = id
		return out, nil
	}
}
func (s *serverSent) ack(string) {}
func (s *serverSent) close()     { s.Close() }

// store keeps ids and cursor in a file that only grows. A line is written at once, so that what belongs together is there or
// not: "E id cursor" or "C cursor".
type store struct {
	file   *os.File
	cursor string
	ids    map[string]bool
}

func openStore(name string) (*store, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	s := &store{file: f, ids: map[string]bool{}}
	for lines := bufio.NewScanner(f); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		s.cursor = fields[len(fields)-1]
		if fields[0] == "E" {
			s.ids[fields[1]] = true
		}
	}
	return s, nil
}

func (s *store) moved(cursor string) error {
	if cursor == "" || cursor == s.cursor {
		return nil
	}
	s.cursor = cursor
	_, err := fmt.Fprintf(s.file, "C %s\n", cursor)
	return err
}

func (s *store) processed(id, cursor string) error {
	if s.ids[id] {
		return s.moved(cursor)
	}
	s.ids[id], s.cursor = true, cursor
	_, err := fmt.Fprintf(s.file, "E %s %s\n", id, cursor)
	return err
}
