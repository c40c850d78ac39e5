package live

import (
	"sort"

	"github.com/spotbridge/spotbridge/bridge"
)

// entry is an event in the ring.
type entry struct {
	*bridge.Encoded
	shared bridge.Shared
	size   int64
}

// entryOverhead is about what an event costs beside its bytes.
const entryOverhead = 1 << 10

func (x *entry) init(e *bridge.Encoded) {
	x.Encoded, x.size = e, int64(len(e.Envelope))+2*int64(len(e.Body))+entryOverhead
}

// ring holds the newest events. It has every event with a sequence above floor and up to watermark. Entries have indexes
// that count up for ever: those from base up to, not including, end are held. It is guarded by the hub's lock.
type ring struct {
	slots     []*entry
	maxBytes  int64
	bytes     int64
	base, end uint64
	// floor and watermark are sequences. begun says that they are set.
	floor, watermark uint64
	begun            bool
}

func newRing(events int, bytes int64) ring {
	n := 1
	for n < events {
		n *= 2
	}
	return ring{slots: make([]*entry, n), maxBytes: bytes}
}

func (r *ring) at(i uint64) *entry { return r.slots[i%uint64(len(r.slots))] }

// push adds the newest event and drops the oldest ones as needed. One event always fits.
func (r *ring) push(e *entry) uint64 {
	for r.end > r.base && (r.end-r.base == uint64(len(r.slots)) || r.bytes+e.size > r.maxBytes) {
		r.drop()
	}
	i := r.end
	r.slots[i%uint64(len(r.slots))] = e
	r.bytes += e.size
	r.end++
	return i
}

func (r *ring) drop() {
	p := &r.slots[r.base%uint64(len(r.slots))]
	r.bytes -= (*p).size
	r.floor = (*p).Sequence
	*p = nil
	r.base++
}

// after returns the index of the first entry above a sequence.
func (r *ring) after(seq uint64) uint64 {
	n := sort.Search(int(r.end-r.base), func(i int) bool { return r.at(r.base+uint64(i)).Sequence > seq })
	return r.base + uint64(n)
}
