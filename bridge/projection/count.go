package projection

import (
	"cmp"
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/spotbridge/spotbridge/bridge"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

// Count implements bridge.History. Whole hours come from the hourly rollup; the hours that a time range cuts, events with
// several organizations and filters by id are counted from rows. Everything is read from one snapshot, so the counts are
// exact as of one moment.
func (p *Projection) Count(ctx context.Context, r bridge.CountRequest) (out bridge.CountResult, err error) {
	err = p.read(ctx, "count", func(st *store, pos *position) (err error) {
		out, err = p.count(ctx, st, *pos, r)
		return err
	})
	return out, err
}

// countKey is a group; what is not asked for is 0.
type countKey struct{ hour, typ, op, org int64 }

// message is a filter in normal form; nil for the nil filter, which message getters take.
func message(f *bridge.Filter) *pb.EventFilter {
	if f == nil {
		return nil
	}
	return f.Message
}

// counter counts within one snapshot.
type counter struct {
	p      *Projection
	tx     *sql.Tx
	groups []pb.CountGroup
	counts map[countKey]int64
	total  int64
}

// snapshot is a read transaction as a rower.
type snapshot struct{ *sql.Tx }

func (s snapshot) row(ctx context.Context, text string, args []any, dst ...any) error {
	return s.QueryRowContext(ctx, text, args...).Scan(dst...)
}

func (p *Projection) count(ctx context.Context, st *store, pos position, r bridge.CountRequest) (out bridge.CountResult, err error) {
	// Before the transaction: who has one connection must not wait for another.
	pl, err := p.plan(ctx, st, r.Filter, pos.span())
	if err != nil || pl.empty {
		return out, err
	}
	tx, err := st.read.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return out, err
	}
	defer tx.Rollback()
	if err := tx.QueryRowContext(ctx, "SELECT floor, watermark FROM state").Scan(&pos.floor, &pos.watermark); err != nil {
		return out, err
	}
	c := &counter{p: p, tx: tx, groups: r.GroupBy, counts: map[countKey]int64{}}
	lo, hi, err := timeRange(ctx, snapshot{tx}, &pos, r.StartTime, r.EndTime)
	if err != nil || lo > hi {
		return out, err
	}
	m := message(r.Filter)
	if len(m.GetEntityIds())+len(m.GetPnrIds())+len(m.GetTripIds())+len(m.GetTravelerIds()) > 0 {
		err = c.rows(ctx, &pl, lo, hi, false)
	} else {
		err = c.byHours(ctx, &pl, r, &pos, lo, hi)
	}
	if err != nil {
		return out, err
	}
	return c.result(ctx, r.MaxRows)
}

// byHours counts whole hours from the rollup and the rest from rows.
func (c *counter) byHours(ctx context.Context, pl *plan, r bridge.CountRequest, pos *position, lo, hi uint64) error {
	// Whole hours: from hour first up to, not including, hour end.
	first, end := int64(-1<<62)/hour, int64(1<<62)/hour
	fullLo, fullHi := lo, hi
	if !r.StartTime.IsZero() {
		ns := nanos(r.StartTime)
		if first = floorHour(ns); first*hour != ns {
			first++
		}
	}
	if !r.EndTime.IsZero() {
		end = floorHour(nanos(r.EndTime))
	}
	if first >= end {
		return c.rows(ctx, pl, lo, hi, false)
	}
	if !r.StartTime.IsZero() {
		after, err := sequenceAt(ctx, snapshot{c.tx}, pos, first*hour)
		if err != nil {
			return err
		}
		if err := c.rows(ctx, pl, lo, min(after, hi), false); err != nil {
			return err
		}
		fullLo = max(lo, after+1)
	}
	if !r.EndTime.IsZero() {
		after, err := sequenceAt(ctx, snapshot{c.tx}, pos, end*hour)
		if err != nil {
			return err
		}
		if err := c.rows(ctx, pl, max(lo, after+1), hi, false); err != nil {
			return err
		}
		fullHi = min(hi, after)
	}
	// The rollup does not know the organizations of events that have several.
	orgs := len(message(r.Filter).GetOrganizationIds()) > 0 || slices.Contains(c.groups, pb.CountGroup_COUNT_GROUP_ORGANIZATION)
	if err := c.rollup(ctx, pl, first, end, orgs); err != nil || !orgs {
		return err
	}
	return c.rows(ctx, pl, fullLo, fullHi, true)
}

// columns returns the expressions to group by.
func (c *counter) columns(hourColumn, orgColumn string) string {
	columns := []string{"0", "0", "0", "0"}
	for _, g := range c.groups {
		switch g {
		case pb.CountGroup_COUNT_GROUP_HOUR:
			columns[0] = hourColumn
		case pb.CountGroup_COUNT_GROUP_EVENT_TYPE:
			columns[1] = "n.typ"
		case pb.CountGroup_COUNT_GROUP_OPERATION:
			columns[2] = "n.op"
		case pb.CountGroup_COUNT_GROUP_ORGANIZATION:
			columns[3] = orgColumn
		}
	}
	return strings.Join(columns, ", ")
}

// hourOf rounds down, also before 1970.
const hourOf = "(n.ts / 3600000000000 - (n.ts % 3600000000000 < 0))"

// rows counts rows of events between two sequences; multi restricts them to those with several organizations.
func (c *counter) rows(ctx context.Context, pl *plan, lo, hi uint64, multi bool) error {
	if lo > hi {
		return nil
	}
	from, args := pl.from(lo, hi, multi)
	if err := c.add(ctx, true, "SELECT "+c.columns(hourOf, "n.org")+", count(*) FROM "+from+" GROUP BY 1, 2, 3, 4", args); err != nil {
		return err
	}
	if !slices.Contains(c.groups, pb.CountGroup_COUNT_GROUP_ORGANIZATION) {
		return nil
	}
	// Once more for each further organization. These do not add to the total.
	from, args = pl.from(lo, hi, true)
	return c.add(ctx, false, "SELECT "+c.columns("n.hour", "o.org")+", count(*) FROM (SELECT n.seq, n.typ, n.op, "+hourOf+" AS hour FROM "+from+
		") n CROSS JOIN other_org o ON o.seq = n.seq GROUP BY 1, 2, 3, 4", args)
}

func (c *counter) rollup(ctx context.Context, pl *plan, first, end int64, single bool) error {
	text := "SELECT " + c.columns("n.hour", "n.org") + ", sum(n.n) FROM rollup n WHERE n.hour BETWEEN ? AND ?"
	args := []any{first, end - 1}
	if single {
		text += fmt.Sprintf(" AND n.org <> %d", orgMany)
	}
	for _, cond := range pl.all {
		if cond.rollup != nil {
			cond = *cond.rollup
		}
		text, args = text+" AND "+cond.text, append(args, cond.args...)
	}
	return c.add(ctx, true, text+" GROUP BY 1, 2, 3, 4", args)
}

func (c *counter) add(ctx context.Context, total bool, text string, args []any) error {
	rows, err := c.tx.QueryContext(ctx, text, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var k countKey
		var n int64
		if err := rows.Scan(&k.hour, &k.typ, &k.op, &k.org, &n); err != nil {
			return err
		}
		c.counts[k] += n
		if total {
			c.total += n
		}
	}
	return rows.Err()
}

// result sorts the counts by hour and falling count. Above limit rows the smallest are left out.
func (c *counter) result(ctx context.Context, limit int) (bridge.CountResult, error) {
	out := bridge.CountResult{Total: c.total}
	if len(c.groups) == 0 {
		out.Counts = []*pb.EventCount{{Count: c.total}}
		if c.total == 0 {
			out.Counts = nil
		}
		return out, nil
	}
	keys := make([]countKey, 0, len(c.counts))
	for k := range c.counts {
		keys = append(keys, k)
	}
	byCount := func(a, b countKey) int {
		return cmp.Or(cmp.Compare(c.counts[b], c.counts[a]), cmp.Compare(a.typ, b.typ), cmp.Compare(a.op, b.op), cmp.Compare(a.org, b.org))
	}
	if limit > 0 && len(keys) > limit {
		slices.SortFunc(keys, func(a, b countKey) int { return cmp.Or(byCount(a, b), cmp.Compare(a.hour, b.hour)) })
		keys, out.Truncated = keys[:limit], true
	}
	slices.SortFunc(keys, func(a, b countKey) int { return cmp.Or(cmp.Compare(a.hour, b.hour), byCount(a, b)) })
	for _, k := range keys {
		e := &pb.EventCount{Count: c.counts[k]}
		for _, x := range []struct {
			id  int64
			dst *string
		}{{k.typ, &e.EventType}, {k.op, &e.Operation}, {k.org, &e.OrganizationId}} {
			var err error
			if *x.dst, err = c.label(ctx, x.id); err != nil {
				return out, err
			}
		}
		if slices.Contains(c.groups, pb.CountGroup_COUNT_GROUP_HOUR) {
			e.Hour = timestamppb.New(fromNanos(k.hour * hour))
		}
		out.Counts = append(out.Counts, e)
	}
	return out, nil
}

// label returns the text of a dictionary id. The snapshot may know one that the memory does not know yet.
func (c *counter) label(ctx context.Context, id int64) (string, error) {
	if id == 0 {
		return "", nil
	}
	if v := c.p.dict.value(id); v != "" {
		return v, nil
	}
	var v string
	err := c.tx.QueryRowContext(ctx, "SELECT value FROM dict WHERE id = ?", id).Scan(&v)
	return v, err
}
