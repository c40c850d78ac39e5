package bridge_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
	"google.golang.org/protobuf/proto"

	"github.com/spotbridge/spotbridge/bridge"
	"github.com/spotbridge/spotbridge/bridge/bridgetest/samples"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

// parse reads a body that must be a readable event, twice: the result depends on nothing but the body.
func parse(t testing.TB, body string) *bridge.Envelope {
	t.Helper()
	env, cause := bridge.ParseEnvelope([]byte(body))
	if cause != 0 {
		t.Fatalf("%v: %.300s", cause, body)
	}
	if again, _ := bridge.ParseEnvelope([]byte(body)); !reflect.DeepEqual(issues(env), issues(again)) {
		t.Fatalf("issues %v, then %v", issues(env), issues(again))
	}
	return env
}

// issues returns the issues as "KIND path".
func issues(env *bridge.Envelope) []string {
	var out []string
	for _, i := range env.Issues {
		out = append(out, strings.TrimPrefix(i.GetKind().String(), "ISSUE_KIND_")+" "+i.GetPath())
	}
	return out
}

func causeName(c pb.DeliveryCause) string { return strings.TrimPrefix(c.String(), "DELIVERY_CAUSE_") }

func TestEventTypeSpellings(t *testing.T) {
	for _, tc := range []struct {
		body, want string
		issues     []string
	}{
		{`{"event_type":"PNR_V3"}`, "PNR_V3", nil},
		{`{"eventType":"PNR_V3"}`, "PNR_V3", nil},
		{`{"event_type":"PNR_V3","eventType":"PNR_V3"}`, "PNR_V3", nil},
		{`{"eventType":"B","event_type":"A"}`, "A", []string{"CONFLICT $.eventType"}},
		{`{"event_type":null,"eventType":"B"}`, "B", nil},
		{`{"event_type":"A","eventType":null}`, "A", nil},
		{`{"event_type":7,"eventType":"B"}`, "B", []string{"TYPE_MISMATCH $.event_type"}},
		{`{"event_type":"A","eventType":{}}`, "A", []string{"TYPE_MISMATCH $.eventType"}},
		{`{"event_type":"","eventType":"B"}`, "B", []string{"CONFLICT $.event_type"}},
		{`{"event_type":"NEVER_HEARD_OF"}`, "NEVER_HEARD_OF", nil},
		{`{"event_type":"P\u004eR_V3"}`, "PNR_V3", nil},
		{`{"event\u005ftype":"PNR_V3"}`, "PNR_V3", nil},
		{`{"Event_Type":"X","EVENT_TYPE":"X","eventtype":"X","event_type":"PNR_V3"}`, "PNR_V3", nil},
		{`{"payload":{"event_type":"X"},"event_type":"PNR_V3"}`, "PNR_V3", nil},
		{`{"event_type":" "}`, " ", nil},
		{`{"event_type":"A\u0000B\n"}`, "A\x00B\n", nil},
	} {
		env := parse(t, tc.body)
		if env.EventType != tc.want || !slices.Equal(issues(env), tc.issues) {
			t.Errorf("%s: %q, %v; want %q, %v", tc.body, env.EventType, issues(env), tc.want, tc.issues)
		}
	}
}

func TestUnreadableBodiesHaveACause(t *testing.T) {
	nest := func(levels int) string {
		return `{"event_type":"T","payload":` + strings.Repeat(`[`, levels-1) + strings.Repeat(`]`, levels-1) + `}`
	}
	objects := func(levels int) string {
		return strings.Repeat(`{"event_type":"T","a":`, levels) + "1" + strings.Repeat("}", levels)
	}
	utf16le := func(s string) string {
		var b []byte
		for _, u := range utf16.Encode([]rune(s)) {
			b = append(b, byte(u), byte(u>>8))
		}
		return string(b)
	}
	event := `{"event_type":"T"}`
	for _, tc := range []struct{ name, body, want string }{
		{"empty", "", "EMPTY_BODY"},
		{"white space", " \n\t\r ", "EMPTY_BODY"},
		{"BOM alone", "\xef\xbb\xbf", "EMPTY_BODY"},
		{"BOM and spaces", "\xef\xbb\xbf  ", "EMPTY_BODY"},
		{"BOM", "\xef\xbb\xbf" + event, "UNSPECIFIED"},
		{"two BOMs", "\xef\xbb\xbf\xef\xbb\xbf" + event, "NOT_JSON"},
		{"BOM inside", event[:1] + "\xef\xbb\xbf" + event[1:], "NOT_JSON"},
		{"white space around", " \r\n\t" + event + " \r\n\t", "UNSPECIFIED"},
		{"other white space", "\u00a0" + event, "NOT_JSON"},
		{"UTF-16 LE", utf16le(event), "NOT_JSON"},
		{"UTF-16 LE with BOM", "\xff\xfe" + utf16le(event), "NOT_JSON"},
		{"UTF-16 BE with BOM", "\xfe\xff\x00{\x00}", "NOT_JSON"},
		{"NUL", "\x00", "NOT_JSON"},
		{"form", "event_type=T", "NOT_JSON"},
		{"XML", "<event_type>T</event_type>", "NOT_JSON"},
		{"cut off", event[:len(event)-1], "NOT_JSON"},
		{"cut off in a string", event[:8], "NOT_JSON"},
		{"single quotes", `{'event_type':'T'}`, "NOT_JSON"},
		{"comment", `{"event_type":"T"/**/}`, "NOT_JSON"},
		{"trailing comma", `{"event_type":"T",}`, "NOT_JSON"},
		{"no quotes", `{event_type:"T"}`, "NOT_JSON"},
		{"number as name", `{1:"T"}`, "NOT_JSON"},
		{"leading zero", `{"event_type":"T","payload":{"v":01}}`, "NOT_JSON"},
		{"NaN", `{"event_type":"T","payload":{"v":NaN}}`, "NOT_JSON"},
		{"raw line feed in a string", "{\"event_type\":\"T\nU\"}", "NOT_JSON"},
		{"bad escape", `{"event_type":"\x"}`, "NOT_JSON"},
		{"bad escape where nobody looks", `{"event_type":"T","zzz":["\u12"]}`, "NOT_JSON"},
		{"array", `[` + event + `]`, "NOT_AN_OBJECT"},
		{"string", `"T"`, "NOT_AN_OBJECT"},
		{"number", ` 7 `, "NOT_AN_OBJECT"},
		{"null", `null`, "NOT_AN_OBJECT"},
		{"true", `true`, "NOT_AN_OBJECT"},
		{"two numbers", `7 8`, "TRAILING_DATA"},
		{"two documents", event + event, "TRAILING_DATA"},
		{"two lines", event + "\n" + event + "\n", "TRAILING_DATA"},
		{"trailing rubbish", event + "x", "TRAILING_DATA"},
		{"trailing bracket", event + "}", "TRAILING_DATA"},
		{"trailing comma after it", event + ",", "TRAILING_DATA"},
		{"trailing quote", event + `"`, "TRAILING_DATA"},
		{"trailing NUL", event + "\x00", "TRAILING_DATA"},
		{"no event type", `{}`, "NO_EVENT_TYPE"},
		{"no event type but others", `{"operation":"X","payload":{"event_type":"T"}}`, "NO_EVENT_TYPE"},
		{"null event types", `{"event_type":null,"eventType":null}`, "NO_EVENT_TYPE"},
		{"empty event type", `{"event_type":""}`, "BAD_EVENT_TYPE"},
		{"number", `{"event_type":1}`, "BAD_EVENT_TYPE"},
		{"boolean", `{"eventType":true}`, "BAD_EVENT_TYPE"},
		{"array", `{"event_type":["PNR_V3"]}`, "BAD_EVENT_TYPE"},
		{"object", `{"event_type":{"name":"PNR_V3"}}`, "BAD_EVENT_TYPE"},
		{"empty and null", `{"event_type":"","eventType":null}`, "BAD_EVENT_TYPE"},
		{"last one wins, and is bad", `{"event_type":"T","event_type":1}`, "BAD_EVENT_TYPE"},
		{"1,000 levels", nest(1000), "UNSPECIFIED"},
		{"1,001 levels", nest(1001), "TOO_DEEP"},
		{"1,000 levels beside others", `{"a":[[]],` + nest(1000)[1:], "UNSPECIFIED"},
		{"1,001 levels beside others", `{"a":[[]],` + nest(1001)[1:], "TOO_DEEP"},
		{"1,000 objects", objects(1000), "UNSPECIFIED"},
		{"1,001 objects", objects(1001), "TOO_DEEP"},
		{"100,000 levels", nest(100_000), "TOO_DEEP"},
		{"brackets that close nothing", strings.Repeat("]", 5000), "NOT_JSON"},
		{"5,000 brackets, none deep", `{"event_type":"T","payload":[` + strings.Repeat(`[],`, 5000) + `1]}`, "UNSPECIFIED"},
		{"5,000 brackets in a string", `{"event_type":"T","payload":"` + strings.Repeat(`[\"{`, 5000) + `"}`, "UNSPECIFIED"},
		{"5,000 brackets behind an escape", `{"event_type":"T","payload":"\\","b":"` + strings.Repeat(`[`, 5000) + `"}`, "UNSPECIFIED"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			env, got := bridge.ParseEnvelope([]byte(tc.body))
			if causeName(got) != tc.want {
				t.Errorf("%s, want %s", causeName(got), tc.want)
			}
			if (env != nil) != (got == 0) {
				t.Errorf("envelope %v with cause %v", env, got)
			}
		})
	}
}

func TestOrganizations(t *testing.T) {
	for _, tc := range []struct {
		name, rest string // the body's other members
		want       []string
		issues     []string
	}{
		{"none", `"payload":{}`, nil, nil},
		{"audience", `"audience":{"organizationId":"a"}`, []string{"a"}, nil},
		{"audience, id object", `"audience":{"organizationId":{"id":"a"}}`, []string{"a"}, nil},
		{"audience list", `"audience":[{"organizationId":"a"}]`, []string{"a"}, nil},
		{"audience list of several", `"audience":[{"organizationId":"b"},{"organizationId":{"id":"a"}},{"organizationId":"b"},{"other":1}]`, []string{"b", "a"}, nil},
		{"audience in the payload", `"payload":{"audience":{"organizationId":"a"}}`, []string{"a"}, nil},
		{"audience list in the payload", `"payload":{"audience":[{"organizationId":"a"},{"organizationId":"b"}]}`, []string{"a", "b"}, nil},
		{"top level", `"organizationId":"a"`, []string{"a"}, nil},
		{"top level, id object", `"organizationId":{"id":"a","name":"x"}`, []string{"a"}, nil},
		{"payload", `"payload":{"organizationId":"a"}`, []string{"a"}, nil},
		{"payload.organization", `"payload":{"organization":{"id":"a"}}`, []string{"a"}, nil},
		{"payload.organization, bare", `"payload":{"organization":"a"}`, []string{"a"}, nil},
		{"userOrgId", `"payload":{"userOrgId":{"organizationId":{"id":"a"}}}`, []string{"a"}, nil},
		{"primaryTraveler", `"payload":{"primaryTraveler":{"userOrgId":{"organizationId":{"id":"a"}}}}`, []string{"a"}, nil},
		{"businessInfo", `"payload":{"businessInfo":{"organizationRef":{"id":"a"}}}`, []string{"a"}, nil},
		{"pnrTravelers", `"payload":{"pnrTravelers":[{"businessInfo":{"companyId":{"id":"a"}}},{"businessInfo":{"companyId":"a"}},{"businessInfo":{"companyId":"b"}}]}`, []string{"a", "b"}, nil},
		{"pnrTravelers, wrapped", `"payload":{"data":{"pnrTravelers":[{"businessInfo":{"companyId":{"id":"a"}}}]}}`, []string{"a"}, nil},
		{"travelers", `"payload":{"travelers":[{"userOrgId":{"organizationId":{"id":"a"}}}]}`, []string{"a"}, nil},
		{"a number's digits", `"organizationId":12345678901234567890`, []string{"12345678901234567890"}, nil},

		{"audience before the rest", `"organizationId":"x","payload":{"audience":{"organizationId":"y"},"organizationId":"z"},"audience":{"organizationId":"a"}`, []string{"a"}, nil},
		{"payload's audience before the rest", `"organizationId":"x","payload":{"organizationId":"z","audience":{"organizationId":"a"}}`, []string{"a"}, nil},
		{"top level before the payload", `"payload":{"organizationId":"z","organization":"y"},"organizationId":"a"`, []string{"a"}, nil},
		{"payload before its parts", `"payload":{"organization":{"id":"y"},"organizationId":"a"}`, []string{"a"}, nil},
		{"empty and null don't count", `"audience":{"organizationId":""},"organizationId":null,"payload":{"organizationId":"a"}`, []string{"a"}, nil},
		{"null audience", `"audience":null,"organizationId":"a"`, []string{"a"}, nil},
		{"empty audience", `"audience":[],"organizationId":"a"`, []string{"a"}, nil},

		{"wrong audience", `"audience":7,"organizationId":"a"`, []string{"a"}, []string{"TYPE_MISMATCH $.audience"}},
		{"wrong organization", `"audience":{"organizationId":true},"organizationId":"a"`, []string{"a"}, []string{"TYPE_MISMATCH $.audience.organizationId"}},
		{"fraction", `"organizationId":1.5`, nil, []string{"TYPE_MISMATCH $.organizationId"}},
		{"list", `"organizationId":["a"]`, nil, []string{"TYPE_MISMATCH $.organizationId"}},
		{"repeated name, last wins", `"audience":{"organizationId":"x","organizationId":"a"}`, []string{"a"}, []string{"DUPLICATE_KEY $.audience.organizationId"}},
		{"repeated audience, last wins", `"audience":{"organizationId":"x"},"audience":[{"organizationId":"a"}]`, []string{"a"}, []string{"DUPLICATE_KEY $.audience"}},
		{"repeated payload without one", `"payload":{"organizationId":"x"},"payload":{}`, nil, []string{"DUPLICATE_KEY $.payload"}},
		{"repeated name in one item", `"audience":[{"organizationId":"a"},{"organizationId":"x","organizationId":"b"}]`, []string{"a", "b"}, []string{"DUPLICATE_KEY $.audience[].organizationId"}},
		{"repeated id", `"organizationId":{"id":"x","id":"a"}`, []string{"a"}, []string{"DUPLICATE_KEY $.organizationId.id"}},
		{"too long", `"organizationId":"` + strings.Repeat("o", 1025) + `"`, []string{"sha256-" + sum(strings.Repeat("o", 1025))}, []string{"TOO_LONG $.organizationId"}},
		{"1 KiB", `"organizationId":"` + strings.Repeat("o", 1024) + `"`, []string{strings.Repeat("o", 1024)}, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			env := parse(t, `{"event_type":"T",`+tc.rest+`}`)
			if !slices.Equal(env.Organizations, tc.want) || !slices.Equal(issues(env), tc.issues) {
				t.Errorf("%v, %v; want %v, %v", env.Organizations, issues(env), tc.want, tc.issues)
			}
		})
	}
}

func sum(s string) string {
	h := sha256.Sum256([]byte(s))
	return hex.EncodeToString(h[:])
}

func TestListsAreBounded(t *testing.T) {
	list := func(n int, item string) string {
		var items []string
		for i := range n {
			items = append(items, fmt.Sprintf(item, i))
		}
		return strings.Join(items, ",")
	}
	env := parse(t, `{"event_type":"T","audience":[`+list(64, `{"organizationId":"o%d"}`)+`,`+list(64, `{"organizationId":"o%d"}`)+`]}`)
	if len(env.Organizations) != 64 || env.OrganizationsCut || env.Issues != nil {
		t.Errorf("64 organizations, twice: %d, cut %v, %v", len(env.Organizations), env.OrganizationsCut, issues(env))
	}
	env = parse(t, `{"event_type":"T","audience":[`+list(65, `{"organizationId":"o%d"}`)+`]}`)
	if len(env.Organizations) != 64 || !env.OrganizationsCut || issues(env)[0] != "TOO_MANY $.audience[].organizationId" {
		t.Errorf("65 organizations: %d, cut %v, %v", len(env.Organizations), env.OrganizationsCut, issues(env))
	}
	env = parse(t, `{"event_type":"PNR_V3","payload":{"pnrTravelers":[`+list(70, `{"userId":{"id":"u%d"}}`)+`]}}`)
	if len(env.TravelerIDs) != 64 || issues(env)[0] != "TOO_MANY $.payload.pnrTravelers[].userId" {
		t.Errorf("70 travelers: %d, %v", len(env.TravelerIDs), issues(env))
	}
	env = parse(t, `{"event_type":"T","operationSummary":{"ticketsIssued":[`+list(257, `"t%d"`)+`],"ticketsVoided":["a","a"]}}`)
	if s := env.OperationSummary; len(s.GetTicketsIssued()) != 256 || len(s.GetTicketsVoided()) != 2 || issues(env)[0] != "TOO_MANY $.operationSummary.ticketsIssued[]" {
		t.Errorf("257 tickets: %d, %v", len(s.GetTicketsIssued()), issues(env))
	}
	// Issues, too.
	body := `{"event_type":"T"` + strings.Repeat(`,"operation":1,"timestamp":{},"audience":7`, 100) + `}`
	if n := len(parse(t, body).Issues); n == 0 || n > 32 {
		t.Errorf("%d issues", n)
	}
}

func TestOperationSummaryForms(t *testing.T) {
	for _, tc := range []struct {
		name, rest string
		want       *pb.OperationSummary
		issues     []string
	}{
		{"missing", `"a":1`, nil, nil},
		{"null", `"operationSummary":null`, nil, nil},
		{"empty", `"operationSummary":{}`, &pb.OperationSummary{}, nil},
		{"empty lists", `"operationSummary":{"ticketsIssued":[],"ticketsVoided":[],"ticketsRefunded":null}`, &pb.OperationSummary{}, nil},
		{"strings", `"operationSummary":{"ticketsIssued":["1","2"],"ticketsVoided":["3"],"ticketsRefunded":["4"]}`,
			&pb.OperationSummary{TicketsIssued: []string{"1", "2"}, TicketsVoided: []string{"3"}, TicketsRefunded: []string{"4"}}, nil},
		{"snake case", `"operation_summary":{"ticketsIssued":["1"]}`, &pb.OperationSummary{TicketsIssued: []string{"1"}}, nil},
		{"objects, numbers, null", `"operationSummary":{"ticketsIssued":[{"ticketNumber": "1", "x":[1]},12,null,true,["a"],"s"]}`,
			&pb.OperationSummary{TicketsIssued: []string{`{"ticketNumber": "1", "x":[1]}`, "12", "null", "true", `["a"]`, "s"}}, nil},
		{"both spellings, last wins", `"operationSummary":{"ticketsIssued":["1"]},"operation_summary":{"ticketsVoided":["2"]}`,
			&pb.OperationSummary{TicketsVoided: []string{"2"}}, []string{"DUPLICATE_KEY $.operationSummary"}},
		{"repeated list, last wins", `"operationSummary":{"ticketsIssued":["1"],"ticketsIssued":["2"]}`,
			&pb.OperationSummary{TicketsIssued: []string{"2"}}, []string{"DUPLICATE_KEY $.operationSummary.ticketsIssued"}},
		{"wrong", `"operationSummary":[1]`, nil, []string{"TYPE_MISMATCH $.operationSummary"}},
		{"text", `"operationSummary":"x"`, nil, []string{"TYPE_MISMATCH $.operationSummary"}},
		{"wrong lists", `"operationSummary":{"ticketsIssued":"1","ticketsVoided":{},"ticketsRefunded":3}`, &pb.OperationSummary{},
			[]string{"TYPE_MISMATCH $.operationSummary.ticketsIssued", "TYPE_MISMATCH $.operationSummary.ticketsVoided", "TYPE_MISMATCH $.operationSummary.ticketsRefunded"}},
		{"long item", `"operationSummary":{"ticketsIssued":["` + strings.Repeat("9", 2000) + `"]}`,
			&pb.OperationSummary{TicketsIssued: []string{"sha256-" + sum(strings.Repeat("9", 2000))}}, []string{"TOO_LONG $.operationSummary.ticketsIssued[]"}},
		{"item that is not UTF-8", "\"operationSummary\":{\"ticketsIssued\":[{\"n\":\"\xff\"}]}",
			&pb.OperationSummary{TicketsIssued: []string{"{\"n\":\"\uFFFD\"}"}}, []string{"INVALID_UTF8 $"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			env := parse(t, `{"event_type":"T",`+tc.rest+`}`)
			if !proto.Equal(env.OperationSummary, tc.want) || (env.OperationSummary == nil) != (tc.want == nil) || !slices.Equal(issues(env), tc.issues) {
				t.Errorf("%v, %v; want %v, %v", env.OperationSummary, issues(env), tc.want, tc.issues)
			}
			encode(t, env)
		})
	}
}

// encode checks that every envelope can be encoded and read again.
func encode(t testing.TB, env *bridge.Envelope) *pb.Event {
	t.Helper()
	e := &bridge.Entry{Source: "s", EventID: "s.1", WebhookID: "1", Sequence: 1, ReceiveTime: time.Unix(1, 0)}
	b, _, err := bridge.EncodeEnvelope(e, env, time.Unix(2, 0), pb.Ordering_ORDERING_UNKNOWN)
	if err != nil {
		t.Fatalf("%v of %+v", err, env)
	}
	ev := &pb.Event{}
	if err := proto.Unmarshal(b, ev); err != nil {
		t.Fatal(err)
	}
	return ev
}

func TestOperationAndTimestamp(t *testing.T) {
	for _, tc := range []struct {
		rest, operation, text string
		time                  string // RFC 3339; empty = unset
		issues                []string
	}{
		{`"operation":"BOOKING_CREATED"`, "BOOKING_CREATED", "", "", nil},
		{`"operation":null,"timestamp":null`, "", "", "", nil},
		{`"operation":""`, "", "", "", nil},
		{`"operation":3`, "", "", "", []string{"TYPE_MISMATCH $.operation"}},
		{`"operation":["A"]`, "", "", "", []string{"TYPE_MISMATCH $.operation"}},
		{`"operation":"A","operation":"B"`, "B", "", "", []string{"DUPLICATE_KEY $.operation"}},
		{`"timestamp":"2026-01-01T00:00:00Z"`, "", "2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z", nil},
		{`"timestamp":"2017-07-21T17:32Z"`, "", "2017-07-21T17:32Z", "2017-07-21T17:32:00Z", nil},
		{`"timestamp":1772703303`, "", "1772703303", "2026-03-05T09:35:03Z", nil},
		{`"timestamp":1772703303191`, "", "1772703303191", "2026-03-05T09:35:03.191Z", nil},
		{`"timestamp":"1772703303191"`, "", "1772703303191", "2026-03-05T09:35:03.191Z", nil},
		{`"timestamp":1.772703303e9`, "", "1.772703303e9", "", []string{"UNREADABLE_TIME $.timestamp"}},
		{`"timestamp":"yesterday"`, "", "yesterday", "", []string{"UNREADABLE_TIME $.timestamp"}},
		{`"timestamp":""`, "", "", "", []string{"UNREADABLE_TIME $.timestamp"}},
		{`"timestamp":{"iso8601":"2026-01-01T00:00:00Z"}`, "", "", "", []string{"TYPE_MISMATCH $.timestamp"}},
		{`"timestamp":false`, "", "", "", []string{"TYPE_MISMATCH $.timestamp"}},
		{`"timestamp":"2026-01-01T00:00:00Z","timestamp":7`, "", "7", "1970-01-01T00:00:07Z", []string{"DUPLICATE_KEY $.timestamp"}},
		{`"timestamp":"` + strings.Repeat("1", 2000) + `"`, "", "sha256-" + sum(strings.Repeat("1", 2000)), "",
			[]string{"TOO_LONG $.timestamp", "UNREADABLE_TIME $.timestamp"}},
	} {
		env := parse(t, `{"event_type":"T",`+tc.rest+`}`)
		at := ""
		if !env.EventTime.IsZero() {
			at = env.EventTime.Format(time.RFC3339Nano)
		}
		if env.Operation != tc.operation || env.EventTimeText != tc.text || at != tc.time || !slices.Equal(issues(env), tc.issues) {
			t.Errorf("%.80s: %q %q %q %v", tc.rest, env.Operation, env.EventTimeText, at, issues(env))
		}
	}
}

func TestEntities(t *testing.T) {
	version := func(v int32) *int32 { return &v }
	for _, tc := range []struct {
		name, eventType, payload string
		entity                   *pb.EntityRef
		pnr, trip                string
		travelers                []string
		issues                   []string
	}{
		{"PNR", "PNR_V3", `{"pnrId":"p","tripId":"t","version":3,"pnrTravelers":[{"userId":{"id":"u1"}},{"userId":"u2"},{"userId":{"id":"u1"}}]}`,
			&pb.EntityRef{Kind: 1, Id: "p", Version: version(3)}, "p", "t", []string{"u1", "u2"}, nil},
		{"PNR, wrapped", "PNR_V3", `{"pnrId":"p","data":{"pnrId":"p2","tripId":"t","version":3,"pnrTravelers":[{"userId":{"id":"u1"}}]}}`,
			&pb.EntityRef{Kind: 1, Id: "p", Version: version(3)}, "p", "t", []string{"u1"}, nil},
		{"PNR, wrapped whole", "PNR_V3", `{"data":{"pnrId":"p","basicTripInfo":{"tripId":{"id":"t"}}}}`, &pb.EntityRef{Kind: 1, Id: "p"}, "p", "t", nil, nil},
		{"PNR, ids as numbers", "PNR_V3", `{"pnrId":6789533589,"tripId":6926658168,"version":2.0}`, &pb.EntityRef{Kind: 1, Id: "6789533589", Version: version(2)}, "6789533589", "6926658168", nil, nil},
		{"PNR, ids as objects", "PNR_V3", `{"pnrId":{"id":"p"},"tripId":{"id":"t"}}`, &pb.EntityRef{Kind: 1, Id: "p"}, "p", "t", nil, nil},
		{"PNR, wrong types", "PNR_V3", `{"pnrId":true,"tripId":["t"],"version":"3"}`, nil, "", "", nil,
			[]string{"TYPE_MISMATCH $.payload.pnrId", "TYPE_MISMATCH $.payload.tripId"}},
		{"version text", "PNR_V3", `{"pnrId":"p","version":"3"}`, &pb.EntityRef{Kind: 1, Id: "p"}, "p", "", nil, []string{"TYPE_MISMATCH $.payload.version"}},
		{"version fraction", "PNR_V3", `{"pnrId":"p","version":1.5}`, &pb.EntityRef{Kind: 1, Id: "p"}, "p", "", nil, []string{"OUT_OF_RANGE $.payload.version"}},
		{"version too large", "PNR_V3", `{"pnrId":"p","version":2147483648}`, &pb.EntityRef{Kind: 1, Id: "p"}, "p", "", nil, []string{"OUT_OF_RANGE $.payload.version"}},
		{"version huge", "PNR_V3", `{"pnrId":"p","version":1e400}`, &pb.EntityRef{Kind: 1, Id: "p"}, "p", "", nil, []string{"OUT_OF_RANGE $.payload.version"}},
		{"version largest", "PNR_V3", `{"pnrId":"p","version":2147483647}`, &pb.EntityRef{Kind: 1, Id: "p", Version: version(2147483647)}, "p", "", nil, nil},
		{"version zero", "PNR_V3", `{"pnrId":"p","version":0}`, &pb.EntityRef{Kind: 1, Id: "p", Version: version(0)}, "p", "", nil, nil},
		{"version null", "PNR_V3", `{"pnrId":"p","version":null,"data":{"version":4}}`, &pb.EntityRef{Kind: 1, Id: "p", Version: version(4)}, "p", "", nil, nil},
		{"repeated ids, last wins", "PNR_V3", `{"pnrId":"x","version":1,"pnrId":"p","version":2}`, &pb.EntityRef{Kind: 1, Id: "p", Version: version(2)}, "p", "", nil,
			[]string{"DUPLICATE_KEY $.payload.pnrId", "DUPLICATE_KEY $.payload.version"}},
		{"repeated id, last is nothing", "PNR_V3", `{"pnrId":"x","pnrId":{}}`, nil, "", "", nil, []string{"DUPLICATE_KEY $.payload.pnrId"}},
		{"repeated travelers, last win", "PNR_V3", `{"pnrTravelers":[{"userId":"x"}],"pnrTravelers":[{"userId":"u"}]}`, nil, "", "", []string{"u"},
			[]string{"DUPLICATE_KEY $.payload.pnrTravelers"}},
		{"trip", "TRIP_DETAILS_V3", `{"basicTripInfo":{"tripId":"t","userId":{"id":"u"}},"pnrs":[{"data":{"pnrTravelers":[{"userId":{"id":"v"}}]}}]}`, &pb.EntityRef{Kind: 2, Id: "t"}, "", "t", []string{"u", "v"}, nil},
		{"traveler", "TRAVELER_V2", `{"id":"u"}`, &pb.EntityRef{Kind: 3, Id: "u"}, "", "", []string{"u"}, nil},
		{"service charge of a trip", "SERVICE_CHARGE", `{"entity":{"entityType":"TRIP","entityId":"t"},"chargeId":"c","bookingDetails":{"pnrId":"p"},"userOrgId":{"userId":{"id":"u"}}}`, &pb.EntityRef{Kind: 4, Id: "c"}, "p", "t", []string{"u"}, nil},
		{"service charge of a user", "SERVICE_CHARGE", `{"entity":{"entityType":"USER","entityId":"x"},"chargeId":"c"}`, &pb.EntityRef{Kind: 4, Id: "c"}, "", "", nil, nil},
		{"service charge, trip twice", "SERVICE_CHARGE", `{"entity":{"entityType":"TRIP","entityId":"x"},"tripId":"t"}`, nil, "", "t", nil, nil},
		{"approval", "PNR_APPROVAL", `{"pnrId":"p","tripId":"t","approvalId":"a"}`, &pb.EntityRef{Kind: 5, Id: "a"}, "p", "t", nil, nil},
		{"agent task", "AGENT_TASK_DETAILS", `{"id":"k","sourcePnrId":"p","tripId":{"id":"t"},"primaryTraveler":{"userOrgId":{"userId":{"id":"u"}}}}`, &pb.EntityRef{Kind: 6, Id: "k"}, "p", "t", []string{"u"}, nil},
		{"unknown type", "SOMETHING_V9", `{"pnrId":"p","tripId":"t","id":"x"}`, nil, "p", "t", nil, nil},
		{"null payload", "PNR_V3", `null`, nil, "", "", nil, nil},
		{"payload no object", "PNR_V3", `[{"pnrId":"p"}]`, nil, "", "", nil, []string{"TYPE_MISMATCH $.payload"}},
		{"payload text", "PNR_V3", `"x"`, nil, "", "", nil, []string{"TYPE_MISMATCH $.payload"}},
		{"nulls everywhere", "PNR_V3", `{"pnrId":null,"tripId":null,"version":null,"pnrTravelers":null,"data":null}`, nil, "", "", nil, nil},
		{"long id", "PNR_V3", `{"pnrId":"` + strings.Repeat("p", 2000) + `"}`, &pb.EntityRef{Kind: 1, Id: "sha256-" + sum(strings.Repeat("p", 2000))}, "sha256-" + sum(strings.Repeat("p", 2000)), "", nil, []string{"TOO_LONG $.payload.pnrId"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			env := parse(t, `{"event_type":"`+tc.eventType+`","payload":`+tc.payload+`}`)
			if !proto.Equal(env.Entity, tc.entity) || env.PNRID != tc.pnr || env.TripID != tc.trip || !slices.Equal(env.TravelerIDs, tc.travelers) || !slices.Equal(issues(env), tc.issues) {
				t.Errorf("entity %v, pnr %q, trip %q, travelers %q, issues %q", env.Entity, env.PNRID, env.TripID, env.TravelerIDs, issues(env))
			}
			encode(t, env)
		})
	}
}

func TestBadUTF8IsReplacedAndTold(t *testing.T) {
	for _, tc := range []struct {
		name, body, operation string
		issues                []string
	}{
		{"in the envelope", "{\"event_type\":\"T\",\"operation\":\"A\xffB\"}", "A\uFFFDB", []string{"INVALID_UTF8 $.operation"}},
		{"in the payload", "{\"event_type\":\"T\",\"payload\":{\"x\":\"\xc3\"}}", "", []string{"INVALID_UTF8 $"}},
		{"in a name", "{\"event_type\":\"T\",\"\xff\":1}", "", []string{"INVALID_UTF8 $"}},
		{"lone surrogate", `{"event_type":"T","operation":"A\ud800B"}`, "A\uFFFDB", []string{"INVALID_UTF8 $.operation"}},
		{"surrogate pair", `{"event_type":"T","operation":"\ud83d\ude00"}`, "😀", nil},
		{"overlong", "{\"event_type\":\"T\",\"operation\":\"\xc0\xaf\"}", "\uFFFD\uFFFD", []string{"INVALID_UTF8 $.operation"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			env := parse(t, tc.body)
			if env.Operation != tc.operation || !slices.Equal(issues(env), tc.issues) {
				t.Errorf("%q, %v", env.Operation, issues(env))
			}
			encode(t, env)
		})
	}
}

func TestTheBodyIsNotChanged(t *testing.T) {
	body := []byte("\xef\xbb\xbf {\"event_type\":\"T\\u0041\xff\",\"event_type\":\"U\",\"payload\":{\"a\":[1, 2]}} ")
	before := string(body)
	bridge.ParseEnvelope(body)
	if string(body) != before {
		t.Error("it was")
	}
}

func TestSamplesSayWhatTheIndexSays(t *testing.T) {
	for _, d := range samples.Deliveries() {
		env := parse(t, string(d.Body))
		var version int32
		if env.Entity != nil {
			version = env.Entity.GetVersion()
		}
		if env.EventType != d.EventType || env.Operation != d.Operation || len(env.Organizations) != 1 || env.Organizations[0] != d.Organization ||
			env.TripID != d.TripID || version != d.Version || env.EventTimeText != d.Timestamp || env.Issues != nil {
			t.Errorf("delivery %d: %s %s, organizations %v, trip %s, version %d, time %s, issues %v", d.Seq, env.EventType, env.Operation, env.Organizations, env.TripID, version, env.EventTimeText, issues(env))
		}
		if env.PNRID != d.PNRID {
			t.Errorf("delivery %d (%s): pnr %q, want %q", d.Seq, d.EventType, env.PNRID, d.PNRID)
		}
		if want, err := time.Parse(time.RFC3339Nano, d.Timestamp); err != nil || !env.EventTime.Equal(want) {
			t.Errorf("delivery %d: time %v, want %v", d.Seq, env.EventTime, want)
		}
		if d.TravelerID != "" && (len(env.TravelerIDs) != 1 || env.TravelerIDs[0] != d.TravelerID || env.Entity.GetId() != d.TravelerID) {
			t.Errorf("delivery %d: travelers %v, entity %v", d.Seq, env.TravelerIDs, env.Entity)
		}
		if env.Entity.GetId() == "" {
			t.Errorf("delivery %d: no entity", d.Seq)
		}
		if ev := encode(t, env); ev.GetOrganizationId() != d.Organization || ev.GetPnrId() != d.PNRID {
			t.Errorf("delivery %d: encoded %v", d.Seq, ev)
		}
	}
}

func FuzzParseEnvelope(f *testing.F) {
	f.Add([]byte(`{"event_type":"PNR_V3","operationSummary":{"ticketsIssued":["1",{"a":1}]},"operation":"O","audience":[{"organizationId":{"id":"a"}}],"timestamp":1772703303,"payload":{"pnrId":"1","version":2}}`))
	f.Add([]byte(`{"eventType":"A","event_type":"B","audience":{"organizationId":"x","organizationId":5},"operation_summary":null,"timestamp":"2026-01-01T24:00Z"}`))
	f.Add([]byte("\xef\xbb\xbf{\"event_type\":\"\\ud800\xff\"} "))
	f.Add([]byte(`{"event_type":"T"}{}`))
	f.Add([]byte(strings.Repeat("[", 1100)))
	f.Add([]byte(`{"event_type":"SERVICE_CHARGE","payload":{"entity":{"entityType":"TRIP","entityId":7},"chargeId":{"id":[]}}}`))
	f.Add([]byte(`{"payload":{"data":{"pnrTravelers":[{"userId":1,"businessInfo":{"companyId":null}}]}},"event_type":"PNR_V3"}`))
	for _, n := range []int{3, 16, 44} {
		f.Add(samples.Deliveries()[n].Body)
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		before := string(body)
		env, cause := bridge.ParseEnvelope(body)
		if string(body) != before {
			t.Fatal("the body was changed")
		}
		if (env == nil) != (cause != 0) {
			t.Fatalf("envelope %v with cause %v", env, cause)
		}
		doc := bytes.TrimPrefix(body, []byte("\xef\xbb\xbf"))
		valid := jsontext.Value(doc).IsValid(jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
		switch cause {
		case pb.DeliveryCause_DELIVERY_CAUSE_NOT_JSON, pb.DeliveryCause_DELIVERY_CAUSE_TRAILING_DATA, pb.DeliveryCause_DELIVERY_CAUSE_EMPTY_BODY:
			if valid {
				t.Fatalf("%s, though jsontext accepts it", cause)
			}
		case pb.DeliveryCause_DELIVERY_CAUSE_TOO_DEEP: // seen before the JSON is
		default:
			if !valid {
				t.Fatalf("%s, though jsontext does not accept it", cause)
			}
		}
		if env == nil {
			return
		}
		if env.EventType == "" || len(env.Organizations) > 64 || len(env.TravelerIDs) > 64 || len(env.Issues) > 32 {
			t.Fatalf("%+v", env)
		}
		for _, s := range slices.Concat([]string{env.EventType, env.Operation, env.EventTimeText, env.PNRID, env.TripID, env.Entity.GetId()}, env.Organizations, env.TravelerIDs) {
			// U+FFFD may be longer than the byte that it stands for; what counts is that strings are bounded.
			if len(s) > 1024 || !utf8.ValidString(s) {
				t.Fatalf("%q", s)
			}
		}
		ev := encode(t, env)
		again, _ := bridge.ParseEnvelope([]byte(before))
		if !proto.Equal(ev, encode(t, again)) {
			t.Fatal("the same body gave another envelope")
		}
		for _, token := range strings.Split(bridge.EventSubject("s", env.EventType, env.Operation, env.Organizations), ".") {
			if token == "" || len(token) > 64 {
				t.Fatalf("token %q", token)
			}
		}
	})
}
