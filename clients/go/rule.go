package main

import (
	"cmp"
	"math"

	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
	payload "github.com/spotbridge/spotbridge/gen/go/spotnana/payload/v1"
)

// expense is what is known of one ticket. Amounts are in thousandths.
type expense struct {
	ticket, pnrID, organizationID, travelerID, currency string

	amount, refund           int64
	issued, voided, refunded bool
	latest, latestRefund     mark
}

// mark says which event a part of an expense was taken from.
type mark struct {
	version int32
	eventID string
}

// after reports whether the mark is greater: by version, then by the bytes of the id. Any order of arrival ends with the
// greatest mark, which is why the table does not depend on it.
func (m mark) after(o mark) bool {
	return cmp.Or(cmp.Compare(m.version, o.version), cmp.Compare(m.eventID, o.eventID)) > 0
}

// change is what an event says of a ticket.
type change int

const (
	issued change = iota
	voided
	refunded
)

// counts reports whether an event has a say in expenses.
func counts(e *pb.Event) bool {
	if e.GetEventType() != "PNR_V3" {
		return false
	}
	switch e.GetOperation() {
	case "BOOKING_TICKETED", "TICKET_VOIDED", "TICKET_REFUNDED":
		return true
	}
	return false
}

// tickets are the tickets that an event names, by what it says of them. An exchange is both a refund and an issue.
func tickets(e *pb.Event) map[change][]string {
	s := e.GetOperationSummary()
	return map[change][]string{issued: s.GetTicketsIssued(), voided: s.GetTicketsVoided(), refunded: s.GetTicketsRefunded()}
}

// apply takes an event into the expense of a ticket that it names. Applying it again changes nothing.
func (x *expense) apply(c change, e *pb.Event, booking *payload.PnrData) {
	switch c {
	case issued:
		x.issued = true
	case voided:
		x.voided = true
	case refunded:
		x.refunded = true
	}
	at := mark{e.GetEntity().GetVersion(), e.GetId()}
	fare := booking.GetTotalFare()
	traveler, ticket := find(booking, x.ticket)
	if at.after(x.latest) {
		x.latest = at
		x.pnrID, x.organizationID, x.travelerID = e.GetPnrId(), e.GetOrganizationId(), traveler
		x.currency, x.amount = fare.GetCurrencyCode(), thousandths(fare.GetAmount())
	}
	if c == refunded && at.after(x.latestRefund) {
		x.latestRefund = at
		x.refund = thousandths(fare.GetAmount())
		if r := ticket.GetRefundInfo().GetRefundAmount(); r != nil {
			x.refund = thousandths(r.GetBase().GetAmount()) + thousandths(r.GetTax().GetAmount())
		}
	}
}

// find returns the ticket, nil when the booking does not have it, and the traveler who holds it; else the first traveler.
func find(booking *payload.PnrData, number string) (traveler string, ticket *payload.Ticket) {
	for _, t := range booking.GetAirPnr().GetTravelerInfos() {
		for _, ticket := range t.GetTickets() {
			if ticket.GetTicketNumber() == number {
				return t.GetUserId().GetId(), ticket
			}
		}
	}
	if all := booking.GetPnrTravelers(); len(all) > 0 {
		return all[0].GetUserId().GetId(), nil
	}
	return "", nil
}

// thousandths rounds an amount. The conversion keeps the product a double on machines that would fuse it with the sum.
func thousandths(amount float64) int64 { return int64(math.Floor(float64(amount*1000) + 0.5)) }

func (x *expense) state() string {
	switch {
	case x.voided:
		return "VOIDED"
	case x.refunded:
		return "REFUNDED"
	}
	return "ISSUED"
}

func (x *expense) net() int64 {
	if x.voided {
		return 0
	}
	return x.amount - x.refund
}
