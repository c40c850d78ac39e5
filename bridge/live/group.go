package live

import (
	"slices"
	"sort"

	"github.com/spotbridge/spotbridge/bridge"
)

// group is the subscriptions with equal filters. It remembers which of the ring's newest events match, so that each event
// is compared once for all of them. It is guarded by the hub's lock.
type group struct {
	filter *bridge.Filter
	subs   []*Subscription
	// matches holds indexes of the ring, rising: all that match from complete on. Those below the ring's base are stale.
	matches  []uint64
	complete uint64
	dirty    bool
}

// push remembers a match, and forgets the older half when there are too many.
func (g *group) push(i uint64, limit int) {
	if n := len(g.matches); n >= limit {
		old := n - limit/2
		g.complete = g.matches[old-1] + 1
		g.matches = g.matches[:copy(g.matches, g.matches[old:])]
	}
	g.matches = append(g.matches, i)
}

// from returns the matches at or after an index.
func (g *group) from(i uint64) []uint64 {
	return g.matches[sort.Search(len(g.matches), func(k int) bool { return g.matches[k] >= i }):]
}

func (g *group) add(s *Subscription) {
	s.slot = len(g.subs)
	g.subs = append(g.subs, s)
}

func (g *group) remove(s *Subscription) {
	last := g.subs[len(g.subs)-1]
	g.subs[s.slot], last.slot = last, s.slot
	g.subs[len(g.subs)-1] = nil
	g.subs = g.subs[:len(g.subs)-1]
}

// field is a property that groups are filed under.
type field uint8

const (
	byEntity field = iota
	byPNR
	byTrip
	byTraveler
	byOrganization
	byOperation
	byEventType
	bySource
)

type fileKey struct {
	field field
	value string
}

// groups finds the groups that may match an event without asking all of them: each is filed under the values of its most
// selective field. It is guarded by the hub's lock.
type groups struct {
	byKey map[string]*group
	filed map[fileKey]map[*group]struct{}
	other []*group // no field to file them under
}

func newGroups() groups {
	return groups{byKey: map[string]*group{}, filed: map[fileKey]map[*group]struct{}{}}
}

// fileKeys returns what a filter is filed under; none when it matches events whatever their values.
func fileKeys(f *bridge.Filter) []fileKey {
	if f == nil {
		return nil
	}
	m := f.Message
	for _, x := range []struct {
		field  field
		values []string
	}{
		{byEntity, m.GetEntityIds()}, {byPNR, m.GetPnrIds()}, {byTrip, m.GetTripIds()}, {byTraveler, m.GetTravelerIds()},
		{byOrganization, m.GetOrganizationIds()}, {byOperation, m.GetOperations()}, {byEventType, m.GetEventTypes()},
		{bySource, m.GetSources()},
	} {
		if len(x.values) > 0 {
			keys := make([]fileKey, len(x.values))
			for i, v := range x.values {
				keys[i] = fileKey{x.field, v}
			}
			return keys
		}
	}
	return nil
}

// join returns the group of a filter. A new one knows the ring's events from end on.
func (gs *groups) join(f *bridge.Filter, end uint64) *group {
	if g := gs.byKey[f.Key()]; g != nil {
		return g
	}
	g := &group{filter: f, complete: end}
	gs.byKey[f.Key()] = g
	keys := fileKeys(f)
	if len(keys) == 0 {
		gs.other = append(gs.other, g)
	}
	for _, k := range keys {
		if gs.filed[k] == nil {
			gs.filed[k] = map[*group]struct{}{}
		}
		gs.filed[k][g] = struct{}{}
	}
	return g
}

// leave forgets a group without subscriptions.
func (gs *groups) leave(g *group) {
	delete(gs.byKey, g.filter.Key())
	if i := slices.Index(gs.other, g); i >= 0 {
		gs.other = slices.Delete(gs.other, i, i+1)
	}
	for _, k := range fileKeys(g.filter) {
		delete(gs.filed[k], g)
		if len(gs.filed[k]) == 0 {
			delete(gs.filed, k)
		}
	}
}

// match calls found once with each group whose filter matches the event.
func (gs *groups) match(m *bridge.Meta, i uint64, found func(*group)) {
	for _, g := range gs.other {
		if g.filter.Match(m) {
			found(g)
		}
	}
	if len(gs.filed) == 0 {
		return
	}
	try := func(candidates map[*group]struct{}) {
		for g := range candidates {
			// An event with several organizations or travelers may lead to a group more than once.
			if n := len(g.matches); (n == 0 || g.matches[n-1] != i) && g.filter.Match(m) {
				found(g)
			}
		}
	}
	try(gs.filed[fileKey{byEntity, m.EntityID}])
	try(gs.filed[fileKey{byPNR, m.PNRID}])
	try(gs.filed[fileKey{byTrip, m.TripID}])
	for _, v := range m.TravelerIDs {
		try(gs.filed[fileKey{byTraveler, v}])
	}
	for _, v := range m.Organizations {
		try(gs.filed[fileKey{byOrganization, v}])
	}
	try(gs.filed[fileKey{byOperation, m.Operation}])
	try(gs.filed[fileKey{byEventType, m.EventType}])
	try(gs.filed[fileKey{bySource, m.Source}])
}
