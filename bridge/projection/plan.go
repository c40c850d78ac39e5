package projection

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/spotbridge/spotbridge/bridge"
)

const (
	// maxLooked is how many index rows one call looks at.
	maxLooked = 50_000
	// maxArms is how many values of the driving field one statement merges; what more statements find is merged in find.
	maxArms = 64
	// maxListed is how many values a condition lists as parameters; more are passed as one JSON text.
	maxListed = 64
)

// arm is a selection of sequences, ordered by sequence by an index: FROM and WHERE without the range. The driving
// selection of a plan is the merge of its arms.
type arm struct {
	from string
	args []any
}

// plan says how the events that match a filter are found: by merging arms, each of which is a stretch of an index, and by
// checking the other conditions row by row on table events, as n.
type plan struct {
	// empty says that nothing can match.
	empty bool
	// arms is nil when the primary key drives.
	arms []arm
	// repeats says that two arms may have the same sequence.
	repeats bool
	// rows is an upper bound of the rows of all arms, or -1 when it is not known.
	rows int64
	// looked is how many rows of the arms one call looks at.
	looked int
	// all has the conditions of the filter, where those that the arms do not cover.
	all, where []condition
}

// condition is a condition on n, which is table events; rollup is the same one on table rollup where it is another there.
type condition struct {
	text   string
	args   []any
	rollup *condition
}

// ids are the values of a filter field, as the database knows them.
type ids struct {
	set    bool
	values []any
	// rows and extra are how many events have one of the values, and have it as a further organization.
	rows, extra int64
}

func (p *Projection) lookup(kind dictKind, values []string) ids {
	x := ids{set: len(values) > 0}
	for _, v := range values {
		if e, ok := p.dict.get(kind, v); ok {
			x.values = append(x.values, e.id)
			x.rows += e.n
			x.extra += e.extra
		}
	}
	return x
}

func entKeys(values []string) ids {
	x := ids{set: len(values) > 0}
	for _, v := range values {
		x.values = append(x.values, entKey(v))
	}
	return x
}

// plan chooses how to find what a filter matches. total is about how many events there are.
func (p *Projection) plan(ctx context.Context, st *store, f *bridge.Filter, total int64) (plan, error) {
	if f.MatchesAll() {
		return plan{rows: -1, looked: p.looked}, nil
	}
	m := f.Message
	typ, op := p.lookup(dictType, m.GetEventTypes()), p.lookup(dictOperation, m.GetOperations())
	org, src := p.lookup(dictOrganization, m.GetOrganizationIds()), p.lookup(dictSource, m.GetSources())
	pnr, trip, traveler := entKeys(m.GetPnrIds()), entKeys(m.GetTripIds()), entKeys(m.GetTravelerIds())
	entity, err := p.entities(ctx, st, m.GetEntityIds())
	if err != nil {
		return plan{}, err
	}
	for _, x := range []ids{typ, op, org, src, entity} {
		if x.set && len(x.values) == 0 {
			return plan{empty: true}, nil
		}
	}
	b := planner{plan: plan{rows: -1, looked: p.looked}, total: total}
	// The driving selection. An id is in few events; then the field, or pair of fields, whose values the fewest have.
	switch {
	case entity.set:
		b.drive("entity", indexArms("events_eid", "eid", entity.values), false, -1)
	case pnr.set:
		b.drive("pnr", entArms(entPNR, pnr.values), false, -1)
	case trip.set:
		b.drive("trip", entArms(entTrip, trip.values), false, -1)
	case traveler.set:
		b.drive("traveler", entArms(entTraveler, traveler.values), len(traveler.values) > 1, -1)
	default:
		b.consider("typ", typ, typ.rows)
		b.consider("op", op, op.rows)
		b.consider("src", src, src.rows)
		b.considerOrg(org, op)
	}
	// The other conditions.
	b.in("typ", "n.typ", typ)
	b.in("op", "n.op", op)
	b.in("src", "n.src", src)
	b.in("entity", "n.eid", entity)
	b.org(org)
	b.ent("pnr", entPNR, pnr)
	b.ent("trip", entTrip, trip)
	b.ent("traveler", entTraveler, traveler)
	if not := p.lookup(dictOperation, m.GetExcludeOperations()); len(not.values) > 0 {
		text, args := list(not.values)
		b.add(false, condition{text: "n.op NOT IN " + text, args: args})
	}
	if m.GetExcludeStale() {
		b.add(false, condition{text: fmt.Sprintf("n.flags & %d = 0", flagStale), rollup: &condition{text: "n.stale = 0"}})
	}
	return b.plan, nil
}

// entities returns the numbers of the entities with one of the ids, of any kind.
func (p *Projection) entities(ctx context.Context, st *store, values []string) (ids, error) {
	x := ids{set: len(values) > 0}
	for _, v := range values {
		rows, err := st.rows(ctx, "SELECT eid FROM entity WHERE id = ?", entKey(v))
		if err != nil {
			return ids{}, err
		}
		eids, err := scanSeqs(rows, nil)
		if err != nil {
			return ids{}, err
		}
		for _, eid := range eids {
			x.values = append(x.values, eid)
		}
	}
	return x, nil
}

// planner collects a plan.
type planner struct {
	plan
	total  int64
	driver string
}

func (b *planner) drive(name string, arms []arm, repeats bool, rows int64) {
	b.driver, b.arms, b.repeats, b.rows = name, arms, repeats, rows
}

// pays reports whether driving by an index with so many rows is better than what was chosen so far. The primary key needs
// no second look-up, so it wins where most events match.
func (b *planner) pays(rows int64) bool {
	if b.arms == nil {
		return rows < b.total/2
	}
	return rows < b.rows
}

func (b *planner) consider(column string, x ids, rows int64) {
	if x.set && b.pays(rows) {
		b.drive(column, indexArms("events_"+column, column, x.values), false, rows)
	}
}

// considerOrg drives by organization, together with the operation where both are given. Further organizations of events
// have a table of their own.
func (b *planner) considerOrg(org, op ids) {
	if !org.set {
		return
	}
	rows := org.rows + org.extra
	pairs := op.set && len(org.values)*len(op.values) <= maxArms
	if pairs {
		// What both have is not known; it is less than either.
		rows = min(rows, op.rows+org.extra)
		if !b.pays(rows) && b.driver != "op" {
			return
		}
	} else if !b.pays(rows) {
		return
	}
	var arms []arm
	for _, o := range org.values {
		if !pairs {
			arms = append(arms, arm{"events INDEXED BY events_org WHERE org = ?", []any{o}})
			continue
		}
		for _, v := range op.values {
			arms = append(arms, arm{"events INDEXED BY events_org_op WHERE org = ? AND op = ?", []any{o, v}})
		}
	}
	repeats := org.extra > 0
	if repeats {
		for _, o := range org.values {
			arms = append(arms, arm{"other_org WHERE org = ?", []any{o}})
		}
	}
	name := "org"
	if pairs && !repeats {
		name = "org+op"
	}
	b.drive(name, arms, repeats, rows)
}

func indexArms(index, column string, values []any) []arm {
	arms := make([]arm, len(values))
	for i, v := range values {
		arms[i] = arm{"events INDEXED BY " + index + " WHERE " + column + " = ?", []any{v}}
	}
	return arms
}

func entArms(kind int64, values []any) []arm {
	arms := make([]arm, len(values))
	for i, v := range values {
		arms[i] = arm{"ent WHERE kind = ? AND id = ?", []any{kind, v}}
	}
	return arms
}

// add adds a condition. covered says that the driving selection has it.
func (b *planner) add(covered bool, c condition) {
	b.all = append(b.all, c)
	if !covered {
		b.where = append(b.where, c)
	}
}

func (b *planner) in(name, column string, x ids) {
	if x.set {
		text, args := list(x.values)
		b.add(b.driver == name || (name == "op" && b.driver == "org+op"), condition{text: column + " IN " + text, args: args})
	}
}

func (b *planner) org(x ids) {
	if !x.set {
		return
	}
	text, args := list(x.values)
	c := condition{text: "n.org IN " + text, args: args}
	if x.extra > 0 {
		c.rollup = &condition{text: c.text, args: c.args}
		c.text = fmt.Sprintf("(%s OR (n.flags >= %d AND EXISTS (SELECT 1 FROM other_org o WHERE o.org IN %s AND o.seq = n.seq)))", c.text, flagMulti, text)
		c.args = append(append([]any{}, args...), args...)
	}
	b.add(strings.HasPrefix(b.driver, "org"), c)
}

func (b *planner) ent(name string, kind int64, x ids) {
	if !x.set {
		return
	}
	text, args := list(x.values)
	c := condition{
		text: "EXISTS (SELECT 1 FROM ent x WHERE x.kind = ? AND x.id IN " + text + " AND x.seq = n.seq)",
		args: append([]any{kind}, args...),
	}
	b.add(b.driver == name, c)
}

// list returns the right side of IN. Up to maxListed values are parameters, filled up with repeats to one of few numbers,
// so that statements stay prepared.
func list(values []any) (string, []any) {
	if len(values) > maxListed {
		return jsonList(values)
	}
	n := 1
	for n < len(values) {
		n *= 2
	}
	args := append(make([]any, 0, n), values...)
	for len(args) < n {
		args = append(args, values[0])
	}
	return "(?" + strings.Repeat(",?", n-1) + ")", args
}

// jsonList is list for many values: numbers, texts, or bytes, which JSON has not and which are written in hex.
func jsonList(values []any) (string, []any) {
	column, texts := "value", make([]string, len(values))
	for i, v := range values {
		switch v := v.(type) {
		case []byte:
			column, texts[i] = "unhex(value)", fmt.Sprintf(`"%x"`, v)
		case string:
			quoted, _ := json.Marshal(v) // a text always has a JSON form
			texts[i] = string(quoted)
		default:
			texts[i] = fmt.Sprint(v)
		}
	}
	return "(SELECT " + column + " FROM json_each(?))", []any{"[" + strings.Join(texts, ",") + "]"}
}
