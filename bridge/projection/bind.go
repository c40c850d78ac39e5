package projection

import (
	"bytes"
	"context"
	"database/sql"
	"errors"

	"github.com/spotbridge/spotbridge/bridge"
)

// tailReplaced reports whether the log has another entry at the newest sequence that was applied. A log that lost entries
// which were not on disk gives their sequences again.
func (p *Projection) tailReplaced(ctx context.Context, log bridge.Reader) (bool, error) {
	pos := p.pos.Load()
	var seq uint64
	var hash []byte
	err := p.st.row(ctx, `SELECT seq, sha FROM (SELECT * FROM (SELECT seq, sha FROM wide ORDER BY seq DESC LIMIT 1)
		UNION ALL SELECT * FROM (SELECT seq, sha FROM quarantine ORDER BY seq DESC LIMIT 1)) ORDER BY seq DESC LIMIT 1`, nil, &seq, &hash)
	if errors.Is(err, sql.ErrNoRows) || pos.log.IsZero() {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	e, err := log.Get(ctx, seq)
	return e != nil && !bytes.Equal(e.BodyHash[:], hash), err
}

// bind ties the file to the log: a new file takes on its identity, one of another log or ahead of this one is made anew.
func (p *Projection) bind(ctx context.Context, state bridge.LogState, replaced bool) error {
	pos := p.pos.Load()
	cause := ""
	switch {
	case pos.log.IsZero():
	case pos.log != state.ID:
		cause = "foreign_log"
		p.log.Warn("projection.db belongs to another log; it is deleted and rebuilt from this one", "path", p.path())
	case pos.watermark > state.Head || replaced:
		cause = "rewound_log"
		p.log.Error("the log has lost its newest entries, which projection.db has; it is deleted and rebuilt from the log",
			"path", p.path(), "watermark", pos.watermark, "head", state.Head)
	default:
		return p.passed(ctx, state.Floor)
	}
	if cause != "" {
		if err := p.renew(ctx, func() error { return removeStore(p.path()) }); err != nil {
			return err
		}
		p.m.rebuilds.WithLabelValues(cause).Inc()
		p.published = 0
	}
	next := *p.pos.Load()
	floor := max(state.Floor, 1)
	next.log, next.begun, next.floor, next.watermark = state.ID, floor, floor, floor-1
	if err := p.move(ctx, next, false); err != nil {
		return err
	}
	p.log.Info("projection.db is new; it is built from the log", "path", p.path(), "floor", state.Floor, "head", state.Head,
		"bytes", state.Bytes)
	if state.Floor > 1 {
		p.log.Warn("the log does not begin at its first entry: ordering is UNKNOWN for an entity until its first version is seen",
			"floor", state.Floor)
	}
	return nil
}

// passed notes that the log's floor has passed the watermark: entries expired before they were applied, so nothing is
// certain about the order of any entity.
func (p *Projection) passed(ctx context.Context, floor uint64) error {
	pos := *p.pos.Load()
	if floor <= pos.watermark+1 {
		return nil
	}
	lost := floor - 1 - pos.watermark
	if pos.watermark+1 == pos.begun {
		pos.floor = floor // a projection that has nothing yet loses nothing
	} else {
		p.m.lost.Add(float64(lost))
		p.log.Error("entries left the log before they were applied: history has a gap, and ordering is UNKNOWN for an entity until its first version is seen; raise log.max_age or log.max_bytes",
			"from", pos.watermark+1, "to", floor-1)
		pos.floor = floor // a cursor from before the gap is expired: a stream must not jump over it silently
		p.lostBelow = floor
	}
	pos.begun, pos.watermark = floor, floor-1
	return p.move(ctx, pos, true)
}

// jump moves the watermark over sequences that have no entry.
func (p *Projection) jump(ctx context.Context, to uint64) error {
	pos := *p.pos.Load()
	if to <= pos.watermark {
		return nil
	}
	pos.watermark = to
	return p.move(ctx, pos, false)
}

// move writes a position. unprove makes the marks of all entities uncertain.
func (p *Projection) move(ctx context.Context, pos position, unprove bool) error {
	p.wmu.Lock()
	defer p.wmu.Unlock()
	ctx = context.WithoutCancel(ctx)
	pos.floor = max(pos.floor, p.pos.Load().floor)
	err := p.st.tx(ctx, func() error {
		if unprove {
			if _, err := p.st.write.ExecContext(ctx, "UPDATE entity SET proven = 0 WHERE proven = 1"); err != nil {
				return err
			}
		}
		if _, err := p.st.write.ExecContext(ctx, "UPDATE state SET log = ?", pos.log[:]); err != nil {
			return err
		}
		_, err := p.w.state.ExecContext(ctx, pos.begun, pos.floor, pos.watermark, pos.lastTS)
		return err
	})
	if err == nil {
		p.pos.Store(&pos)
		p.m.watermark.Set(float64(pos.watermark))
	}
	return err
}

// lastHeldTries bounds how far lastHeld looks back, once at the beginning.
const lastHeldTries = 10_000

// lastHeld returns the newest sequence up to the head that still has an entry, or after when there is none: a follower
// that waited for a head that was deleted would wait for ever. When the last lastHeldTries sequences are all deleted it
// returns the one before them.
func lastHeld(ctx context.Context, log bridge.Reader, state bridge.LogState, after uint64) (uint64, error) {
	seq := state.Head
	for tries := 0; seq > after && seq >= state.Floor && tries < lastHeldTries; tries++ {
		e, err := log.Get(ctx, seq)
		if err != nil || e != nil {
			return seq, err
		}
		seq--
	}
	if seq < state.Floor {
		return after, nil
	}
	return max(seq, after), nil
}
