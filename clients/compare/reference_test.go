//go:build clients

package compare

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// The reference reads the rule of ../README.md once more, from the other side: it has all events at once, and asks for each
// ticket which of them decides. Nothing here knows protobuf, the bridge or a client.

type bodyJSON struct {
	EventType      string `json:"eventType"`
	EventTypeSnake string `json:"event_type"`
	Operation      string `json:"operation"`
	Summary        struct {
		Issued   []jsontext.Value `json:"ticketsIssued"`
		Voided   []jsontext.Value `json:"ticketsVoided"`
		Refunded []jsontext.Value `json:"ticketsRefunded"`
	} `json:"operationSummary"`
	Audience struct {
		OrganizationID string `json:"organizationId"`
	} `json:"audience"`
	Payload struct {
		pnrJSON
		Data *pnrJSON `json:"data"`
	} `json:"payload"`
}

type pnrJSON struct {
	PNRID        string       `json:"pnrId"`
	Version      int          `json:"version"`
	TotalFare    moneyJSON    `json:"totalFare"`
	PNRTravelers []personJSON `json:"pnrTravelers"`
	AirPNR       struct {
		TravelerInfos []struct {
			personJSON
			Tickets []struct {
				Number     string `json:"ticketNumber"`
				RefundInfo struct {
					RefundAmount *struct {
						Base moneyJSON `json:"base"`
						Tax  moneyJSON `json:"tax"`
					} `json:"refundAmount"`
				} `json:"refundInfo"`
			} `json:"tickets"`
		} `json:"travelerInfos"`
	} `json:"airPnr"`
}

type personJSON struct {
	UserID struct {
		ID string `json:"id"`
	} `json:"userId"`
}

type moneyJSON struct {
	Amount   float64 `json:"amount"`
	Currency string  `json:"currencyCode"`
}

func (m moneyJSON) thousandths() int64 { return int64(math.Floor(float64(m.Amount*1000) + 0.5)) }

// fact is what an event says of one ticket.
type fact struct {
	version                     int
	event                       string
	issued, voided, refunded    bool
	pnr, organization, traveler string
	currency                    string
	amount, refund              int64
}

func compareFacts(a, b fact) int {
	return cmp.Or(cmp.Compare(a.version, b.version), cmp.Compare(a.event, b.event))
}

// reference is what every client must end with.
type reference struct {
	facts     map[string][]fact // by ticket
	processed map[string]bool   // event ids
}

func newReference() *reference {
	return &reference{facts: map[string][]fact{}, processed: map[string]bool{}}
}

// add takes a delivery that the bridge has to accept, once for each webhook id.
func (r *reference) add(source, webhookID string, body []byte) error {
	var b bodyJSON
	if err := json.Unmarshal(body, &b); err != nil {
		return fmt.Errorf("%s: %w", webhookID, err)
	}
	eventID := source + "." + webhookID
	if cmp.Or(b.EventTypeSnake, b.EventType) != "PNR_V3" || r.processed[eventID] {
		return nil
	}
	if !slices.Contains([]string{"BOOKING_TICKETED", "TICKET_VOIDED", "TICKET_REFUNDED"}, b.Operation) {
		return nil
	}
	r.processed[eventID] = true
	if b.Audience.OrganizationID == "" {
		return fmt.Errorf("%s: the reference knows no organization but that of the audience", webhookID)
	}
	p := &b.Payload.pnrJSON
	pnrID := p.PNRID
	if b.Payload.Data != nil {
		p = b.Payload.Data
		pnrID = cmp.Or(pnrID, p.PNRID)
	}
	named := map[string]fact{}
	for list, mark := range map[*[]jsontext.Value]func(*fact){
		&b.Summary.Issued:   func(f *fact) { f.issued = true },
		&b.Summary.Voided:   func(f *fact) { f.voided = true },
		&b.Summary.Refunded: func(f *fact) { f.refunded = true },
	} {
		for _, v := range *list {
			number := string(v)
			if v.Kind() == '"' {
				text, err := jsontext.AppendUnquote(nil, v)
				if err != nil {
					return fmt.Errorf("%s: %w", webhookID, err)
				}
				number = string(text)
			}
			f := named[number]
			mark(&f)
			named[number] = f
		}
	}
	for number, f := range named {
		f.version, f.event, f.pnr, f.organization = p.Version, eventID, pnrID, b.Audience.OrganizationID
		f.currency, f.amount = p.TotalFare.Currency, p.TotalFare.thousandths()
		f.refund = f.amount
		if len(p.PNRTravelers) > 0 {
			f.traveler = p.PNRTravelers[0].UserID.ID
		}
	search:
		for _, t := range p.AirPNR.TravelerInfos {
			for _, ticket := range t.Tickets {
				if ticket.Number != number {
					continue
				}
				f.traveler = t.UserID.ID
				if a := ticket.RefundInfo.RefundAmount; a != nil {
					f.refund = a.Base.thousandths() + a.Tax.thousandths()
				}
				break search
			}
		}
		r.facts[number] = append(r.facts[number], f)
	}
	return nil
}

// dump is the table of expenses as the clients print it.
func (r *reference) dump() string {
	var out strings.Builder
	for _, number := range slices.Sorted(maps.Keys(r.facts)) {
		facts := r.facts[number]
		some := func(is func(fact) bool) bool { return slices.ContainsFunc(facts, is) }
		last, refund := slices.MaxFunc(facts, compareFacts), int64(0)
		if refunds := slices.DeleteFunc(slices.Clone(facts), func(f fact) bool { return !f.refunded }); len(refunds) > 0 {
			refund = slices.MaxFunc(refunds, compareFacts).refund
		}
		state, net := "ISSUED", last.amount-refund
		switch {
		case some(func(f fact) bool { return f.voided }):
			state, net = "VOIDED", 0
		case some(func(f fact) bool { return f.refunded }):
			state = "REFUNDED"
		}
		fmt.Fprintf(&out, "%s\t%s\t%s\t%s\t%s\t%d\t%d\t%d\t%s\t%d\t%s\n", number, last.pnr, last.organization, last.traveler,
			last.currency, last.amount, refund, net, state, last.version, last.event)
	}
	return out.String()
}

// ids are the processed events as the clients print them.
func (r *reference) ids() string {
	var out strings.Builder
	for _, id := range slices.Sorted(maps.Keys(r.processed)) {
		out.WriteString(id + "\n")
	}
	return out.String()
}
