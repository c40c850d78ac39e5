package bridge_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/spotbridge/spotbridge/bridge"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

func TestFiltersThatAreRefusedNameTheirField(t *testing.T) {
	many := func(n int) []string {
		out := make([]string, n)
		for i := range out {
			out[i] = fmt.Sprint("v", i)
		}
		return out
	}
	for _, tc := range []struct {
		name, field string
		filter      *pb.EventFilter
	}{
		{"empty type", "f.event_types[1]", &pb.EventFilter{EventTypes: []string{"PNR_V3", ""}}},
		{"empty operation", "f.operations[0]", &pb.EventFilter{Operations: []string{""}}},
		{"empty excluded operation", "f.exclude_operations[0]", &pb.EventFilter{ExcludeOperations: []string{""}}},
		{"empty organization", "f.organization_ids[0]", &pb.EventFilter{OrganizationIds: []string{""}}},
		{"empty source", "f.sources[0]", &pb.EventFilter{Sources: []string{""}}},
		{"empty entity", "f.entity_ids[0]", &pb.EventFilter{EntityIds: []string{""}}},
		{"empty PNR", "f.pnr_ids[0]", &pb.EventFilter{PnrIds: []string{""}}},
		{"empty trip", "f.trip_ids[0]", &pb.EventFilter{TripIds: []string{""}}},
		{"empty traveler", "f.traveler_ids[0]", &pb.EventFilter{TravelerIds: []string{""}}},
		{"too long", "f.pnr_ids[0]", &pb.EventFilter{PnrIds: []string{strings.Repeat("x", 1025)}}},
		{"not UTF-8", "f.trip_ids[1]", &pb.EventFilter{TripIds: []string{"t", "\xff"}}},
		{"too many", "f.trip_ids", &pb.EventFilter{PnrIds: many(600), TripIds: many(401)}},
		{"in and out", "f.operations[1]", &pb.EventFilter{Operations: []string{"A", "B"}, ExcludeOperations: []string{"B", "C"}}},
		{"impossible source", "f.sources[1]", &pb.EventFilter{Sources: []string{"a", "A"}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f, err := bridge.CompileFilter(tc.filter, "f")
			if f != nil || reason(err) != "INVALID_FILTER" || !strings.HasPrefix(err.Error(), tc.field+": ") {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestFiltersOfTheLargestSizeCompile(t *testing.T) {
	values := make([]string, 1000)
	for i := range values {
		values[i] = fmt.Sprintf("%04d", i) + strings.Repeat("x", 1020)
	}
	if _, err := bridge.CompileFilter(&pb.EventFilter{PnrIds: values}, "filter"); err != nil {
		t.Error(err)
	}
}

func TestUnknownVocabularyIsAWarning(t *testing.T) {
	for _, tc := range []struct {
		name   string
		filter *pb.EventFilter
		fields []string
	}{
		{"known", &pb.EventFilter{EventTypes: []string{"PNR_V3"}, Operations: []string{"BOOKING_CREATED"}}, nil},
		{"unknown type", &pb.EventFilter{EventTypes: []string{"PNR_V3", "PNR_V9"}}, []string{"filter.event_types[1]"}},
		{"unknown operation", &pb.EventFilter{EventTypes: []string{"PNR_V3"}, Operations: []string{"BOOKING_CREATED", "BOKING"}}, []string{"filter.operations[1]"}},
		{"unknown operation of any type", &pb.EventFilter{Operations: []string{"BOKING"}}, []string{"filter.operations[0]"}},
		{"operation of another type", &pb.EventFilter{EventTypes: []string{"TRAVELER_V2"}, Operations: []string{"BOOKING_CREATED"}}, []string{"filter.operations[0]"}},
		{"excluded", &pb.EventFilter{ExcludeOperations: []string{"BOKING"}}, []string{"filter.exclude_operations[0]"}},
		{"type without published operations", &pb.EventFilter{EventTypes: []string{"TRIP_DETAILS_V3"}, Operations: []string{"ANYTHING"}}, nil},
		{"unknown type may have any operation", &pb.EventFilter{EventTypes: []string{"PNR_V9"}, Operations: []string{"ANYTHING"}}, []string{"filter.event_types[0]"}},
		{"both spellings of a trap", &pb.EventFilter{Operations: []string{"FLIGHT_CANCELLED", "BOOKING_CANCELED_BY_TRAVELER"}}, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f, err := bridge.CompileFilter(tc.filter, "filter")
			if err != nil {
				t.Fatal(err)
			}
			var fields []string
			for _, w := range f.Warnings {
				fields = append(fields, w.GetField())
			}
			if !slices.Equal(fields, tc.fields) {
				t.Errorf("warnings %v, want %v", fields, tc.fields)
			}
		})
	}
}

func TestFilterMatches(t *testing.T) {
	m := &bridge.Meta{
		Source: "sandbox", EventType: "PNR_V3", Operation: "BOOKING_CREATED", Organizations: []string{"a", "b"},
		EntityID: "p", PNRID: "p", TripID: "t", TravelerIDs: []string{"u", "v"}, Stale: true,
	}
	for _, tc := range []struct {
		name   string
		filter *pb.EventFilter
		want   bool
	}{
		{"nil", nil, true},
		{"empty", &pb.EventFilter{}, true},
		{"everything fits", &pb.EventFilter{
			EventTypes: []string{"X", "PNR_V3"}, Operations: []string{"BOOKING_CREATED"}, ExcludeOperations: []string{"X"}, OrganizationIds: []string{"b"},
			Sources: []string{"sandbox"}, EntityIds: []string{"p"}, PnrIds: []string{"p"}, TripIds: []string{"t"}, TravelerIds: []string{"v"},
		}, true},
		{"type", &pb.EventFilter{EventTypes: []string{"pnr_v3"}}, false},
		{"operation", &pb.EventFilter{Operations: []string{"BOOKING"}}, false},
		{"excluded operation", &pb.EventFilter{ExcludeOperations: []string{"X", "BOOKING_CREATED"}}, false},
		{"organization", &pb.EventFilter{OrganizationIds: []string{"c"}}, false},
		{"source", &pb.EventFilter{Sources: []string{"production"}}, false},
		{"entity", &pb.EventFilter{EntityIds: []string{"t"}}, false},
		{"PNR", &pb.EventFilter{PnrIds: []string{"q"}}, false},
		{"trip", &pb.EventFilter{TripIds: []string{"p"}}, false},
		{"traveler", &pb.EventFilter{TravelerIds: []string{"w"}}, false},
		{"one field of two", &pb.EventFilter{PnrIds: []string{"p"}, TripIds: []string{"x"}}, false},
		{"stale", &pb.EventFilter{ExcludeStale: true}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f, err := bridge.CompileFilter(tc.filter, "filter")
			if err != nil {
				t.Fatal(err)
			}
			if f.Match(m) != tc.want {
				t.Errorf("%v", !tc.want)
			}
			if f.MatchesAll() != (proto.Size(tc.filter) == 0) {
				t.Errorf("MatchesAll %v", f.MatchesAll())
			}
		})
	}
	bare := &bridge.Meta{EventType: "T"}
	f, err := bridge.CompileFilter(&pb.EventFilter{ExcludeOperations: []string{"X"}, ExcludeStale: true}, "filter")
	if err != nil || !f.Match(bare) {
		t.Errorf("an event without operation and ordering: %v", err)
	}
	f, err = bridge.CompileFilter(&pb.EventFilter{OrganizationIds: []string{"a"}}, "filter")
	if err != nil || f.Match(bare) {
		t.Errorf("an event without organization: %v", err)
	}
	var none *bridge.Filter
	if !none.Match(m) || !none.MatchesAll() || none.Key() != "" {
		t.Error("the nil filter")
	}
}

func TestEqualFiltersHaveOneKey(t *testing.T) {
	key := func(f *pb.EventFilter) string {
		t.Helper()
		c, err := bridge.CompileFilter(f, "filter")
		if err != nil {
			t.Fatal(err)
		}
		return c.Key()
	}
	same := key(&pb.EventFilter{PnrIds: []string{"b", "a", "b"}})
	if same != key(&pb.EventFilter{PnrIds: []string{"a", "b"}}) {
		t.Error("order and repeats count")
	}
	for _, other := range []*pb.EventFilter{
		{}, {PnrIds: []string{"a"}}, {TripIds: []string{"a", "b"}}, {PnrIds: []string{"a", "b"}, ExcludeStale: true}, {PnrIds: []string{"ab"}}, {Operations: []string{"a", "b"}}, {ExcludeOperations: []string{"a", "b"}},
	} {
		if key(other) == same {
			t.Errorf("%v has the same key", other)
		}
	}
	in := &pb.EventFilter{PnrIds: []string{"b", "a"}}
	if key(in); in.GetPnrIds()[0] != "b" {
		t.Error("the caller's filter was changed")
	}
}

func TestTheCatalogueIsReadable(t *testing.T) {
	if n := len(bridge.Catalog()); n != 6 {
		t.Errorf("%d event types", n)
	}
	for _, name := range []string{"PNR_V3", "TRIP_DETAILS_V3", "TRAVELER_V2", "PNR_APPROVAL", "AGENT_TASK_DETAILS", "SERVICE_CHARGE"} {
		if !bridge.KnownEventType(name) {
			t.Errorf("no %s", name)
		}
	}
	if bridge.KnownEventType("") || bridge.KnownOperation(nil, "") {
		t.Error("empty names are known")
	}
}

func FuzzFilter(f *testing.F) {
	add := func(filter *pb.EventFilter) {
		b, err := proto.Marshal(filter)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, "PNR_V3", "BOOKING_CREATED", "a", "p")
	}
	add(&pb.EventFilter{})
	add(&pb.EventFilter{EventTypes: []string{"PNR_V3", ""}, ExcludeStale: true})
	add(&pb.EventFilter{Operations: []string{"A", "B"}, ExcludeOperations: []string{"C"}, Sources: []string{"sandbox"}})
	add(&pb.EventFilter{OrganizationIds: []string{"a"}, EntityIds: []string{"p"}, PnrIds: []string{"p"}, TripIds: []string{"t"}, TravelerIds: []string{"u"}})
	f.Fuzz(func(t *testing.T, wire []byte, eventType, operation, organization, id string) {
		msg := &pb.EventFilter{}
		if proto.Unmarshal(wire, msg) != nil {
			return
		}
		before := proto.CloneOf(msg)
		filter, err := bridge.CompileFilter(msg, "filter")
		if !proto.Equal(before, msg) {
			t.Fatal("the filter was changed")
		}
		if err != nil {
			if reason(err) != "INVALID_FILTER" || !strings.HasPrefix(err.Error(), "filter") {
				t.Fatal(err)
			}
			return
		}
		m := &bridge.Meta{Source: "sandbox", EventType: eventType, Operation: operation, Organizations: []string{"z", organization}, EntityID: id, PNRID: id, TripID: id, TravelerIDs: []string{id}}
		if got, want := filter.Match(m), naive(msg, m); got != want {
			t.Fatalf("%v on %+v: %v, want %v", msg, m, got, want)
		}
		// The normal form is a filter of its own with the same meaning.
		again, err := bridge.CompileFilter(filter.Message, "filter")
		if err != nil || again.Key() != filter.Key() || again.Match(m) != filter.Match(m) {
			t.Fatalf("normal form %v: %v", filter.Message, err)
		}
	})
}

// naive is the filter's meaning in the simplest words.
func naive(f *pb.EventFilter, m *bridge.Meta) bool {
	in := func(values []string, of ...string) bool {
		return len(values) == 0 || slices.ContainsFunc(of, func(v string) bool { return slices.Contains(values, v) })
	}
	return in(f.GetEventTypes(), m.EventType) && in(f.GetOperations(), m.Operation) && !slices.Contains(f.GetExcludeOperations(), m.Operation) &&
		in(f.GetOrganizationIds(), m.Organizations...) && in(f.GetSources(), m.Source) && in(f.GetEntityIds(), m.EntityID) &&
		in(f.GetPnrIds(), m.PNRID) && in(f.GetTripIds(), m.TripID) && in(f.GetTravelerIds(), m.TravelerIDs...) && (!f.GetExcludeStale() || !m.Stale)
}
