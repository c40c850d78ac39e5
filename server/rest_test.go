package server

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/spotbridge/spotbridge/bridge"
	"github.com/spotbridge/spotbridge/bridge/live"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

// TestEveryRPCHasItsRoute holds the routes, proto/http.yaml and the services to one another. Bidi streams have none.
func TestEveryRPCHasItsRoute(t *testing.T) {
	text, err := os.ReadFile("../proto/http.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		HTTP struct {
			Rules []struct {
				Selector, Get, Post, Put, Patch, Delete, Body string
				AdditionalBindings                            []any `yaml:"additional_bindings"`
			}
		}
	}
	if err := yaml.Unmarshal(text, &doc); err != nil {
		t.Fatal(err)
	}
	rules := map[string]string{}
	for _, r := range doc.HTTP.Rules {
		for method, path := range map[string]string{"GET": r.Get, "POST": r.Post, "PUT": r.Put, "PATCH": r.Patch, "DELETE": r.Delete} {
			if path != "" {
				rules[r.Selector] = fmt.Sprint(method, " ", path, " body=", r.Body == "*")
			}
		}
		if len(r.AdditionalBindings) > 0 {
			t.Errorf("%s has additional bindings: the routes know only one", r.Selector)
		}
	}
	routes, err := newRoutes()
	if err != nil {
		t.Fatal(err)
	}
	ours := map[string]string{}
	for _, r := range routes {
		ours[string(r.rpc)] = fmt.Sprint(r.method, " ", r.path, " body=", r.body)
	}
	rpcs := 0
	protoregistry.GlobalFiles.RangeFilesByPackage("spotbridge.v1", func(fd protoreflect.FileDescriptor) bool {
		for i := range fd.Services().Len() {
			methods := fd.Services().Get(i).Methods()
			for j := range methods.Len() {
				m := methods.Get(j)
				if m.IsStreamingClient() {
					continue
				}
				rpcs++
				if name := string(m.FullName()); rules[name] == "" || ours[name] != rules[name] {
					t.Errorf("%s: route %q, rule %q", name, ours[name], rules[name])
				}
			}
		}
		return true
	})
	if rpcs != len(rules) || rpcs != len(ours) {
		t.Errorf("%d RPCs, %d rules, %d routes", rpcs, len(rules), len(ours))
	}
}

// expect checks an error answer: its shape is the same everywhere.
func (a answer) expect(t testing.TB, httpStatus int, code codes.Code, reason, field string) {
	t.Helper()
	var s status.Status
	if err := protojson.Unmarshal(a.body, &s); err != nil {
		t.Fatalf("%d %s: %v", a.StatusCode, a.body, err)
	}
	var shape map[string]json.RawMessage
	_ = json.Unmarshal(a.body, &shape)
	for key := range shape {
		if key != "code" && key != "message" && key != "details" {
			t.Errorf("an error with %q: %s", key, a.body)
		}
	}
	var info struct {
		Details []struct {
			Type           string `json:"@type"`
			Reason, Domain string
			Metadata       map[string]string
		}
	}
	_ = json.Unmarshal(a.body, &info)
	if a.StatusCode != httpStatus || codes.Code(s.GetCode()) != code || len(info.Details) != 1 || info.Details[0].Reason != reason ||
		info.Details[0].Domain != "spotbridge" || info.Details[0].Metadata["field"] != field || a.Header.Get("Content-Type") != "application/json" {
		t.Errorf("%d %s\nwant %d %v %s %q", a.StatusCode, a.body, httpStatus, code, reason, field)
	}
}

func filled(t testing.TB, change ...func(*Config, *live.Config)) *fixture {
	f := newFixture(t, change...)
	for i := uint64(1); i <= 20; i++ {
		f.put(makeEvent(i, fmt.Appendf(nil, `{"n":%d}`, i), ofType([]string{"PNR_V3", "TRIP_DETAILS_V3"}[i%2])))
	}
	return f
}

func TestRESTGivesTheAnswersOfGRPC(t *testing.T) {
	f := filled(t)
	events, del, cat := pb.NewEventServiceClient(f.conn), pb.NewDeliveryServiceClient(f.conn), pb.NewCatalogServiceClient(f.conn)
	ctx := t.Context()
	at := func(s int64) *timestamppb.Timestamp { return &timestamppb.Timestamp{Seconds: epoch.Unix() + s} }
	list := func(r *pb.ListEventsRequest) func() (proto.Message, error) {
		return func() (proto.Message, error) { return events.ListEvents(ctx, r) }
	}
	pnr := &pb.EventFilter{EventTypes: []string{"PNR_V3"}}
	both := &pb.EventFilter{EventTypes: []string{"PNR_V3", "TRIP_DETAILS_V3"}, OrganizationIds: []string{"org"}}
	for path, call := range map[string]func() (proto.Message, error){
		"/v1/events": list(&pb.ListEventsRequest{}),
		"/v1/events?filter.event_types=PNR_V3&page_size=3&view=ENVELOPE&order=OLDEST_FIRST":                              list(&pb.ListEventsRequest{Filter: pnr, PageSize: 3, View: 1, Order: 2}),
		"/v1/events?event_types=PNR_V3&pageSize=3&view=EVENT_VIEW_RAW&order=2":                                           list(&pb.ListEventsRequest{Filter: pnr, PageSize: 3, View: 3, Order: 2}),
		"/v1/events?eventTypes=PNR_V3&filter.eventTypes=TRIP_DETAILS_V3&organization_ids=org":                            list(&pb.ListEventsRequest{Filter: both}),
		"/v1/events?filter.eventTypes=PNR_V3&filter.event_types=TRIP_DETAILS_V3&latest_per_entity=1&organizationIds=org": list(&pb.ListEventsRequest{Filter: both, LatestPerEntity: true}),
		"/v1/events?start_time=2026-11-23T10:00:05%2B01:00&endTime=2026-11-23T09:00:09Z&view=full":                       list(&pb.ListEventsRequest{StartTime: at(5), EndTime: at(9), View: 4}),
		"/v1/events?start_time=2026-11-23T10:00:05+01:00":                                                                list(&pb.ListEventsRequest{StartTime: at(5)}),
		"/v1/events?filter.exclude_stale=true&excludeOperations=X":                                                       list(&pb.ListEventsRequest{Filter: &pb.EventFilter{ExcludeStale: true, ExcludeOperations: []string{"X"}}}),
		"/v1/events?event_types=A,B": list(&pb.ListEventsRequest{Filter: &pb.EventFilter{EventTypes: []string{"A,B"}}}),
		"/v1/events?page_token=":     list(&pb.ListEventsRequest{}),
		"/v1/events/sandbox.w3?view=FULL": func() (proto.Message, error) {
			return events.GetEvent(ctx, &pb.GetEventRequest{EventId: "sandbox.w3", View: 4})
		},
		"/v1/events/sandbox%2Ew3": func() (proto.Message, error) { return events.GetEvent(ctx, &pb.GetEventRequest{EventId: "sandbox.w3"}) },
		"/v1/events:count?group_by=HOUR&group_by=COUNT_GROUP_EVENT_TYPE&groupBy=operation": func() (proto.Message, error) {
			return events.CountEvents(ctx, &pb.CountEventsRequest{GroupBy: []pb.CountGroup{4, 1, 2}})
		},
		"/v1/deliveries?outcomes=REFUSED&outcomes=DELIVERY_OUTCOME_ACCEPTED&causes=NOT_JSON": func() (proto.Message, error) {
			return del.ListDeliveries(ctx, &pb.ListDeliveriesRequest{Outcomes: []pb.DeliveryOutcome{5, 1}, Causes: []pb.DeliveryCause{21}})
		},
		"/v1/deliveries/d1": func() (proto.Message, error) { return del.GetDelivery(ctx, &pb.GetDeliveryRequest{DeliveryId: "d1"}) },
		"/v1/eventTypes":    func() (proto.Message, error) { return cat.ListEventTypes(ctx, &pb.ListEventTypesRequest{}) },
	} {
		want, err := call()
		if err != nil {
			t.Fatal(path, err)
		}
		got := want.ProtoReflect().New().Interface()
		f.get(t, path).decode(t, got)
		if !proto.Equal(got, want) {
			t.Errorf("%s:\n%v\nwant\n%v", path, got, want)
		}
	}
	// int64 as strings, lowerCamelCase, nothing for empty fields.
	body := string(f.get(t, "/v1/events/sandbox.w3?view=ENVELOPE").body)
	for _, s := range []string{`"eventType"`, `"sequence":"3"`, `"appendTime"`} {
		if !strings.Contains(strings.ReplaceAll(body, ": ", ":"), s) {
			t.Errorf("%s is not in %s", s, body)
		}
	}
	if strings.Contains(body, `"pnrId"`) {
		t.Error("empty fields are shown")
	}
	var next pb.ListEventsResponse
	f.get(t, "/v1/events?page_size=7&event_types=PNR_V3").decode(t, &next)
	token := url.QueryEscape(next.GetNextPageToken())
	f.get(t, "/v1/events?page_size=7&filter.eventTypes=PNR_V3&page_token="+token).decode(t, &next)
	f.get(t, "/v1/events?page_size=7&page_token="+token).expect(t, 400, codes.InvalidArgument, "INVALID_PAGE_TOKEN", "page_token")
}

func TestRESTErrors(t *testing.T) {
	f := filled(t)
	f.history.mu.Lock()
	f.history.floor = 5
	f.history.mu.Unlock()
	for path, want := range map[string]struct {
		status        int
		code          codes.Code
		reason, field string
	}{
		"/v1/events?bogus=1":                                {400, codes.InvalidArgument, "UNKNOWN_PARAMETER", "bogus"},
		"/v1/events?filter=1":                               {400, codes.InvalidArgument, "UNKNOWN_PARAMETER", "filter"},
		"/v1/events?filter.bogus=1":                         {400, codes.InvalidArgument, "UNKNOWN_PARAMETER", "filter.bogus"},
		"/v1/events?Event_Types=1":                          {400, codes.InvalidArgument, "UNKNOWN_PARAMETER", "Event_Types"},
		"/v1/events?filter[event_types]=1":                  {400, codes.InvalidArgument, "UNKNOWN_PARAMETER", "filter[event_types]"},
		"/v1/events/sandbox.w3?event_id=sandbox.w4":         {400, codes.InvalidArgument, "UNKNOWN_PARAMETER", "event_id"},
		"/v1/events/sandbox.w3?page_size=1":                 {400, codes.InvalidArgument, "UNKNOWN_PARAMETER", "page_size"},
		"/v1/events/sandbox.w3/body?view=RAW":               {400, codes.InvalidArgument, "UNKNOWN_PARAMETER", "view"},
		"/v1/events:subscribe?page_size=1":                  {400, codes.InvalidArgument, "UNKNOWN_PARAMETER", "page_size"},
		"/v1/eventTypes?x":                                  {400, codes.InvalidArgument, "UNKNOWN_PARAMETER", "x"},
		"/openapi.json?x=1":                                 {400, codes.InvalidArgument, "UNKNOWN_PARAMETER", "x"},
		"/v1/events?page_size=many":                         {400, codes.InvalidArgument, "INVALID_FIELD", "page_size"},
		"/v1/events?page_size=":                             {400, codes.InvalidArgument, "INVALID_FIELD", "page_size"},
		"/v1/events?page_size=99999999999":                  {400, codes.InvalidArgument, "INVALID_FIELD", "page_size"},
		"/v1/events?page_size=-1":                           {400, codes.InvalidArgument, "INVALID_FIELD", "page_size"},
		"/v1/events?page_size=1&page_size=2":                {400, codes.InvalidArgument, "INVALID_FIELD", "page_size"},
		"/v1/events?page_size=1&pageSize=1":                 {400, codes.InvalidArgument, "INVALID_FIELD", "page_size"},
		"/v1/events?view=PRETTY":                            {400, codes.InvalidArgument, "INVALID_FIELD", "view"},
		"/v1/events?view=":                                  {400, codes.InvalidArgument, "INVALID_FIELD", "view"},
		"/v1/events?order=77":                               {400, codes.InvalidArgument, "INVALID_FIELD", "order"},
		"/v1/events?start_time=yesterday":                   {400, codes.InvalidArgument, "INVALID_FIELD", "start_time"},
		"/v1/events?latest_per_entity=maybe":                {400, codes.InvalidArgument, "INVALID_FIELD", "latest_per_entity"},
		"/v1/events?event_types=%ff":                        {400, codes.InvalidArgument, "INVALID_FIELD", "filter.event_types"},
		"/v1/events?event_types=%zz":                        {400, codes.InvalidArgument, "INVALID_FIELD", "query"},
		"/v1/events?a;b":                                    {400, codes.InvalidArgument, "INVALID_FIELD", "query"},
		"/v1/events?event_types=":                           {400, codes.InvalidArgument, "INVALID_FILTER", "filter.event_types[0]"},
		"/v1/events:count?group_by=COUNT_GROUP_UNSPECIFIED": {400, codes.InvalidArgument, "INVALID_FIELD", "group_by[0]"},
		"/v1/events:count?group_by=HOUR&group_by=HOUR":      {400, codes.InvalidArgument, "INVALID_FIELD", "group_by[1]"},
		"/v1/events:subscribe?heartbeat_interval=1s":        {400, codes.InvalidArgument, "INVALID_FIELD", "heartbeat_interval"},
		"/v1/events:subscribe?heartbeat_interval=soon":      {400, codes.InvalidArgument, "INVALID_FIELD", "heartbeat_interval"},
		"/v1/events:subscribe?start=LATEST&after_cursor=x":  {400, codes.InvalidArgument, "INVALID_FIELD", "after_cursor"},
		"/v1/events:subscribe?after_cursor=x":               {400, codes.InvalidArgument, "INVALID_CURSOR", "after_cursor"},
		"/v1/events:subscribe?after_cursor=" + cursorAt(99): {400, codes.InvalidArgument, "CURSOR_AHEAD", "after_cursor"},
		"/v1/events:subscribe?after_cursor=" + cursorAt(2):  {410, codes.OutOfRange, "CURSOR_EXPIRED", "after_cursor"},
		"/v1/events/sandbox.none":                           {404, codes.NotFound, "EVENT_NOT_FOUND", ""},
		"/v1/events/sandbox.none/body":                      {404, codes.NotFound, "EVENT_NOT_FOUND", ""},
		"/v1/events/a%2Fb":                                  {404, codes.NotFound, "EVENT_NOT_FOUND", ""},
		"/v1/events/a%2Fb/body":                             {404, codes.NotFound, "EVENT_NOT_FOUND", ""},
		"/v1/events/abc:count":                              {404, codes.NotFound, "EVENT_NOT_FOUND", ""},
		"/v1/events/%E2%82%AC%20%22x":                       {404, codes.NotFound, "EVENT_NOT_FOUND", ""},
		"/v1/events/..":                                     {404, codes.NotFound, "EVENT_NOT_FOUND", ""},
		"/v1/deliveries/none":                               {404, codes.NotFound, "DELIVERY_NOT_FOUND", ""},
		"/v1/deliveries/none/body":                          {404, codes.NotFound, "DELIVERY_NOT_FOUND", ""},
		"/v1/deliveries/d1/body":                            {404, codes.FailedPrecondition, "BODY_NOT_KEPT", ""},
		"/":                                                 {404, codes.NotFound, "NO_SUCH_ROUTE", ""},
		"/v1":                                               {404, codes.NotFound, "NO_SUCH_ROUTE", ""},
		"/v1/events/":                                       {404, codes.NotFound, "NO_SUCH_ROUTE", ""},
		"/v1//events":                                       {404, codes.NotFound, "NO_SUCH_ROUTE", ""},
		"/v1/events/%ff":                                    {404, codes.NotFound, "NO_SUCH_ROUTE", ""},
		"/v1/events/a/b":                                    {404, codes.NotFound, "NO_SUCH_ROUTE", ""},
		"/v1/events:nope":                                   {404, codes.NotFound, "NO_SUCH_ROUTE", ""},
		"/v1/Events":                                        {404, codes.NotFound, "NO_SUCH_ROUTE", ""},
	} {
		t.Run(path, func(t *testing.T) {
			f.get(t, path).expect(t, want.status, want.code, want.reason, want.field)
		})
	}
	var gone struct {
		Details []struct{ Metadata map[string]string }
	}
	if err := json.Unmarshal(f.get(t, "/v1/events:subscribe?after_cursor="+cursorAt(2)).body, &gone); err != nil || gone.Details[0].Metadata["earliest_cursor"] != cursorAt(4) {
		t.Errorf("%v %v", gone, err)
	}
	f.history.mu.Lock()
	f.history.err = bridge.HistoryUnavailable(io.ErrUnexpectedEOF)
	f.history.mu.Unlock()
	a := f.get(t, "/v1/events")
	a.expect(t, 503, codes.Unavailable, "HISTORY_UNAVAILABLE", "")
	if a.Header.Get("Retry-After") == "" || strings.Contains(string(a.body), "EOF") {
		t.Errorf("%v %s", a.Header, a.body)
	}
}

func TestRESTMethods(t *testing.T) {
	f := filled(t)
	for _, c := range []struct{ method, path, allow string }{
		{"POST", "/v1/events", "GET, HEAD"},
		{"DELETE", "/v1/events/sandbox.w1", "GET, HEAD"},
		{"PUT", "/v1/events/sandbox.w1/body", "GET"},
		{"HEAD", "/v1/events:subscribe", "GET"},
		{"OPTIONS", "/v1/events", "GET, HEAD"},
		{"GET", "/v1/deliveries:reprocess", "POST"},
		{"POST", "/v1/deliveries/d1", "GET, HEAD"},
		{"POST", "/openapi.json", "GET, HEAD"},
		{"FOO", "/v1/eventTypes", "GET, HEAD"},
		{"OPTIONS", "/v1/groups/g", "DELETE, GET, HEAD, PATCH"},
		// A verb is no part of a group's name.
		{"OPTIONS", "/v1/groups/g:pause", "POST"},
		{"GET", "/v1/groups/g:pull", "POST"},
		{"DELETE", "/v1/groups/g:seek", "POST"},
		{"PATCH", "/v1/groups/a:b:acknowledge", "POST"},
		{"POST", "/v1/groups/g%3Apause", "DELETE, GET, HEAD, PATCH"},
	} {
		a := f.do(t, c.method, c.path, "", "X-HTTP-Method-Override", "GET")
		if a.StatusCode != 405 || a.Header.Get("Allow") != c.allow || a.Header.Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("%s %s: %d %v", c.method, c.path, a.StatusCode, a.Header)
		}
		if c.method != "HEAD" {
			a.expect(t, 405, codes.NotFound, "NO_SUCH_ROUTE", "")
		}
	}
	a := f.do(t, "HEAD", "/v1/events", "")
	if a.StatusCode != 200 || len(a.body) != 0 || a.Header.Get("Content-Type") != "application/json" {
		t.Errorf("%d %v", a.StatusCode, a.Header)
	}
	// A body on a GET, and headers that mean something to gateways, change nothing.
	a = f.do(t, "GET", "/v1/events?page_size=1", `{"pageSize":7}`, "Grpc-Timeout", "bogus", "Grpc-Metadata-Spotbridge-Rest-Peer", "evil", "Accept", "text/html", "Content-Type", "text/plain", "Authorization", "x")
	var list pb.ListEventsResponse
	a.decode(t, &list)
	if len(list.GetEvents()) != 1 {
		t.Error(&list)
	}
	for h := range a.Header {
		if strings.HasPrefix(h, "Grpc-") || strings.HasPrefix(h, "Access-Control") || h == "Trailer" {
			t.Errorf("header %s", h)
		}
	}
	if strings.Contains(f.logs.String(), "evil") || !strings.Contains(f.logs.String(), `peer="rest 127.0.0.1:`) {
		t.Error(f.logs)
	}
}

func TestRESTIsForLoopbackHostsOnly(t *testing.T) {
	f := filled(t)
	for host, ok := range map[string]bool{
		"localhost": true, "localhost:8081": true, "LOCALHOST.": true, "127.0.0.1": true, "127.8.9.1:1": true, "[::1]": true, "[::1]:8081": true, "[::ffff:127.0.0.1]:1": true,
		"evil.example": false, "localhost.evil.example": false, "127.0.0.1.evil.example": false, "10.0.0.1": false, "0.0.0.0": false, "[::]": false, "[fe80::1]": false, "evil:127.0.0.1": false,
		"127.0.0.1:80:80": false,
	} {
		for _, path := range []string{"/v1/events", "/openapi.json", "/v1/events/sandbox.w1/body", "/nope"} {
			a := f.do(t, "GET", path, "", "Host", host)
			if a.StatusCode == http.StatusBadRequest && !ok {
				continue // net/http refuses it
			}
			if ok == (a.StatusCode == http.StatusForbidden) {
				t.Errorf("%s %s: %d", host, path, a.StatusCode)
			}
			if !ok {
				a.expect(t, 403, codes.PermissionDenied, "PERMISSION_DENIED", "")
			}
		}
	}
	f = filled(t, func(c *Config, _ *live.Config) { c.Open = false })
	if a := f.do(t, "GET", "/v1/events", "", "Host", "bridge.example"); a.StatusCode != 200 {
		t.Errorf("%d", a.StatusCode)
	}
}

func TestRESTWritesNeedJSON(t *testing.T) {
	f := filled(t)
	post := func(body string, header ...string) answer {
		return f.do(t, "POST", "/v1/deliveries:reprocess", body, header...)
	}
	for _, ct := range []string{"", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "application/jsonp", "application/json;;"} {
		post("{}", "Content-Type", ct).expect(t, 415, codes.InvalidArgument, "INVALID_FIELD", "Content-Type")
	}
	if f.reprocessor.last != nil {
		t.Error("it was done all the same")
	}
	json := []string{"Content-Type", "application/json; charset=utf-8"}
	for body, field := range map[string]string{
		`{"bogus":1}`: "bogus", `{"dryRun":true,"nested":{}}`: "nested", ``: "body", ` `: "body", `[]`: "body", `{"dryRun":"x"}`: "body", `{"dryRun":true`: "body", `{} {}`: "body",
	} {
		post(body, json...).expect(t, 400, codes.InvalidArgument, "INVALID_FIELD", field)
	}
	post(`{"causes":["DELIVERY_CAUSE_CONFLICT"]}`, json...).expect(t, 400, codes.InvalidArgument, "INVALID_FIELD", "causes[0]")
	post(`{"deliveryIds":["`+strings.Repeat("x", 2<<20)+`"]}`, json...).expect(t, 413, codes.InvalidArgument, "INVALID_FIELD", "body")
	f.do(t, "POST", "/v1/deliveries:reprocess?dry_run=true", "{}", json...).expect(t, 400, codes.InvalidArgument, "UNKNOWN_PARAMETER", "dry_run")
	var got pb.ReprocessDeliveriesResponse
	post(`{"dryRun":true,"delivery_ids":["d1"],"causes":["DELIVERY_CAUSE_NOT_JSON"],"startTime":"2026-11-23T09:00:00Z"}`, json...).decode(t, &got)
	if got.GetAppended() != 2 || !f.reprocessor.last.GetDryRun() || f.reprocessor.last.GetDeliveryIds()[0] != "d1" || f.reprocessor.last.GetStartTime().AsTime() != epoch {
		t.Errorf("%v %v", &got, f.reprocessor.last)
	}
}

func TestRESTAnswersHaveSecurityHeaders(t *testing.T) {
	f := filled(t)
	for _, path := range []string{"/v1/events", "/v1/events/sandbox.w1/body", "/nope", "/openapi.json", "/v1/events:subscribe?stop_at_head=true"} {
		h := f.do(t, "GET", path, "", "Origin", "http://evil.example").Header
		if h.Get("X-Content-Type-Options") != "nosniff" || h.Get("Cache-Control") != "no-store" || !strings.Contains(h.Get("Content-Security-Policy"), "default-src 'none'") {
			t.Errorf("%s: %v", path, h)
		}
		for name := range h {
			if strings.HasPrefix(name, "Access-Control") {
				t.Errorf("%s: %s", path, name)
			}
		}
	}
	a := f.get(t, "/openapi.json")
	if string(a.body) != `{"openapi":"3.0.3"}` || a.Header.Get("Content-Type") != "application/json" {
		t.Errorf("%s", a.body)
	}
}

func TestRESTBodiesAreExact(t *testing.T) {
	f := newFixture(t)
	bodies := [][]byte{
		nil, []byte("{}"), []byte("\xff\xfe\x00<script>alert(1)</script>\r\n"), bytes.Repeat([]byte("0123456789abcdef"), 4096), bytes.Repeat([]byte{0, 10, 13}, 100_001),
	}
	for i, b := range bodies {
		f.put(makeEvent(uint64(i+1), b))
	}
	check := func(path, name string, want []byte) {
		t.Helper()
		a := f.get(t, path)
		if a.StatusCode != 200 || !bytes.Equal(a.body, want) || a.Header.Get("Content-Type") != "application/octet-stream" ||
			a.Header.Get("Content-Disposition") != `attachment; filename="`+name+`"` || a.Header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: %d, %d bytes, %v", path, a.StatusCode, len(a.body), a.Header)
		}
	}
	for i, b := range bodies {
		check(fmt.Sprintf("/v1/events/sandbox.w%d/body", i+1), fmt.Sprintf("sandbox.w%d.json", i+1), b)
		check(fmt.Sprintf("/v1/events/sandbox%%2ew%d/body", i+1), fmt.Sprintf("sandbox.w%d.json", i+1), b)
	}
	f.deliveries.bodies[`../"x;`] = []byte("q")
	check("/v1/deliveries/d2/body", "delivery-d2.json", []byte("\x00\xffexact"))
	check("/v1/deliveries/..%2F%22x%3B/body", "delivery-..__x_.json", []byte("q"))
	if got := fileName("...\r\nx" + strings.Repeat("y", 300)); strings.HasPrefix(got, ".") || strings.ContainsAny(got, "\r\n") || len(got) > 210 {
		t.Errorf("%q", got)
	}
}

// TestABodyThatBreaksOffIsNotTakenForWhole: the client must see an error rather than a short body.
func TestABodyThatBreaksOffIsNotTakenForWhole(t *testing.T) {
	h := &rest{sendTimeout: 1e9}
	for name, chunks := range map[string]int{"before the first byte": 0, "in the middle": 3} {
		t.Run(name, func(t *testing.T) {
			n := 0
			srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				h.serveBody(w, "x", func() ([]byte, error) {
					if n++; n > chunks {
						return nil, bridgeStatus(bridge.HistoryUnavailable(io.ErrUnexpectedEOF))
					}
					return bytes.Repeat([]byte("x"), 64<<10), nil
				})
			})}
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			go srv.Serve(l)
			defer srv.Close()
			resp, err := http.Get("http://" + l.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			b, err := io.ReadAll(resp.Body)
			if chunks == 0 {
				answer{resp, b}.expect(t, 503, codes.Unavailable, "HISTORY_UNAVAILABLE", "")
			} else if err == nil {
				t.Errorf("%d bytes were taken for the whole", len(b))
			}
		})
	}
}

func bridgeStatus(err error) error { return statusOf(err, "").Err() }

// lineOf reads a line of a stream.
func lineOf(t testing.TB, r *bufio.Reader) (*pb.SubscribeResponse, string) {
	t.Helper()
	line, err := r.ReadBytes('\n')
	if err != nil {
		t.Fatalf("%s %v", line, err)
	}
	var x map[string]json.RawMessage
	if err := json.Unmarshal(line, &x); err != nil || len(x) != 1 {
		t.Fatalf("%s %v", line, err)
	}
	if e, ok := x["error"]; ok {
		return nil, string(e)
	}
	m := &pb.SubscribeResponse{}
	if err := protojson.Unmarshal(x["result"], m); err != nil {
		t.Fatal(err)
	}
	return m, ""
}

func TestRESTStreams(t *testing.T) {
	f := filled(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	// The transport has one connection, which every answer here leaves fit for the next one.
	tr := &http.Transport{MaxConnsPerHost: 1}
	defer tr.CloseIdleConnections()
	client := &http.Client{Transport: tr}
	get := func(query string) *http.Response {
		req, _ := http.NewRequestWithContext(ctx, "GET", f.url+"/v1/events:subscribe?"+query, nil)
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		return resp
	}
	for range 2 {
		resp := get("start=EARLIEST&stop_at_head=true&event_types=PNR_V3&view=RAW&client_name=t&heartbeat_interval=5s")
		if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "application/x-ndjson" || !slices.Equal(resp.TransferEncoding, []string{"chunked"}) {
			t.Fatalf("%d %v %v", resp.StatusCode, resp.Header, resp.TransferEncoding)
		}
		r := bufio.NewReader(resp.Body)
		m, _ := lineOf(t, r)
		if m.GetConfirmation().GetHeartbeatInterval().GetSeconds() != 5 || m.GetConfirmation().GetView() != pb.EventView_EVENT_VIEW_RAW {
			t.Fatal(m)
		}
		for seq := uint64(2); seq <= 20; seq += 2 {
			m, _ := lineOf(t, r)
			if m.GetEvent().GetSequence() != seq || m.GetCursor() != cursorAt(seq) || string(m.GetEvent().GetRawBody()) != fmt.Sprintf(`{"n":%d}`, seq) {
				t.Fatal(m)
			}
		}
		if m, _ := lineOf(t, r); m.GetCaughtUp() == nil {
			t.Fatal(m)
		}
		if _, err := r.ReadByte(); err != io.EOF {
			t.Fatal(err)
		}
		resp.Body.Close()
	}
	// An error before the first message is an answer like any other.
	resp := get("after_cursor=rubbish")
	b, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	answer{resp, b}.expect(t, 400, codes.InvalidArgument, "INVALID_CURSOR", "after_cursor")
	// Live: each message is flushed as it comes.
	resp = get("after_cursor=" + cursorAt(20))
	r := bufio.NewReader(resp.Body)
	if m, _ := lineOf(t, r); m.GetConfirmation() == nil {
		t.Fatal(m)
	}
	if m, _ := lineOf(t, r); m.GetCaughtUp() == nil {
		t.Fatal(m)
	}
	for seq := uint64(21); seq < 25; seq++ {
		f.put(makeEvent(seq, []byte("{}")))
		if m, _ := lineOf(t, r); m.GetEvent().GetSequence() != seq {
			t.Fatal(m)
		}
	}
	// A client that goes away ends its subscription.
	if n := len(f.hub.Subscriptions()); n != 1 {
		t.Errorf("%d subscriptions", n)
	}
	if p := f.hub.Subscriptions()[0].Peer; !strings.HasPrefix(p, "rest 127.0.0.1:") {
		t.Errorf("peer %q", p)
	}
	cancel()
	resp.Body.Close()
	eventually(t, "the subscription ends", func() bool { return len(f.hub.Subscriptions()) == 0 })
}

func TestAnErrorInARESTStreamIsItsLastLine(t *testing.T) {
	f := filled(t, func(_ *Config, c *live.Config) { c.PageEvents = 5 })
	f.history.mu.Lock()
	f.history.events = f.history.events[:10]
	f.history.mu.Unlock()
	// A history of which the hub knows nothing in its ring; it fails after the first page.
	g := newFixture(t, func(c *Config, lc *live.Config) {
		lc.History, lc.PageEvents = &failing{history: f.history, pages: 1}, 5
	})
	resp, err := g.http.Get(g.url + "/v1/events:subscribe?start=EARLIEST")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	r := bufio.NewReader(resp.Body)
	for range 1 + 5 {
		if m, e := lineOf(t, r); m == nil {
			t.Fatal(e)
		}
	}
	_, e := lineOf(t, r)
	answer{&http.Response{StatusCode: 503, Header: http.Header{"Content-Type": {"application/json"}}}, []byte(e)}.expect(t, 503, codes.Unavailable, "HISTORY_UNAVAILABLE", "")
	if _, err := r.ReadByte(); err != io.EOF {
		t.Error(err)
	}
}

// failing is a history that cannot be read after some pages.
type failing struct {
	*history
	pages int
}

func (f *failing) Scan(ctx context.Context, r bridge.ScanRequest) (bridge.ScanResult, error) {
	if f.pages--; f.pages < 0 {
		return bridge.ScanResult{}, bridge.HistoryUnavailable(io.ErrUnexpectedEOF)
	}
	return f.history.Scan(ctx, r)
}

func TestTooManyRESTStreamsAreRefused(t *testing.T) {
	f := filled(t, func(c *Config, _ *live.Config) { c.MaxStreams = 2 })
	var open []*http.Response
	for range 2 {
		resp, err := f.http.Get(f.url + "/v1/events:subscribe")
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, resp)
	}
	f.get(t, "/v1/events:subscribe").expect(t, 429, codes.ResourceExhausted, "TOO_MANY_STREAMS", "")
	if a := f.get(t, "/v1/events"); a.StatusCode != 200 { // streams leave room for the rest
		t.Errorf("%d", a.StatusCode)
	}
	for _, resp := range open {
		resp.Body.Close()
	}
	eventually(t, "there is room again", func() bool {
		a := f.get(t, "/v1/events:subscribe?stop_at_head=true")
		return a.StatusCode == 200
	})
}
