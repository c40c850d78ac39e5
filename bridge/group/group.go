package group

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/spotbridge/spotbridge/bridge"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

const (
	// maxMemberEvents and maxMemberBytes bound what a member holds.
	maxMemberEvents = 1000
	maxMemberBytes  = 64 << 20
	// maxPulledEvents bounds what was taken with Pull and not settled, per group and process.
	maxPulledEvents = 10_000

	// watchInterval is how often the state of every group is looked at: for metrics, and for the log's floor.
	watchInterval = 5 * time.Second
	// settleTimeout bounds what is said to the store after a member has gone.
	settleTimeout = 10 * time.Second
)

// Config says what groups work on. Zero values mean the defaults that the fields name.
type Config struct {
	Store     bridge.GroupStore
	Log       bridge.Reader
	History   bridge.History
	Converter bridge.Converter
	// MaxGroups bounds how many groups there are; 0 = 256.
	MaxGroups int
	// MaxMembers bounds the members of this process; 0 = 10,000.
	MaxMembers int
	// SendTimeout ends a member that does not read; 0 = 15 min.
	SendTimeout time.Duration
	// MaxAge is when streams are ended so that load spreads after a deploy; 0 = 1 h.
	MaxAge time.Duration
	// RecentBytes bounds what is kept of recently published events; 0 = 32 MiB.
	RecentBytes int

	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// Groups serves consumer groups. It implements bridge.Groups and bridge.Sink: the projection publishes to it.
type Groups struct {
	cfg      Config
	log      *slog.Logger
	m        *metrics
	instance uint32
	recent   *recent
	nextID   atomic.Uint64
	// floor is the newest floor of the log that was seen.
	floor     atomic.Uint64
	floorSeen atomic.Int64 // Unix nanoseconds

	mu       sync.Mutex
	groups   map[string]*group
	members  int
	draining chan struct{}
	drained  bool
	active   sync.WaitGroup // of Consume and Pull
}

var (
	_ bridge.Groups = (*Groups)(nil)
	_ bridge.Sink   = (*Groups)(nil)
)

// New returns the groups. Run must be called for them to notice what other replicas change.
func New(cfg Config) *Groups {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	for _, d := range []struct {
		v   *int
		def int
	}{{&cfg.MaxGroups, 256}, {&cfg.MaxMembers, 10_000}, {&cfg.RecentBytes, 32 << 20}} {
		if *d.v <= 0 {
			*d.v = d.def
		}
	}
	if cfg.SendTimeout <= 0 {
		cfg.SendTimeout = 15 * time.Minute
	}
	if cfg.MaxAge <= 0 {
		cfg.MaxAge = time.Hour
	}
	return &Groups{
		cfg: cfg, log: cfg.Logger, m: newMetrics(cfg.Registerer), instance: rand.Uint32(), recent: newRecent(cfg.RecentBytes),
		groups: map[string]*group{}, draining: make(chan struct{}),
	}
}

// Publish implements bridge.Sink.
func (s *Groups) Publish(events []*bridge.Encoded, watermark uint64) {
	s.recent.publish(events, watermark)
}

// Lost implements bridge.Sink. What a group has lost by it is seen at the log's floor.
func (s *Groups) Lost(floor uint64) { s.recent.lost(floor) }

// group is what this process knows of a group.
type group struct {
	s    *Groups
	name string
	m    groupMetrics
	load loader

	mu      sync.Mutex
	rec     *bridge.GroupRecord // replaced, never changed
	signer  *signer             // of rec.Key
	gone    bool
	changed chan struct{} // closed and replaced when rec or gone changes, or events were redriven
	redrive uint64        // counts redrives
	members map[*member]struct{}
	leases  map[leaseKey]*lease
	pulled  int // leases without a member
	// unseen counts deliveries by the queue that no client has seen.
	unseen map[leaseKey]int

	progress progress
}

// leaseKey names an entry of a queue.
type leaseKey struct {
	redriven bool
	key      uint64
}

// open returns the group.
func (s *Groups) open(ctx context.Context, name string) (*group, error) {
	s.mu.Lock()
	g := s.groups[name]
	s.mu.Unlock()
	if g != nil {
		return g, nil
	}
	rec, err := s.cfg.Store.Group(ctx, name)
	if err != nil {
		return nil, storeError(name, err)
	}
	return s.adopt(rec), nil
}

// adopt puts a record in force.
func (s *Groups) adopt(rec *bridge.GroupRecord) *group {
	s.mu.Lock()
	g := s.groups[rec.Name]
	if g == nil {
		g = &group{
			s: s, name: rec.Name, m: s.m.of(rec.Name), rec: rec, signer: newSigner(rec.Key), changed: make(chan struct{}), members: map[*member]struct{}{}, leases: map[leaseKey]*lease{}, unseen: map[leaseKey]int{},
		}
		g.load.g = g
		s.groups[rec.Name] = g
	}
	s.mu.Unlock()
	g.apply(rec)
	return g
}

// apply puts a newer record in force. After a seek, or when another group has taken the name, what was held is stale.
func (g *group) apply(rec *bridge.GroupRecord) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if rec.Revision <= g.rec.Revision && !g.gone {
		return
	}
	if rec.Key != g.rec.Key || rec.Epoch != g.rec.Epoch {
		for _, l := range g.leases {
			// Redriven events are in a queue that is not moved.
			if rec.Key != g.rec.Key || !l.taken.Redriven {
				g.forget(l)
			}
		}
		clear(g.unseen)
	}
	if rec.Key != g.rec.Key {
		g.signer = newSigner(rec.Key)
	}
	if rec.Settings.Filter.Key() != g.rec.Settings.Filter.Key() {
		g.load.reset()
	}
	g.rec, g.gone = rec, false
	g.broadcast()
}

// broadcast wakes everyone who waits for a change. g.mu is held.
func (g *group) broadcast() {
	close(g.changed)
	g.changed = make(chan struct{})
}

// end ends the group here: it was deleted.
func (s *Groups) end(name string) {
	s.mu.Lock()
	g := s.groups[name]
	delete(s.groups, name)
	s.mu.Unlock()
	if g == nil {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.gone = true
	for _, l := range g.leases {
		g.forget(l)
	}
	g.broadcast()
	s.m.forget(name)
}

// record returns the record in force, and what is closed when it changes.
func (g *group) record() (*bridge.GroupRecord, <-chan struct{}, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.gone {
		return nil, nil, notFound(g.name)
	}
	return g.rec, g.changed, nil
}

// refresh reads the record again.
func (g *group) refresh(ctx context.Context) error {
	rec, err := g.s.cfg.Store.Group(ctx, g.name)
	if errors.Is(err, bridge.ErrNoGroup) {
		g.s.end(g.name)
	}
	if err != nil {
		return storeError(g.name, err)
	}
	g.apply(rec)
	return nil
}

// Run follows what other replicas do to groups, and looks after their state, until ctx ends.
func (s *Groups) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { s.watch(ctx) })
	for {
		err := s.cfg.Store.WatchGroups(ctx, func(name string) {
			s.mu.Lock()
			g := s.groups[name]
			s.mu.Unlock()
			if g == nil {
				return
			}
			if err := g.refresh(ctx); err != nil && ctx.Err() == nil && bridge.ReasonOf(err) != pb.ErrorReason_ERROR_REASON_GROUP_NOT_FOUND {
				s.log.Warn("a changed consumer group could not be read", "group", name, "error", err)
			}
		})
		if ctx.Err() != nil {
			return nil
		}
		s.log.Warn("watching consumer groups was interrupted, trying again", "error", err)
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return nil
		}
	}
}

// enter admits a call that delivers events.
func (s *Groups) enter(member bool) (leave func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.drained:
		return nil, draining()
	case member && s.members >= s.cfg.MaxMembers:
		return nil, &bridge.Error{
			Reason: pb.ErrorReason_ERROR_REASON_TOO_MANY_STREAMS, Message: fmt.Sprintf("this replica has %d members of groups, as many as it takes; retry with backoff", s.members),
		}
	}
	s.active.Add(1)
	if member {
		s.members++
	}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if member {
			s.members--
		}
		s.active.Done()
	}, nil
}

// Drain implements bridge.Groups.
func (s *Groups) Drain(ctx context.Context) error {
	s.mu.Lock()
	if !s.drained {
		s.drained = true
		close(s.draining)
	}
	s.mu.Unlock()
	done := make(chan struct{})
	go func() {
		s.active.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
		return ctx.Err()
	}
	s.keepMarks(ctx)
	return nil
}

func draining() error {
	return &bridge.Error{Reason: pb.ErrorReason_ERROR_REASON_DRAINING, Message: "the bridge is shutting down; reconnect with backoff"}
}

func notFound(name string) error {
	return &bridge.Error{
		Reason: pb.ErrorReason_ERROR_REASON_GROUP_NOT_FOUND, Field: "group",
		Message: fmt.Sprintf("there is no consumer group %s; create it, or look at the list of groups", name), Err: bridge.ErrNoGroup,
	}
}

// storeError gives the store's decisions their reasons.
func storeError(name string, err error) error {
	switch {
	case errors.Is(err, bridge.ErrNoGroup):
		return notFound(name)
	case errors.Is(err, bridge.ErrGroupExists):
		return &bridge.Error{
			Reason: pb.ErrorReason_ERROR_REASON_GROUP_EXISTS, Field: "group", Message: fmt.Sprintf("there is a consumer group %s already; use it, update it, or choose another name", name), Err: err,
		}
	case errors.Is(err, bridge.ErrGroupChanged):
		return &bridge.Error{
			Reason: pb.ErrorReason_ERROR_REASON_GROUP_CONFLICT, Message: fmt.Sprintf("somebody else changed the consumer group %s at the same time; read it and retry", name), Err: err,
		}
	case errors.Is(err, bridge.ErrQueueGone):
		return bridge.LogUnavailable(err)
	}
	return err
}
