package projection

import (
	"context"

	"github.com/spotbridge/spotbridge/bridge"
)

// List implements bridge.History. It looks at no more than 50,000 index rows; with LatestPerEntity, at the rows of no more
// than 2,000 entities.
func (p *Projection) List(ctx context.Context, r bridge.ListRequest) (bridge.ListResult, error) {
	defer p.observe("list")()
	st, pos, done := p.view()
	defer done()
	out, err := p.list(ctx, st, pos, r)
	if err != nil {
		return bridge.ListResult{}, p.readError(ctx, "list", err)
	}
	return out, nil
}

func (p *Projection) list(ctx context.Context, st *store, pos *position, r bridge.ListRequest) (bridge.ListResult, error) {
	seen := *pos
	if r.Snapshot != 0 {
		seen.watermark = min(seen.watermark, r.Snapshot)
	}
	out := bridge.ListResult{Snapshot: seen.watermark}
	first, last, err := timeRange(ctx, st, &seen, r.StartTime, r.EndTime)
	if err != nil {
		return out, err
	}
	lo, hi, desc := first, last, !r.OldestFirst
	switch {
	case r.Resume == 0:
	case desc:
		hi = min(hi, r.Resume-1)
	default:
		lo = max(lo, r.Resume+1)
	}
	if lo > hi {
		return out, nil
	}
	limit := max(r.PageSize, 1)
	if r.Filter.MatchesAll() && !r.LatestPerEntity {
		var more bool
		if out.Events, more, err = p.loadRange(ctx, st, lo, hi, desc, r.Bodies, limit, r.MaxBytes); err == nil && more {
			out.Next = out.Events[len(out.Events)-1].Sequence
		}
		return out, err
	}
	pl, err := p.plan(ctx, st, r.Filter, eventsBetween(seen.floor, seen.watermark))
	if err != nil || pl.empty {
		return out, err
	}
	var f found
	if r.LatestPerEntity {
		f, err = pl.latest(ctx, st, first, last, lo, hi, desc, limit)
	} else {
		f, err = pl.find(ctx, st, lo, hi, desc, limit)
	}
	if err != nil {
		return out, err
	}
	if out.Events, err = p.loadSeqs(ctx, st, f.seqs, desc, r.Bodies, r.MaxBytes); err != nil {
		return out, err
	}
	out.Next = next(f, out.Events, 0)
	return out, nil
}
