package projection

import (
	"context"
	"sort"

	"github.com/spotbridge/spotbridge/bridge"
)

// Scan implements bridge.History. It looks at no more than 50,000 index rows.
func (p *Projection) Scan(ctx context.Context, r bridge.ScanRequest) (out bridge.ScanResult, err error) {
	err = p.read(ctx, "scan", func(st *store, pos *position) (err error) {
		out, err = p.scan(ctx, st, pos, r)
		return err
	})
	return out, err
}

func (p *Projection) scan(ctx context.Context, st *store, pos *position, r bridge.ScanRequest) (bridge.ScanResult, error) {
	lo, hi := r.After+1, min(r.UpTo, pos.watermark)
	if lo > hi {
		return bridge.ScanResult{Next: r.After}, nil
	}
	limit := max(r.MaxEvents, 1)
	if r.Filter.MatchesAll() {
		events, more, err := p.loadRange(ctx, st, lo, hi, false, r.Bodies, limit, r.MaxBytes)
		if err != nil {
			return bridge.ScanResult{}, err
		}
		out := bridge.ScanResult{Events: events, Next: hi}
		if more {
			out.Next = events[len(events)-1].Sequence
		}
		return out, nil
	}
	pl, err := p.plan(ctx, st, r.Filter, pos.span())
	if err != nil {
		return bridge.ScanResult{}, err
	}
	out := bridge.ScanResult{Next: hi}
	events, edge, err := p.page(ctx, st, pl.find, lo, hi, false, r.Bodies, limit, r.MaxBytes)
	if out.Events = events; edge != 0 {
		out.Next = edge
	}
	return out, err
}

// Load implements bridge.History.
func (p *Projection) Load(ctx context.Context, r bridge.LoadRequest) (out bridge.LoadResult, err error) {
	err = p.read(ctx, "load", func(st *store, pos *position) (err error) {
		seqs := r.Sequences[:sort.Search(len(r.Sequences), func(i int) bool { return r.Sequences[i] > pos.watermark })]
		if len(seqs) == 0 {
			return nil
		}
		first, last := seqs[0], seqs[len(seqs)-1]
		var more bool
		if last-first == uint64(len(seqs)-1) { // a range costs less than a list
			out.Events, more, err = p.loadRange(ctx, st, first, last, false, r.Bodies, len(seqs), r.MaxBytes)
		} else {
			out.Events, _, more, err = p.loadSeqs(ctx, st, seqs, false, r.Bodies, true, r.MaxBytes)
		}
		if out.Next = last; more {
			out.Next = out.Events[len(out.Events)-1].Sequence
		}
		return err
	})
	return out, err
}
