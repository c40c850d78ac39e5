package projection

import (
	"context"
	"database/sql"
	"errors"
	"time"
)

const (
	// retainRows is how many entries one transaction of retention deletes: about 10 ms of the follower's time.
	retainRows = 200
	// vacuumPages is how many free pages one step gives back to the file system.
	vacuumPages = 1000
	// Free pages are given back above an eighth of the file and this many (16 MiB); fewer are soon used again.
	minFreePages = 4096
)

// retain deletes what is older than HistoryMaxAge, what is more than HistoryMaxBytes, and everything below the log's
// floor, oldest first and in small transactions. Counts go down with the rows. Entities stay: they outlive their events.
func (p *Projection) retain(ctx context.Context, logFloor uint64) error {
	p.retaining.Lock() // two at once would delete too much
	defer p.retaining.Unlock()
	if err := p.retainBelow(ctx, logFloor); err != nil {
		return err
	}
	if p.cfg.HistoryMaxAge > 0 {
		below, err := p.firstSince(ctx, p.cfg.Now().Add(-p.cfg.HistoryMaxAge))
		if err != nil {
			return err
		}
		if err := p.retainBelow(ctx, below); err != nil {
			return err
		}
	}
	for {
		used, free, err := p.size(ctx)
		if err != nil {
			return err
		}
		p.m.size.Set(float64(used))
		if p.cfg.HistoryMaxBytes <= 0 || used <= p.cfg.HistoryMaxBytes {
			return p.vacuum(ctx, free)
		}
		pos := p.pos.Load()
		deleted, err := p.retainStep(ctx, pos.watermark+1)
		if err != nil {
			return err
		}
		if !deleted {
			return p.vacuum(ctx, free)
		}
	}
}

// firstSince returns the sequence of the first event or quarantined body since t, or the one after the watermark.
func (p *Projection) firstSince(ctx context.Context, t time.Time) (uint64, error) {
	st, pos := p.st, p.pos.Load()
	var seq *uint64
	err := st.row(ctx, `SELECT min(seq) FROM (SELECT * FROM (SELECT seq FROM events WHERE ts >= ? ORDER BY ts, seq LIMIT 1)
		UNION ALL SELECT * FROM (SELECT seq FROM quarantine WHERE ts >= ? ORDER BY ts, seq LIMIT 1))`, []any{nanos(t), nanos(t)}, &seq)
	if err != nil || seq == nil {
		return pos.watermark + 1, err
	}
	return *seq, nil
}

// retainBelow deletes everything below a sequence.
func (p *Projection) retainBelow(ctx context.Context, below uint64) error {
	for ctx.Err() == nil {
		if more, err := p.retainStep(ctx, below); err != nil || !more {
			return err
		}
	}
	return ctx.Err()
}

// retainStep deletes the oldest entries below a sequence, in one transaction, and moves the floor. It reports whether it
// deleted something.
func (p *Projection) retainStep(ctx context.Context, below uint64) (bool, error) {
	p.wmu.Lock()
	defer p.wmu.Unlock()
	pos := *p.pos.Load()
	below = min(below, pos.watermark+1)
	if below <= pos.floor {
		return false, nil
	}
	ctx = context.WithoutCancel(ctx)
	db := p.st.write
	sums := newSums(p.dict)
	deleted := 0
	err := p.st.tx(ctx, func() error {
		// The last sequence of this step.
		var last sql.NullInt64
		err := db.QueryRowContext(ctx, `SELECT max(seq) FROM (SELECT seq FROM (SELECT seq FROM events WHERE seq < ?1 ORDER BY seq LIMIT ?2)
			UNION ALL SELECT seq FROM (SELECT seq FROM quarantine WHERE seq < ?1 ORDER BY seq LIMIT ?2) ORDER BY seq LIMIT ?2)`,
			below, retainRows).Scan(&last)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		pos.floor = below
		if last.Valid {
			n, more, err := p.expire(ctx, sums, last.Int64, int64(below))
			if err != nil {
				return err
			}
			if deleted = n; more {
				pos.floor = uint64(last.Int64) + 1
			}
			if err := sums.write(ctx, p.w); err != nil {
				return err
			}
		}
		_, err = p.w.floor.ExecContext(ctx, pos.floor)
		return err
	})
	if err != nil {
		return false, err
	}
	sums.dict.committed()
	p.pos.Store(&pos)
	p.m.retained.Add(float64(deleted))
	return pos.floor < below || deleted > 0, nil
}

// expire deletes the rows up to last. more says that there are rows left below a sequence.
func (p *Projection) expire(ctx context.Context, sums *sums, last, below int64) (deleted int, more bool, err error) {
	db := p.st.write
	rows, err := db.QueryContext(ctx, "SELECT n.ts, n.typ, n.op, n.org, n.src, n.flags, w.e FROM events n LEFT JOIN wide w ON w.seq = n.seq WHERE n.seq <= ?", last)
	if err != nil {
		return 0, false, err
	}
	defer rows.Close()
	ents := map[string]entRow{}
	for rows.Next() {
		var ts, org, flags int64
		var row rowKey
		var e []byte
		if err := rows.Scan(&ts, &row.typ, &row.op, &org, &row.src, &flags, &e); err != nil {
			return 0, false, err
		}
		meta, err := metaOf(e)
		if err != nil {
			return 0, false, err
		}
		for _, x := range entRows(&meta) {
			ents[string(rune(x.kind))+string(x.id)] = x
		}
		row.hour, row.stale, row.org = floorHour(ts), flags&flagStale, org
		if flags&flagMulti != 0 {
			row.org = orgMany
			for _, o := range meta.Organizations[1:] {
				sums.dict.add(dictOrganization, o, 0, -1)
			}
		}
		for _, id := range []int64{row.typ, row.op, row.src, org} {
			sums.dict.addID(id, -1, 0)
		}
		sums.add(row, -1, 0)
		deleted++
	}
	if err := rows.Err(); err != nil {
		return 0, false, err
	}
	rows.Close()
	for _, x := range ents {
		if _, err := p.w.entDelete.ExecContext(ctx, x.kind, x.id, last); err != nil {
			return 0, false, err
		}
	}
	for _, st := range []*sql.Stmt{p.w.eventsDelete, p.w.wideDelete, p.w.bodyDelete, p.w.otherOrgDelete} {
		if _, err := st.ExecContext(ctx, last); err != nil {
			return 0, false, err
		}
	}
	res, err := p.w.quarantineDelete.ExecContext(ctx, last)
	if err != nil {
		return 0, false, err
	}
	n, err := res.RowsAffected()
	if err != nil {
		return 0, false, err
	}
	err = db.QueryRowContext(ctx, "SELECT EXISTS (SELECT 1 FROM events WHERE seq < ?1) OR EXISTS (SELECT 1 FROM quarantine WHERE seq < ?1)", below).Scan(&more)
	return deleted + int(n), more, err
}

// size returns the bytes in use and the free pages of the file.
func (p *Projection) size(ctx context.Context) (used int64, free int64, err error) {
	// One snapshot, or a page would count as used and as free.
	tx, err := p.st.read.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return 0, 0, err
	}
	defer tx.Rollback()
	var pages, size int64
	for pragma, dst := range map[string]*int64{"page_count": &pages, "freelist_count": &free, "page_size": &size} {
		if err := tx.QueryRowContext(ctx, "PRAGMA "+pragma).Scan(dst); err != nil {
			return 0, 0, err
		}
	}
	return (pages - free) * size, free, nil
}

// vacuum gives free pages back to the file system when there are many, in small steps.
func (p *Projection) vacuum(ctx context.Context, free int64) error {
	for ctx.Err() == nil {
		var pages int64
		err := func() error {
			p.wmu.Lock()
			defer p.wmu.Unlock()
			return p.st.write.QueryRowContext(ctx, "PRAGMA page_count").Scan(&pages)
		}()
		if err != nil || free < p.minFree || free < pages/8 {
			return err
		}
		if err := p.vacuumStep(ctx); err != nil {
			return err
		}
		free -= vacuumPages
	}
	return ctx.Err()
}

func (p *Projection) vacuumStep(ctx context.Context) error {
	p.wmu.Lock()
	defer p.wmu.Unlock()
	// One row for each page that was given back.
	rows, err := p.st.write.QueryContext(ctx, "PRAGMA incremental_vacuum(1000)")
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
	}
	return rows.Err()
}
