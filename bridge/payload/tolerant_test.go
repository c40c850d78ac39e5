package payload

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/spotbridge/spotbridge/bridge/bridgetest/samples"
	"github.com/spotbridge/spotbridge/bridge/internal/scan"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

func listed[T any](items []T, text func(T) string) string {
	var out []string
	for _, i := range items {
		out = append(out, text(i))
	}
	return strings.Join(out, "\n")
}

func kindName(k pb.IssueKind) string { return strings.TrimPrefix(k.String(), "ISSUE_KIND_") }

func driftText(d Drift) string { return fmt.Sprintf("%s %s %d", kindName(d.Kind), d.Path, d.Count) }

func TestTolerance(t *testing.T) {
	const pnr, task, traveler = "PNR_V3", "AGENT_TASK_DETAILS", "TRAVELER_V2"
	money := func(n int) string { // n rounds of the one cycle of types
		return strings.Repeat(`{"otherCoinage":[{"otherCoinageMetadata":{"flightPassMetadata":{"flightPassAmounts":{"totalAmount":`, n) + `{"amount":1}` + strings.Repeat(`}}}}]}`, n)
	}
	for _, test := range []struct {
		name, eventType, payload string
		want                     string // as protojson reads it; "" for what is RAW_ONLY
		status                   pb.ConversionStatus
		issues, drift            []string
	}{
		{"empty object", pnr, `{}`, `{}`, full, nil, nil},
		{"null is absent", pnr, `{"pnrId":null,"version":null,"totalFare":null,"documents":null,"isFinalized":null}`, `{}`, full, nil, nil},
		{"zero values are present", pnr, `{"pnrId":"","version":0,"totalFare":{},"isFinalized":false,"totalFare":{"amount":0}}`, `{"pnrId":"","version":0,"totalFare":{"amount":0},"isFinalized":false}`, full, []string{"DUPLICATE_KEY $.payload.totalFare"}, nil},
		{"empty list", pnr, `{"documents":[]}`, `{}`, full, nil, nil},

		{"unknown field", pnr, `{"pnrId":"1","brandNew":{"a":[1,2]},"airPnr":{"legs":[{"x":1},{"x":2,"y z":3}]}}`, `{"pnrId":"1","airPnr":{"legs":[{},{}]}}`, full, nil,
			[]string{"UNKNOWN_FIELD $.payload.brandNew 1", "UNKNOWN_FIELD $.payload.airPnr.legs[].x 2", "UNKNOWN_FIELD $.payload.airPnr.legs[][*] 1"}},
		{"keys of a map are no names", pnr, `{"cd8561db-89dc-43b0-942c-63bfa76f7070":1,"a@b.example":2,"":3,"+15550100":{"x":4},"iso8601":5,"addressLine2":6,"` + strings.Repeat("n", 65) + `":7}`, `{}`, full, nil,
			[]string{"UNKNOWN_FIELD $.payload[*] 5", "UNKNOWN_FIELD $.payload.iso8601 1", "UNKNOWN_FIELD $.payload.addressLine2 1"}},
		{"only published names count", pnr, `{"pnr_id":"1","PnrId":"2","PNRID":"3"}`, `{}`, full, nil, []string{"UNKNOWN_FIELD $.payload.pnr_id 1", "UNKNOWN_FIELD $.payload.PnrId 1", "UNKNOWN_FIELD $.payload.PNRID 1"}},
		{"unknown enum value", pnr, `{"bookingStatus":"HALF_BOOKED"}`, `{"bookingStatus":"HALF_BOOKED"}`, full, nil, []string{"UNKNOWN_ENUM_VALUE $.payload.bookingStatus 1"}},
		{"known enum value with escapes", pnr, `{"bookingStatus":"\u0050ENDING_STATUS"}`, `{"bookingStatus":"PENDING_STATUS"}`, full, nil, nil},
		{"deprecated field", pnr, `{"customFields":[],"savingsFare":{},"preBookAnswers":null}`, `{"savingsFare":{}}`, full, nil, []string{"DEPRECATED_FIELD $.payload.customFields 1", "DEPRECATED_FIELD $.payload.savingsFare 1"}},

		{"number for a string", pnr, `{"bookingStatus":5,"pnrId":"1"}`, `{"pnrId":"1"}`, partial, []string{"TYPE_MISMATCH $.payload.bookingStatus"}, []string{"TYPE_MISMATCH $.payload.bookingStatus 1"}},
		{"every mismatch", pnr, `{"pnrId":{},"version":true,"totalFare":[],"documents":{},"isFinalized":"true","tripId":[1],"airPnr":"x"}`, `{}`, partial,
			[]string{"TYPE_MISMATCH $.payload.pnrId", "TYPE_MISMATCH $.payload.version", "TYPE_MISMATCH $.payload.totalFare", "TYPE_MISMATCH $.payload.documents", "TYPE_MISMATCH $.payload.isFinalized", "TYPE_MISMATCH $.payload.tripId", "TYPE_MISMATCH $.payload.airPnr"},
			[]string{"TYPE_MISMATCH $.payload.pnrId 1", "TYPE_MISMATCH $.payload.version 1", "TYPE_MISMATCH $.payload.totalFare 1", "TYPE_MISMATCH $.payload.documents 1", "TYPE_MISMATCH $.payload.isFinalized 1", "TYPE_MISMATCH $.payload.tripId 1", "TYPE_MISMATCH $.payload.airPnr 1"}},
		{"mismatch deep inside", pnr, `{"airPnr":{"legs":[{"flights":[{"origin":"FRA"},{"origin":7,"destination":"CDG"}]}]}}`, `{"airPnr":{"legs":[{"flights":[{"origin":"FRA"},{"destination":"CDG"}]}]}}`, partial,
			[]string{"TYPE_MISMATCH $.payload.airPnr.legs[0].flights[1].origin"}, []string{"TYPE_MISMATCH $.payload.airPnr.legs[].flights[].origin 1"}},
		{"objects of a list keep their places", pnr, `{"documents":[{"documentId":"a"},5,null,{"documentId":"b"}]}`, `{"documents":[{"documentId":"a"},{},{},{"documentId":"b"}]}`, partial,
			[]string{"TYPE_MISMATCH $.payload.documents[1]", "TYPE_MISMATCH $.payload.documents[2]"}, []string{"TYPE_MISMATCH $.payload.documents[] 2"}},
		{"a list of strings is whole or unset", pnr, `{"airPnr":{"airPriceOptimizationMetadata":{"newTickets":["1",2,"3"],"oldPnrId":"x"}}}`, `{"airPnr":{"airPriceOptimizationMetadata":{"oldPnrId":"x"}}}`, partial,
			[]string{"TYPE_MISMATCH $.payload.airPnr.airPriceOptimizationMetadata.newTickets[1]"}, []string{"TYPE_MISMATCH $.payload.airPnr.airPriceOptimizationMetadata.newTickets[] 1"}},
		{"a list of numbers is whole or unset", pnr, `{"airPnr":{"legs":[{"flights":[{"utaIndices":[2,0,null]},{"utaIndices":[1,300,-1]}]}]}}`, `{"airPnr":{"legs":[{"flights":[{},{"utaIndices":[1,300,-1]}]}]}}`, partial,
			[]string{"TYPE_MISMATCH $.payload.airPnr.legs[0].flights[0].utaIndices[2]"}, []string{"TYPE_MISMATCH $.payload.airPnr.legs[].flights[].utaIndices[] 1"}},
		{"one value where a list belongs", pnr, `{"documents":{"documentId":"a"}}`, `{}`, partial, []string{"TYPE_MISMATCH $.payload.documents"}, []string{"TYPE_MISMATCH $.payload.documents 1"}},

		{"whole numbers in other forms", pnr, `{"version":1e3,"externalInfo":{"externalPnrVersion":5.0}}`, `{"version":1000,"externalInfo":{"externalPnrVersion":"5"}}`, full, nil, nil},
		{"numbers in strings, as ProtoJSON has them", pnr, `{"version":"7","externalInfo":{"externalPnrVersion":"-8"},"totalFare":{"amount":"1.5","convertedAmount":"NaN"}}`, `{"version":7,"externalInfo":{"externalPnrVersion":-8},"totalFare":{"amount":1.5,"convertedAmount":"NaN"}}`, full, nil,
			[]string{"TYPE_MISMATCH $.payload.version 1", "TYPE_MISMATCH $.payload.externalInfo.externalPnrVersion 1", "TYPE_MISMATCH $.payload.totalFare.amount 1", "TYPE_MISMATCH $.payload.totalFare.convertedAmount 1"}},
		{"strings that are no numbers", pnr, `{"version":" 7","externalInfo":{"externalPnrVersion":"7x"},"totalFare":{"amount":"","convertedAmount":"nan"}}`, `{"externalInfo":{},"totalFare":{}}`, partial,
			[]string{"TYPE_MISMATCH $.payload.version", "TYPE_MISMATCH $.payload.externalInfo.externalPnrVersion", "TYPE_MISMATCH $.payload.totalFare.amount", "TYPE_MISMATCH $.payload.totalFare.convertedAmount"},
			[]string{"TYPE_MISMATCH $.payload.version 1", "TYPE_MISMATCH $.payload.externalInfo.externalPnrVersion 1", "TYPE_MISMATCH $.payload.totalFare.amount 1", "TYPE_MISMATCH $.payload.totalFare.convertedAmount 1"}},
		{"numbers out of range", pnr, `{"version":2147483648,"externalInfo":{"externalPnrVersion":9223372036854775808},"totalFare":{"amount":1e400,"convertedAmount":-1e308},"pnrId":"1"}`, `{"externalInfo":{},"totalFare":{"convertedAmount":-1e308},"pnrId":"1"}`, partial,
			[]string{"OUT_OF_RANGE $.payload.version", "OUT_OF_RANGE $.payload.externalInfo.externalPnrVersion", "OUT_OF_RANGE $.payload.totalFare.amount"},
			[]string{"OUT_OF_RANGE $.payload.version 1", "OUT_OF_RANGE $.payload.externalInfo.externalPnrVersion 1", "OUT_OF_RANGE $.payload.totalFare.amount 1"}},
		{"the last numbers in range", pnr, `{"version":-2147483648,"externalInfo":{"externalPnrVersion":-9223372036854775808}}`, `{"version":-2147483648,"externalInfo":{"externalPnrVersion":"-9223372036854775808"}}`, full, nil, nil},
		{"fraction for a whole number", pnr, `{"version":1.5}`, `{}`, partial, []string{"OUT_OF_RANGE $.payload.version"}, []string{"OUT_OF_RANGE $.payload.version 1"}},

		{"repeated name", pnr, `{"pnrId":"1","documents":[{"documentId":"a"}],"pnrId":"2","documents":[{"documentId":"b","documentId":"c"}],"pnrId":null}`, `{"documents":[{"documentId":"c"}]}`, full,
			[]string{"DUPLICATE_KEY $.payload.pnrId", "DUPLICATE_KEY $.payload.documents", "DUPLICATE_KEY $.payload.pnrId", "DUPLICATE_KEY $.payload.documents[0].documentId"}, nil},
		{"repeated name, the last one does not fit", pnr, `{"totalFare":{"amount":1},"totalFare":5}`, `{}`, partial, []string{"DUPLICATE_KEY $.payload.totalFare", "TYPE_MISMATCH $.payload.totalFare"}, []string{"TYPE_MISMATCH $.payload.totalFare 1"}},
		{"bytes that are not UTF-8", pnr, "{\"pnrId\":\"a\xffb\",\"tripId\":\"\\ud800\"}", "{\"pnrId\":\"a\ufffdb\",\"tripId\":\"\ufffd\"}", full, []string{"INVALID_UTF8 $.payload.pnrId", "INVALID_UTF8 $.payload.tripId"}, nil},
		{"escaped names", pnr, `{"pnr\u0049d":"1","\u0070nrId2":1}`, `{"pnrId":"1"}`, full, nil, []string{"UNKNOWN_FIELD $.payload.pnrId2 1"}},

		{"wrapped", pnr, `{"pnrId":"1","data":{"pnrId":"2","version":3,"x":1}}`, `{"pnrId":"2","version":3}`, full, nil, []string{"UNKNOWN_FIELD $.payload.data.x 1"}},
		{"wrapped, data first, and strangers", pnr, `{"data":{"version":3},"version":4,"documents":5,"pnrId":"1"}`, `{"version":3}`, full, nil, []string{"UNKNOWN_FIELD $.payload.version 1", "UNKNOWN_FIELD $.payload.documents 1"}},
		{"wrapped, and repeated", pnr, `{"version":1,"data":{"version":3,"pnrId":"1"},"d\u0061ta":{"version":4}}`, `{"version":4}`, full, []string{"DUPLICATE_KEY $.payload.data"}, []string{"UNKNOWN_FIELD $.payload.version 1"}},
		{"wrapped mismatch", pnr, `{"data":{"version":"x"}}`, `{}`, partial, []string{"TYPE_MISMATCH $.payload.data.version"}, []string{"TYPE_MISMATCH $.payload.data.version 1"}},
		{"data that is no object", pnr, `{"pnrId":"1","data":7}`, `{"pnrId":"1"}`, full, nil, []string{"UNKNOWN_FIELD $.payload.data 1"}},
		{"only PNRs are wrapped", traveler, `{"data":{"id":{"id":"1"}}}`, `{}`, full, nil, []string{"UNKNOWN_FIELD $.payload.data 1"}},

		{"free-form objects", task, `{"assignee":{"a":[1,{"b":null}],"a2":{}},"events":[{"x":1},{}]}`, `{"assignee":{"a":[1,{"b":null}],"a2":{}},"events":[{"x":1},{}]}`, full, nil, nil},
		{"free-form objects that do not fit", task, `{"assignee":5,"organization":{"a":1e400,"b":1},"events":[{"x":1},"y",{"z":2}]}`, `{"organization":{"b":1},"events":[{"x":1},{},{"z":2}]}`, partial,
			[]string{"TYPE_MISMATCH $.payload.assignee", "OUT_OF_RANGE $.payload.organization.a", "TYPE_MISMATCH $.payload.events[1]"}, []string{"TYPE_MISMATCH $.payload.assignee 1", "TYPE_MISMATCH $.payload.events[] 1"}},
		{"free-form, repeated name", task, `{"assignee":{"a":1,"a":2}}`, `{"assignee":{"a":2}}`, full, []string{"DUPLICATE_KEY $.payload.assignee.a"}, nil},

		{"nesting that clients can read", pnr, `{"totalFare":` + money(16) + `}`, `{"totalFare":` + money(16) + `}`, full, nil, nil},

		{"payload is null", pnr, `null`, ``, rawOnly, nil, nil},
		{"payload is an array", pnr, `[{"pnrId":"1"}]`, ``, rawOnly, nil, nil},
		{"payload is a string", task, `"x"`, ``, rawOnly, nil, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			body := `{"event_type":"` + test.eventType + `","payload":` + test.payload + `,"operation":"X"}`
			r := newTyped().Inspect(test.eventType, []byte(body))
			c, got := typed(t, test.eventType, r.Wire)
			status(t, c, test.status)
			if r.Status != test.status {
				t.Errorf("status %s", r.Status)
			}
			issues := listed(c.GetIssues(), func(i *pb.Issue) string { return kindName(i.GetKind()) + " " + i.GetPath() })
			if want := strings.Join(test.issues, "\n"); issues != want {
				t.Errorf("issues:\n%s\nwant:\n%s", issues, want)
			}
			if s := listed(r.Issues, func(i Issue) string { return kindName(i.Kind) + " " + i.Path }); s != issues {
				t.Errorf("the result has other issues:\n%s", s)
			}
			if drift, want := listed(r.Drift, driftText), strings.Join(test.drift, "\n"); drift != want {
				t.Errorf("drift:\n%s\nwant:\n%s", drift, want)
			}
			if test.want == "" {
				if got != nil {
					t.Errorf("typed: %v", got)
				}
				return
			}
			want, err := viaProtojson(test.eventType, []byte(test.want))
			if err != nil {
				t.Fatal(err)
			}
			if !proto.Equal(got, want) {
				t.Errorf("got %v\nwant %v", got, want)
			}
		})
	}
}

func TestMissingPayloadIsRawOnly(t *testing.T) {
	for _, body := range []string{`{"event_type":"PNR_V3"}`, ``, `x`, `{"payload":{"pnrId":"1"}`, `{"payload":{"pnrId":"1}}`, `{"payload":{"pnrId":"1"}}{}`} {
		c, got := typed(t, "PNR_V3", newTyped().Convert("PNR_V3", []byte(body)))
		status(t, c, rawOnly)
		if got != nil || len(c.GetIssues()) > 0 {
			t.Errorf("%s: %v %v", body, got, c.GetIssues())
		}
	}
	c, got := typed(t, "PNR_V3", newTyped().Convert("PNR_V3", []byte(`{"payload":5,"payload":{"pnrId":"1"}}`)))
	status(t, c, full)
	if got == nil {
		t.Error("the last payload counts")
	}
}

func TestTypedNestingIsCut(t *testing.T) {
	depthOf := func(m proto.Message) int {
		var depth func(m protoreflect.Message) int
		depth = func(m protoreflect.Message) int {
			deepest := 0
			m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
				switch {
				case fd.IsMap():
					v.Map().Range(func(_ protoreflect.MapKey, v protoreflect.Value) bool {
						deepest = max(deepest, 1+depth(v.Message()))
						return true
					})
				case fd.Message() == nil:
				case fd.IsList():
					for i := range v.List().Len() {
						deepest = max(deepest, depth(v.List().Get(i).Message()))
					}
				default:
					deepest = max(deepest, depth(v.Message()))
				}
				return true
			})
			return 1 + deepest
		}
		return depth(m.ProtoReflect())
	}
	for _, test := range []struct{ eventType, begin, open, closing, end string }{
		{"PNR_V3", `{"totalFare":`, `{"otherCoinage":[{"otherCoinageMetadata":{"flightPassMetadata":{"flightPassAmounts":{"totalAmount":`, `}}}}]}`, `,"pnrId":"1"}`},
		{"PNR_V3", `{"totalFare":{"otherCoinage":[{"otherCoinageMetadata":{"flightPassMetadata":{"flightPassAmounts":{"taxBreakdown":[{"amount":`, `{"otherCoinage":[{"otherCoinageMetadata":{"flightPassMetadata":{"flightPassAmounts":{"totalAmount":`, `}}}}]}`, `}]}}}}]},"pnrId":"1"}`},
		{"AGENT_TASK_DETAILS", `{"assignee":{"a":`, `{"a":`, `}`, `},"id":"1"}`},
		{"AGENT_TASK_DETAILS", `{"assignee":{"a":`, `[`, `]`, `},"id":"1"}`},
		{"AGENT_TASK_DETAILS", `{"events":[{"a":`, `[{"a":`, `}]`, `}],"id":"1"}`},
	} {
		cut := false
		for n := range 120 {
			body := `{"payload":` + test.begin + strings.Repeat(test.open, n) + `{}` + strings.Repeat(test.closing, n) + test.end + `}`
			c, got := typed(t, test.eventType, newTyped().Convert(test.eventType, []byte(body)))
			if d := eventLevel + depthOf(got); d > maxLevel {
				t.Fatalf("%s × %d: %d levels", test.open, n, d)
			}
			if len(c.GetIssues()) == 0 {
				if cut {
					t.Fatalf("%s × %d fits, and fewer do not", test.open, n)
				}
				status(t, c, full)
				continue
			}
			if !cut && eventLevel+depthOf(got) < maxLevel-5 {
				t.Errorf("%s: cut at level %d", test.open, eventLevel+depthOf(got))
			}
			cut = true
			status(t, c, partial)
			if k := c.GetIssues()[0].GetKind(); k != pb.IssueKind_ISSUE_KIND_TOO_DEEP {
				t.Fatal(k)
			}
			if id := got.ProtoReflect().Get(got.ProtoReflect().Descriptor().Fields().ByJSONName(map[string]string{"PNR_V3": "pnrId"}[test.eventType] + map[string]string{"AGENT_TASK_DETAILS": "id"}[test.eventType])); id.String() != "1" {
				t.Fatal("what stands behind is lost")
			}
		}
		if !cut {
			t.Errorf("%s: never cut", test.open)
		}
	}
}

func TestDriftIsBounded(t *testing.T) {
	var members []string
	for i := range 5000 {
		members = append(members, fmt.Sprintf(`"n%c%c%c":0`, 'a'+i%26, 'a'+i/26%26, 'a'+i/676))
	}
	body := []byte(`{"payload":{` + strings.Join(members, ",") + `}}`)
	v := newTyped()
	for range 3 {
		r := v.Inspect("PNR_V3", body)
		if len(r.Drift) != maxDrifts || r.MoreDrift != 5000-maxDrifts || r.Status != full {
			t.Fatalf("%d drifts and %d more, %s", len(r.Drift), r.MoreDrift, r.Status)
		}
	}
	if r := v.Inspect("PNR_V3", []byte(`{"payload":{}}`)); len(r.Drift) > 0 || r.MoreDrift > 0 {
		t.Error("drift of another event")
	}
}

// TestDriftIsCounted: few and many different ones, again and again, with another event in between.
func TestDriftIsCounted(t *testing.T) {
	v := newTyped()
	for _, different := range []int{1, 15, 16, 17, 18, 100, 256, 3, 17} {
		var item []string
		for i := range different {
			item = append(item, fmt.Sprintf(`"new%c%c":0`, 'a'+i%26, 'a'+i/26))
		}
		const items = 7
		r := v.Inspect("PNR_V3", []byte(`{"payload":{"documents":[`+strings.Repeat("{"+strings.Join(item, ",")+"},", items-1)+"{"+strings.Join(item, ",")+`}]}}`))
		if len(r.Drift) != different || r.MoreDrift != 0 {
			t.Fatalf("%d drifts and %d more of %d", len(r.Drift), r.MoreDrift, different)
		}
		for _, d := range r.Drift {
			if d.Count != items {
				t.Errorf("of %d: %s", different, driftText(d))
			}
		}
	}
}

func TestDriftOfSamples(t *testing.T) {
	index, err := os.ReadFile("../bridgetest/samples/index.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	unknown := map[string]bool{}
	for line := range strings.Lines(string(index)) {
		var d struct {
			File    string
			Unknown json.RawMessage `json:"unknown_fields"`
		}
		if err := json.Unmarshal([]byte(line), &d); err != nil {
			t.Fatal(err)
		}
		unknown[d.File] = len(d.Unknown) > 0 && string(d.Unknown) != "false"
	}
	v := newTyped()
	for _, d := range samples.Deliveries() {
		found := false
		for _, drift := range v.Inspect(d.EventType, d.Body).Drift {
			switch drift.Kind {
			case pb.IssueKind_ISSUE_KIND_DEPRECATED_FIELD:
			case pb.IssueKind_ISSUE_KIND_UNKNOWN_FIELD:
				found = true
			default:
				t.Errorf("%s: %s", d.File, driftText(drift))
			}
		}
		if found != unknown[d.File] {
			t.Errorf("%s: unknown fields found %v, in the index %v", d.File, found, unknown[d.File])
		}
	}
}

// TestDamagedSamples replaces values of the samples by others: the rest stays as it was.
func TestDamagedSamples(t *testing.T) {
	v := newTyped()
	strange := []string{`5`, `"x"`, `true`, `{}`, `[]`, `[[]]`, `{"a":{}}`, `1e999`, `-1.5`, `[null]`, `"\ud800"`}
	nulled := 0
	for seed := range 300 {
		r := rand.New(rand.NewPCG(uint64(seed), 2))
		d := samples.Deliveries()[r.IntN(len(samples.Deliveries()))]
		body := slices.Clone(d.Body)
		at := r.IntN(len(body))
		colon := strings.IndexByte(string(body[at:]), ':')
		if colon < 0 {
			continue
		}
		at += colon + 1
		end := scan.Skip(body, scan.Space(body, at), 0)
		if end == scan.Bad { // a colon inside a string
			continue
		}
		body = slices.Concat(body[:at], []byte(strange[r.IntN(len(strange))]), body[end:])
		if !json.Valid(body) {
			continue
		}
		res := v.Inspect(d.EventType, body)
		c, got := typed(t, d.EventType, res.Wire)
		if got == nil {
			status(t, c, rawOnly)
			continue
		}
		if (res.Status == partial) != slices.ContainsFunc(res.Issues, func(i Issue) bool { return i.Kind != pb.IssueKind_ISSUE_KIND_INVALID_UTF8 }) {
			t.Errorf("%s with issues %v", res.Status, res.Issues)
		}
		if len(res.Issues) > 1 {
			t.Errorf("one damage, issues %v", res.Issues)
		}
		if res.Status != partial || d.Wrapped || d.EventType == "AGENT_TASK_DETAILS" || strings.HasSuffix(res.Issues[0].Path, "]") {
			continue
		}
		// Left unset is as if it were null.
		nulled++
		want, err := viaProtojson(d.EventType, payloadOf(t, slices.Concat(d.Body[:at], []byte("null"), d.Body[end:])))
		if err != nil || !proto.Equal(got, want) {
			t.Errorf("%s: damage at %s did more harm than that", d.File, res.Issues[0].Path)
		}
	}
	if nulled < 30 {
		t.Errorf("only %d damages compared", nulled)
	}
}

// TestRetypedFields: a property that has another type now goes into the new field, one of an older event into the old.
func TestRetypedFields(t *testing.T) {
	str, i32, msg := descriptorpb.FieldDescriptorProto_TYPE_STRING.Enum(), descriptorpb.FieldDescriptorProto_TYPE_INT32.Enum(), descriptorpb.FieldDescriptorProto_TYPE_MESSAGE.Enum()
	one, many := descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL.Enum(), descriptorpb.FieldDescriptorProto_LABEL_REPEATED.Enum()
	file, err := protodesc.NewFile(&descriptorpb.FileDescriptorProto{
		Name: proto.String("x.proto"), Package: proto.String("spotnana.payload.v1"), Syntax: proto.String("proto3"),
		MessageType: []*descriptorpb.DescriptorProto{{
			Name: proto.String("X"),
			Field: []*descriptorpb.FieldDescriptorProto{
				{Name: proto.String("version"), JsonName: proto.String("version"), Number: proto.Int32(1), Type: i32, Label: one},
				{Name: proto.String("version_as_string"), JsonName: proto.String("versionAsString"), Number: proto.Int32(2), Type: str, Label: one},
				{Name: proto.String("parts"), JsonName: proto.String("parts"), Number: proto.Int32(3), Type: str, Label: many},
				{Name: proto.String("version_as_bool"), JsonName: proto.String("versionAsBool"), Number: proto.Int32(5), Type: descriptorpb.FieldDescriptorProto_TYPE_BOOL.Enum(), Label: one},
				{Name: proto.String("parts_as_x"), JsonName: proto.String("partsAsX"), Number: proto.Int32(4), Type: msg, TypeName: proto.String(".spotnana.payload.v1.X"), Label: many},
			},
		}},
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	c := compiler{
		messages:  map[protoreflect.FullName]*messageTable{},
		earlier:   map[string][]protoreflect.FieldNumber{"X#5": {1, 2}, "X#4": {3}},
		published: map[string]string{"X#1": "version", "X#2": "version", "X#3": "parts"},
	}
	d := file.Messages().Get(0)
	v := newTyped()
	v.roots = map[string]*rootTable{"X": {number: 32, message: c.message(d)}}
	for payload, want := range map[string]string{
		`{"version":"a","parts":[{"version":"b"}]}`: `{"versionAsString":"a","partsAsX":[{"versionAsString":"b"}]} []`,
		`{"version":5,"parts":["x","y"]}`:           `{"version":5,"parts":["x","y"]} []`,
		`{"version":true}`:                          `{"versionAsBool":true} []`,
		`{"version":[],"parts":[5]}`:                `{} [TYPE_MISMATCH $.payload.version TYPE_MISMATCH $.payload.parts[0]]`,
		`{"versionAsString":"x"}`:                   `{} []`,
	} {
		r := v.Inspect("X", []byte(`{"payload":`+payload+`}`))
		m := dynamicpb.NewMessage(d)
		if err := proto.Unmarshal(rootBytes(t, r.Wire, 32), m); err != nil {
			t.Fatal(err)
		}
		b, err := protojson.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		var issues []string
		for _, i := range r.Issues {
			issues = append(issues, kindName(i.Kind)+" "+i.Path)
		}
		if got := fmt.Sprint(strings.ReplaceAll(string(b), " ", ""), " ", issues); got != want {
			t.Errorf("%s: %s, want %s", payload, got, want)
		}
	}
}

// rootBytes returns the bytes of a field of Event.
func rootBytes(t testing.TB, wire []byte, want protowire.Number) []byte {
	for len(wire) > 0 {
		number, _, n := protowire.ConsumeTag(wire)
		b, m := protowire.ConsumeBytes(wire[n:])
		if number == want {
			return b
		}
		wire = wire[n+m:]
	}
	t.Fatalf("no field %d", want)
	return nil
}
