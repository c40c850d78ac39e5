package projection

import (
	"context"
	"database/sql"
	"strings"

	"github.com/spotbridge/spotbridge/bridge"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

// seenDriftRun is the run that readers see: the oldest one that there is.
const seenDriftRun = "(SELECT min(run) FROM drift_run)"

// ListDrift implements bridge.DriftReader. Entries and runs come from one snapshot.
func (p *Projection) ListDrift(ctx context.Context, r bridge.DriftListRequest) (out bridge.DriftListResult, err error) {
	err = p.read(ctx, "drift", func(st *store, _ *position) error {
		out = bridge.DriftListResult{}
		tx, err := st.read.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
		if err != nil {
			return err
		}
		defer tx.Rollback()
		if err := tx.QueryRowContext(ctx, "SELECT watermark FROM state").Scan(&out.Head); err != nil {
			return err
		}
		runs, err := driftRuns(tx.QueryContext(ctx, "SELECT "+driftRunColumns+" FROM drift_run ORDER BY run"))
		if err != nil || len(runs) == 0 {
			return err
		}
		if out.Run = runs[0]; len(runs) > 1 {
			out.Next = &runs[len(runs)-1]
		}
		text, args := driftQuery(out.Run.ID, r)
		rows, err := tx.QueryContext(ctx, text, args...)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			if out.More = len(out.Entries) == r.PageSize; out.More {
				break
			}
			var e bridge.DriftEntry
			var first, last int64
			if err := rows.Scan(&e.EventType, &e.Kind, &e.Path, &first, &last, &e.Events, &e.Occurrences, &e.Example); err != nil {
				return err
			}
			e.FirstSeen, e.LastSeen = fromNanos(first), fromNanos(last)
			out.Entries = append(out.Entries, e)
		}
		return rows.Err()
	})
	return out, err
}

// driftQuery asks for a page and one entry more.
func driftQuery(run int64, r bridge.DriftListRequest) (text string, args []any) {
	where, args := []string{"run = ?"}, []any{run}
	in := func(column string, n int) {
		if n > 0 {
			where = append(where, column+" IN (?"+strings.Repeat(",?", n-1)+")")
		}
	}
	in("typ", len(r.EventTypes))
	for _, t := range r.EventTypes {
		args = append(args, t)
	}
	in("kind", len(r.Kinds))
	for _, k := range r.Kinds {
		args = append(args, int64(k))
	}
	if !r.FirstSeenSince.IsZero() {
		where, args = append(where, "first >= ?"), append(args, nanos(r.FirstSeenSince))
	}
	if a := r.After; a != nil {
		where, args = append(where, "(typ, kind, path) > (?, ?, ?)"), append(args, a.EventType, int64(a.Kind), a.Path)
	}
	return "SELECT typ, kind, path, first, last, events, n, example FROM drift WHERE " + strings.Join(where, " AND ") +
		" ORDER BY typ, kind, path LIMIT ?", append(args, r.PageSize+1)
}

// Totals implements bridge.DriftStore.
func (p *Projection) Totals(ctx context.Context) (out map[pb.IssueKind]int64, err error) {
	err = p.read(ctx, "drift", func(st *store, _ *position) error {
		out = map[pb.IssueKind]int64{}
		rows, err := st.rows(ctx, "SELECT kind, count(*) FROM drift WHERE run = "+seenDriftRun+" GROUP BY kind")
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var kind pb.IssueKind
			var n int64
			if err := rows.Scan(&kind, &n); err != nil {
				return err
			}
			out[kind] = n
		}
		return rows.Err()
	})
	return out, err
}
