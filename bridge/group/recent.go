package group

import (
	"sort"
	"sync"

	"github.com/spotbridge/spotbridge/bridge"
)

// recent keeps what the projection has published last, so that members who keep up cost no query. The events are the ones
// that the live ring holds, too.
type recent struct {
	mu        sync.Mutex
	limit     int
	bytes     int
	pages     []page
	watermark uint64
	advanced  chan struct{} // closed and replaced when the watermark rises
}

// page is a stretch of the log: the events after one sequence up to another.
type page struct {
	after, next uint64
	events      []*bridge.Encoded
	bytes       int
}

// find returns the event of a sequence that the page covers, nil when it has none.
func (p *page) find(seq uint64) *bridge.Encoded {
	i := sort.Search(len(p.events), func(i int) bool { return p.events[i].Sequence >= seq })
	if i < len(p.events) && p.events[i].Sequence == seq {
		return p.events[i]
	}
	return nil
}

func newRecent(limit int) *recent { return &recent{limit: limit, advanced: make(chan struct{})} }

func (r *recent) publish(events []*bridge.Encoded, watermark uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if watermark < r.watermark { // the projection is being rebuilt
		r.pages, r.bytes, r.watermark = nil, 0, watermark
	}
	p := page{after: r.watermark, next: watermark, events: events}
	if r.watermark == 0 && len(events) > 0 {
		p.after = events[0].Sequence - 1 // what was before is not known
	}
	for _, e := range events {
		p.bytes += len(e.Envelope) + len(e.Body) + 256
	}
	if watermark > r.watermark {
		if len(events) > 0 {
			r.pages, r.bytes = append(r.pages, p), r.bytes+p.bytes
		} else if n := len(r.pages); n > 0 && r.pages[n-1].next == p.after {
			r.pages[n-1].next = watermark
		}
		r.watermark = watermark
		close(r.advanced)
		r.advanced = make(chan struct{})
	}
	for len(r.pages) > 1 && r.bytes > r.limit {
		r.bytes -= r.pages[0].bytes
		r.pages[0] = page{}
		r.pages = r.pages[1:]
	}
}

// lost begins anew after a gap.
func (r *recent) lost(floor uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.pages, r.bytes, r.watermark = nil, 0, max(r.watermark, floor-1)
}

// find returns the event of a sequence, and whether it is known what stands there.
func (r *recent) find(seq uint64) (e *bridge.Encoded, known bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	i := sort.Search(len(r.pages), func(i int) bool { return r.pages[i].next >= seq })
	if i == len(r.pages) || r.pages[i].after >= seq {
		return nil, false
	}
	return r.pages[i].find(seq), true
}

// mark returns the newest watermark that was published, and what is closed when it rises.
func (r *recent) mark() (uint64, <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.watermark, r.advanced
}
