package projection

import (
	"context"
	"time"
)

// attend runs retention from time to time.
func (x *IDs) attend(ctx context.Context, stop context.CancelCauseFunc) {
	t := time.NewTicker(pollEvery)
	defer t.Stop()
	for {
		if err := x.retain(ctx); err != nil && ctx.Err() == nil {
			if isCorrupt(err) {
				stop(err)
				return
			}
			x.log.Error("retention of ids.db does not work; it tries again", "error", err, "remedy", remedy(err, x.path()))
		}
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

// retain forgets ids that are older than IDsMaxAge, oldest first and in small transactions.
func (x *IDs) retain(ctx context.Context) error {
	if x.cfg.IDsMaxAge <= 0 {
		return nil
	}
	before := nanos(x.cfg.Now().Add(-x.cfg.IDsMaxAge))
	for ctx.Err() == nil {
		n, err := x.retainStep(ctx, before)
		if err != nil || n < idsRetainRows {
			return err
		}
	}
	return ctx.Err()
}

func (x *IDs) retainStep(ctx context.Context, before int64) (n int64, err error) {
	x.wmu.Lock()
	defer x.wmu.Unlock()
	ctx = context.WithoutCancel(ctx)
	err = x.st.tx(ctx, func() error {
		// Times do not fall along seq: the rows that are too old are the first ones.
		res, err := x.st.write.ExecContext(ctx, "DELETE FROM ids WHERE seq IN (SELECT seq FROM (SELECT seq, ts FROM ids ORDER BY seq LIMIT ?) WHERE ts < ?)", idsRetainRows, before)
		if err != nil {
			return err
		}
		n, err = res.RowsAffected()
		return err
	})
	return n, err
}
