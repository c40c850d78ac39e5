package projection

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// found is a stretch of matching sequences.
type found struct {
	// seqs match, in the order that was asked for.
	seqs []uint64
	// edge is the last sequence up to which everything was looked at, when there may be more behind it; 0 when there is
	// no more.
	edge uint64
}

// find returns up to limit sequences between lo and hi that the plan selects, newest first or oldest first. It looks at no
// more than pl.looked rows of the driving selection and then returns what it has, with the edge.
func (pl *plan) find(ctx context.Context, st *store, lo, hi uint64, desc bool, limit int) (found, error) {
	if pl.empty || lo > hi {
		return found{}, nil
	}
	if len(pl.arms) <= maxArms {
		return pl.findPart(ctx, st, pl.arms, lo, hi, desc, limit, pl.looked)
	}
	// More arms than a statement merges: they are merged here. What lies behind the nearest edge of any part is not known.
	var all []uint64
	var edge uint64
	parts := (len(pl.arms) + maxArms - 1) / maxArms
	for part := range slices.Chunk(pl.arms, maxArms) {
		f, err := pl.findPart(ctx, st, part, lo, hi, desc, limit, max(pl.looked/parts, 1))
		if err != nil {
			return found{}, err
		}
		all = append(all, f.seqs...)
		if f.edge != 0 && (edge == 0 || (f.edge > edge) == desc) {
			edge = f.edge
		}
	}
	slices.Sort(all)
	all = slices.Compact(all)
	if desc {
		slices.Reverse(all)
	}
	if edge != 0 {
		for i, seq := range all {
			if seq != edge && (seq < edge) == desc {
				all = all[:i]
				break
			}
		}
	}
	if len(all) > limit {
		all = all[:limit]
		edge = all[limit-1]
	}
	return found{seqs: all, edge: edge}, nil
}

func (pl *plan) findPart(ctx context.Context, st *store, arms []arm, lo, hi uint64, desc bool, limit, looked int) (found, error) {
	text, args := pl.statement(arms, lo, hi, desc, limit+1, looked)
	rows, err := st.rows(ctx, text, args...)
	if err != nil {
		return found{}, err
	}
	f := found{seqs: make([]uint64, 0, min(limit, 1024)+1)}
	if f.seqs, err = scanSeqs(rows, f.seqs); err != nil {
		return found{}, err
	}
	for i := 1; i < len(f.seqs); i++ {
		if (f.seqs[i] < f.seqs[i-1]) != desc || f.seqs[i] == f.seqs[i-1] {
			return found{}, fmt.Errorf("sequences out of order: %d after %d", f.seqs[i], f.seqs[i-1])
		}
	}
	if len(f.seqs) > limit {
		f.seqs = f.seqs[:limit]
		f.edge = f.seqs[limit-1]
		return f, nil
	}
	// Either everything was looked at, or the budget was spent: then the edge is the last row that was looked at.
	if hi-lo < uint64(looked) || (pl.rows >= 0 && pl.rows <= int64(looked)) {
		return f, nil
	}
	text, args = driving(arms, pl.repeats, lo, hi, desc)
	err = st.row(ctx, text+" LIMIT 1 OFFSET ?", append(args, looked-1), &f.edge)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return f, nil
	case err != nil:
		return found{}, err
	}
	if (desc && f.edge == lo) || (!desc && f.edge == hi) {
		f.edge = 0
	}
	return f, nil
}

func scanSeqs(rows *sql.Rows, seqs []uint64) ([]uint64, error) {
	defer rows.Close()
	for rows.Next() {
		var seq uint64
		if err := rows.Scan(&seq); err != nil {
			return nil, err
		}
		seqs = append(seqs, seq)
	}
	return seqs, rows.Err()
}

// statement returns the statement that finds sequences. The driving selection runs as a co-routine that ends as soon as
// the limit is reached; CROSS JOIN keeps it in front, and so its order.
func (pl *plan) statement(arms []arm, lo, hi uint64, desc bool, limit, looked int) (string, []any) {
	if len(pl.where) == 0 {
		text, args := driving(arms, pl.repeats, lo, hi, desc)
		return text + " LIMIT ?", append(args, min(limit, looked))
	}
	var b strings.Builder
	var args []any
	if len(arms) == 0 {
		// The primary key drives: conditions are checked on the way.
		fmt.Fprintf(&b, "SELECT n.seq FROM (SELECT seq, typ, op, org, src, flags, eid FROM events WHERE seq BETWEEN ? AND ? ORDER BY seq %s LIMIT ?) n WHERE ", direction(desc))
		args = append(args, lo, hi, looked)
	} else {
		text, a := driving(arms, pl.repeats, lo, hi, desc)
		b.WriteString("SELECT n.seq FROM (" + text + " LIMIT ?) d CROSS JOIN events n ON n.seq = d.seq WHERE ")
		args = append(a, looked)
	}
	for i, c := range pl.where {
		if i > 0 {
			b.WriteString(" AND ")
		}
		b.WriteString(c.text)
		args = append(args, c.args...)
	}
	b.WriteString(" LIMIT ?")
	return b.String(), append(args, limit)
}

// driving returns the driving selection: the sequences of the arms between lo and hi, in order. SQLite merges the arms,
// each of which its index yields in order; nothing is sorted.
func driving(arms []arm, repeats bool, lo, hi uint64, desc bool) (string, []any) {
	if len(arms) == 0 {
		return "SELECT seq FROM events WHERE seq BETWEEN ? AND ? ORDER BY seq " + direction(desc), []any{lo, hi}
	}
	union := " UNION ALL "
	if repeats {
		union = " UNION "
	}
	var b strings.Builder
	args := make([]any, 0, 4*len(arms))
	for i, a := range arms {
		if i > 0 {
			b.WriteString(union)
		}
		b.WriteString("SELECT seq FROM " + a.from + " AND seq BETWEEN ? AND ?")
		args = append(append(args, a.args...), lo, hi)
	}
	b.WriteString(" ORDER BY seq " + direction(desc))
	return b.String(), args
}

// from returns the rows of events, as n, that the plan selects between lo and hi, in any order: FROM and WHERE of a
// statement that counts. multi restricts them to events with several organizations.
func (pl *plan) from(lo, hi uint64, multi bool) (string, []any) {
	var b strings.Builder
	var args []any
	where := pl.all
	switch {
	case multi && (len(pl.arms) == 0 || pl.rows >= 0):
		b.WriteString("(SELECT DISTINCT seq FROM other_org INDEXED BY other_org_seq WHERE seq BETWEEN ? AND ?) d CROSS JOIN events n ON n.seq = d.seq WHERE 1")
		args = append(args, lo, hi)
	case len(pl.arms) == 0:
		b.WriteString("events AS n NOT INDEXED WHERE n.seq BETWEEN ? AND ?")
		args = append(args, lo, hi)
	default:
		union := " UNION ALL "
		if pl.repeats {
			union = " UNION "
		}
		b.WriteString("(")
		for i := 0; i < len(pl.arms); i += maxArms {
			// In groups: SQLite takes no more than 500 selections in a row.
			if i > 0 {
				b.WriteString(union)
			}
			b.WriteString("SELECT seq FROM (")
			for j, a := range pl.arms[i:min(i+maxArms, len(pl.arms))] {
				if j > 0 {
					b.WriteString(union)
				}
				b.WriteString("SELECT seq FROM " + a.from + " AND seq BETWEEN ? AND ?")
				args = append(append(args, a.args...), lo, hi)
			}
			b.WriteString(")")
		}
		b.WriteString(") d CROSS JOIN events n ON n.seq = d.seq WHERE 1")
		where = pl.where
		if multi {
			fmt.Fprintf(&b, " AND n.flags >= %d", flagMulti)
		}
	}
	for _, c := range where {
		b.WriteString(" AND " + c.text)
		args = append(args, c.args...)
	}
	return b.String(), args
}
