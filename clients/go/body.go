package main

import (
	"bytes"
	"encoding/json"
	"fmt"

	"google.golang.org/protobuf/proto"

	payload "github.com/spotbridge/spotbridge/gen/go/spotnana/payload/v1"
)

// object is a JSON object of which nothing is certain: what is missing or of another type than expected is empty, as it
// is in the typed payload that the bridge makes.
type object map[string]any

func (o object) object(name string) object {
	v, _ := o[name].(map[string]any)
	return v
}

func (o object) objects(name string) (out []object) {
	all, _ := o[name].([]any)
	for _, v := range all {
		if v, ok := v.(map[string]any); ok {
			out = append(out, v)
		}
	}
	return out
}

func (o object) text(name string) *string {
	if v, ok := o[name].(string); ok {
		return &v
	}
	return nil
}

func (o object) money(name string) *payload.Money {
	m := o.object(name)
	if m == nil {
		return nil
	}
	out := &payload.Money{CurrencyCode: m.text("currencyCode")}
	if n, ok := m["amount"].(json.Number); ok {
		if f, err := n.Float64(); err == nil {
			out.Amount = proto.Float64(f)
		}
	}
	return out
}

func (o object) userID() *payload.UserId { return &payload.UserId{Id: o.object("userId").text("id")} }

// bookingOf takes from the exact body of an event what the rule needs. It is for events that were too large for the
// stream; protojson cannot be used, since a body need not conform to the schema.
func bookingOf(body []byte) (*payload.PnrData, error) {
	var event object
	d := json.NewDecoder(bytes.NewReader(bytes.TrimPrefix(body, []byte("\xef\xbb\xbf"))))
	d.UseNumber() // a number that no double holds must not spoil the rest
	if err := d.Decode(&event); err != nil {
		return nil, fmt.Errorf("the body is not readable: %w", err)
	}
	pnr := event.object("payload")
	if data := pnr.object("data"); data != nil {
		pnr = data
	}
	out := &payload.PnrData{TotalFare: pnr.money("totalFare"), AirPnr: &payload.Air{}}
	for _, t := range pnr.objects("pnrTravelers") {
		out.PnrTravelers = append(out.PnrTravelers, &payload.PnrTraveler{UserId: t.userID()})
	}
	for _, t := range pnr.object("airPnr").objects("travelerInfos") {
		info := &payload.TravelerInfo{UserId: t.userID()}
		for _, x := range t.objects("tickets") {
			ticket := &payload.Ticket{TicketNumber: x.text("ticketNumber")}
			if r := x.object("refundInfo").object("refundAmount"); r != nil {
				ticket.RefundInfo = &payload.Ticket_RefundInfo{RefundAmount: &payload.FareAmount{Base: r.money("base"), Tax: r.money("tax")}}
			}
			info.Tickets = append(info.Tickets, ticket)
		}
		out.AirPnr.TravelerInfos = append(out.AirPnr.TravelerInfos, info)
	}
	return out, nil
}
