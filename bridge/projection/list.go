package projection

import (
	"context"

	"github.com/spotbridge/spotbridge/bridge"
)

// List implements bridge.History. It looks at no more than 50,000 index rows; with LatestPerEntity, also at the events of
// about 2,000 entities.
func (p *Projection) List(ctx context.Context, r bridge.ListRequest) (out bridge.ListResult, err error) {
	err = p.read(ctx, "list", func(st *store, pos *position) (err error) {
		out, err = p.list(ctx, st, pos, r)
		return err
	})
	return out, err
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
	pl, err := p.plan(ctx, st, r.Filter, seen.span())
	if err != nil || pl.empty {
		return out, err
	}
	find := pl.find
	if r.LatestPerEntity {
		find = func(ctx context.Context, st *store, lo, hi uint64, desc bool, limit int) (found, error) {
			return pl.latest(ctx, st, first, last, lo, hi, desc, limit)
		}
	}
	out.Events, out.Next, err = p.page(ctx, st, find, lo, hi, desc, r.Bodies, limit, r.MaxBytes)
	return out, err
}

// bodiesAtOnce is how many sequences are looked up at once when bodies will end the page sooner than its size.
const bodiesAtOnce = 128

// finder finds sequences between lo and hi, see plan.find.
type finder func(ctx context.Context, st *store, lo, hi uint64, desc bool, limit int) (found, error)

// page finds and loads up to limit events, and ends before maxBytes are exceeded (0 = no limit; at least one event). edge
// is the sequence up to which everything was looked at, 0 when that is all.
func (p *Projection) page(ctx context.Context, st *store, find finder, lo, hi uint64, desc, bodies bool, limit, maxBytes int) (events []*bridge.Encoded, edge uint64, err error) {
	for len(events) < limit {
		n := limit - len(events)
		if bodies && maxBytes > 0 {
			n = min(n, bodiesAtOnce)
		}
		f, err := find(ctx, st, lo, hi, desc, n)
		if err != nil {
			return nil, 0, err
		}
		part, bytes, full, err := p.loadSeqs(ctx, st, f.seqs, desc, bodies, len(events) == 0, maxBytes)
		if err != nil {
			return nil, 0, err
		}
		events = append(events, part...)
		switch {
		case full && len(part) > 0:
			return events, part[len(part)-1].Sequence, nil
		case full: // the last event of the part before this one was the last that fits
			return events, events[len(events)-1].Sequence, nil
		case f.edge == 0 || len(f.seqs) < n: // all, or the rows that a call may look at
			return events, f.edge, nil
		}
		edge = f.edge
		if maxBytes > 0 {
			if maxBytes -= bytes; maxBytes <= 0 {
				return events, edge, nil
			}
		}
		if desc {
			hi = edge - 1
		} else {
			lo = edge + 1
		}
	}
	return events, edge, nil
}
