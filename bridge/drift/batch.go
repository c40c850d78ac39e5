package drift

import (
	"github.com/spotbridge/spotbridge/bridge"
)

// maxFound ends a batch early when it has found so many different things.
const maxFound = 4096

// batch is what a piece of a run has found so far.
type batch struct {
	bridge.DriftBatch
	found map[bridge.DriftKey]*bridge.DriftEntry
	// gone and failed are what is skipped; failedID is the id of the first event whose conversion failed.
	gone, failed int64
	failedID     string
}

func newBatch(run bridge.DriftRun) *batch {
	return &batch{DriftBatch: bridge.DriftBatch{Run: run.ID, After: run.Watermark, Watermark: run.Watermark}, found: map[bridge.DriftKey]*bridge.DriftEntry{}}
}

// inspect inspects events, which are all that there are up to a sequence.
func (b *batch) inspect(events []*bridge.Encoded, upTo uint64) {
	for _, e := range events {
		if len(b.found) >= maxFound {
			return
		}
		b.add(e)
		b.Watermark = e.Sequence
	}
	b.Watermark = upTo
}

func (b *batch) add(e *bridge.Encoded) {
	r := e.Inspected()
	if r == nil {
		if b.failed == 0 {
			b.failedID = e.EventID
		}
		b.failed++
		return
	}
	b.Events++
	b.Overflow += int64(r.MoreDrift)
	for _, d := range r.Drift {
		key := bridge.DriftKey{EventType: e.EventType, Kind: d.Kind, Path: d.Path}
		x := b.found[key]
		if x == nil {
			x = &bridge.DriftEntry{EventType: key.EventType, Kind: key.Kind, Path: key.Path, FirstSeen: e.AppendTime}
			b.found[key] = x
		}
		x.LastSeen, x.Example = e.AppendTime, e.EventID
		x.Events++
		x.Occurrences += int64(d.Count)
	}
}

// result returns what is to be stored.
func (b *batch) result() bridge.DriftBatch {
	b.Skipped = b.gone + b.failed
	b.Entries = b.Entries[:0]
	for _, x := range b.found {
		b.Entries = append(b.Entries, *x)
	}
	return b.DriftBatch
}
