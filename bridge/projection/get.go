package projection

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"github.com/spotbridge/spotbridge/bridge"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

// Bounds implements bridge.History.
func (p *Projection) Bounds(ctx context.Context) (b bridge.Bounds, err error) {
	err = p.read(ctx, "bounds", func(st *store, pos *position) error {
		b = bridge.Bounds{Log: pos.log, Floor: pos.floor, Watermark: pos.watermark}
		var ts int64
		err := st.row(ctx, "SELECT ts FROM events WHERE seq BETWEEN ? AND ? ORDER BY seq LIMIT 1", []any{pos.floor, pos.watermark}, &ts)
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		b.FloorTime = fromNanos(ts)
		return err
	})
	return b, err
}

// Get implements bridge.History.
func (p *Projection) Get(ctx context.Context, eventID string) (e *bridge.Encoded, err error) {
	err = p.read(ctx, "get", func(st *store, pos *position) error {
		notFound := &bridge.Error{Reason: pb.ErrorReason_ERROR_REASON_EVENT_NOT_FOUND, Message: "no event with this id is held"}
		var seq uint64
		// Of two events with one id, which only a log has that was written without dedup, the first one counts.
		err := st.row(ctx, "SELECT seq FROM events WHERE idh = ? AND seq <= ? ORDER BY seq LIMIT 1", []any{idHash(eventID), pos.watermark}, &seq)
		if errors.Is(err, sql.ErrNoRows) {
			return notFound
		}
		if err != nil {
			return err
		}
		events, _, _, err := p.loadSeqs(ctx, st, []uint64{seq}, false, true, true, 0)
		if err != nil {
			return err
		}
		if len(events) == 0 || events[0].EventID != eventID {
			return notFound
		}
		e = events[0]
		return nil
	})
	return e, err
}

// SequenceAt implements bridge.History.
func (p *Projection) SequenceAt(ctx context.Context, t time.Time) (seq uint64, err error) {
	err = p.read(ctx, "sequence", func(st *store, pos *position) (err error) {
		seq, err = sequenceAt(ctx, st, pos, nanos(t))
		return err
	})
	return seq, err
}

// rower runs a statement that gives at most one row.
type rower interface {
	row(ctx context.Context, text string, args []any, dst ...any) error
}

// sequenceAt returns the position after which come exactly the events with ts or a later time.
func sequenceAt(ctx context.Context, st rower, pos *position, ts int64) (uint64, error) {
	var seq uint64
	switch err := st.row(ctx, "SELECT seq FROM events WHERE ts >= ? ORDER BY ts, seq LIMIT 1", []any{ts}, &seq); {
	case errors.Is(err, sql.ErrNoRows):
		return pos.watermark, nil
	case err != nil:
		return 0, err
	}
	return min(seq-1, pos.watermark), nil
}

// timeRange translates a time range to the sequences lo to hi, both inclusive and within the position.
func timeRange(ctx context.Context, st rower, pos *position, start, end time.Time) (lo, hi uint64, err error) {
	lo, hi = pos.floor, pos.watermark
	if !start.IsZero() {
		after, err := sequenceAt(ctx, st, pos, nanos(start))
		if err != nil {
			return 0, 0, err
		}
		lo = max(lo, after+1)
	}
	if !end.IsZero() {
		if hi, err = sequenceAt(ctx, st, pos, nanos(end)); err != nil {
			return 0, 0, err
		}
	}
	return lo, hi, nil
}

// EventTypes implements bridge.History.
func (p *Projection) EventTypes(ctx context.Context) (out []bridge.SeenType, err error) {
	err = p.read(ctx, "types", func(st *store, _ *position) error {
		// The texts come from the same snapshot as the counts.
		rows, err := st.rows(ctx, `SELECT coalesce(t.value, ''), coalesce(o.value, ''), s.n, s.ts FROM seen s
			LEFT JOIN dict t ON t.id = s.typ LEFT JOIN dict o ON o.id = s.op ORDER BY 1, 2`)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var s bridge.SeenType
			var ts int64
			if err := rows.Scan(&s.EventType, &s.Operation, &s.Count, &ts); err != nil {
				return err
			}
			s.LastSeen = fromNanos(ts)
			out = append(out, s)
		}
		return rows.Err()
	})
	return out, err
}
