package server

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	reflectionalpha "google.golang.org/grpc/reflection/grpc_reflection_v1alpha"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/spotbridge/spotbridge/bridge"
	"github.com/spotbridge/spotbridge/bridge/live"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

// infoOf returns the ErrorInfo of an error.
func infoOf(t testing.TB, err error) (codes.Code, *errdetails.ErrorInfo) {
	t.Helper()
	s := status.Convert(err)
	for _, d := range s.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			if info.GetDomain() != "spotbridge" || strings.HasPrefix(info.GetReason(), "ERROR_REASON") {
				t.Errorf("ErrorInfo %v", info)
			}
			return s.Code(), info
		}
	}
	return s.Code(), &errdetails.ErrorInfo{}
}

func expectError(t testing.TB, err error, code codes.Code, reason, field string) {
	t.Helper()
	got, info := infoOf(t, err)
	if got != code || info.GetReason() != reason || info.GetMetadata()["field"] != field {
		t.Errorf("%v %v %v (%v), want %v %v %v", got, info.GetReason(), info.GetMetadata(), err, code, reason, field)
	}
}

// TestEveryReasonHasTheCodeOfItsComment holds the table to error.proto.
func TestEveryReasonHasTheCodeOfItsComment(t *testing.T) {
	text, err := os.ReadFile("../proto/spotbridge/v1/error.proto")
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]codes.Code{}
	for c := codes.OK; c <= codes.Unauthenticated; c++ {
		names[strings.ToUpper(regexp.MustCompile(`([a-z])([A-Z])`).ReplaceAllString(c.String(), "${1}_$2"))] = c
	}
	found := 0
	for _, m := range regexp.MustCompile(`(?m)  // ([A-Z_]+)( or NOT_FOUND)?[.,].*\n(?:  //.*\n)*  (ERROR_REASON_\w+) =`).FindAllStringSubmatch(string(text), -1) {
		reason := pb.ErrorReason(pb.ErrorReason_value[m[3]])
		code, ok := names[m[1]]
		if m[2] != "" {
			code = codes.NotFound
		}
		if !ok || codeOf[reason] != code {
			t.Errorf("%s: the comment says %s, the table %v", m[3], m[1], codeOf[reason])
		}
		found++
	}
	if want := len(pb.ErrorReason_name) - 1; found != want || len(codeOf) != want {
		t.Errorf("%d reasons have comments and %d codes, want %d", found, len(codeOf), want)
	}
}

func TestOnlyErrorsForCallersShowTheirText(t *testing.T) {
	secret := errors.New("traveler Jane Doe")
	for name, c := range map[string]struct {
		err     error
		code    codes.Code
		message string
	}{
		"domain":           {fmt.Errorf("wrapped: %w", bridge.InvalidField("view", "is wrong")), codes.InvalidArgument, "view: is wrong"},
		"domain, cause":    {bridge.HistoryUnavailable(secret), codes.Unavailable, "history cannot be read now"},
		"internal":         {secret, codes.Internal, "internal error"},
		"internal reason":  {&bridge.Error{Reason: pb.ErrorReason_ERROR_REASON_INTERNAL, Message: "Jane Doe"}, codes.Internal, "internal error"},
		"unknown reason":   {&bridge.Error{Reason: 999, Message: "Jane Doe"}, codes.Internal, "internal error"},
		"canceled":         {fmt.Errorf("x: %w", context.Canceled), codes.Canceled, "canceled"},
		"deadline":         {context.DeadlineExceeded, codes.DeadlineExceeded, "deadline"},
		"gRPC's own":       {status.Error(codes.Unavailable, "transport is closing"), codes.Unavailable, "transport"},
		"wrapped gRPC one": {fmt.Errorf("x: %w", status.Error(codes.NotFound, "Jane Doe")), codes.Internal, "internal error"},
	} {
		t.Run(name, func(t *testing.T) {
			s := statusOf(c.err, "id")
			if s.Code() != c.code || !strings.Contains(s.Message(), c.message) || strings.Contains(s.String(), "Jane") {
				t.Errorf("%v", s)
			}
		})
	}
}

func TestPanicsAndInternalErrorsAreLoggedUnderARequestID(t *testing.T) {
	f := newFixture(t)
	f.history.err = errors.New("disk sector 7")
	_, err := pb.NewEventServiceClient(f.conn).GetEvent(t.Context(), &pb.GetEventRequest{EventId: "sandbox.w1"})
	code, info := infoOf(t, err)
	id := info.GetMetadata()["request_id"]
	if code != codes.Internal || info.GetReason() != "INTERNAL" || strings.Contains(err.Error(), "sector") || id == "" || !strings.Contains(err.Error(), id) {
		t.Errorf("%v %v", err, info)
	}
	line := regexp.MustCompile(`.*` + id + `.*`).FindString(f.logs.String())
	if !strings.Contains(line, "sector 7") || !strings.Contains(line, "level=ERROR") || !strings.Contains(line, "method=GetEvent") {
		t.Errorf("log: %s", line)
	}
	f = newFixture(t, func(c *Config, _ *live.Config) { c.Deliveries = nilDeliveries{} })
	client := pb.NewDeliveryServiceClient(f.conn)
	if _, err := client.GetDelivery(t.Context(), &pb.GetDeliveryRequest{DeliveryId: "x"}); status.Code(err) != codes.Internal {
		t.Error(err)
	}
	s, err := client.GetDeliveryBody(t.Context(), &pb.GetDeliveryBodyRequest{DeliveryId: "x"})
	if err == nil {
		_, err = s.Recv()
	}
	if status.Code(err) != codes.Internal || strings.Contains(err.Error(), "panic") || strings.Count(f.logs.String(), "panic: ") != 2 {
		t.Errorf("%v\n%s", err, f.logs)
	}
}

type nilDeliveries struct{ bridge.Deliveries }

func TestEveryFieldIsChecked(t *testing.T) {
	f := newFixture(t)
	f.put(makeEvent(1, []byte("{}")))
	sub := func(r *pb.SubscribeRequest) error {
		s, err := pb.NewSubscriptionServiceClient(f.conn).Subscribe(t.Context(), r)
		if err == nil {
			_, err = s.Recv()
		}
		return err
	}
	events, del := pb.NewEventServiceClient(f.conn), pb.NewDeliveryServiceClient(f.conn)
	list := func(r *pb.ListEventsRequest) error { _, err := events.ListEvents(t.Context(), r); return err }
	count := func(r *pb.CountEventsRequest) error { _, err := events.CountEvents(t.Context(), r); return err }
	rows := func(r *pb.ListDeliveriesRequest) error { _, err := del.ListDeliveries(t.Context(), r); return err }
	again := func(r *pb.ReprocessDeliveriesRequest) error {
		_, err := del.ReprocessDeliveries(t.Context(), r)
		return err
	}
	body := func(id string) error {
		s, err := events.GetEventBody(t.Context(), &pb.GetEventBodyRequest{EventId: id})
		if err == nil {
			_, err = s.Recv()
		}
		return err
	}
	early, late, bad := timestamppb.New(epoch), timestamppb.New(epoch.Add(time.Hour)), &timestamppb.Timestamp{Nanos: -1}
	long := strings.Repeat("x", 2000)
	for field, err := range map[string]error{
		"view":                 sub(&pb.SubscribeRequest{View: 77}),
		"start":                sub(&pb.SubscribeRequest{Start: 77}),
		"after_cursor":         sub(&pb.SubscribeRequest{Start: pb.Start_START_LATEST, AfterCursor: cursorAt(1)}),
		"from_time":            sub(&pb.SubscribeRequest{FromTime: bad}),
		"from_time ":           sub(&pb.SubscribeRequest{FromTime: early, AfterCursor: cursorAt(1)}),
		"heartbeat_interval":   sub(&pb.SubscribeRequest{HeartbeatInterval: durationpb.New(4 * time.Second)}),
		"heartbeat_interval ":  sub(&pb.SubscribeRequest{HeartbeatInterval: durationpb.New(61 * time.Second)}),
		"heartbeat_interval  ": sub(&pb.SubscribeRequest{HeartbeatInterval: &durationpb.Duration{Seconds: 10, Nanos: -1}}),
		"client_name":          sub(&pb.SubscribeRequest{ClientName: strings.Repeat("x", 129)}),
		"max_message_bytes":    sub(&pb.SubscribeRequest{MaxMessageBytes: 64<<10 - 1}),
		"max_message_bytes ":   sub(&pb.SubscribeRequest{MaxMessageBytes: 16<<20 + 1}),
		"max_message_bytes  ":  sub(&pb.SubscribeRequest{MaxMessageBytes: -1}),
		"page_size":            list(&pb.ListEventsRequest{PageSize: -1}),
		"order":                list(&pb.ListEventsRequest{Order: 9}),
		"view ":                list(&pb.ListEventsRequest{View: -1}),
		"start_time":           list(&pb.ListEventsRequest{StartTime: bad}),
		"end_time":             list(&pb.ListEventsRequest{EndTime: bad}),
		"end_time ":            list(&pb.ListEventsRequest{StartTime: late, EndTime: early}),
		"end_time  ":           count(&pb.CountEventsRequest{StartTime: late, EndTime: late}),
		"group_by[0]":          count(&pb.CountEventsRequest{GroupBy: []pb.CountGroup{0}}),
		"group_by[0] ":         count(&pb.CountEventsRequest{GroupBy: []pb.CountGroup{9}}),
		"group_by[1]":          count(&pb.CountEventsRequest{GroupBy: []pb.CountGroup{1, 1}}),
		"outcomes[0]":          rows(&pb.ListDeliveriesRequest{Outcomes: []pb.DeliveryOutcome{0}}),
		"causes[1]":            rows(&pb.ListDeliveriesRequest{Causes: []pb.DeliveryCause{1, 99}}),
		"sources[0]":           rows(&pb.ListDeliveriesRequest{Sources: []string{"No Such"}}),
		"page_size ":           rows(&pb.ListDeliveriesRequest{PageSize: -5}),
		"start_time ":          rows(&pb.ListDeliveriesRequest{StartTime: bad}),
		"causes[0]":            again(&pb.ReprocessDeliveriesRequest{Causes: []pb.DeliveryCause{pb.DeliveryCause_DELIVERY_CAUSE_CONFLICT}}),
		"sources[0] ":          again(&pb.ReprocessDeliveriesRequest{Sources: []string{""}}),
		"delivery_ids[0]":      again(&pb.ReprocessDeliveriesRequest{DeliveryIds: []string{""}}),
		"end_time   ":          again(&pb.ReprocessDeliveriesRequest{StartTime: late, EndTime: early}),
		"event_id":             body(""),
		"event_id ":            body(long),
	} {
		expectError(t, err, codes.InvalidArgument, "INVALID_FIELD", strings.TrimSpace(field))
	}
	expectError(t, sub(&pb.SubscribeRequest{Filter: &pb.EventFilter{EventTypes: []string{""}}}), codes.InvalidArgument, "INVALID_FILTER", "filter.event_types[0]")
	expectError(t, count(&pb.CountEventsRequest{Filter: &pb.EventFilter{Operations: []string{"A"}, ExcludeOperations: []string{"A"}}}), codes.InvalidArgument, "INVALID_FILTER", "filter.operations[0]")
	// What is only odd is allowed.
	for _, err := range []error{
		list(&pb.ListEventsRequest{PageSize: 1 << 30}), list(&pb.ListEventsRequest{StartTime: &timestamppb.Timestamp{Seconds: -62135596800}, EndTime: &timestamppb.Timestamp{Seconds: 253402300799}}),
		again(&pb.ReprocessDeliveriesRequest{}), rows(&pb.ListDeliveriesRequest{WebhookId: "any thing"}),
	} {
		if err != nil {
			t.Error(err)
		}
	}
	if n := f.history.lists[len(f.history.lists)-2].PageSize; n != 1000 {
		t.Errorf("page size %d", n)
	}
}

func TestSubscribeSendsTheSameBytesInEveryView(t *testing.T) {
	f := newFixture(t)
	body := bytes.Repeat([]byte(`{"a":1}`), 2000) // above the size that is joined into one piece
	f.put(makeEvent(1, []byte(`{"small":1}`)))
	streams := map[pb.EventView]func() *pb.Event{}
	for _, view := range []pb.EventView{0, 1, 2, 3, 4} {
		s := f.subscribe(t, &pb.SubscribeRequest{View: view, Start: pb.Start_START_EARLIEST})
		if c := next(t, s).GetConfirmation(); c.GetView() != effective(view) {
			t.Errorf("confirmation %v", c)
		}
		streams[view] = func() *pb.Event {
			for {
				m := next(t, s)
				if e := m.GetEvent(); e != nil {
					if m.GetCursor() != cursorAt(e.GetSequence()) || len(e.ProtoReflect().GetUnknown()) > 0 {
						t.Errorf("cursor %v of %d", m.GetCursor(), e.GetSequence())
					}
					return e
				}
			}
		}
	}
	check := func(e *bridge.Encoded) {
		t.Helper()
		for view, recv := range streams {
			got := recv()
			want, err := e.Event(effective(view), 0)
			if err != nil {
				t.Fatal(err)
			}
			if !proto.Equal(got, want) {
				t.Errorf("view %v of %d differs", view, e.Sequence)
			}
		}
	}
	check(f.history.events[0]) // from the ring or from history
	large := makeEvent(2, body)
	f.put(large)
	check(large)
	// Over a large history, too.
	for i := uint64(3); i < 100; i++ {
		e := makeEvent(i, fmt.Append(nil, i))
		f.put(e)
		check(e)
	}
}

func effective(v pb.EventView) pb.EventView {
	if v == 0 {
		return pb.EventView_EVENT_VIEW_TYPED
	}
	return v
}

func TestNoMessageIsLargerThanTheClientAllows(t *testing.T) {
	f := newFixture(t)
	const limit = 64 << 10
	sizes := []int{0, 1, limit - 400, limit - 300, limit - 250, limit - 200, limit - 150, limit - 100, limit, 3 * limit}
	seq := uint64(0)
	for _, n := range sizes {
		for pad := range 64 {
			seq++
			f.put(makeEvent(seq, bytes.Repeat([]byte("x"), max(n-pad, 0))))
		}
	}
	// An envelope that is too large by itself.
	seq++
	f.put(makeEvent(seq, []byte("{}"), func(e *bridge.Envelope) {
		e.OperationSummary = &pb.OperationSummary{TicketsIssued: slices.Repeat([]string{strings.Repeat("9", 1000)}, 100)}
		e.PNRID = "pnr"
	}))
	for _, view := range []pb.EventView{1, 2, 3, 4} {
		s := f.subscribe(t, &pb.SubscribeRequest{View: view, Start: pb.Start_START_EARLIEST, StopAtHead: true, MaxMessageBytes: limit})
		whole, omitted, events := 0, 0, uint64(0)
		for m := range untilEnd(t, s) {
			if n := proto.Size(m); n > limit {
				t.Fatalf("view %v: a message of %d bytes", view, n)
			}
			e := m.GetEvent()
			if e == nil {
				continue
			}
			if events++; e.GetSequence() != events || e.GetId() == "" || e.GetAppendTime() == nil {
				t.Fatalf("event %v", e)
			}
			if o := e.GetOmitted(); o != nil {
				omitted++
				if o.GetReason() != pb.OmittedReason_OMITTED_REASON_TOO_LARGE || e.GetRawBody() != nil || e.GetPayload() != nil {
					t.Fatalf("omitted: %v", e)
				}
				if e.GetSequence() == seq && (e.GetPnrId() != "pnr" || o.GetBytes() != 2) {
					t.Errorf("%v", e)
				}
				continue
			}
			whole++
		}
		if view == pb.EventView_EVENT_VIEW_ENVELOPE && omitted != 1 || view != pb.EventView_EVENT_VIEW_ENVELOPE && (whole < 100 || omitted < 100) {
			t.Errorf("view %v: %d whole, %d omitted", view, whole, omitted)
		}
	}
}

func TestListEventsPages(t *testing.T) {
	f := newFixture(t)
	for i := uint64(1); i <= 25; i++ {
		f.put(makeEvent(i, fmt.Append(nil, i), ofType([]string{"PNR_V3", "TRIP_DETAILS_V3"}[i%2])))
	}
	client := pb.NewEventServiceClient(f.conn)
	req := &pb.ListEventsRequest{Filter: &pb.EventFilter{EventTypes: []string{"PNR_V3"}}, PageSize: 5, View: pb.EventView_EVENT_VIEW_FULL}
	var got []uint64
	for page := 0; ; page++ {
		res, err := client.ListEvents(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		if page == 0 {
			// What comes meanwhile is not part of the listing; the cursor leads to it.
			f.put(makeEvent(26, []byte("26")))
		}
		if res.GetCursor() != cursorAt(25) {
			t.Errorf("cursor of page %d", page)
		}
		for _, e := range res.GetEvents() {
			got = append(got, e.GetSequence())
			if string(e.GetRawBody()) != fmt.Sprint(e.GetSequence()) || e.GetOther().GetStringValue() != fmt.Sprint(e.GetSequence()) || e.GetConversion() == nil {
				t.Errorf("%v", e)
			}
		}
		if req.PageToken = res.GetNextPageToken(); req.PageToken == "" {
			break
		}
	}
	if want := []uint64{24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2}; !slices.Equal(got, want) {
		t.Errorf("%v", got)
	}
}

func TestPagesEndBefore3MiBWhateverTheView(t *testing.T) {
	f := newFixture(t)
	for i := uint64(1); i <= 40; i++ {
		f.put(makeTyped(i, bytes.Repeat([]byte("x"), 100<<10), converter{extra: 300 << 10})) // typed is four times the body
	}
	f.put(makeEvent(41, bytes.Repeat([]byte("y"), 5<<20)))
	for _, view := range []pb.EventView{1, 2, 3, 4} {
		req, seen := &pb.ListEventsRequest{PageSize: 1000, View: view, Order: pb.Order_ORDER_OLDEST_FIRST}, uint64(0)
		for {
			res, err := pb.NewEventServiceClient(f.conn).ListEvents(t.Context(), req)
			if err != nil {
				t.Fatal(err)
			}
			if n := proto.Size(res); n > 3<<20+4<<10 {
				t.Errorf("view %v: a page of %d bytes", view, n)
			}
			for _, e := range res.GetEvents() {
				if seen++; e.GetSequence() != seen {
					t.Fatalf("view %v: %d after %d", view, e.GetSequence(), seen-1)
				}
				if omitted := e.GetOmitted().GetBytes() == 5<<20; omitted != (seen == 41 && view != pb.EventView_EVENT_VIEW_ENVELOPE) {
					t.Errorf("view %v: %d omitted: %v", view, seen, omitted)
				}
			}
			if req.PageToken = res.GetNextPageToken(); req.PageToken == "" {
				break
			}
		}
		if seen != 41 {
			t.Errorf("view %v: %d events", view, seen)
		}
	}
}

func TestPageTokensAreBoundToTheirRequest(t *testing.T) {
	f := newFixture(t)
	for i := uint64(1); i <= 10; i++ {
		f.put(makeEvent(i, []byte("{}")))
	}
	client := pb.NewEventServiceClient(f.conn)
	base := &pb.ListEventsRequest{Filter: &pb.EventFilter{EventTypes: []string{"PNR_V3"}, Operations: []string{"BOOKING_UPDATED"}}, StartTime: timestamppb.New(epoch), PageSize: 3}
	res, err := client.ListEvents(t.Context(), base)
	if err != nil || res.GetNextPageToken() == "" {
		t.Fatal(err)
	}
	token := res.GetNextPageToken()
	with := func(change func(*pb.ListEventsRequest)) error {
		r := proto.CloneOf(base)
		r.PageToken = token
		change(r)
		_, err := client.ListEvents(t.Context(), r)
		return err
	}
	for name, change := range map[string]func(*pb.ListEventsRequest){
		"the same":            func(*pb.ListEventsRequest) {},
		"another page size":   func(r *pb.ListEventsRequest) { r.PageSize = 7 },
		"another view":        func(r *pb.ListEventsRequest) { r.View = pb.EventView_EVENT_VIEW_RAW },
		"the default, named":  func(r *pb.ListEventsRequest) { r.Order = pb.Order_ORDER_NEWEST_FIRST },
		"the filter repeated": func(r *pb.ListEventsRequest) { r.Filter.EventTypes = []string{"PNR_V3", "PNR_V3"} },
	} {
		if err := with(change); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	flip := []byte(token)
	flip[len(flip)/2] ^= 1
	other := token[:len(token)-1] + "\n"
	raw, _ := base64.RawURLEncoding.DecodeString(token)
	for name, change := range map[string]func(*pb.ListEventsRequest){
		"another filter":  func(r *pb.ListEventsRequest) { r.Filter.Operations = nil },
		"another start":   func(r *pb.ListEventsRequest) { r.StartTime = nil },
		"an end":          func(r *pb.ListEventsRequest) { r.EndTime = timestamppb.New(epoch.Add(time.Hour)) },
		"another order":   func(r *pb.ListEventsRequest) { r.Order = pb.Order_ORDER_OLDEST_FIRST },
		"latest":          func(r *pb.ListEventsRequest) { r.LatestPerEntity = true },
		"a damaged token": func(r *pb.ListEventsRequest) { r.PageToken = string(flip) },
		"a newline":       func(r *pb.ListEventsRequest) { r.PageToken = other },
		"rubbish":         func(r *pb.ListEventsRequest) { r.PageToken = "rubbish" },
		"a cursor":        func(r *pb.ListEventsRequest) { r.PageToken = cursorAt(3) },
		"padded":          func(r *pb.ListEventsRequest) { r.PageToken = base64.URLEncoding.EncodeToString(raw) + "=" },
		"of another kind": func(r *pb.ListEventsRequest) {
			r.PageToken = newBinding(testLog).token(tokenDeliveries, make([]byte, 16))
		},
		"of another log": func(r *pb.ListEventsRequest) {
			r.PageToken = newBinding(bridge.LogID{}).token(tokenEvents, make([]byte, 16))
		},
		"cut": func(r *pb.ListEventsRequest) { r.PageToken = token[:8] },
		"another version": func(r *pb.ListEventsRequest) {
			r.PageToken = base64.RawURLEncoding.EncodeToString(append([]byte{9}, raw[1:]...))
		},
		"a token of no use": func(r *pb.ListEventsRequest) { r.PageToken = "AAAA" },
	} {
		expectError(t, with(change), codes.InvalidArgument, "INVALID_PAGE_TOKEN", "page_token")
		if t.Failed() {
			t.Fatal(name)
		}
	}
}

func TestListDeliveriesPages(t *testing.T) {
	f := newFixture(t)
	client := pb.NewDeliveryServiceClient(f.conn)
	req := &pb.ListDeliveriesRequest{Outcomes: []pb.DeliveryOutcome{4, 5}, Causes: []pb.DeliveryCause{20}, Sources: []string{"sandbox"}, WebhookId: "w", StartTime: timestamppb.New(epoch)}
	first, err := client.ListDeliveries(t.Context(), req)
	if err != nil || len(first.GetDeliveries()) != 1 || first.GetNextPageToken() == "" {
		t.Fatal(first, err)
	}
	want := bridge.DeliveryListRequest{Outcomes: req.GetOutcomes(), Causes: req.GetCauses(), Sources: req.GetSources(), WebhookID: "w", StartTime: epoch, PageSize: 50}
	if got := f.deliveries.last; fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%+v", got)
	}
	req.PageToken = first.GetNextPageToken()
	second, err := client.ListDeliveries(t.Context(), req)
	if err != nil || second.GetNextPageToken() != "" || f.deliveries.last.Resume != "after d2" {
		t.Error(second, err)
	}
	req.WebhookId = ""
	_, err = client.ListDeliveries(t.Context(), req)
	expectError(t, err, codes.InvalidArgument, "INVALID_PAGE_TOKEN", "page_token")
}

func TestBodiesComeInChunks(t *testing.T) {
	f := newFixture(t)
	body := bytes.Repeat([]byte("0123456789abcdef"), 10_000)
	f.put(makeEvent(1, body), makeEvent(2, nil))
	for id, want := range map[string][]byte{"sandbox.w1": body, "sandbox.w2": nil} {
		s, err := pb.NewEventServiceClient(f.conn).GetEventBody(t.Context(), &pb.GetEventBodyRequest{EventId: id})
		if err != nil {
			t.Fatal(err)
		}
		var got []byte
		for {
			m, err := s.Recv()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil || len(m.GetChunk()) == 0 || len(m.GetChunk()) > 64<<10 {
				t.Fatal(len(m.GetChunk()), err)
			}
			got = append(got, m.GetChunk()...)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes", id, len(got))
		}
	}
}

func TestEventTypesAreTheCatalogueAndWhatCame(t *testing.T) {
	f := newFixture(t)
	known := bridge.Catalog()[0]
	f.history.seen = []bridge.SeenType{
		{EventType: known.Name, Operation: "NEW_ONE", Count: 2, LastSeen: epoch},
		{EventType: known.Name, Operation: "", Count: 3, LastSeen: epoch.Add(time.Hour)},
		{EventType: "AAA_UNKNOWN", Operation: "X", Count: 1, LastSeen: epoch},
	}
	res, err := pb.NewCatalogServiceClient(f.conn).ListEventTypes(t.Context(), &pb.ListEventTypesRequest{})
	if err != nil || len(res.GetEventTypes()) != len(bridge.Catalog())+1 {
		t.Fatal(res, err)
	}
	if !slices.IsSortedFunc(res.GetEventTypes(), func(a, b *pb.EventType) int { return strings.Compare(a.GetName(), b.GetName()) }) {
		t.Error("not by name")
	}
	for _, x := range res.GetEventTypes() {
		switch x.GetName() {
		case "AAA_UNKNOWN":
			if x.GetKnown() || x.GetCount() != 1 {
				t.Error(x)
			}
		case known.Name:
			if !x.GetKnown() || x.GetCount() != 5 || !x.GetLastSeenTime().AsTime().Equal(epoch.Add(time.Hour)) || len(x.GetOperations()) != len(known.Operations)+2 || x.GetOperations()[0].GetName() != "" {
				t.Error(x)
			}
		default:
			if !x.GetKnown() || x.GetCount() != 0 || x.GetLastSeenTime() != nil {
				t.Error(x)
			}
		}
	}
}

func TestHistoryThatIsNotReadyIsWaitedForALittle(t *testing.T) {
	ready := make(chan struct{})
	asked := make(chan struct{}, 1000)
	f := newFixture(t, func(c *Config, _ *live.Config) {
		c.Ready = func() bool {
			asked <- struct{}{}
			select {
			case <-ready:
				return true
			default:
				return false
			}
		}
	})
	_, err := pb.NewEventServiceClient(f.conn).CountEvents(t.Context(), &pb.CountEventsRequest{})
	expectError(t, err, codes.Unavailable, "STARTING", "")
	if a := f.get(t, "/v1/events:subscribe"); a.StatusCode != 503 || a.Header.Get("Retry-After") == "" || !strings.Contains(string(a.body), "STARTING") {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
	for len(asked) > 0 {
		<-asked
	}
	done := make(chan error)
	go func() {
		_, err := pb.NewEventServiceClient(f.conn).CountEvents(t.Context(), &pb.CountEventsRequest{})
		done <- err
	}()
	<-asked
	close(ready)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestReflectionAndHealthAreOn(t *testing.T) {
	f := newFixture(t)
	want := []string{"spotbridge.v1.CatalogService", "spotbridge.v1.DeliveryService", "spotbridge.v1.EventService", "spotbridge.v1.SubscriptionService"}
	s, err := reflectionpb.NewServerReflectionClient(f.conn).ServerReflectionInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Send(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{}}); err != nil {
		t.Fatal(err)
	}
	m, err := s.Recv()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]bool{}
	for _, x := range m.GetListServicesResponse().GetService() {
		got[x.GetName()] = true
	}
	for _, name := range want {
		if !got[name] {
			t.Errorf("%s is not in %v", name, slices.Sorted(maps.Keys(got)))
		}
	}
	_ = s.CloseSend()
	old, err := reflectionalpha.NewServerReflectionClient(f.conn).ServerReflectionInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := old.Send(&reflectionalpha.ServerReflectionRequest{MessageRequest: &reflectionalpha.ServerReflectionRequest_ListServices{}}); err != nil {
		t.Fatal(err)
	}
	if _, err := old.Recv(); err != nil {
		t.Error(err)
	}
	_ = old.CloseSend()
	for _, serving := range []bool{false, true} {
		f.SetServing(serving)
		for _, name := range append(want, "") {
			res, err := healthpb.NewHealthClient(f.conn).Check(t.Context(), &healthpb.HealthCheckRequest{Service: name})
			if err != nil || (res.GetStatus() == healthpb.HealthCheckResponse_SERVING) != serving {
				t.Errorf("%q: %v %v", name, res, err)
			}
		}
	}
}
