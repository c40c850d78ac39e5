//go:build clients

package compare

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/spotbridge/spotbridge/bridge/bridgetest/samples"
)

// delivery is a body to post under a webhook id.
type delivery struct {
	webhookID string
	body      []byte
}

// The samples that generated deliveries are made from.
const (
	ticketedSample = "0035-PNR_V3-BOOKING_TICKETED.json"
	voidedSample   = "0038-PNR_V3-TICKET_VOIDED.json"
	refundedSample = "0043-PNR_V3-TICKET_REFUNDED.json"
)

// maker makes deliveries; a seed makes the same ones again.
type maker struct {
	t testing.TB
	r *rand.Rand
	n int // made so far, for ids that occur once
}

// sampleDeliveries are all samples as they are, re-sends included.
func sampleDeliveries() (out []delivery) {
	for _, d := range samples.Deliveries() {
		out = append(out, delivery{d.WebhookID(), d.Body})
	}
	return out
}

// make returns the deliveries in the order of their sending, which is random: half of the voids come before their tickets.
// late are those that must come after all others.
func (m *maker) make() (all, late []delivery) {
	all = sampleDeliveries()
	for range 12 {
		for _, story := range []func() []delivery{m.void, m.exchangeInTwo, m.exchangeInOne, m.group, m.stale, m.odd, m.ties, m.unmatched} {
			all = append(all, story()...)
		}
	}
	all = append(all, m.large()...)
	for _, d := range m.some(all, 30) {
		all = append(all, d, delivery{m.webhookID(), d.body}) // sent again, and sent as another webhook
	}
	// Another body under a known webhook id is no event: the first one stays.
	for _, d := range m.some(all, 5) {
		late = append(late, delivery{d.webhookID, bytes.ReplaceAll(d.body, []byte(`"currencyCode":"`), []byte(`"currencyCode":"X`))})
	}
	m.r.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all, late
}

func (m *maker) some(all []delivery, n int) (out []delivery) {
	for _, i := range m.r.Perm(len(all))[:n] {
		out = append(out, all[i])
	}
	return out
}

// void is a booking that is ticketed and voided at once.
func (m *maker) void() []delivery {
	b := m.booking(1)
	return []delivery{
		b.event("BOOKING_TICKETED", 2, summary{issued: b.tickets}),
		b.event("TICKET_VOIDED", 4, summary{voided: b.tickets}),
	}
}

// exchangeInTwo refunds a ticket, and issues the one that replaces it with another event.
func (m *maker) exchangeInTwo() []delivery {
	b := m.booking(2)
	old, other := b.tickets[:1], b.tickets[1:]
	return []delivery{
		b.event("BOOKING_TICKETED", 2, summary{issued: old}),
		b.event("TICKET_REFUNDED", 4, summary{refunded: old}),
		b.event("BOOKING_TICKETED", 5, summary{issued: other}),
	}
}

// exchangeInOne does both in one event, under either operation.
func (m *maker) exchangeInOne() []delivery {
	b := m.booking(2)
	return []delivery{
		b.event("BOOKING_TICKETED", 2, summary{issued: b.tickets[:1]}),
		b.event(m.one("BOOKING_TICKETED", "TICKET_REFUNDED"), 3, summary{issued: b.tickets[1:], refunded: b.tickets[:1]}),
	}
}

// group is a booking of several travelers with several tickets each, some of which are voided or refunded.
func (m *maker) group() []delivery {
	b := m.booking(4 + m.r.IntN(3))
	return []delivery{
		b.event("BOOKING_TICKETED", 2, summary{issued: b.tickets}),
		b.event("TICKET_VOIDED", 3, summary{voided: b.tickets[:2]}),
		b.event("TICKET_REFUNDED", 4, summary{refunded: b.tickets[2:4]}),
	}
}

// stale has versions in which the fare, the travelers and the refund are others each time.
func (m *maker) stale() (out []delivery) {
	b := m.booking(2)
	for version := 2; version < 5; version++ {
		b.prices()
		b.people()
		out = append(out, b.event("BOOKING_TICKETED", version, summary{issued: b.tickets}), b.event("TICKET_REFUNDED", version+4, summary{refunded: b.tickets[:1]}))
	}
	return out
}

// ties are events of one version, which the ids decide.
func (m *maker) ties() (out []delivery) {
	b := m.booking(2)
	for range 3 {
		b.prices()
		out = append(out, b.event(m.one("BOOKING_TICKETED", "TICKET_REFUNDED"), 3, summary{issued: b.tickets[:1], refunded: b.tickets}))
	}
	return out
}

// odd are deliveries that lack something or repeat something, all of it allowed.
func (m *maker) odd() []delivery {
	b := m.booking(2)
	edits := []func(event, pnr map[string]any){
		func(_, pnr map[string]any) { delete(pnr, "version") },
		func(_, pnr map[string]any) { delete(pnr, "totalFare") },
		func(_, pnr map[string]any) { pnr["totalFare"] = map[string]any{"currencyCode": "EUR"} },
		func(_, pnr map[string]any) { delete(pnr, "airPnr") },
		func(_, pnr map[string]any) { delete(pnr, "pnrTravelers") },
		func(_, pnr map[string]any) { delete(pnr, "airPnr"); delete(pnr, "pnrTravelers") },
		func(_, pnr map[string]any) {
			for _, t := range ticketsOf(pnr) {
				delete(t, "refundInfo")
			}
		},
		func(_, pnr map[string]any) {
			for _, t := range ticketsOf(pnr) {
				t["refundInfo"] = map[string]any{"refundAmount": map[string]any{m.one("base", "tax"): m.money()}}
			}
		},
		func(_, pnr map[string]any) {
			for _, t := range ticketsOf(pnr) {
				t["refundInfo"] = map[string]any{"refundAmount": map[string]any{}}
			}
		},
		func(event, _ map[string]any) { // numbers instead of texts
			s := event["operationSummary"].(map[string]any)
			for name, list := range s {
				var numbers []any
				for _, number := range list.([]string) {
					numbers = append(numbers, json.Number(number))
				}
				s[name] = numbers
			}
		},
		func(event, _ map[string]any) { event["operationSummary"] = nil },
		func(event, _ map[string]any) { // the other spelling, and wrapped
			event["event_type"], event["eventType"] = event["eventType"], ""
			delete(event, "eventType")
			event["payload"] = map[string]any{"pnrId": b.pnrID, "data": event["payload"]}
		},
	}
	edit := edits[m.r.IntN(len(edits))]
	twice := append(b.tickets[:1:1], b.tickets...)
	return []delivery{
		b.event("BOOKING_TICKETED", 2, summary{issued: b.tickets}),
		b.event(m.one("TICKET_REFUNDED", "TICKET_VOIDED"), 3, summary{refunded: twice, issued: twice}, edit),
		b.event("TICKET_REFUNDED", 3, summary{refunded: b.tickets[1:]}, edits[m.r.IntN(len(edits))]),
	}
}

// unmatched are events that name tickets and are none of ours.
func (m *maker) unmatched() []delivery {
	b := m.booking(1)
	return []delivery{
		b.event("BOOKING_UPDATED", 9, summary{issued: b.tickets}),
		b.event("BOOKING_TICKETED", 9, summary{voided: b.tickets}, func(event, _ map[string]any) { event["eventType"] = "PNR_V4" }),
	}
}

// large are events that no stream carries: their bodies have to be read by themselves, wrapped and not.
func (m *maker) large() (out []delivery) {
	for _, wrapped := range []bool{false, true} {
		b := m.booking(2)
		fill := func(event, pnr map[string]any) {
			pnr["createdVia"] = strings.Repeat("x", 5<<20)
			if wrapped {
				event["payload"] = map[string]any{"pnrId": b.pnrID, "data": pnr}
			}
		}
		out = append(out, b.event("BOOKING_TICKETED", 2, summary{issued: b.tickets}, fill), b.event("TICKET_REFUNDED", 3, summary{refunded: b.tickets[:1]}, fill))
	}
	return out
}

// booking is one booking with its tickets.
type booking struct {
	m              *maker
	pnrID, tripID  string
	tickets, users []string
	holder         map[string]int // of a ticket, by the index of users
	fare           any
	refund         map[string]any
}

type summary struct{ issued, voided, refunded []string }

func (m *maker) booking(tickets int) *booking {
	b := &booking{m: m, pnrID: m.digits(10), tripID: m.digits(10)}
	for range tickets {
		b.tickets = append(b.tickets, m.digits(13))
	}
	b.people()
	b.prices()
	return b
}

// people gives the tickets other travelers.
func (b *booking) people() {
	b.users, b.holder = nil, map[string]int{}
	for range 1 + b.m.r.IntN(3) {
		b.users = append(b.users, fmt.Sprintf("%08x-0000-4000-8000-%012x", b.m.r.Uint32(), b.m.r.Uint64N(1<<48)))
	}
	for _, number := range b.tickets {
		b.holder[number] = b.m.r.IntN(len(b.users))
	}
}

// prices gives the booking another fare and another refund.
func (b *booking) prices() {
	b.fare = b.m.money()
	b.refund = map[string]any{"base": b.m.money(), "tax": b.m.money()}
}

// event makes a delivery of the booking from the sample of its operation. Edits get the event and its PNR.
func (b *booking) event(operation string, version int, s summary, edits ...func(event, pnr map[string]any)) delivery {
	file := map[string]string{"TICKET_VOIDED": voidedSample, "TICKET_REFUNDED": refundedSample}[operation]
	if file == "" {
		file = ticketedSample
	}
	event := b.m.sample(file)
	pnr := event["payload"].(map[string]any)
	delete(event, "event_type")
	event["eventType"], event["operation"] = "PNR_V3", operation
	event["operationSummary"] = map[string]any{"ticketsIssued": s.issued, "ticketsVoided": s.voided, "ticketsRefunded": s.refunded}
	pnr["pnrId"], pnr["tripId"], pnr["version"], pnr["totalFare"] = b.pnrID, b.tripID, version, b.fare

	// The first traveler of the sample stands for all: only ids and tickets differ.
	air := pnr["airPnr"].(map[string]any)
	person, info := pnr["pnrTravelers"].([]any)[0], air["travelerInfos"].([]any)[0].(map[string]any)
	ticket := info["tickets"].([]any)[0]
	var people, infos []any
	for i, user := range b.users {
		people = append(people, with(person, "userId", map[string]any{"id": user}))
		var tickets []any
		for _, number := range b.tickets {
			if b.holder[number] == i {
				tickets = append(tickets, with(with(ticket, "ticketNumber", number), "refundInfo", map[string]any{"refundAmount": b.refund}))
			}
		}
		infos = append(infos, with(with(info, "userId", map[string]any{"id": user}), "tickets", tickets))
	}
	b.m.r.Shuffle(len(infos), func(i, j int) { infos[i], infos[j] = infos[j], infos[i] })
	pnr["pnrTravelers"], air["travelerInfos"] = people, infos
	for _, edit := range edits {
		edit(event, pnr)
	}
	body, err := json.Marshal(event)
	if err != nil {
		b.m.t.Fatal(err)
	}
	return delivery{b.m.webhookID(), body}
}

// with returns a copy of the object in which a member has another value.
func with(object any, name string, value any) map[string]any {
	out := map[string]any{}
	for k, v := range object.(map[string]any) {
		out[k] = v
	}
	out[name] = value
	return out
}

func ticketsOf(pnr map[string]any) (out []map[string]any) {
	for _, info := range pnr["airPnr"].(map[string]any)["travelerInfos"].([]any) {
		tickets, _ := info.(map[string]any)["tickets"].([]any)
		for _, t := range tickets {
			out = append(out, t.(map[string]any))
		}
	}
	return out
}

func (m *maker) sample(file string) map[string]any {
	for _, d := range samples.Deliveries() {
		if d.File == file {
			var event map[string]any
			decoder := json.NewDecoder(bytes.NewReader(d.Body))
			decoder.UseNumber()
			if err := decoder.Decode(&event); err != nil {
				m.t.Fatal(err)
			}
			return event
		}
	}
	m.t.Fatalf("there is no sample %s", file)
	return nil
}

func (m *maker) one(of ...string) string { return of[m.r.IntN(len(of))] }

// money returns an amount, among them some that are hard to round.
func (m *maker) money() map[string]any {
	amount := json.Number(fmt.Sprintf("%d.%0*d", m.r.IntN(3000), 1+m.r.IntN(3), m.r.IntN(10)))
	if m.r.IntN(3) == 0 {
		amount = json.Number(m.one("0", "-0", "1.0005", "2.6745", "0.30000000000000004", "1.5e3", "12E-4", "0.0004999999", "-12.3455", "123456789.123", "1e9"))
	}
	return map[string]any{"amount": amount, "currencyCode": m.one("EUR", "KWD", "JPY")}
}

func (m *maker) digits(n int) string {
	b := []byte{byte('1' + m.r.IntN(9))}
	for len(b) < n {
		b = append(b, byte('0'+m.r.IntN(10)))
	}
	return string(b)
}

// webhookID returns an id that no other delivery has. Ids do not rise with time, so that ties of versions go either way.
func (m *maker) webhookID() string {
	m.n++
	return fmt.Sprintf("msg_%016x%d", m.r.Uint64(), m.n)
}
