package projection

import (
	"context"
	"slices"
	"strconv"
	"strings"
)

const (
	// maxEntities is how many entities one call of latest compares the events of, and those of one more chunk.
	maxEntities = 2_000
	// latestChunk is how many candidates are looked up at once, at least.
	latestChunk = 64
)

// latest is find, leaving only the highest event of each entity: the one with the highest version, where there is none
// with the latest event time, and of equal ones the last in the log. Compared are the matching events between first and
// last, the whole listing; returned are those between lo and hi.
func (pl *plan) latest(ctx context.Context, st *store, first, last, lo, hi uint64, desc bool, limit int) (found, error) {
	candidates := *pl
	candidates.where = append([]condition{{text: "n.eid IS NOT NULL"}}, pl.where...)
	winners := map[int64]uint64{}
	var out found
	for looked := 0; lo <= hi; {
		f, err := candidates.find(ctx, st, lo, hi, desc, max(limit, latestChunk))
		if err != nil {
			return found{}, err
		}
		eids, err := entitiesOf(ctx, st, f.seqs)
		if err != nil {
			return found{}, err
		}
		if err := pl.winners(ctx, st, eids, first, last, winners); err != nil {
			return found{}, err
		}
		for _, seq := range f.seqs {
			winner, ok := winners[eids[seq]]
			if !ok {
				continue // retention took it meanwhile
			}
			if winner == seq {
				out.seqs = append(out.seqs, seq)
			}
			if len(out.seqs) == limit {
				if out.edge = seq; (desc && seq == lo) || (!desc && seq == hi) || (seq == f.seqs[len(f.seqs)-1] && f.edge == 0) {
					out.edge = 0
				}
				return out, nil
			}
		}
		if f.edge == 0 {
			return out, nil
		}
		n, err := candidates.rowsBetween(ctx, st, f.edge, lo, hi, desc, pl.looked-looked)
		if err != nil {
			return found{}, err
		}
		if looked += n; looked >= pl.looked || len(winners) >= maxEntities {
			out.edge = f.edge
			return out, nil
		}
		if desc {
			hi = f.edge - 1
		} else {
			lo = f.edge + 1
		}
	}
	return out, nil
}

// rowsBetween counts the rows of the driving selection from where a search began to its edge, up to most.
func (pl *plan) rowsBetween(ctx context.Context, st *store, edge, lo, hi uint64, desc bool, most int) (n int, err error) {
	if desc {
		lo = edge
	} else {
		hi = edge
	}
	for arms := range slices.Chunk(pl.arms, maxArms) {
		text, args := driving(arms, pl.repeats, lo, hi, desc)
		var part int
		if err := st.row(ctx, "SELECT count(*) FROM ("+text+" LIMIT ?)", append(args, most), &part); err != nil {
			return 0, err
		}
		n += part
	}
	if len(pl.arms) == 0 {
		n = int(min(hi-lo+1, uint64(most)))
	}
	return n, nil
}

// entitiesOf returns the entities of events.
func entitiesOf(ctx context.Context, st *store, seqs []uint64) (map[uint64]int64, error) {
	out := make(map[uint64]int64, len(seqs))
	if len(seqs) == 0 {
		return out, nil
	}
	values := make([]any, len(seqs))
	for i, s := range seqs {
		values[i] = s
	}
	text, args := list(values)
	rows, err := st.rows(ctx, "SELECT seq, eid FROM events WHERE eid IS NOT NULL AND seq IN "+text, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var seq uint64
		var eid int64
		if err := rows.Scan(&seq, &eid); err != nil {
			return nil, err
		}
		out[seq] = eid
	}
	return out, rows.Err()
}

// winners adds the highest matching event of each entity that is not among the winners yet.
func (pl *plan) winners(ctx context.Context, st *store, eids map[uint64]int64, first, last uint64, winners map[int64]uint64) error {
	var fresh []string
	for _, eid := range eids {
		if _, ok := winners[eid]; !ok {
			winners[eid] = 0
			fresh = append(fresh, strconv.FormatInt(eid, 10))
		}
	}
	if len(fresh) == 0 {
		return nil
	}
	var b strings.Builder
	b.WriteString("SELECT j.value, coalesce((SELECT n.seq FROM events n INDEXED BY events_eid WHERE n.eid = j.value AND n.seq BETWEEN ? AND ?")
	args := []any{first, last}
	for _, c := range pl.all {
		b.WriteString(" AND " + c.text)
		args = append(args, c.args...)
	}
	// NULL is below everything. Event times count only among events without a version.
	b.WriteString(" ORDER BY n.ver DESC, CASE WHEN n.ver IS NULL THEN n.et END DESC, n.seq DESC LIMIT 1), 0) FROM json_each(?) j")
	rows, err := st.rows(ctx, b.String(), append(args, "["+strings.Join(fresh, ",")+"]")...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var eid int64
		var seq uint64
		if err := rows.Scan(&eid, &seq); err != nil {
			return err
		}
		winners[eid] = seq
	}
	return rows.Err()
}
