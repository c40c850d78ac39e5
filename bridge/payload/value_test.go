package payload

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"

	"github.com/spotbridge/spotbridge/bridge/bridgetest/samples"
)

const unknownType = "SOMETHING_NEW"

// convert returns the event that holds what Convert wrote.
func convert(t testing.TB, v *Converter, eventType string, body []byte) *pb.Event {
	t.Helper()
	ev := &pb.Event{}
	if err := proto.Unmarshal(v.Convert(eventType, body), ev); err != nil {
		t.Fatalf("%s: %v", body, err)
	}
	return ev
}

// payloadOf returns the JSON text of the last payload member.
func payloadOf(t testing.TB, body []byte) json.RawMessage {
	t.Helper()
	var e struct {
		Payload json.RawMessage `json:"payload"`
	}
	if err := json.Unmarshal(bytes.TrimPrefix(body, []byte("\xef\xbb\xbf")), &e); err != nil {
		t.Fatal(err)
	}
	return e.Payload
}

func wantIssues(t *testing.T, ev *pb.Event, want ...string) {
	t.Helper()
	var got []string
	for _, i := range ev.GetConversion().GetIssues() {
		got = append(got, strings.TrimPrefix(i.GetKind().String(), "ISSUE_KIND_")+" "+i.GetPath())
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("issues:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestOtherIsThePayloadAsGenericJSON(t *testing.T) {
	v := New()
	for _, d := range samples.Deliveries() {
		ev := convert(t, v, unknownType, d.Body)
		want := &structpb.Value{}
		if err := protojson.Unmarshal(payloadOf(t, d.Body), want); err != nil {
			t.Fatal(err)
		}
		if !proto.Equal(ev.GetOther(), want) {
			t.Errorf("%s: not what protojson gives", d.File)
		}
		if s := ev.GetConversion().GetStatus(); s != pb.ConversionStatus_CONVERSION_STATUS_RAW_ONLY {
			t.Errorf("%s: %s", d.File, s)
		}
		wantIssues(t, ev)
	}
}

func TestOtherOfOddPayloads(t *testing.T) {
	many := make([]string, 200)
	for i := range many {
		many[i] = fmt.Sprintf(`"k%d":%d`, i, i)
	}
	for _, test := range []struct {
		name, body, want string // want empty: no other
		issues           []string
	}{
		{"missing", `{}`, ``, nil},
		{"null", `{"payload":null}`, `null`, nil},
		{"scalars", `{"payload":[true,false,null,"",-0.5,"a"]}`, `[true,false,null,"",-0.5,"a"]`, nil},
		{"empty object", `{"payload":{}}`, `{}`, nil},
		{"byte order mark", "\xef\xbb\xbf{\"payload\":{\"a\":1}}", `{"a":1}`, nil},
		{"escaped member name", `{"p\u0061yload":{"\u0061":"\u00e9\ud83d\ude00\n\/"}}`, `{"a":"é😀\n/"}`, nil},
		{"last payload counts", `{"payload":{"a":1,"a":2},"payload":{"b":2}}`, `{"b":2}`, nil},
		{"repeated name", `{"payload":{"a":1,"b":{"c":1},"a":[2],"\u0061":3}}`, `{"b":{"c":1},"a":3}`, []string{"DUPLICATE_KEY $.payload.a", "DUPLICATE_KEY $.payload.a"}},
		{"repeated name in what a later one replaces", `{"payload":{"a":{"b":1,"b":2},"a":{"c":1}}}`, `{"a":{"c":1}}`, []string{"DUPLICATE_KEY $.payload.a"}},
		{"repeated name in an array", `{"payload":{"a":[{},{"b":1,"b":2}]}}`, `{"a":[{},{"b":2}]}`, []string{"DUPLICATE_KEY $.payload.a[1].b"}},
		{"repeated name among many", `{"payload":{` + strings.Join(many, ",") + `,"k3":"x","k150":"y","k150":"z"}}`, `{` + strings.Join(append(append(append([]string(nil), many[:3]...), append(append([]string(nil), many[4:150]...), many[151:]...)...), `"k3":"x"`, `"k150":"z"`), ",") + `}`,
			[]string{"DUPLICATE_KEY $.payload.k3", "DUPLICATE_KEY $.payload.k150", "DUPLICATE_KEY $.payload.k150"}},
		{"bytes that are not UTF-8", "{\"payload\":{\"a\":\"x\xff\xfey\",\"b\xff\":1}}", `{"a":"x` + "\ufffd\ufffd" + `y","b` + "\ufffd" + `":1}`, []string{"INVALID_UTF8 $.payload.a", `INVALID_UTF8 $.payload["b\xff"]`}},
		{"lone surrogate", `{"payload":["\ud800","\ud800\u0041","\udc00x"]}`, `["` + "\ufffd\",\"\ufffdA\",\"\ufffd" + `x"]`, []string{"INVALID_UTF8 $.payload[0]", "INVALID_UTF8 $.payload[1]", "INVALID_UTF8 $.payload[2]"}},
		{"number that no double holds", `{"payload":{"a":1e400,"b":[1,-1e400,3]}}`, `{"b":[1,null,3]}`, []string{"OUT_OF_RANGE $.payload.a", "OUT_OF_RANGE $.payload.b[1]"}},
		{"whole payload is such a number", `{"payload":1e400}`, ``, []string{"OUT_OF_RANGE $.payload"}},
		{"odd names", `{"payload":{"a b":1e400,"":1e400,"x\"]":1e400}}`, `{}`, []string{`OUT_OF_RANGE $.payload["a b"]`, `OUT_OF_RANGE $.payload[""]`, `OUT_OF_RANGE $.payload["x\"]"]`}},
		{"no object", `[{"payload":1}]`, ``, nil},
		{"no JSON", `{"payload":{"a":1}`, ``, nil},
		{"no JSON inside", `{"payload":{"a":1e}}`, ``, nil},
		{"no JSON behind", `{"payload":{"a":1}}}`, ``, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			ev := convert(t, New(), unknownType, []byte(test.body))
			wantIssues(t, ev, test.issues...)
			if test.want == "" {
				if ev.GetPayload() != nil {
					t.Errorf("other is %v", ev.GetOther())
				}
				return
			}
			want := &structpb.Value{}
			if err := protojson.Unmarshal([]byte(test.want), want); err != nil {
				t.Fatal(err)
			}
			if !proto.Equal(ev.GetOther(), want) {
				t.Errorf("other is %v, want %v", ev.GetOther(), want)
			}
		})
	}
}

// levels is the nesting of messages on the wire, the message itself included.
func levels(v *structpb.Value) int {
	deepest := 0
	switch k := v.GetKind().(type) {
	case *structpb.Value_StructValue:
		deepest = 1
		for _, f := range k.StructValue.GetFields() {
			deepest = max(deepest, 2+levels(f))
		}
	case *structpb.Value_ListValue:
		deepest = 1
		for _, i := range k.ListValue.GetValues() {
			deepest = max(deepest, 1+levels(i))
		}
	}
	return 1 + deepest
}

func TestClientsCanReadTheNesting(t *testing.T) {
	for open, closing := range map[string]string{`{"a":`: `}`, `[`: `]`, `{"a":[`: `]}`} {
		most := 0
		for n := 1; n < 600; n++ {
			body := `{"payload":{"deep":` + strings.Repeat(open, n) + `1` + strings.Repeat(closing, n) + `,"beside":true}}`
			ev := convert(t, New(), unknownType, []byte(body))
			most = max(most, levels(ev.GetOther()))
			if !ev.GetOther().GetStructValue().GetFields()["beside"].GetBoolValue() {
				t.Fatal("what stands beside is lost")
			}
			issues := ev.GetConversion().GetIssues()
			if cut := len(issues) > 0; cut && (len(issues) != 1 || issues[0].GetKind() != pb.IssueKind_ISSUE_KIND_TOO_DEEP || len(issues[0].GetPath()) > 256) {
				t.Fatalf("%d levels of %s: issues %v", n, open, issues)
			}
			if levels(ev.GetOther())+eventLevel > maxLevel {
				t.Fatalf("%d levels of %s: %d on the wire", n, open, levels(ev.GetOther()))
			}
			if n < 15 && len(issues) > 0 {
				t.Fatalf("%d levels of %s: %v", n, open, issues)
			}
		}
		if most+eventLevel < maxLevel-3 {
			t.Errorf("%s: cut at %d levels already", open, most)
		}
	}
}

func TestIssuesAreBounded(t *testing.T) {
	body := []byte(`{"payload":[` + strings.Repeat("1e400,", 10_000) + `"` + strings.Repeat("x", 100) + `"]}`)
	ev := convert(t, New(), unknownType, body)
	if n := len(ev.GetConversion().GetIssues()); n != maxIssues {
		t.Errorf("%d issues", n)
	}
	if n := len(ev.GetOther().GetListValue().GetValues()); n != 10_001 {
		t.Errorf("%d items", n)
	}
	long := strings.Repeat("é", 300)
	ev = convert(t, New(), unknownType, []byte(`{"payload":{"`+long+`":{"`+long+`":1e400}}}`))
	for _, i := range ev.GetConversion().GetIssues() {
		if len(i.GetPath()) > 256 || !strings.HasPrefix(i.GetPath(), `$.payload["éé`) {
			t.Errorf("path %s", i.GetPath())
		}
	}
}

func FuzzOther(f *testing.F) {
	for _, n := range []int{0, 3, 15, 18} {
		f.Add([]byte(payloadOf(f, samples.Deliveries()[n].Body)))
	}
	for _, doc := range []string{`{"a":1,}`, `[1,]`, `-0`, `1.5e400`, `"\ud83d\ude00"`, `"\ud800"`, "\"\xff\"", " \n\t\r1\n ", `[[[[[]]]]]`, `{"a":1}{}`, `null`} {
		f.Add([]byte(doc))
	}
	v := New()
	f.Fuzz(func(t *testing.T, doc []byte) {
		body := append(append([]byte(`{"operation":"x","payload":`), doc...), `,"z":[]}`...)
		ev := convert(t, v, unknownType, body) // reads whatever the body
		if !json.Valid(doc) {
			return
		}
		want := &structpb.Value{}
		if protojson.Unmarshal(doc, want) != nil || levels(want)+eventLevel > maxLevel {
			return // repeated names, bytes that are not UTF-8, numbers out of range: the tables above
		}
		if !proto.Equal(ev.GetOther(), want) {
			t.Fatalf("%s: %v, protojson says %v", doc, ev.GetOther(), want)
		}
	})
}

func BenchmarkOther(b *testing.B) {
	v := New()
	for _, n := range []int{4, 6, 24, 5} {
		s := samples.Deliveries()[n-1]
		b.Run(s.File, func(b *testing.B) {
			b.SetBytes(int64(len(s.Body)))
			b.ReportAllocs()
			for b.Loop() {
				v.Convert(unknownType, s.Body)
			}
		})
	}
}
