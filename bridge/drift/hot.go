package drift

import (
	"sync"

	"github.com/spotbridge/spotbridge/bridge"
)

// hot holds the events that the follower has published and the worker has not come to: all of those above floor, up to
// watermark. When there are too many it gives up the oldest ones, which history has.
type hot struct {
	maxEvents int
	maxBytes  int64

	mu               sync.Mutex
	events           []*bridge.Encoded
	bytes            int64
	floor, watermark uint64
	begun            bool
}

// weight is what an event holds on to: the ring counts the same.
func weight(e *bridge.Encoded) int64 { return int64(len(e.Envelope)) + 2*int64(len(e.Body)) }

// add takes events that were published.
func (h *hot) add(events []*bridge.Encoded, watermark uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.begun || watermark < h.watermark { // the latter: with another log
		h.events, h.bytes = nil, 0
		h.begun, h.floor = true, watermark
		if len(events) > 0 {
			h.floor = events[0].Sequence - 1
		}
	}
	for _, e := range events {
		h.events = append(h.events, e)
		h.bytes += weight(e)
	}
	h.watermark = watermark
	for len(h.events) > h.maxEvents || h.bytes > h.maxBytes {
		h.drop()
	}
}

func (h *hot) drop() {
	e := h.events[0]
	h.events[0] = nil
	h.events = h.events[1:]
	h.bytes -= weight(e)
	h.floor = e.Sequence
}

// after returns the events after a sequence, at most n, and the sequence up to which they are all. ok is false when some
// are not there. They stay until a later call begins behind them.
func (h *hot) after(seq uint64, n int) (events []*bridge.Encoded, upTo uint64, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.begun || seq < h.floor || seq > h.watermark {
		return nil, 0, false
	}
	for len(h.events) > 0 && h.events[0].Sequence <= seq {
		h.drop()
	}
	if len(h.events) > n {
		return append(events, h.events[:n]...), h.events[n-1].Sequence, true
	}
	return append(events, h.events...), h.watermark, true
}

// forget gives up everything: it is of another life of the projection.
func (h *hot) forget() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.events, h.bytes, h.begun = nil, 0, false
}
