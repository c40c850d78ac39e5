package projection

import (
	"context"

	"github.com/spotbridge/spotbridge/bridge"
)

// Scan implements bridge.History. It looks at no more than 50,000 index rows.
func (p *Projection) Scan(ctx context.Context, r bridge.ScanRequest) (bridge.ScanResult, error) {
	defer p.observe("scan")()
	st, pos, done := p.view()
	defer done()
	out, err := p.scan(ctx, st, pos, r)
	if err != nil {
		return bridge.ScanResult{}, p.readError(ctx, "scan", err)
	}
	return out, nil
}

// events is about how many rows table events has between two sequences.
func eventsBetween(lo, hi uint64) int64 {
	if lo > hi {
		return 0
	}
	return int64(hi-lo) + 1
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
	pl, err := p.plan(ctx, st, r.Filter, eventsBetween(pos.floor, pos.watermark))
	if err != nil {
		return bridge.ScanResult{}, err
	}
	f, err := pl.find(ctx, st, lo, hi, false, limit)
	if err != nil {
		return bridge.ScanResult{}, err
	}
	events, err := p.loadSeqs(ctx, st, f.seqs, false, r.Bodies, r.MaxBytes)
	if err != nil {
		return bridge.ScanResult{}, err
	}
	return bridge.ScanResult{Events: events, Next: next(f, events, hi)}, nil
}

// next is the position up to which a page that was found and loaded has looked at everything; end when that is all. Pages
// that were cut at their bytes end at their last event.
func next(f found, events []*bridge.Encoded, end uint64) uint64 {
	if len(events) > 0 && len(f.seqs) > 0 && events[len(events)-1].Sequence != f.seqs[len(f.seqs)-1] {
		return events[len(events)-1].Sequence
	}
	if f.edge != 0 {
		return f.edge
	}
	return end
}
