package payload

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
	payloadv1 "github.com/spotbridge/spotbridge/gen/go/spotnana/payload/v1"

	"github.com/spotbridge/spotbridge/bridge/bridgetest/samples"
)

var newPayload = map[string]func() proto.Message{
	"PNR_V3":             func() proto.Message { return &payloadv1.PnrData{} },
	"TRIP_DETAILS_V3":    func() proto.Message { return &payloadv1.TripV3DetailsResponse{} },
	"TRAVELER_V2":        func() proto.Message { return &payloadv1.UserProfile{} },
	"SERVICE_CHARGE":     func() proto.Message { return &payloadv1.ServiceChargeRecord{} },
	"PNR_APPROVAL":       func() proto.Message { return &payloadv1.PnrApproval{} },
	"AGENT_TASK_DETAILS": func() proto.Message { return &payloadv1.AgentTask{} },
}

// typed reads the typed payload from what Convert wrote; nil when there is none.
func typed(t testing.TB, eventType string, wire []byte) (*pb.Conversion, proto.Message) {
	t.Helper()
	var conversion *pb.Conversion
	var message proto.Message
	last := protowire.Number(0)
	for len(wire) > 0 {
		number, wireType, n := protowire.ConsumeTag(wire)
		if n < 0 || wireType != protowire.BytesType || number <= last {
			t.Fatalf("field %d after %d", number, last)
		}
		last, wire = number, wire[n:]
		b, n := protowire.ConsumeBytes(wire)
		if n < 0 {
			t.Fatal(protowire.ParseError(n))
		}
		wire = wire[n:]
		switch number {
		case fieldConversion:
			conversion = &pb.Conversion{}
			if err := proto.Unmarshal(b, conversion); err != nil {
				t.Fatal(err)
			}
		case fieldOther:
		case rootFields[eventType]:
			message = newPayload[eventType]()
			if err := (proto.UnmarshalOptions{RecursionLimit: 90}).Unmarshal(b, message); err != nil {
				t.Fatal(err)
			}
			if len(b) != proto.Size(message) {
				t.Errorf("%d bytes where %d are needed", len(b), proto.Size(message))
			}
		default:
			t.Fatalf("field %d", number)
		}
	}
	return conversion, message
}

func status(t testing.TB, c *pb.Conversion, want pb.ConversionStatus) {
	t.Helper()
	if c.GetStatus() != want {
		t.Errorf("status %s, want %s; issues %v", c.GetStatus(), want, c.GetIssues())
	}
	if typed := want != pb.ConversionStatus_CONVERSION_STATUS_RAW_ONLY; typed != (c.GetSchemaRevision() == schemaRevision) {
		t.Errorf("revision %q", c.GetSchemaRevision())
	}
}

const (
	full    = pb.ConversionStatus_CONVERSION_STATUS_FULL
	partial = pb.ConversionStatus_CONVERSION_STATUS_PARTIAL
	rawOnly = pb.ConversionStatus_CONVERSION_STATUS_RAW_ONLY
)

// viaProtojson is the reference: nil when protojson refuses the payload.
func viaProtojson(eventType string, payload []byte) (proto.Message, error) {
	m := newPayload[eventType]()
	err := protojson.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(payload, m)
	return m, err
}

// unwrapped is the payload without its wrapper.
func unwrapped(t testing.TB, d samples.Delivery) json.RawMessage {
	payload := payloadOf(t, d.Body)
	if d.Wrapped {
		var w struct {
			Data json.RawMessage `json:"data"`
		}
		if err := json.Unmarshal(payload, &w); err != nil {
			t.Fatal(err)
		}
		return w.Data
	}
	return payload
}

func TestSamplesAsProtojsonConvertsThem(t *testing.T) {
	v := newTyped()
	for _, d := range samples.Deliveries() {
		c, got := typed(t, d.EventType, v.Convert(d.EventType, d.Body))
		payload := unwrapped(t, d)
		want, err := viaProtojson(d.EventType, payload)
		if err != nil {
			t.Fatalf("%s: %v", d.File, err)
		}
		if !proto.Equal(got, want) {
			t.Errorf("%s: not what protojson gives", d.File)
		}
		status(t, c, full)
		if len(c.GetIssues()) > 0 {
			t.Errorf("%s: %v", d.File, c.GetIssues())
		}
		reprint(t, d.File, got, payload)
	}
}

// reprint fails when the message does not print as the payload again, apart from what is documented: fields that the
// schema does not have, nulls, empty arrays, and int64 as strings.
func reprint(t testing.TB, name string, m proto.Message, payload []byte) {
	t.Helper()
	printed, err := protojson.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	var got, want any
	if err := json.Unmarshal(printed, &got); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(payload, &want); err != nil {
		t.Fatal(err)
	}
	if want = documented(want, m.ProtoReflect().Descriptor()); !reflect.DeepEqual(got, want) {
		t.Errorf("%s: prints as\n%s\nwant\n%s", name, asJSON(got), asJSON(want))
	}
}

func asJSON(v any) string {
	b, _ := json.Marshal(v)
	return string(b)
}

// documented applies the documented differences to a JSON value of a message.
func documented(v any, d protoreflect.MessageDescriptor) any {
	object, ok := v.(map[string]any)
	if !ok || d.ParentFile().Package() == "google.protobuf" {
		return v
	}
	out := map[string]any{}
	for name, value := range object {
		fd := d.Fields().ByJSONName(name)
		if fd == nil || value == nil {
			continue
		}
		one := func(v any) any {
			switch {
			case fd.Kind() == protoreflect.Int64Kind:
				return fmt.Sprintf("%.0f", v)
			case fd.Message() != nil:
				return documented(v, fd.Message())
			}
			return v
		}
		list, ok := value.([]any)
		if !ok || !fd.IsList() {
			out[name] = one(value)
			continue
		}
		if len(list) > 0 {
			items := make([]any, len(list))
			for i := range list {
				items[i] = one(list[i])
			}
			out[name] = items
		}
	}
	return out
}

// generator makes random payloads that conform to the schema.
type generator struct {
	*rand.Rand
	out bytes.Buffer
	// odd allows what protojson refuses or discards.
	density float64
}

func (g *generator) white() {
	switch g.IntN(8) {
	case 0:
		g.out.WriteByte(' ')
	case 1:
		g.out.WriteString("\r\n" + strings.Repeat(" ", g.IntN(20)))
	case 2:
		g.out.WriteByte('\t')
	}
}

func (g *generator) message(d protoreflect.MessageDescriptor, depth int) {
	g.out.WriteByte('{')
	g.white()
	first := true
	member := func(name string) {
		if !first {
			g.out.WriteByte(',')
			g.white()
		}
		first = false
		g.name(name)
		g.white()
		g.out.WriteByte(':')
		g.white()
	}
	for _, i := range g.order(d.Fields().Len()) {
		fd := d.Fields().Get(i)
		if g.Float64() > g.density || depth > 8 && g.IntN(4) > 0 || depth > 22 {
			continue
		}
		member(fd.JSONName())
		switch {
		case g.IntN(30) == 0:
			g.out.WriteString("null")
		case fd.IsList():
			g.out.WriteByte('[')
			g.white()
			for n := range g.IntN(4) {
				if n > 0 {
					g.out.WriteByte(',')
					g.white()
				}
				g.single(fd, depth)
				g.white()
			}
			g.out.WriteByte(']')
		default:
			g.single(fd, depth)
		}
		g.white()
	}
	if g.IntN(10) == 0 {
		member("unknown" + fmt.Sprint(g.IntN(100)))
		g.any(0)
		g.white()
	}
	g.out.WriteByte('}')
}

// order is the schema's, a part of it, or any.
func (g *generator) order(n int) []int {
	if g.IntN(3) == 0 {
		return g.Perm(n)
	}
	out := make([]int, n)
	for i := range out {
		out[i] = i
	}
	return out
}

func (g *generator) name(name string) {
	if g.IntN(100) == 0 {
		fmt.Fprintf(&g.out, `"\u%04x%s"`, name[0], name[1:])
		return
	}
	fmt.Fprintf(&g.out, `"%s"`, name)
}

func (g *generator) single(fd protoreflect.FieldDescriptor, depth int) {
	switch fd.Kind() {
	case protoreflect.StringKind:
		g.string()
	case protoreflect.BoolKind:
		fmt.Fprint(&g.out, g.IntN(2) == 0)
	case protoreflect.Int32Kind:
		fmt.Fprint(&g.out, []int32{0, 1, -1, 127, 128, 1 << 20, -1 << 31, 1<<31 - 1, g.Int32()}[g.IntN(9)])
	case protoreflect.Int64Kind:
		fmt.Fprint(&g.out, []int64{0, 1, -1, 127, 128, 1 << 52, -1 << 52, g.Int64() >> 12}[g.IntN(8)]) // reprint compares as doubles
	case protoreflect.DoubleKind:
		g.number()
	case protoreflect.MessageKind:
		switch fd.Message().FullName() {
		case "google.protobuf.Struct":
			g.object(0)
		case "google.protobuf.Value":
			g.any(0)
		default:
			g.message(fd.Message(), depth+1)
		}
	}
}

func (g *generator) number() {
	switch g.IntN(4) {
	case 0:
		fmt.Fprintf(&g.out, "%d.%02d", g.IntN(100000), g.IntN(100))
	case 1:
		fmt.Fprint(&g.out, []string{"0", "0.0", "1e3", "1E+10", "-2.5e-7", "1.7976931348623157e308", "5e-324", "123456789012345678901234567890"}[g.IntN(8)])
	case 2:
		fmt.Fprintf(&g.out, "%d", g.IntN(1<<40)-1<<39)
	default:
		fmt.Fprintf(&g.out, "%g", g.NormFloat64())
	}
}

var texts = []string{"", "a", "LHR", "2026-03-09T02:09:16Z", "Zürich → 東京", "😀", `\"quoted\"`, `\\`, `tab\tnew\nline`, `\u00e9\ud83d\ude00`, "0123456789012345678901234567890123456789", `a\/b`, "\x7f", "é0123456789", `0123456\n89`}

func (g *generator) string() {
	g.out.WriteByte('"')
	for range g.IntN(4) {
		g.out.WriteString(texts[g.IntN(len(texts))])
	}
	if g.IntN(50) == 0 {
		g.out.WriteString(strings.Repeat("x", g.IntN(40_000)))
	}
	g.out.WriteByte('"')
}

func (g *generator) any(depth int) {
	switch n := g.IntN(8); {
	case n == 0 && depth < 6:
		g.object(depth)
	case n == 1 && depth < 6:
		g.out.WriteByte('[')
		for i := range g.IntN(4) {
			if i > 0 {
				g.out.WriteByte(',')
			}
			g.any(depth + 1)
			g.white()
		}
		g.out.WriteByte(']')
	case n == 2:
		g.out.WriteString("null")
	case n == 3:
		g.out.WriteString("false")
	case n < 6:
		g.number()
	default:
		g.string()
	}
}

func (g *generator) object(depth int) {
	g.out.WriteByte('{')
	g.white()
	for i := range g.IntN(5) {
		if i > 0 {
			g.out.WriteByte(',')
			g.white()
		}
		g.name(fmt.Sprintf("k%d", i))
		g.out.WriteByte(':')
		g.white()
		g.any(depth + 1)
		g.white()
	}
	g.out.WriteByte('}')
}

func TestRandomPayloadsAsProtojsonConvertsThem(t *testing.T) {
	v := newTyped()
	rounds := 300
	if testing.Short() {
		rounds = 30
	}
	for seed := range rounds {
		for eventType, fresh := range newPayload {
			g := &generator{Rand: rand.New(rand.NewPCG(uint64(seed), 1)), density: []float64{0.02, 0.1, 0.2}[seed%3]}
			g.message(fresh().ProtoReflect().Descriptor(), 0)
			payload := g.out.String()
			body := `{"event_type":"` + eventType + `","payload":` + payload + `}`
			wrapped := eventType == "PNR_V3" && seed%4 == 0
			if wrapped {
				body = `{"payload":{"pnrId":"1","data":` + payload + `}}`
			}
			r := v.Inspect(eventType, []byte(body))
			c, got := typed(t, eventType, r.Wire)
			want, err := viaProtojson(eventType, []byte(payload))
			if err != nil {
				t.Fatalf("the payload is not a valid one: %v", err)
			}
			if !proto.Equal(got, want) {
				t.Fatalf("seed %d, %s: not what protojson gives\n%s", seed, eventType, payload)
			}
			status(t, c, full)
			reprint(t, fmt.Sprintf("seed %d, %s", seed, eventType), got, []byte(payload))
			if !bytes.Equal(v.Convert(eventType, []byte(body)), r.Wire) {
				t.Fatal("Convert and Inspect differ")
			}
		}
	}
}
