package projection

import "context"

// sums collects what a transaction adds to (or, negative, takes from) the counts: the dictionary's, the hourly rollup and
// the types seen. They are exact at every commit.
type sums struct {
	dict   *dictChange
	rollup map[rowKey]int64
	seen   map[seenKey]seenSum
}

type seenKey struct{ typ, op int64 }

type seenSum struct{ n, ts int64 }

// rowKey is the key of a rollup row.
type rowKey struct {
	seenKey
	hour, src, org, stale int64
}

func newSums(d *dict) *sums {
	return &sums{dict: d.change(), rollup: map[rowKey]int64{}, seen: map[seenKey]seenSum{}}
}

func (s *sums) add(row rowKey, n, ts int64) {
	s.rollup[row] += n
	x := s.seen[row.seenKey]
	s.seen[row.seenKey] = seenSum{x.n + n, max(x.ts, ts)}
}

func (s *sums) write(ctx context.Context, w *writer) error {
	for r, n := range s.rollup {
		if _, err := w.rollup.ExecContext(ctx, r.hour, r.src, r.typ, r.op, r.org, r.stale, n); err != nil {
			return err
		}
		if n >= 0 {
			continue
		}
		if _, err := w.rollupDelete.ExecContext(ctx, r.hour, r.src, r.typ, r.op, r.org, r.stale); err != nil {
			return err
		}
	}
	for k, x := range s.seen {
		if _, err := w.seen.ExecContext(ctx, k.typ, k.op, x.n, x.ts); err != nil {
			return err
		}
		if x.n >= 0 {
			continue
		}
		if _, err := w.seenDelete.ExecContext(ctx, k.typ, k.op); err != nil {
			return err
		}
	}
	return s.dict.write(ctx, w)
}
