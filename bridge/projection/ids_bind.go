package projection

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/spotbridge/spotbridge/bridge"
)

// bind ties the file to the log.
func (x *IDs) bind(ctx context.Context, state bridge.LogState) error {
	pos := x.pos.Load()
	switch {
	case pos.log.IsZero():
		if state.Floor > 1 && state.Head >= state.Floor {
			x.log.Warn("ids.db is new; webhooks whose entries are below the log's floor are not known: a very late re-send of one would be stored again",
				"floor", state.Floor)
		}
		return x.begin(ctx, state)
	case pos.log != state.ID && state.Floor <= 1:
		var to string
		if err := x.renew(ctx, func() (err error) {
			to, err = moveAside(x.path(), "foreign", x.cfg.Now())
			return err
		}); err != nil {
			return err
		}
		x.log.Warn("ids.db belongs to another log; it was moved aside and is rebuilt from this one, which still has its first entry. A re-send of a webhook that only the other log has is stored here",
			"moved_to", to)
		return x.begin(ctx, state)
	case pos.log != state.ID:
		return fmt.Errorf("%w: %s remembers the webhooks of log %x, and this log is %x. If this log is the right one, stop the service and move the file away: "+
			"it is rebuilt from the log, and what is below the log's floor is forgotten. If not, correct log.url or data_dir", ErrForeignLog, x.path(), pos.log, state.ID)
	case pos.watermark > state.Head:
		// What the log has lost was not stored, so a re-send of it must not count as a duplicate.
		x.log.Error("the log has lost its newest entries: their webhook ids are forgotten, so that re-sends are stored", "watermark", pos.watermark, "head", state.Head)
		return x.rewind(ctx, state.Head)
	}
	x.passed(state.Floor)
	return nil
}

// passed says that the log's floor has passed the watermark: entries expired before their ids were remembered.
func (x *IDs) passed(floor uint64) {
	if w := x.Watermark(); floor > w+1 {
		x.m.lost.Add(float64(floor - 1 - w))
		x.log.Error("entries left the log before their webhook ids were remembered: a late re-send of one would be stored again; raise log.max_age or log.max_bytes",
			"from", w+1, "to", floor-1)
	}
}

// forgetReplaced forgets the newest ids as long as the log has other entries at their sequences: a log that lost entries
// which were not on disk gives their sequences again, and what it has lost was not stored.
func (x *IDs) forgetReplaced(ctx context.Context, log bridge.Reader) error {
	from := x.Watermark()
	for at := from; ; {
		var seq uint64
		var hash []byte
		err := x.st.row(ctx, "SELECT seq, body FROM ids WHERE seq <= ? ORDER BY seq DESC LIMIT 1", []any{at}, &seq, &hash)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		if err == nil {
			e, err := log.Get(ctx, seq)
			if err != nil {
				return err
			}
			if e != nil && !bytes.Equal(e.BodyHash[:], hash) {
				at = seq - 1
				continue
			}
		}
		if at == from {
			return nil
		}
		x.log.Error("the log has lost its newest entries and given their sequences again: the lost webhook ids are forgotten, so that re-sends are stored",
			"from", at+1, "to", from)
		return x.rewind(ctx, at)
	}
}

func (x *IDs) begin(ctx context.Context, state bridge.LogState) error {
	next := idPosition{log: state.ID, watermark: max(state.Floor, 1) - 1}
	return x.write(ctx, &next, func(context.Context) error { return nil })
}

func (x *IDs) rewind(ctx context.Context, head uint64) error {
	next := *x.pos.Load()
	next.watermark = head
	return x.write(ctx, &next, func(ctx context.Context) error {
		_, err := x.st.write.ExecContext(ctx, "DELETE FROM ids WHERE seq > ?", head)
		return err
	})
}
