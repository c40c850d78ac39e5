package projection

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/spotbridge/spotbridge/bridge"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

// driftSchema is part of projection.db and goes with it. It is made where it is not there, so that a file from before is
// not rebuilt for it.
//
// There are at most two runs: the one that readers see, and a newer one that has not caught up yet.
const driftSchema = `
CREATE TABLE IF NOT EXISTS drift_run (
  run INTEGER PRIMARY KEY AUTOINCREMENT,
  revision TEXT NOT NULL,
  first INTEGER NOT NULL, watermark INTEGER NOT NULL,
  events INTEGER NOT NULL, skipped INTEGER NOT NULL, overflow INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS drift (
  run INTEGER NOT NULL,
  typ TEXT NOT NULL, kind INTEGER NOT NULL, path TEXT NOT NULL,
  first INTEGER NOT NULL, last INTEGER NOT NULL, -- append times
  events INTEGER NOT NULL, n INTEGER NOT NULL,
  example TEXT NOT NULL,
  PRIMARY KEY (run, typ, kind, path)
) WITHOUT ROWID;
`

// maxDriftPaths is how many entries an event type has of one kind: a sender that makes names up cannot fill the table, and
// does not push out what is there.
const maxDriftPaths = 500

var (
	_ bridge.DriftStore  = (*Projection)(nil)
	_ bridge.DriftReader = (*Projection)(nil)
)

const driftRunColumns = "run, revision, first, watermark, events, skipped, overflow"

func scanDriftRun(scan func(...any) error) (r bridge.DriftRun, err error) {
	err = scan(&r.ID, &r.Revision, &r.First, &r.Watermark, &r.Events, &r.Skipped, &r.Overflow)
	return r, err
}

// driftTx runs f in a write transaction.
func (p *Projection) driftTx(ctx context.Context, what string, f func(ctx context.Context, db *sql.Conn) error) error {
	p.wmu.Lock()
	defer p.wmu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	if p.closed {
		return fmt.Errorf("%s: projection.db is not open", what)
	}
	// As in apply: a transaction that has begun is brought to its end.
	whole := context.WithoutCancel(ctx)
	if err := p.st.tx(whole, func() error { return f(whole, p.st.write) }); err != nil {
		if isCorrupt(err) {
			select {
			case p.damaged <- err: // the follower has it made anew
			default:
			}
		}
		return fmt.Errorf("%s: %w; %s", what, err, remedy(err, p.path()))
	}
	return nil
}

// Begin implements bridge.DriftStore.
func (p *Projection) Begin(ctx context.Context, revision string, first uint64) (run bridge.DriftRun, err error) {
	err = p.driftTx(ctx, "begin drift", func(ctx context.Context, db *sql.Conn) error {
		runs, err := driftRuns(db.QueryContext(ctx, "SELECT "+driftRunColumns+" FROM drift_run ORDER BY run"))
		if err != nil {
			return err
		}
		found := false
		for i, r := range runs {
			switch {
			case r.Revision == revision && !found:
				run, found = r, true
			case i > 0:
				if err := dropDriftRun(ctx, db, r.ID); err != nil {
					return err
				}
			}
		}
		if found {
			return nil
		}
		first = max(first, 1)
		run, err = scanDriftRun(db.QueryRowContext(ctx, `INSERT INTO drift_run (revision, first, watermark, events, skipped, overflow)
			VALUES (?,?,?,0,0,0) RETURNING `+driftRunColumns, revision, first, first-1).Scan)
		return err
	})
	return run, err
}

func driftRuns(rows *sql.Rows, err error) (out []bridge.DriftRun, _ error) {
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		r, err := scanDriftRun(rows.Scan)
		if err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	return out, rows.Err()
}

func dropDriftRun(ctx context.Context, db *sql.Conn, run int64) error {
	for _, text := range []string{"DELETE FROM drift WHERE run = ?", "DELETE FROM drift_run WHERE run = ?"} {
		if _, err := db.ExecContext(ctx, text, run); err != nil {
			return err
		}
	}
	return nil
}

// Record implements bridge.DriftStore.
func (p *Projection) Record(ctx context.Context, b bridge.DriftBatch) (change bridge.DriftChange, err error) {
	err = p.driftTx(ctx, "record drift", func(ctx context.Context, db *sql.Conn) error {
		change = bridge.DriftChange{New: map[pb.IssueKind]int64{}}
		var watermark uint64
		err := db.QueryRowContext(ctx, "SELECT watermark FROM drift_run WHERE run = ?", b.Run).Scan(&watermark)
		if errors.Is(err, sql.ErrNoRows) || err == nil && watermark != b.After {
			return bridge.ErrDriftMoved
		}
		if err != nil {
			return err
		}
		w := driftWriter{db: db, run: b.Run, held: map[driftGroup]int{}, change: &change}
		for i := range b.Entries {
			if err := w.add(ctx, &b.Entries[i]); err != nil {
				return err
			}
		}
		if _, err := db.ExecContext(ctx, "UPDATE drift_run SET watermark = ?, events = events + ?, skipped = skipped + ?, overflow = overflow + ? WHERE run = ?",
			b.Watermark, b.Events, b.Skipped, b.Overflow+change.Overflow, b.Run); err != nil {
			return err
		}
		if !b.Complete {
			return nil
		}
		if _, err := db.ExecContext(ctx, "DELETE FROM drift WHERE run < ?", b.Run); err != nil {
			return err
		}
		_, err = db.ExecContext(ctx, "DELETE FROM drift_run WHERE run < ?", b.Run)
		return err
	})
	change.Overflow += b.Overflow
	return change, err
}

// driftGroup is what a bound of maxDriftPaths is for.
type driftGroup struct {
	eventType string
	kind      pb.IssueKind
}

// driftWriter adds entries to a run.
type driftWriter struct {
	db     *sql.Conn
	run    int64
	held   map[driftGroup]int
	change *bridge.DriftChange
}

func (w *driftWriter) add(ctx context.Context, e *bridge.DriftEntry) error {
	res, err := w.db.ExecContext(ctx, `UPDATE drift SET first = min(first, ?1), example = CASE WHEN ?2 >= last THEN ?3 ELSE example END,
		last = max(last, ?2), events = events + ?4, n = n + ?5 WHERE run = ?6 AND typ = ?7 AND kind = ?8 AND path = ?9`,
		nanos(e.FirstSeen), nanos(e.LastSeen), e.Example, e.Events, e.Occurrences, w.run, e.EventType, int64(e.Kind), e.Path)
	if err != nil {
		return err
	}
	if n, err := res.RowsAffected(); err != nil || n > 0 {
		return err
	}
	g := driftGroup{e.EventType, e.Kind}
	n, ok := w.held[g]
	if !ok {
		if err := w.db.QueryRowContext(ctx, "SELECT count(*) FROM drift WHERE run = ? AND typ = ? AND kind = ?", w.run, e.EventType, int64(e.Kind)).Scan(&n); err != nil {
			return err
		}
		w.held[g] = n
	}
	if n >= maxDriftPaths {
		w.change.Overflow += e.Occurrences
		return nil
	}
	w.held[g]++
	w.change.New[e.Kind]++
	_, err = w.db.ExecContext(ctx, "INSERT INTO drift (run, typ, kind, path, first, last, events, n, example) VALUES (?,?,?,?,?,?,?,?,?)",
		w.run, e.EventType, int64(e.Kind), e.Path, nanos(e.FirstSeen), nanos(e.LastSeen), e.Events, e.Occurrences, e.Example)
	return err
}
