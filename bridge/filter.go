package bridge

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"slices"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"

	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

const (
	maxFilterValues = 1000
	maxFilterValue  = 1024
)

// Filter is an EventFilter, checked and compiled. It is immutable. The nil filter matches everything.
type Filter struct {
	// Message is the filter in normal form: values sorted, without repeats.
	Message *pb.EventFilter
	// Warnings say what is allowed and probably not meant.
	Warnings []*pb.Warning

	eventTypes, operations, excludeOperations, organizations, sources set
	entities, pnrs, trips, travelers                                  set
	key                                                               string
}

type set map[string]struct{}

func newSet(values []string) set {
	if len(values) == 0 {
		return nil
	}
	s := make(set, len(values))
	for _, v := range values {
		s[v] = struct{}{}
	}
	return s
}

func (s set) allows(v string) bool {
	if s == nil {
		return true
	}
	_, ok := s[v]
	return ok
}

func (s set) allowsAny(vs []string) bool {
	if s == nil {
		return true
	}
	for _, v := range vs {
		if _, ok := s[v]; ok {
			return true
		}
	}
	return false
}

// CompileFilter checks a filter and compiles it. field is the path of the filter in the request. Errors are *Error with
// reason INVALID_FILTER.
func CompileFilter(msg *pb.EventFilter, field string) (*Filter, error) {
	f := &Filter{Message: &pb.EventFilter{ExcludeStale: msg.GetExcludeStale()}}
	total := 0
	refuse := func(name, message string) error {
		return &Error{Reason: pb.ErrorReason_ERROR_REASON_INVALID_FILTER, Field: field + "." + name, Message: message}
	}
	for _, x := range []struct {
		name string
		in   []string
		out  *[]string
		set  *set
	}{
		{"event_types", msg.GetEventTypes(), &f.Message.EventTypes, &f.eventTypes},
		{"operations", msg.GetOperations(), &f.Message.Operations, &f.operations},
		{"exclude_operations", msg.GetExcludeOperations(), &f.Message.ExcludeOperations, &f.excludeOperations},
		{"organization_ids", msg.GetOrganizationIds(), &f.Message.OrganizationIds, &f.organizations},
		{"sources", msg.GetSources(), &f.Message.Sources, &f.sources},
		{"entity_ids", msg.GetEntityIds(), &f.Message.EntityIds, &f.entities},
		{"pnr_ids", msg.GetPnrIds(), &f.Message.PnrIds, &f.pnrs},
		{"trip_ids", msg.GetTripIds(), &f.Message.TripIds, &f.trips},
		{"traveler_ids", msg.GetTravelerIds(), &f.Message.TravelerIds, &f.travelers},
	} {
		for i, v := range x.in {
			switch {
			case v == "":
				return nil, refuse(fmt.Sprintf("%s[%d]", x.name, i), "is empty; leave the field out to match everything")
			case len(v) > maxFilterValue:
				return nil, refuse(fmt.Sprintf("%s[%d]", x.name, i), fmt.Sprintf("is longer than %d bytes", maxFilterValue))
			case !utf8.ValidString(v):
				return nil, refuse(fmt.Sprintf("%s[%d]", x.name, i), "is not UTF-8")
			}
		}
		if total += len(x.in); total > maxFilterValues {
			return nil, refuse(x.name, fmt.Sprintf("the filter has more than %d values", maxFilterValues))
		}
		*x.out = slices.Compact(slices.Sorted(slices.Values(x.in)))
		*x.set = newSet(*x.out)
	}
	for i, op := range msg.GetOperations() {
		if _, ok := f.excludeOperations[op]; ok {
			return nil, refuse(fmt.Sprintf("operations[%d]", i), "also stands in exclude_operations; remove it from one of them")
		}
	}
	for i, s := range msg.GetSources() {
		if !ValidSource(s) {
			return nil, refuse(fmt.Sprintf("sources[%d]", i), "is a name that no source can have; names are 1 to 32 characters of a-z, 0-9 and -")
		}
	}
	f.Warnings = catalogueWarnings(msg, field)
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(f.Message)
	if err != nil {
		return nil, &Error{Reason: pb.ErrorReason_ERROR_REASON_INVALID_FILTER, Field: field, Message: "cannot be encoded", Err: err}
	}
	sum := sha256.Sum256(b)
	f.key = string(sum[:])
	return f, nil
}

// Key is equal for filters that select the same events by the same values.
func (f *Filter) Key() string {
	if f == nil {
		return ""
	}
	return f.key
}

// MatchesAll reports whether the filter does not restrict anything.
func (f *Filter) MatchesAll() bool {
	return f == nil || proto.Size(f.Message) == 0
}

// Match reports whether the filter selects the event.
func (f *Filter) Match(m *Meta) bool {
	if f == nil {
		return true
	}
	if f.Message.GetExcludeStale() && m.Stale {
		return false
	}
	if !f.eventTypes.allows(m.EventType) || !f.operations.allows(m.Operation) ||
		!f.organizations.allowsAny(m.Organizations) || !f.sources.allows(m.Source) ||
		!f.entities.allows(m.EntityID) || !f.pnrs.allows(m.PNRID) || !f.trips.allows(m.TripID) ||
		!f.travelers.allowsAny(m.TravelerIDs) {
		return false
	}
	if f.excludeOperations != nil {
		if _, out := f.excludeOperations[m.Operation]; out {
			return false
		}
	}
	return true
}

func catalogueWarnings(msg *pb.EventFilter, field string) []*pb.Warning {
	var out []*pb.Warning
	for i, t := range msg.GetEventTypes() {
		if !KnownEventType(t) {
			out = append(out, &pb.Warning{
				Field:   fmt.Sprintf("%s.event_types[%d]", field, i),
				Message: "the catalogue does not know this event type; the filter matches once such events come. See ListEventTypes",
			})
		}
	}
	check := func(name string, ops []string) {
		for i, op := range ops {
			if !KnownOperation(msg.GetEventTypes(), op) {
				out = append(out, &pb.Warning{
					Field:   fmt.Sprintf("%s.%s[%d]", field, name, i),
					Message: "the catalogue does not know this operation for the chosen event types; the filter matches once such events come. See ListEventTypes",
				})
			}
		}
	}
	check("operations", msg.GetOperations())
	check("exclude_operations", msg.GetExcludeOperations())
	slices.SortStableFunc(out, func(a, b *pb.Warning) int { return cmp.Compare(a.Field, b.Field) })
	return out
}
