package bridge

import (
	"strings"

	"github.com/spotbridge/spotbridge/bridge/internal/scan"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

// The one table of places that the envelope is read from. A place is a dotted path from the top of the body; [] steps
// into every item of an array. Spotnana publishes no webhook schema, so each fact may stand in several places: the first
// place of a row that has a value wins. An id may be a bare string or {"id": "..."} (CONTRACT.md section 2, rule 4). What
// stands in the payload is published: a test holds the table to the generated descriptors. The values are read by this
// table all the same, before and without a conversion: a wrong type is an issue of the envelope and nothing else.

type slot int

const noSlot slot = -1

// Slots of the envelope itself.
const (
	slotEventType slot = iota
	slotEventTypeCamel
	slotOperation
	slotTimestamp
	slotAudience
	slotSummary
	slotIssuedList
	slotVoidedList
	slotRefundedList
	slotIssued
	slotVoided
	slotRefunded
	slotPayload
	firstPathSlot

	slotCount = 64
)

// organizationPaths: CONTRACT.md section 2, rule 4, in its order. The variants below data are those of a wrapped PNR.
var organizationPaths = []string{
	"audience.organizationId",
	"audience[].organizationId",
	"payload.audience.organizationId",
	"payload.audience[].organizationId",
	"organizationId",
	"payload.organizationId",
	"payload.organization",
	"payload.userOrgId.organizationId",
	"payload.primaryTraveler.userOrgId.organizationId",
	"payload.businessInfo.organizationRef",
	"payload.pnrTravelers[].businessInfo.companyId",
	"payload.data.pnrTravelers[].businessInfo.companyId",
	"payload.travelers[].userOrgId.organizationId",
	"payload.data.travelers[].userOrgId.organizationId",
}

// extraction says where an event type's ids stand.
type extraction struct {
	kind                              pb.EntityKind
	id, version, pnr, trip, travelers []slot
}

type extractionPaths struct {
	kind                              pb.EntityKind
	id, version, pnr, trip, travelers []string
}

var extractionTable = map[string]extractionPaths{
	"PNR_V3": {
		kind:      pb.EntityKind_ENTITY_KIND_PNR,
		id:        []string{"payload.pnrId", "payload.data.pnrId"},
		version:   []string{"payload.version", "payload.data.version"},
		pnr:       []string{"payload.pnrId", "payload.data.pnrId"},
		trip:      []string{"payload.tripId", "payload.data.tripId", "payload.basicTripInfo.tripId", "payload.data.basicTripInfo.tripId"},
		travelers: []string{"payload.pnrTravelers[].userId", "payload.data.pnrTravelers[].userId"},
	},
	"TRIP_DETAILS_V3": {
		kind:      pb.EntityKind_ENTITY_KIND_TRIP,
		id:        []string{"payload.basicTripInfo.tripId", "payload.tripId"},
		trip:      []string{"payload.basicTripInfo.tripId", "payload.tripId"},
		travelers: []string{"payload.basicTripInfo.userId", "payload.pnrs[].data.pnrTravelers[].userId"},
	},
	"TRAVELER_V2": {
		kind:      pb.EntityKind_ENTITY_KIND_TRAVELER,
		id:        []string{"payload.id"},
		travelers: []string{"payload.id"},
	},
	"SERVICE_CHARGE": {
		kind:      pb.EntityKind_ENTITY_KIND_SERVICE_CHARGE,
		id:        []string{"payload.chargeId"},
		pnr:       []string{"payload.bookingDetails.pnrId", "payload.agentContact.pnrId"},
		trip:      []string{"payload.tripId"}, // and entity.entityId when entityType is TRIP, below
		travelers: []string{"payload.userOrgId.userId"},
	},
	"PNR_APPROVAL": {
		kind: pb.EntityKind_ENTITY_KIND_APPROVAL,
		id:   []string{"payload.approvalId"},
		pnr:  []string{"payload.pnrId"},
		trip: []string{"payload.tripId"},
	},
	"AGENT_TASK_DETAILS": {
		kind:      pb.EntityKind_ENTITY_KIND_AGENT_TASK,
		id:        []string{"payload.id"},
		pnr:       []string{"payload.pnrId", "payload.sourcePnrId"},
		trip:      []string{"payload.tripId"},
		travelers: []string{"payload.primaryTraveler.userOrgId.userId"},
	},
}

// anyPaths serve event types that we do not know: the names that all known ones use.
var anyPaths = extractionPaths{
	pnr:  []string{"payload.pnrId", "payload.data.pnrId"},
	trip: []string{"payload.tripId", "payload.data.tripId"},
}

// rule says what to do with the value at a place.
type rule struct {
	slot    slot
	path    string
	members map[string]*rule
	items   *rule
	// raw keeps the JSON text of values that are no strings, repeats too. many: the slot takes more than one value.
	// container: the slot wants to know of an object or array at its place, too.
	raw, many, container bool
	// bit tells a rule from the others of its object; owned are the slots at and below it.
	bit   uint64
	owned []slot
}

// limit is how many values a slot with many takes.
func (r *rule) limit() int {
	if r.raw {
		return maxTickets
	}
	return maxIDs
}

// member returns the rule for a member of the object, or nil. name is what stands between the quotes.
func (r *rule) member(name []byte, t scan.Text) *rule {
	if t&scan.Escaped != 0 {
		name, _ = scan.Unquote(nil, name)
	}
	return r.members[string(name)]
}

var (
	envelopeRules     *rule
	slotPath          [slotCount]string
	organizationSlots []slot
	extractions       = map[string]extraction{}
	anyExtraction     extraction
	slotEntityType    slot
	slotEntityID      slot
)

func init() {
	b := ruleBuilder{root: &rule{slot: noSlot}, next: firstPathSlot, slots: map[string]slot{}}
	for path, s := range map[string]slot{
		"event_type": slotEventType, "eventType": slotEventTypeCamel, "operation": slotOperation,
		"timestamp": slotTimestamp, "audience": slotAudience, "operationSummary": slotSummary, "payload": slotPayload,
		"operationSummary.ticketsIssued": slotIssuedList, "operationSummary.ticketsVoided": slotVoidedList,
		"operationSummary.ticketsRefunded": slotRefundedList,
	} {
		r := b.at(path)
		r.slot, r.container = s, true
		slotPath[s] = "$." + path
	}
	for path, s := range map[string]slot{
		"operationSummary.ticketsIssued[]": slotIssued, "operationSummary.ticketsVoided[]": slotVoided,
		"operationSummary.ticketsRefunded[]": slotRefunded,
	} {
		r := b.at(path)
		r.slot, r.raw, r.many = s, true, true
		slotPath[s] = "$." + path
	}
	b.root.members["operation_summary"] = b.root.members["operationSummary"] // accepted at no cost
	for _, p := range organizationPaths {
		organizationSlots = append(organizationSlots, b.id(p, true))
	}
	for name, x := range extractionTable {
		extractions[name] = b.extraction(x)
	}
	anyExtraction = b.extraction(anyPaths)
	slotEntityType = b.id("payload.entity.entityType", false)
	slotEntityID = b.id("payload.entity.entityId", false)
	b.root.path = "$"
	b.root.finish()
	envelopeRules = b.root
}

// finish gives the rule and those below it their bits and owned slots.
func (r *rule) finish() []slot {
	r.owned = nil
	if r.slot != noSlot {
		r.owned = append(r.owned, r.slot)
	}
	bit := uint64(1)
	for _, m := range r.members {
		m.bit, bit = bit, bit<<1
		r.owned = append(r.owned, m.finish()...)
	}
	if r.items != nil {
		r.owned = append(r.owned, r.items.finish()...)
	}
	return r.owned
}

type ruleBuilder struct {
	root  *rule
	next  slot
	slots map[string]slot
}

// at returns the rule at a path, made when it is not there.
func (b *ruleBuilder) at(path string) *rule {
	r, at := b.root, "$"
	for _, step := range strings.Split(path, ".") {
		name, arrays := step, 0
		for strings.HasSuffix(name, "[]") {
			name, arrays = strings.TrimSuffix(name, "[]"), arrays+1
		}
		if r.members == nil {
			r.members = map[string]*rule{}
		}
		if r.members[name] == nil {
			r.members[name] = &rule{slot: noSlot, path: at + "." + name}
		}
		r = r.members[name]
		for range arrays {
			if r.items == nil {
				r.items = &rule{slot: noSlot, path: r.path + "[]"}
			}
			r = r.items
		}
		at = r.path
	}
	return r
}

// id makes a slot for an id at a path: a bare string, or {"id": ...}.
func (b *ruleBuilder) id(path string, many bool) slot {
	s, ok := b.slots[path]
	if !ok {
		s = b.next
		b.next++
		b.slots[path] = s
		slotPath[s] = "$." + path
		b.at(path).slot = s
		b.at(path + ".id").slot = s
	}
	many = many || strings.Contains(path, "[]")
	for _, p := range []string{path, path + ".id"} {
		r := b.at(p)
		r.many = r.many || many
	}
	return s
}

func (b *ruleBuilder) extraction(x extractionPaths) extraction {
	all := func(paths []string) []slot {
		var out []slot
		for _, p := range paths {
			out = append(out, b.id(p, false))
		}
		return out
	}
	return extraction{kind: x.kind, id: all(x.id), version: all(x.version), pnr: all(x.pnr), trip: all(x.trip), travelers: all(x.travelers)}
}
