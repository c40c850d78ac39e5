package live

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/spotbridge/spotbridge/bridge"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

// List implements bridge.History for snapshots: of each entity the matching event with the highest version, of equal ones
// the last. The version stands in the trip id, which no filter of these tests uses.
func (h *history) List(_ context.Context, r bridge.ListRequest) (bridge.ListResult, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !r.OldestFirst || !r.LatestPerEntity {
		return bridge.ListResult{}, errors.New("the hub lists nothing else")
	}
	out := bridge.ListResult{Snapshot: min(r.Snapshot, h.mark)}
	for _, e := range latestOf(h.events, r.Filter, out.Snapshot) {
		if e.Sequence <= r.Resume {
			continue
		}
		if len(out.Events) == r.PageSize {
			out.Next = out.Events[len(out.Events)-1].Sequence
			break
		}
		out.Events = append(out.Events, e)
	}
	return out, h.err
}

// latestOf returns the latest matching event of each entity up to a sequence, in log order.
func latestOf(events []*bridge.Encoded, f *bridge.Filter, upTo uint64) []*bridge.Encoded {
	best := map[string]*bridge.Encoded{}
	for _, e := range events {
		if e.EntityID == "" || e.Sequence > upTo || !f.Match(&e.Meta) {
			continue
		}
		if b := best[e.EntityID]; b == nil || e.TripID >= b.TripID {
			best[e.EntityID] = e
		}
	}
	var out []*bridge.Encoded
	for _, e := range best {
		out = append(out, e)
	}
	slices.SortFunc(out, func(a, b *bridge.Encoded) int { return cmp.Compare(a.Sequence, b.Sequence) })
	return out
}

func of(entity string, version int) func(*bridge.Meta) {
	return func(m *bridge.Meta) { m.EntityID, m.TripID = entity, fmt.Sprint(version) }
}

func snapshotOf(f *bridge.Filter) bridge.SubscribeRequest {
	return bridge.SubscribeRequest{Filter: f, Start: pb.Start_START_SNAPSHOT, HeartbeatInterval: time.Hour}
}

func TestASnapshotIsTheLatestOfEachEntityThenLive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(Config{PageEvents: 2})
		f.put(event(1, of("a", 1)), event(2, of("b", 1)), event(3, of("a", 3)), event(4, of("a", 2)), event(5), event(6, of("c", 1)), event(8, of("b", 1)))
		f.history.commit(nil, 9) // a body in quarantine
		f.Publish(nil, 9)
		c := f.subscribe(t.Context(), snapshotOf(nil))
		synctest.Wait()
		f.put(event(10, of("a", 1)))
		synctest.Wait()
		if got, want := fmt.Sprint(kinds(c.messages())), "[c 3 6 8 s u 10]"; got != want {
			t.Fatalf("%s, want %s", got, want)
		}
		m := c.messages()
		if x := m[0].GetConfirmation(); x.SnapshotSequence == nil || x.GetSnapshotSequence() != 9 || x.GetStartSequence() != 0 {
			t.Error(x)
		}
		if x := m[4].GetSnapshotEnd(); x.GetEventCount() != 3 || x.GetSnapshotSequence() != 9 || x.GetHeadSequence() != 9 || m[4].GetCursor() != cursorAt(9) {
			t.Error(m[4])
		}
		if err := c.end(); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		// A cursor in the snapshot: the rest of it, then everything since.
		for i, want := range []string{"[c 3 6 8 s 10 u]", "[c 6 8 s 10 u]", "[c 8 s 10 u]", "[c s 10 u]", "[c 10 u]"} {
			c := f.subscribe(t.Context(), bridge.SubscribeRequest{AfterCursor: m[i].GetCursor(), HeartbeatInterval: time.Hour})
			synctest.Wait()
			if got := fmt.Sprint(kinds(c.messages())); got != want {
				t.Errorf("after message %d: %s, want %s", i, got, want)
			}
			if x := c.messages()[0].GetConfirmation(); (x.SnapshotSequence != nil) != (i < 4) {
				t.Error(x)
			}
			_ = c.end()
		}
		// An empty one, with and without stop_at_head; and an empty log.
		r := snapshotOf(filter(t, &pb.EventFilter{EventTypes: []string{"NEVER"}}))
		r.StopAtHead = true
		c = f.subscribe(t.Context(), r)
		if err := <-c.done; err != nil || fmt.Sprint(kinds(c.messages())) != "[c s u]" {
			t.Errorf("%v %v", kinds(c.messages()), err)
		}
		empty := newFixture(Config{})
		c = empty.subscribe(t.Context(), snapshotOf(nil))
		synctest.Wait()
		first := c.messages()[0].GetCursor()
		_ = c.end()
		again := empty.subscribe(t.Context(), bridge.SubscribeRequest{AfterCursor: first, HeartbeatInterval: time.Hour})
		synctest.Wait()
		for _, x := range []*client{c, again} {
			if got := fmt.Sprint(kinds(x.messages())); got != "[c s u]" {
				t.Error(got)
			}
		}
		_ = again.end()
	})
}

// TestASlowSnapshotGoesOnFromHistory: while it is read the ring moves on, and what came since is taken from history.
func TestASlowSnapshotGoesOnFromHistory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(Config{PageEvents: 2, RingEvents: 4})
		for i := range 10 {
			f.put(event(uint64(i+1), of(fmt.Sprint("e", i), 1)))
		}
		c := f.subscribeHeld(t.Context(), snapshotOf(nil))
		synctest.Wait()
		for seq := uint64(11); seq <= 30; seq++ {
			f.put(event(seq, of("e0", int(seq))))
		}
		if s := f.Subscriptions()[0]; s.State != bridge.SubscriptionCatchingUp || s.Position != 0 || s.Head != 30 {
			t.Errorf("%+v", s)
		}
		c.hold.Unlock()
		synctest.Wait()
		want := []string{"c", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "s"}
		for seq := 11; seq <= 30; seq++ {
			want = append(want, fmt.Sprint(seq))
		}
		if got := kinds(c.messages()); !slices.Equal(got, append(want, "u")) {
			t.Errorf("%v", got)
		}
		// Then it falls behind like any other.
		c.hold.Lock()
		for seq := uint64(31); seq <= 40; seq++ {
			f.put(event(seq))
		}
		c.hold.Unlock()
		synctest.Wait()
		if got := kinds(c.messages()); !slices.Contains(got, "f") || got[len(got)-1] != "u" || got[len(got)-2] != "40" {
			t.Errorf("%v", got)
		}
		_ = c.end()
	})
}

func TestRetentionDuringASnapshot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(Config{PageEvents: 1})
		f.put(event(1, of("gone", 1)), event(2, of("a", 2)), event(3, of("b", 1)), event(4, of("a", 1)), event(5, of("c", 1)))
		c := f.subscribeHeld(t.Context(), snapshotOf(nil))
		synctest.Wait()
		f.history.retain(4) // before anything was read: what is held now is what counts
		c.hold.Unlock()
		synctest.Wait()
		if got := fmt.Sprint(kinds(c.messages())); got != "[c 4 5 s u]" {
			t.Error(got)
		}
		cursor := c.messages()[1].GetCursor()
		_ = c.end()
		// What is since the snapshot must be there.
		f.put(event(6), event(7), event(8))
		f.history.retain(6)
		again := f.subscribe(t.Context(), bridge.SubscribeRequest{AfterCursor: cursor, StopAtHead: true, HeartbeatInterval: time.Hour})
		if err := <-again.done; err != nil || fmt.Sprint(kinds(again.messages())) != "[c s 6 7 8 u]" {
			t.Errorf("%v %v", kinds(again.messages()), err)
		}
		f.history.retain(7)
		again = f.subscribe(t.Context(), bridge.SubscribeRequest{AfterCursor: cursor, HeartbeatInterval: time.Hour})
		if e := expectReason(t, <-again.done, pb.ErrorReason_ERROR_REASON_CURSOR_EXPIRED); e.Metadata["earliest_cursor"] != cursorAt(6) {
			t.Error(e.Metadata)
		}
		// The same while the stream runs: it is told, and nothing is jumped over.
		g := newFixture(Config{PageEvents: 1, RingEvents: 2})
		g.put(event(1, of("a", 1)))
		held := g.subscribeHeld(t.Context(), snapshotOf(nil))
		synctest.Wait()
		g.put(events(2, 9)...)
		g.history.retain(5)
		held.hold.Unlock()
		expectReason(t, <-held.done, pb.ErrorReason_ERROR_REASON_CURSOR_EXPIRED)
		if got := fmt.Sprint(kinds(held.messages())); got != "[c s]" {
			t.Error(got)
		}
	})
}

// TestASnapshotWaitsForHistoryThatIsBeingRebuilt: a listing of half of it would leave entities out silently.
func TestASnapshotWaitsForHistoryThatIsBeingRebuilt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(Config{Head: func() uint64 { return 5 }})
		all := []*bridge.Encoded{event(1, of("a", 1)), event(2, of("b", 1)), event(5, of("a", 2))}
		f.history.commit(all[:1], 1)
		cursor := bridge.Cursor{Log: testLog, InSnapshot: true, Snapshot: 5}.String()
		c := f.subscribe(t.Context(), bridge.SubscribeRequest{AfterCursor: cursor, HeartbeatInterval: 10 * time.Second})
		c.await(t, 3, 18*time.Second, 22*time.Second)
		if got := fmt.Sprint(kinds(c.messages())); got != "[c h h]" {
			t.Error(got)
		}
		f.history.commit(all[1:], 5)
		f.Publish(all[1:], 5)
		c.await(t, 7, 0, time.Second)
		if got := fmt.Sprint(kinds(c.messages())); got != "[c h h 2 5 s u]" {
			t.Error(got)
		}
		for _, m := range c.messages()[:3] {
			if m.GetCursor() != cursor {
				t.Errorf("%v", m)
			}
		}
		_ = c.end()
		ahead := bridge.Cursor{Log: testLog, Sequence: 1, InSnapshot: true, Snapshot: 6}.String()
		c = f.subscribe(t.Context(), bridge.SubscribeRequest{AfterCursor: ahead})
		expectReason(t, <-c.done, pb.ErrorReason_ERROR_REASON_CURSOR_AHEAD)
		f.history.mu.Lock()
		f.history.err = bridge.HistoryUnavailable(errors.New("disk"))
		f.history.mu.Unlock()
		c = f.subscribe(t.Context(), snapshotOf(nil))
		expectReason(t, <-c.done, pb.ErrorReason_ERROR_REASON_HISTORY_UNAVAILABLE)
	})
}

func TestDrainAndAgeEndASnapshotWithItsCursor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(Config{PageEvents: 2})
		for i := range 9 {
			f.put(event(uint64(i+1), of(fmt.Sprint("e", i), 1)))
		}
		c := f.subscribeHeld(t.Context(), snapshotOf(nil))
		synctest.Wait()
		drained := make(chan error, 1)
		go func() { drained <- f.Drain(context.Background()) }()
		synctest.Wait() // it has begun
		c.hold.Unlock()
		if err := <-c.done; err != nil {
			t.Error(err)
		}
		if err := <-drained; err != nil {
			t.Error(err)
		}
		m := c.messages()
		x, err := bridge.ParseCursor(m[len(m)-1].GetCursor(), testLog)
		if got := fmt.Sprint(kinds(m)); got != "[c g]" || err != nil || !x.InSnapshot || x.Snapshot != 9 || x.Sequence != 0 {
			t.Errorf("%s %+v %v", got, x, err)
		}
	})
}

// snapper takes a snapshot and follows, goes away now and then, and comes back with its cursor. While it takes a message
// the log goes on and history forgets.
type snapper struct {
	cursor   string
	got      []*bridge.Encoded // of the snapshot
	since    []uint64
	snapshot uint64
	ended    bool
	after    func() error // after each message
	heldAt   []*bridge.Encoded
	history  *history
}

// SendEvents takes some of them as one message.
func (s *snapper) SendEvents(events []bridge.Outgoing, most int, cursor func(uint64) bridge.Cursor) (n, bytes int, err error) {
	events = events[:min(most, len(events))]
	n = 1 + len(s.got)%len(events)
	for _, e := range events[:n] {
		if c := cursor(e.Sequence); c.InSnapshot == s.ended || c.Sequence != e.Sequence {
			return 0, 0, fmt.Errorf("event %d has cursor %+v, after the snapshot: %v", e.Sequence, c, s.ended)
		}
	}
	if err := s.after(); err != nil {
		return 0, 0, err // they go away with the message
	}
	s.cursor = cursor(events[n-1].Sequence).String()
	for _, e := range events[:n] {
		if s.ended {
			s.since = append(s.since, e.Sequence)
		} else {
			s.got = append(s.got, e.Encoded)
		}
	}
	return n, n, nil
}

func (s *snapper) SendMessage(m *pb.SubscribeResponse) error {
	if c := m.GetConfirmation(); c != nil && s.cursor == "" {
		s.snapshot = c.GetSnapshotSequence()
	}
	if err := s.after(); err != nil {
		return err
	}
	s.cursor = m.GetCursor()
	if m.GetSnapshotEnd() != nil {
		if s.ended {
			return errors.New("snapshot_end twice")
		}
		s.ended = true
		s.history.mu.Lock()
		s.heldAt = slices.Clone(s.history.events)
		s.history.mu.Unlock()
	}
	return nil
}

// TestSnapshotsMissNothing: shuffled versions, small pages and rings, disconnections anywhere, and in half of the runs a
// history that forgets. Without that the snapshot is exactly the latest of each entity as of its sequence; with it, every
// entity that is held at the end has come, with its latest event or a later one that has gone. Then comes every event.
func TestSnapshotsMissNothing(t *testing.T) {
	resumedInside, repeats := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		var all []*bridge.Encoded
		seq := uint64(0)
		for range rapid.IntRange(1, 120).Draw(t, "events") {
			seq += uint64(rapid.SampledFrom([]int{1, 1, 1, 3}).Draw(t, "gap"))
			all = append(all, event(seq, func(m *bridge.Meta) {
				m.EventType = rapid.SampledFrom(small.types).Draw(t, "type")
				m.Stale = rapid.Bool().Draw(t, "stale")
				if n := rapid.IntRange(0, 8).Draw(t, "entity"); n > 0 {
					m.EntityID, m.TripID = fmt.Sprint("e", n), fmt.Sprint(rapid.IntRange(1, 5).Draw(t, "version"))
				}
			}))
		}
		flt := drawFilter(t)
		f := newFixture(Config{RingEvents: rapid.SampledFrom([]int{1, 4, 256}).Draw(t, "ring"), PageEvents: rapid.IntRange(1, 5).Draw(t, "page")})
		before := rapid.IntRange(1, len(all)).Draw(t, "before")
		f.put(all[:before]...)
		rest := all[before:]
		forgets := rapid.Bool().Draw(t, "forgets")
		s := &snapper{history: f.history}
		batch := rapid.IntRange(0, 4).Draw(t, "batch")
		errAway := errors.New("away")
		moves := rapid.SliceOfN(rapid.SampledFrom([]string{"", "", "", "publish", "publish", "away", "forget"}), 2, 300).Draw(t, "moves")
		if rapid.Bool().Draw(t, "resumes") {
			moves[1] = "away" // with the message after the confirmation
		}
		s.after = func() error {
			if len(moves) == 0 {
				return nil
			}
			move := moves[0]
			moves = moves[1:]
			switch {
			case move == "publish" && len(rest) > 0:
				n := min(3, len(rest))
				f.put(rest[:n]...)
				rest = rest[n:]
			case move == "forget" && forgets:
				f.history.mu.Lock()
				held := f.history.events
				f.history.mu.Unlock()
				if len(held) > 2 {
					f.history.retain(held[1].Sequence)
				}
			case move == "away":
				return errAway
			}
			return nil
		}
		for {
			req := snapshotOf(flt)
			if s.cursor != "" {
				req.Start, req.AfterCursor = 0, s.cursor
				if !s.ended {
					resumedInside++
				}
			}
			req.StopAtHead, req.MaxBatchEvents = true, batch
			complete := len(rest) == 0 // its head is the log's
			err := f.Subscribe(context.Background(), req, s)
			if bridge.ReasonOf(err) == pb.ErrorReason_ERROR_REASON_CURSOR_EXPIRED && forgets {
				return // told
			}
			if err != nil && !errors.Is(err, errAway) {
				t.Fatal(err)
			}
			if err == nil && complete {
				break
			}
			if err == nil && len(rest) > 0 {
				f.put(rest...)
				rest = nil
			}
		}
		if !s.ended {
			t.Fatal("the stream ended before the snapshot did")
		}
		var want []uint64
		for _, e := range all {
			if e.Sequence > s.snapshot && flt.Match(&e.Meta) {
				want = append(want, e.Sequence)
			}
		}
		if !slices.Equal(s.since, want) {
			t.Fatalf("since %d: %v, want %v", s.snapshot, s.since, want)
		}
		if !forgets {
			if want := latestOf(all, flt, s.snapshot); !slices.Equal(s.got, want) {
				t.Fatalf("snapshot of %d has %d events, want %d", s.snapshot, len(s.got), len(want))
			}
			return
		}
		best := map[string]string{}
		for i, e := range s.got {
			if i > 0 && e.Sequence <= s.got[i-1].Sequence {
				t.Fatal("the snapshot is not in log order")
			}
			if _, again := best[e.EntityID]; again {
				repeats++
			}
			best[e.EntityID] = max(best[e.EntityID], e.TripID)
		}
		for _, e := range latestOf(s.heldAt, flt, s.snapshot) {
			if best[e.EntityID] < e.TripID {
				t.Fatalf("entity %s is held with version %s, and %q came", e.EntityID, e.TripID, best[e.EntityID])
			}
		}
	})
	if resumedInside == 0 {
		t.Error("the test has no teeth: no snapshot was resumed")
	}
	t.Logf("%d resumes inside a snapshot, %d entities came twice since history forgot", resumedInside, repeats)
}
