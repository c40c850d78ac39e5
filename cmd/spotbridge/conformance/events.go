package conformance

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/structpb"

	"github.com/spotbridge/spotbridge/bridge"
	"github.com/spotbridge/spotbridge/bridge/bridgetest/samples"
	"github.com/spotbridge/spotbridge/bridge/payload"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

// maxLevels is how deep the messages of any response may nest.
const maxLevels = 90

// converter makes the typed payloads, as in a real bridge.
var converter = sync.OnceValue(payload.New)

// ticketStory is what the scenarios tell again and again, about new bookings each time: two tickets are issued, one is
// voided, one is refunded.
var ticketStory = sync.OnceValue(func() []samples.Delivery {
	var story []samples.Delivery
	for _, operation := range []string{"BOOKING_TICKETED", "TICKET_VOIDED", "TICKET_REFUNDED"} {
		for _, d := range samples.Deliveries() {
			if d.EventType == "PNR_V3" && d.Operation == operation && d.RedeliveryOf == 0 {
				story = append(story, d)
			}
		}
	}
	return story
})

// told has the events about tickets that were made already.
var told struct {
	sync.Mutex
	events []*bridge.Encoded
}

// tickets returns n events about tickets, real ones: a sample's body with other bookings and ticket numbers, parsed,
// converted and encoded by the code of the bridge.
func tickets(n int) []*bridge.Encoded {
	told.Lock()
	defer told.Unlock()
	story := ticketStory()
	for i := len(told.events); i < n; i++ {
		told.events = append(told.events, newEvent(i, retold(&story[i%len(story)], i/len(story))))
	}
	return told.events[:n:n]
}

// retold returns a body with the ids of another booking: their last digits count the tellings.
func retold(d *samples.Delivery, telling int) []byte {
	var body struct {
		Summary struct{ TicketsIssued, TicketsVoided, TicketsRefunded []string } `json:"operationSummary"`
	}
	_ = json.Unmarshal(d.Body, &body) // a sample is readable
	ids := []string{d.PNRID, d.TripID}
	ids = append(append(append(ids, body.Summary.TicketsIssued...), body.Summary.TicketsVoided...), body.Summary.TicketsRefunded...)
	out := d.Body
	for _, id := range ids {
		if len(id) > 6 {
			out = bytes.ReplaceAll(out, []byte(id), fmt.Appendf(nil, "%s%05d", id[:len(id)-5], telling))
		}
	}
	return out
}

// newEvent returns the event of a body as the bridge makes it. i is its place in the script.
func newEvent(i int, body []byte) *bridge.Encoded {
	webhookID := fmt.Sprintf("conf_%s", token("event", i))
	at := time.Date(2026, 3, 1, 9, 0, i, 0, time.UTC)
	e, err := bridge.RestoreEncoded(&bridge.Entry{
		Kind: bridge.EntryEvent, Source: "sandbox", EventID: bridge.EventID("sandbox", webhookID), WebhookID: webhookID,
		ReceiveTime: at, AppendTime: at, Sequence: uint64(i + 1), BodyHash: sha256.Sum256(body), Body: body, BodySize: len(body),
	}, pb.Ordering_ORDERING_IN_ORDER, converter())
	if err != nil {
		panic(err) // the bodies are part of the program; a test makes them all
	}
	return e
}

// maxKept is the largest body whose messages are kept for the next one who wants them.
const maxKept = 64 << 10

type messageKey struct {
	event *bridge.Encoded
	view  pb.EventView
	limit int
}

// messages has what asMessage made.
var messages sync.Map

// asMessage returns an event in a view and within a limit. The message is shared: clone it before changing it.
func asMessage(e *bridge.Encoded, view pb.EventView, limit int) *pb.Event {
	key := messageKey{e, view, limit}
	if m, ok := messages.Load(key); ok {
		return m.(*pb.Event)
	}
	m, err := e.Event(view, limit)
	if err != nil {
		panic(err) // the bytes were made by our own code; a test reads them all
	}
	if e.BodySize <= maxKept {
		messages.Store(key, m)
	}
	return m
}

// realEvent is an event as a bridge sends it.
func realEvent(e *bridge.Encoded) event {
	return event{id: e.EventID, message: func(c *call) *pb.Event { return asMessage(e, c.view, c.limit) }}
}

// token returns a text that tells nothing: the same one for the same place, of no order, and of varying length.
func token(what string, i int) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %d", what, i))
	return base64.RawURLEncoding.EncodeToString(sum[:8+int(sum[31])%24])
}

// withMember returns the body with a member more in the object at path, "" being the body itself.
func withMember(body []byte, path []string, name string, value any) []byte {
	var doc map[string]any
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	if err := d.Decode(&doc); err != nil {
		panic(err) // part of the program, as above
	}
	at := doc
	for _, p := range path {
		next, ok := at[p].(map[string]any)
		if !ok {
			next = map[string]any{}
			at[p] = next
		}
		at = next
	}
	at[name] = value
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	if err := e.Encode(doc); err != nil {
		panic(err) // it was JSON
	}
	return bytes.TrimSpace(out.Bytes())
}

// wrapped returns the body of a PNR_V3 with its payload as {pnrId, data}.
func wrapped(body []byte) []byte {
	var doc map[string]json.RawMessage
	var booking struct {
		ID string `json:"pnrId"`
	}
	if json.Unmarshal(body, &doc) != nil || json.Unmarshal(doc["payload"], &booking) != nil {
		panic("a body that is no booking") // part of the program, as above
	}
	return withMember(body, nil, "payload", map[string]any{"pnrId": booking.ID, "data": doc["payload"]})
}

type sizedKey struct {
	i    int
	view pb.EventView
	size int
}

// sizes has what sized made.
var sizes sync.Map

// sized returns an event that has exactly that many bytes in a view, or one less; as envelope it is as it is.
func sized(i int, view pb.EventView, size int) *bridge.Encoded {
	key := sizedKey{i, view, size}
	if e, ok := sizes.Load(key); ok {
		return e.(*bridge.Encoded)
	}
	story := ticketStory()
	base := retold(&story[0], i)
	copies := 1 // of the text that makes it long
	if view == pb.EventView_EVENT_VIEW_FULL {
		copies = 2
	}
	for fill := 0; ; {
		e := newEvent(i, withMember(base, []string{"payload", "externalInfo"}, "externalUrlMetadata", strings.Repeat("x", fill)))
		_, is := e.Parts(nil, view, 0)
		missing := size - is
		if missing >= 0 && missing < copies || missing < 0 && fill == 0 || view == pb.EventView_EVENT_VIEW_ENVELOPE {
			sizes.Store(key, e)
			return e
		}
		// Lengths grow with what they are of, so that it takes more than once.
		fill += missing / copies
		if missing < 0 {
			fill--
		}
	}
}

// deepOther returns an event of a type that nobody knows, whose payload nests until a response has the most levels that
// any may have. above is how many levels lie above the event.
func deepOther(i, above int) *pb.Event {
	e := &pb.Event{
		Id: fmt.Sprintf("sandbox.conf_%s", token("event", i)), Source: "sandbox", EventType: "CONFORMANCE_NESTED", Operation: "NESTED", Sequence: uint64(i + 1),
		Conversion: &pb.Conversion{Status: pb.ConversionStatus_CONVERSION_STATUS_RAW_ONLY},
	}
	// The event and the value at its bottom are levels. An object around that is three more: Struct, its entry, Value. A list
	// is two: ListValue, Value.
	levels := above + 2
	v := structpb.NewStringValue("the bottom")
	if (maxLevels-levels)%2 == 1 {
		v = structpb.NewStructValue(&structpb.Struct{Fields: map[string]*structpb.Value{"deep": v}})
		levels += 3
	}
	for ; levels < maxLevels; levels += 2 {
		v = structpb.NewListValue(&structpb.ListValue{Values: []*structpb.Value{v}})
	}
	e.Payload = &pb.Event_Other{Other: v}
	return e
}

// deepTyped is a booking in which amounts nest deeper than any response may: the bridge cuts it to the most levels that
// clients can read.
var deepTyped = sync.OnceValue(func() *bridge.Encoded {
	const i = 910
	story := ticketStory()
	amount := any(map[string]any{"amount": 1, "currencyCode": "EUR"})
	for range 40 {
		amount = map[string]any{"amount": 1, "currencyCode": "EUR", "otherCoinage": []any{
			map[string]any{"otherCoinageMetadata": map[string]any{"flightPassMetadata": map[string]any{"flightPassAmounts": map[string]any{"totalAmount": amount}}}},
		}}
	}
	return newEvent(i, withMember(retold(&story[0], i), []string{"payload", "llfPnrInfo"}, "totalFare", amount))
})

// largeBodies are two bookings: one of 5 MiB, in many pieces, and one whose payload is wrapped as {pnrId, data}.
var largeBodies = sync.OnceValue(func() []*bridge.Encoded {
	story := ticketStory()
	return []*bridge.Encoded{
		newEvent(930, withMember(retold(&story[0], 930), []string{"payload"}, "conformancePadding", strings.Repeat("ticket ", 5<<20/7))),
		newEvent(931, wrapped(retold(&story[1], 931))),
	}
})
