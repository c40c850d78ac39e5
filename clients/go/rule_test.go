package main

import (
	"bytes"
	"fmt"
	"math"
	"path/filepath"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
	payload "github.com/spotbridge/spotbridge/gen/go/spotnana/payload/v1"
)

// pnr makes an event; the zero values of its parts are missing in it.
type pnr struct {
	id, operation               string
	version                     int32
	issued, voided, refunded    []string
	fare, refundBase, refundTax float64
	holder, first               string // users: of the tickets, and of the first traveler
}

func (p pnr) event() *pb.Event {
	booking := &payload.PnrData{}
	if p.fare != 0 {
		booking.TotalFare = &payload.Money{Amount: &p.fare, CurrencyCode: proto.String("EUR")}
	}
	if p.first != "" {
		booking.PnrTravelers = []*payload.PnrTraveler{{UserId: &payload.UserId{Id: &p.first}}}
	}
	if p.holder != "" {
		info := &payload.TravelerInfo{UserId: &payload.UserId{Id: &p.holder}}
		for _, list := range [][]string{p.issued, p.voided, p.refunded} {
			for _, number := range list {
				ticket := &payload.Ticket{TicketNumber: &number}
				if p.refundBase != 0 || p.refundTax != 0 {
					amount := &payload.FareAmount{}
					if p.refundBase != 0 {
						amount.Base = &payload.Money{Amount: &p.refundBase}
					}
					if p.refundTax != 0 {
						amount.Tax = &payload.Money{Amount: &p.refundTax}
					}
					ticket.RefundInfo = &payload.Ticket_RefundInfo{RefundAmount: amount}
				}
				info.Tickets = append(info.Tickets, ticket)
			}
		}
		booking.AirPnr = &payload.Air{TravelerInfos: []*payload.TravelerInfo{{}, info}}
	}
	e := &pb.Event{
		Id: p.id, EventType: "PNR_V3", Operation: p.operation, PnrId: "pnr", OrganizationId: "org",
		OperationSummary: &pb.OperationSummary{TicketsIssued: p.issued, TicketsVoided: p.voided, TicketsRefunded: p.refunded},
		Payload:          &pb.Event_PnrV3{PnrV3: booking},
	}
	if p.version != 0 {
		e.Entity = &pb.EntityRef{Version: &p.version}
	}
	return e
}

// dumpOf returns the table after the events, each processed once.
func dumpOf(t testing.TB, s *store, events ...*pb.Event) string {
	t.Helper()
	for i, e := range events {
		if err := s.process(e, e.GetPnrV3(), fmt.Sprintf("cursor-%d", i)); err != nil {
			t.Fatal(err)
		}
	}
	var out bytes.Buffer
	if err := s.dump(&out); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func newStore(t testing.TB) *store {
	t.Helper()
	s, err := openStore(filepath.Join(t.TempDir(), "expenses.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestTheRule(t *testing.T) {
	one, two := []string{"1"}, []string{"2"}
	ticketed := pnr{id: "s.a", operation: "BOOKING_TICKETED", version: 2, issued: one, fare: 100.25, holder: "ann", first: "bob"}
	for _, c := range []struct {
		name   string
		events []pnr
		want   string // lines, with a space for each tab
	}{
		{"issued", []pnr{ticketed}, "1 pnr org ann EUR 100250 0 100250 ISSUED 2 s.a\n"},
		{"voided", []pnr{ticketed, {id: "s.b", operation: "TICKET_VOIDED", version: 4, voided: one, fare: 100.25, holder: "ann"}},
			"1 pnr org ann EUR 100250 0 0 VOIDED 4 s.b\n"},
		{"refunded in part", []pnr{ticketed, {id: "s.b", operation: "TICKET_REFUNDED", version: 4, refunded: one, fare: 100.25, refundBase: 30.5, refundTax: 4.001, holder: "ann"}},
			"1 pnr org ann EUR 100250 34501 65749 REFUNDED 4 s.b\n"},
		{"refunded with a part missing", []pnr{{id: "s.b", operation: "TICKET_REFUNDED", version: 4, refunded: one, fare: 9, refundTax: 4, holder: "ann"}},
			"1 pnr org ann EUR 9000 4000 5000 REFUNDED 4 s.b\n"},
		{"refunded without an amount", []pnr{{id: "s.b", operation: "TICKET_REFUNDED", version: 4, refunded: one, fare: 9, holder: "ann"}},
			"1 pnr org ann EUR 9000 9000 0 REFUNDED 4 s.b\n"},
		{"voided after a refund", []pnr{ticketed, {id: "s.b", operation: "TICKET_REFUNDED", version: 3, refunded: one, fare: 9}, {id: "s.c", operation: "TICKET_VOIDED", version: 4, voided: one, fare: 10}},
			"1 pnr org  EUR 10000 9000 0 VOIDED 4 s.c\n"},
		{"an exchange in one event", []pnr{ticketed, {id: "s.b", operation: "TICKET_REFUNDED", version: 3, issued: two, refunded: one, fare: 120, refundBase: 80, holder: "ann"}},
			"1 pnr org ann EUR 120000 80000 40000 REFUNDED 3 s.b\n2 pnr org ann EUR 120000 0 120000 ISSUED 3 s.b\n"},
		{"an older version changes the state alone", []pnr{ticketed, {id: "s.z", operation: "TICKET_VOIDED", version: 1, voided: one, fare: 5, first: "bob"}},
			"1 pnr org ann EUR 100250 0 0 VOIDED 2 s.a\n"},
		{"of one version the greater id counts, as bytes", []pnr{ticketed, {id: "s.Z", operation: "BOOKING_TICKETED", version: 2, issued: one, fare: 1}, {id: "s.b", operation: "BOOKING_TICKETED", version: 2, issued: one, fare: 7, first: "bob"}},
			"1 pnr org bob EUR 7000 0 7000 ISSUED 2 s.b\n"},
		{"of two refunds the greater counts", []pnr{
			{id: "s.b", operation: "TICKET_REFUNDED", version: 4, refunded: one, fare: 9, refundBase: 2, holder: "ann"},
			{id: "s.a", operation: "TICKET_REFUNDED", version: 3, refunded: one, fare: 9, refundBase: 1, holder: "ann"},
		}, "1 pnr org ann EUR 9000 2000 7000 REFUNDED 4 s.b\n"},
		{"no version, no fare, nobody", []pnr{{id: "s.a", operation: "BOOKING_TICKETED", issued: one}}, "1 pnr org   0 0 0 ISSUED 0 s.a\n"},
		{"no tickets", []pnr{{id: "s.a", operation: "BOOKING_TICKETED"}}, ""},
		{"another operation", []pnr{{id: "s.a", operation: "BOOKING_UPDATED", issued: one}}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var events []*pb.Event
			for _, p := range c.events {
				events = append(events, p.event())
			}
			got := dumpOf(t, newStore(t), events...)
			if got = string(bytes.ReplaceAll([]byte(got), []byte("\t"), []byte(" "))); got != c.want {
				t.Errorf("got\n%swant\n%s", got, c.want)
			}
		})
	}
}

func TestAnotherEventTypeIsProcessedAndChangesNothing(t *testing.T) {
	s := newStore(t)
	e := pnr{id: "s.a", operation: "BOOKING_TICKETED", issued: []string{"1"}}.event()
	e.EventType = "PNR_V4"
	if got := dumpOf(t, s, e); got != "" {
		t.Errorf("got %s", got)
	}
	if seen, err := s.seen("s.a"); err != nil || !seen {
		t.Errorf("seen: %v, %v", seen, err)
	}
}

func TestThousandths(t *testing.T) {
	for amount, want := range map[float64]int64{
		0: 0, 1663.58: 1663580, 1.0005: 1001, 2.6745: 2675, 0.30000000000000004: 300, 0.0004999: 0, -12.345: -12345, -0.0005: 0,
		123456789.123: 123456789123, math.Copysign(0, -1): 0,
	} {
		if got := thousandths(amount); got != want {
			t.Errorf("%v: %d, want %d", amount, got, want)
		}
	}
}

// TestAnyOrderGivesTheSameTable: the events of a few tickets come in any order and more than once, and the table is the
// same, whether the repeats are recognised or applied again.
func TestAnyOrderGivesTheSameTable(t *testing.T) {
	s := newStore(t)
	operations := []string{"BOOKING_TICKETED", "TICKET_VOIDED", "TICKET_REFUNDED"}
	rapid.Check(t, func(t *rapid.T) {
		some := rapid.SliceOfN(rapid.SampledFrom([]string{"1", "2", "3"}), 0, 3)
		amount := rapid.SampledFrom([]float64{0, 1, 99.995, 1.0005, -3})
		var events []*pb.Event
		for i := range rapid.IntRange(1, 6).Draw(t, "events") {
			events = append(events, pnr{
				id: fmt.Sprintf("s.%d", i), operation: rapid.SampledFrom(operations).Draw(t, "operation"),
				version: rapid.Int32Range(-1, 3).Draw(t, "version"), issued: some.Draw(t, "issued"), voided: some.Draw(t, "voided"),
				refunded: some.Draw(t, "refunded"), fare: amount.Draw(t, "fare"), refundBase: amount.Draw(t, "base"),
				refundTax: amount.Draw(t, "tax"), holder: rapid.SampledFrom([]string{"", "ann"}).Draw(t, "holder"),
				first: rapid.SampledFrom([]string{"", "bob"}).Draw(t, "first"),
			}.event())
		}
		deliveries := append(rapid.Permutation(events).Draw(t, "order"), rapid.SliceOfN(rapid.SampledFrom(events), 0, 6).Draw(t, "repeats")...)
		deliveries = rapid.Permutation(deliveries).Draw(t, "shuffled")

		// Each once, in the order of their making; then the deliveries without memory of what was processed; then with it.
		want := tableOf(events)
		if got := tableOf(deliveries); got != want {
			t.Fatalf("got\n%swant\n%s", got, want)
		}
		empty(t, s)
		inOrder := dumpOfRapid(t, s, events)
		empty(t, s)
		if got := dumpOfRapid(t, s, deliveries); got != inOrder {
			t.Fatalf("stored\n%swant\n%s", got, inOrder)
		}
	})
}

// tableOf applies the events to a table in memory.
func tableOf(events []*pb.Event) string {
	table := map[string]*expense{}
	for _, e := range events {
		for c, numbers := range tickets(e) {
			for _, number := range numbers {
				if table[number] == nil {
					table[number] = &expense{ticket: number}
				}
				table[number].apply(c, e, e.GetPnrV3())
			}
		}
	}
	var out bytes.Buffer
	for _, number := range []string{"1", "2", "3"} {
		if x := table[number]; x != nil {
			fmt.Fprintf(&out, "%+v %s %d\n", *x, x.state(), x.net())
		}
	}
	return out.String()
}

func empty(t *rapid.T, s *store) {
	if _, err := s.db.Exec("DELETE FROM expenses; DELETE FROM processed; DELETE FROM position"); err != nil {
		t.Fatal(err)
	}
}

func dumpOfRapid(t *rapid.T, s *store, events []*pb.Event) string {
	for _, e := range events {
		if err := s.process(e, e.GetPnrV3(), "cursor"); err != nil {
			t.Fatal(err)
		}
	}
	var out bytes.Buffer
	if err := s.dump(&out); err != nil {
		t.Fatal(err)
	}
	return out.String()
}
