package live

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spotbridge/spotbridge/bridge"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

// Hub is the ring and its subscriptions. It implements bridge.Sink and bridge.Hub.
type Hub struct {
	cfg     Config
	m       *metrics
	readers queue
	// catchingUp counts the subscriptions that read history.
	catchingUp atomic.Int64
	// draining is closed when the hub drains.
	draining chan struct{}
	wg       sync.WaitGroup

	// publish admits one Publish at a time; it guards dirty.
	publish sync.Mutex
	dirty   []*group

	// mu guards everything below. It is never held while anything is sent, and readers of the ring share it.
	mu     sync.RWMutex
	ring   ring
	groups groups
	subs   map[*Subscription]struct{}
	// hurried are subscriptions to be woken by every Publish, also without a match.
	hurried map[*Subscription]struct{}
	lastID  uint64
	drained bool
}

var (
	_ bridge.Sink = (*Hub)(nil)
	_ bridge.Hub  = (*Hub)(nil)
)

// New returns a hub. It may be made before or after the follower starts.
func New(cfg Config) *Hub {
	cfg = cfg.withDefaults()
	h := &Hub{
		cfg: cfg, readers: queue{free: cfg.CatchUpReaders}, draining: make(chan struct{}), ring: newRing(cfg.RingEvents, cfg.RingBytes),
		groups: newGroups(), subs: map[*Subscription]struct{}{}, hurried: map[*Subscription]struct{}{},
	}
	h.m = newMetrics(cfg.Registerer, h)
	return h
}

// Publish implements bridge.Sink. Events that were published before are left out. It takes the time to compare the events
// with the distinct filters and to wake who has a match; it waits for no reader.
func (h *Hub) Publish(events []*bridge.Encoded, watermark uint64) {
	h.publish.Lock()
	defer h.publish.Unlock()
	entries := make([]*entry, len(events))
	for i, room := 0, make([]entry, len(events)); i < len(events); i++ {
		entries[i] = &room[i]
		entries[i].init(events[i])
	}
	h.append(entries, watermark)
	h.wake()
}

// Lost implements bridge.Sink: nothing is in the ring any more, so that every subscription before the gap asks history, which
// tells it that its position has expired. A gap is never passed in silence.
func (h *Hub) Lost(floor uint64) {
	h.publish.Lock()
	defer h.publish.Unlock()
	h.mu.Lock()
	defer h.mu.Unlock()
	r := &h.ring
	if floor <= r.watermark+1 {
		return
	}
	for r.base < r.end {
		r.drop()
	}
	r.base, r.end = r.end+1, r.end+1 // the gap has an index of its own: whoever has not passed it is overtaken
	r.begun, r.floor, r.watermark = true, floor-1, floor-1
	for s := range h.subs {
		s.group.matches, s.group.complete = nil, r.end
		s.poke()
	}
}

func (h *Hub) append(entries []*entry, watermark uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	r := &h.ring
	if !r.begun {
		// What came before the first event that is seen here is not in the ring.
		floor := watermark
		if len(entries) > 0 {
			floor = entries[0].Sequence - 1
		}
		r.begun, r.floor, r.watermark = true, floor, floor
	} else if watermark < r.watermark {
		h.rewind(entries, watermark)
	}
	for _, e := range entries {
		if e.Sequence <= r.watermark {
			continue
		}
		i := r.push(e)
		r.watermark = e.Sequence
		h.groups.match(&e.Meta, i, func(g *group) {
			g.push(i, h.cfg.maxMatches)
			if !g.dirty {
				g.dirty = true
				h.dirty = append(h.dirty, g)
			}
		})
	}
	r.watermark = max(r.watermark, watermark)
}

// rewind begins anew with a log that is not the one before: the positions of all subscriptions mean nothing in it.
func (h *Hub) rewind(entries []*entry, watermark uint64) {
	r := &h.ring
	for r.base < r.end {
		r.drop()
	}
	r.floor, r.watermark = watermark, watermark
	if len(entries) > 0 {
		r.floor, r.watermark = entries[0].Sequence-1, entries[0].Sequence-1
	}
	for s := range h.subs {
		s.end(endRewound)
	}
}

// wake wakes the waiting subscriptions of the groups that have matches. It shares the lock with those that read already.
func (h *Hub) wake() {
	h.mu.RLock()
	defer h.mu.RUnlock()
	for i, g := range h.dirty {
		for _, s := range g.subs {
			if s.waiting.Load() && s.waiting.CompareAndSwap(true, false) {
				s.poke()
			}
		}
		g.dirty, h.dirty[i] = false, nil
	}
	h.dirty = h.dirty[:0]
	for s := range h.hurried {
		s.poke()
	}
}

// begin starts the ring at the projection's watermark when nothing has been published yet: what is published later and
// lies above was committed later.
func (h *Hub) begin(watermark uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if r := &h.ring; !r.begun {
		r.begun, r.floor, r.watermark = true, watermark, watermark
	}
}

// Watermark returns the sequence up to which everything was published.
func (h *Hub) Watermark() uint64 {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.ring.watermark
}

// head returns the newest sequence that is ready to be streamed, or that the log is known to have.
func (h *Hub) head() uint64 { return max(h.Watermark(), h.cfg.Head()) }

// Subscribe implements bridge.Hub.
func (h *Hub) Subscribe(ctx context.Context, r bridge.SubscribeRequest, to bridge.Sender) error {
	s, err := h.Open(ctx, r)
	if err != nil {
		return err
	}
	return s.Run(ctx, to)
}

func draining() error {
	return &bridge.Error{
		Reason: pb.ErrorReason_ERROR_REASON_DRAINING, Message: "the bridge is shutting down; reconnect with backoff and resume with the cursor",
	}
}

// add registers a subscription.
func (h *Hub) add(s *Subscription) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.drained:
		return draining()
	case len(h.subs) >= h.cfg.MaxSubscriptions:
		return &bridge.Error{
			Reason: pb.ErrorReason_ERROR_REASON_TOO_MANY_STREAMS, Message: "too many streams at this replica; retry with backoff",
		}
	}
	h.wg.Add(1) // until run ends
	h.lastID++
	s.id = h.lastID
	h.subs[s] = struct{}{}
	s.group = h.groups.join(s.req.Filter, h.ring.end)
	s.group.add(s)
	if s.stop {
		h.hurried[s] = struct{}{}
	}
	return nil
}

// remove forgets a subscription; it may be called more than once.
func (h *Hub) remove(s *Subscription) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, ok := h.subs[s]; !ok {
		return
	}
	delete(h.subs, s)
	delete(h.hurried, s)
	s.group.remove(s)
	if len(s.group.subs) == 0 {
		h.groups.leave(s.group)
	}
}

// Drain implements bridge.Hub.
func (h *Hub) Drain(ctx context.Context) error {
	h.mu.Lock()
	if !h.drained {
		h.drained = true
		close(h.draining)
	}
	for s := range h.subs {
		s.end(endDrain)
	}
	h.mu.Unlock()
	done := make(chan struct{})
	go func() {
		h.wg.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err() // the goroutine ends with the last subscription
	}
}

// Subscriptions implements bridge.Hub.
func (h *Hub) Subscriptions() []bridge.SubscriptionInfo {
	h.mu.RLock()
	defer h.mu.RUnlock()
	now := time.Now()
	out := make([]bridge.SubscriptionInfo, 0, len(h.subs))
	for s := range h.subs {
		out = append(out, s.info(now))
	}
	slices.SortFunc(out, func(a, b bridge.SubscriptionInfo) int { return cmp.Compare(a.ID, b.ID) })
	return out
}
