package live

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spotbridge/spotbridge/bridge"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

func TestSubscribeStartsWhereItIsAsked(t *testing.T) {
	for name, c := range map[string]struct {
		req  bridge.SubscribeRequest
		want []string
	}{
		"latest":                    {bridge.SubscribeRequest{}, []string{"c", "u", "6"}},
		"earliest":                  {bridge.SubscribeRequest{Start: pb.Start_START_EARLIEST}, []string{"c", "3", "4", "5", "u", "6"}},
		"cursor":                    {bridge.SubscribeRequest{AfterCursor: cursorAt(4)}, []string{"c", "5", "u", "6"}},
		"cursor at the head":        {bridge.SubscribeRequest{AfterCursor: cursorAt(5)}, []string{"c", "u", "6"}},
		"cursor right below floor":  {bridge.SubscribeRequest{AfterCursor: cursorAt(2)}, []string{"c", "3", "4", "5", "u", "6"}},
		"time":                      {bridge.SubscribeRequest{FromTime: time.Unix(4, 0)}, []string{"c", "4", "5", "u", "6"}},
		"time before the floor":     {bridge.SubscribeRequest{FromTime: time.Unix(1, 0)}, []string{"c", "3", "4", "5", "u", "6"}},
		"time to come":              {bridge.SubscribeRequest{FromTime: time.Unix(7, 0)}, []string{"c", "u"}},
		"earliest, stop at head":    {bridge.SubscribeRequest{Start: pb.Start_START_EARLIEST, StopAtHead: true}, []string{"c", "3", "4", "5", "u"}},
		"latest, stop at head":      {bridge.SubscribeRequest{StopAtHead: true}, []string{"c", "u"}},
		"no event, but a watermark": {bridge.SubscribeRequest{AfterCursor: cursorAt(3), Filter: filter(t, &pb.EventFilter{EventTypes: []string{"OTHER"}})}, []string{"c", "u"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFixture(Config{})
				at := func(m *bridge.Meta) { m.AppendTime = time.Unix(int64(m.Sequence), 0) }
				f.history.commit(events(1, 5, at), 5)
				f.history.retain(3)
				s := f.subscribe(t.Context(), c.req)
				synctest.Wait()
				f.put(event(6, at))
				synctest.Wait()
				expect(t, s, c.want...)
				first, last := s.messages()[0], s.messages()[len(c.want)-1]
				if c.req.StopAtHead {
					if err := <-s.done; err != nil {
						t.Fatal(err)
					}
				} else if err := s.end(); !errors.Is(err, context.Canceled) {
					t.Fatal(err)
				}
				if first.GetConfirmation().GetStartSequence() != sequenceOf(t, first.GetCursor()) || first.GetConfirmation().GetHeadSequence() != 5 {
					t.Errorf("confirmation: %v", first)
				}
				if warned := len(first.GetConfirmation().GetWarnings()) > 0; warned != (name == "time before the floor" || c.req.Filter != nil) {
					t.Errorf("warnings: %v", first.GetConfirmation().GetWarnings())
				}
				if last.GetCaughtUp() != nil && sequenceOf(t, last.GetCursor()) != 5 {
					t.Errorf("caught_up has cursor %d", sequenceOf(t, last.GetCursor()))
				}
			})
		})
	}
}

func TestSubscribeRefusesBadCursors(t *testing.T) {
	foreign := bridge.Cursor{Log: bridge.LogID{9}, Sequence: 4}.String()
	for name, c := range map[string]struct {
		cursor   string
		reason   pb.ErrorReason
		metadata map[string]string
	}{
		"damaged": {cursorAt(4)[:20] + "x", pb.ErrorReason_ERROR_REASON_INVALID_CURSOR, nil},
		"foreign": {foreign, pb.ErrorReason_ERROR_REASON_CURSOR_FOREIGN, nil},
		"ahead":   {cursorAt(6), pb.ErrorReason_ERROR_REASON_CURSOR_AHEAD, map[string]string{"head_cursor": cursorAt(5)}},
		"expired": {cursorAt(1), pb.ErrorReason_ERROR_REASON_CURSOR_EXPIRED, map[string]string{
			"earliest_cursor": cursorAt(2), "earliest_time": time.Unix(3, 0).UTC().Format(time.RFC3339Nano),
		}},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(Config{})
			f.history.commit(events(1, 5, func(m *bridge.Meta) { m.AppendTime = time.Unix(int64(m.Sequence), 0) }), 5)
			f.history.retain(3)
			s := f.subscribe(t.Context(), bridge.SubscribeRequest{AfterCursor: c.cursor})
			e := expectReason(t, <-s.done, c.reason)
			if fmt.Sprint(e.Metadata) != fmt.Sprint(c.metadata) || e.Field != "after_cursor" {
				t.Errorf("metadata %v, want %v", e.Metadata, c.metadata)
			}
			expect(t, s)
		})
	}
}

func TestACursorUpToTheHeadOfTheLogIsGood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(Config{Head: func() uint64 { return 7 }})
		f.history.commit(events(1, 5), 5)
		s := f.subscribe(t.Context(), bridge.SubscribeRequest{AfterCursor: cursorAt(6)})
		synctest.Wait()
		f.put(events(6, 8)...)
		synctest.Wait()
		s.end()
		if got := kinds(s.messages()); !slices.Equal(slices.DeleteFunc(got, func(k string) bool { return k == "u" }), []string{"c", "7", "8"}) {
			t.Error(got)
		}
	})
}

func TestStopAtHeadWaitsForTheHeadOfTheLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(Config{Head: func() uint64 { return 7 }})
		f.history.commit(events(1, 5), 5)
		s := f.subscribe(t.Context(), bridge.SubscribeRequest{AfterCursor: cursorAt(4), StopAtHead: true, Filter: filter(t, &pb.EventFilter{EventTypes: []string{"PNR_V3"}})})
		synctest.Wait()
		expect(t, s, "c", "5")
		f.put(event(6))
		synctest.Wait()
		expect(t, s, "c", "5", "6")
		f.put(event(7, ofType("OTHER")), event(8)) // nothing matches up to the head, and what comes later is not asked for
		synctest.Wait()
		expect(t, s, "c", "5", "6", "u")
		if err := <-s.done; err != nil {
			t.Fatal(err)
		}
		if got := sequenceOf(t, s.messages()[3].GetCursor()); got != 7 {
			t.Errorf("caught_up at %d", got)
		}
	})
}

func TestHeartbeatsMoveTheCursorThoughNothingMatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(Config{RingEvents: 4})
		s := f.subscribe(t.Context(), bridge.SubscribeRequest{
			HeartbeatInterval: 10 * time.Second, Filter: filter(t, &pb.EventFilter{EventTypes: []string{"OTHER"}}),
		})
		synctest.Wait()
		expect(t, s, "c", "u")
		begin, seq := time.Now(), uint64(0)
		for beat := 1; beat <= 5; beat++ {
			// The ring turns over several times: nothing that matters here is lost with that.
			f.put(events(seq+1, seq+20)...)
			seq += 20
			synctest.Wait()
			if n := len(s.messages()); n != beat+1 {
				t.Fatalf("%d messages before heartbeat %d: a subscription without a match was woken", n, beat)
			}
			<-s.more
			for len(s.messages()) < beat+2 {
				<-s.more
			}
			m := s.messages()[beat+1]
			if m.GetHeartbeat() == nil || sequenceOf(t, m.GetCursor()) != seq || m.GetHeartbeat().GetHeadSequence() != seq {
				t.Fatalf("message %v, want a heartbeat at %d", m, seq)
			}
			if d := time.Since(begin); d < 9*time.Second || d > 11*time.Second {
				t.Errorf("heartbeat after %v", d)
			}
			begin = time.Now()
		}
		s.end()
	})
}

func TestHeartbeatsComeOnlyWhenThereIsNothingElseToSay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(Config{})
		s := f.subscribe(t.Context(), bridge.SubscribeRequest{HeartbeatInterval: 10 * time.Second})
		synctest.Wait()
		clock := time.NewTicker(8 * time.Second)
		defer clock.Stop()
		for seq := uint64(1); seq <= 20; seq++ {
			<-clock.C
			f.put(event(seq))
		}
		synctest.Wait()
		if got := kinds(s.messages()); slices.Contains(got, "h") {
			t.Errorf("%v", got)
		}
		s.end()
	})
}

func TestASlowReaderFallsBehindAndMissesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(Config{RingEvents: 8, PageEvents: 10})
		slow := f.subscribe(t.Context(), bridge.SubscribeRequest{})
		quick := f.subscribe(t.Context(), bridge.SubscribeRequest{})
		synctest.Wait()
		slow.hold.Lock()
		want := []string{"c", "u"}
		for seq := uint64(1); seq <= 500; seq++ {
			f.put(event(seq))
			synctest.Wait()
			want = append(want, fmt.Sprint(seq))
		}
		expect(t, quick, want...) // the slow one cost it nothing
		expect(t, slow, "c", "u")
		slow.hold.Unlock()
		synctest.Wait()
		got := slow.messages()
		if i := slices.Index(kinds(got), "f"); i < 0 || got[i].GetFellBehind().GetBehindEvents() != 500-sequenceOf(t, got[i].GetCursor()) || got[i].GetFellBehind().GetHeadSequence() != 500 {
			t.Fatalf("fell_behind: %v", got)
		}
		f.put(event(501))
		synctest.Wait()
		plain := slices.DeleteFunc(kinds(slow.messages()), func(k string) bool { return k == "f" })
		want = append(append([]string{"c", "u"}, want[2:]...), "u", "501")
		if !slices.Equal(plain, want) {
			t.Fatalf("%v", plain)
		}
		slow.end()
		quick.end()
	})
}

func TestASendThatBlocksTooLongEndsTheStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(Config{SendTimeout: 15 * time.Minute})
		s := f.subscribe(t.Context(), bridge.SubscribeRequest{})
		synctest.Wait()
		s.hold.Lock()
		f.put(event(1))
		begin := time.Now()
		err := <-s.done
		expectReason(t, err, pb.ErrorReason_ERROR_REASON_SLOW_CONSUMER)
		if d := time.Since(begin); d < 14*time.Minute || d > 18*time.Minute {
			t.Errorf("ended after %v", d)
		}
		if len(f.Subscriptions()) != 0 {
			t.Error("it is still listed")
		}
		s.cancel() // as the end of the call does
		s.hold.Unlock()
		synctest.Wait()
		cursor := s.messages()[len(s.messages())-1].GetCursor()
		s = f.subscribe(t.Context(), bridge.SubscribeRequest{AfterCursor: cursor})
		synctest.Wait()
		expect(t, s, "c", "1", "u")
		s.end()
	})
}

func TestAReaderThatIsOnlySlowIsNotEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(Config{SendTimeout: time.Minute, MaxAge: 100 * time.Hour})
		s := f.subscribe(t.Context(), bridge.SubscribeRequest{Start: pb.Start_START_EARLIEST})
		synctest.Wait()
		reads := time.NewTicker(50 * time.Second)
		defer reads.Stop()
		for seq := uint64(1); seq <= 20; seq++ {
			s.hold.Lock()
			f.put(event(seq))
			<-reads.C
			s.hold.Unlock()
			synctest.Wait()
		}
		select {
		case err := <-s.done:
			t.Fatal(err)
		default:
		}
		s.end()
	})
}

func TestDrainSaysGoodbyeToEveryone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(Config{RingEvents: 4, PageEvents: 2})
		f.history.commit(events(1, 50), 50)
		idle := f.subscribe(t.Context(), bridge.SubscribeRequest{})
		synctest.Wait()
		catching := f.subscribeHeld(t.Context(), bridge.SubscribeRequest{Start: pb.Start_START_EARLIEST})
		synctest.Wait()
		stuck := f.subscribeHeld(t.Context(), bridge.SubscribeRequest{Start: pb.Start_START_EARLIEST})
		synctest.Wait()
		drained := make(chan error)
		go func() { drained <- f.Drain(t.Context()) }()
		synctest.Wait()
		expect(t, idle, "c", "u", "g")
		if g := idle.messages()[2].GetGoodbye(); g.GetReason() != pb.GoodbyeReason_GOODBYE_REASON_DRAIN || g.GetRetryAfter().AsDuration() <= 0 {
			t.Errorf("%v", g)
		}
		catching.hold.Unlock()
		synctest.Wait()
		got := kinds(catching.messages())
		if got[len(got)-1] != "g" {
			t.Errorf("%v", got)
		}
		// Its cursor is that of what was sent: the rest comes after resuming.
		if last := catching.messages()[len(got)-1]; sequenceOf(t, last.GetCursor()) != uint64(len(got)-2) {
			t.Errorf("goodbye at %d after %v", sequenceOf(t, last.GetCursor()), got)
		}
		for _, s := range []*client{idle, catching} {
			if err := <-s.done; err != nil {
				t.Error(err)
			}
		}
		expectReason(t, <-stuck.done, pb.ErrorReason_ERROR_REASON_DRAINING) // after a grace
		stuck.cancel()
		stuck.hold.Unlock()
		if err := <-drained; err != nil {
			t.Error(err)
		}
		expectReason(t, f.Subscribe(t.Context(), bridge.SubscribeRequest{}, idle), pb.ErrorReason_ERROR_REASON_DRAINING)
		if err := f.Drain(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestDrainGivesUpWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(Config{})
		s := f.subscribeHeld(t.Context(), bridge.SubscribeRequest{})
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := f.Drain(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		s.cancel()
		s.hold.Unlock()
		<-s.done
	})
}

func TestAStreamEndsAtItsMaximumAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(Config{MaxAge: time.Hour})
		begin := time.Now()
		s := f.subscribe(t.Context(), bridge.SubscribeRequest{})
		if err := <-s.done; err != nil {
			t.Fatal(err)
		}
		if d := time.Since(begin); d < 54*time.Minute || d > 66*time.Minute {
			t.Errorf("after %v", d)
		}
		got := s.messages()
		if g := got[len(got)-1].GetGoodbye(); g.GetReason() != pb.GoodbyeReason_GOODBYE_REASON_MAX_AGE {
			t.Errorf("%v", got[len(got)-1])
		}
	})
}

func TestRetentionThatOvertakesACatchUpIsLoud(t *testing.T) {
	// Retention passes the position while a page is being sent; or between the reading of a page and its use.
	for _, when := range []string{"between pages", "during the scan"} {
		t.Run(when, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFixture(Config{PageEvents: 5})
				f.history.commit(events(1, 50), 50)
				s := &client{}
				if when == "during the scan" {
					f.history.onScanned = func() {
						if f.history.scans == 3 {
							f.history.retain(30)
						}
					}
				} else {
					f.history.onScan = func() {
						if f.history.scans == 2 {
							f.history.retain(30)
						}
					}
				}
				s = f.subscribe(t.Context(), bridge.SubscribeRequest{AfterCursor: cursorAt(0)})
				e := expectReason(t, <-s.done, pb.ErrorReason_ERROR_REASON_CURSOR_EXPIRED)
				if e.Metadata["earliest_cursor"] != cursorAt(29) || e.Metadata["earliest_time"] == "" {
					t.Errorf("%v", e.Metadata)
				}
				expect(t, s, "c", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10")
			})
		})
	}
}

// TestAGapInTheLogIsNotPassedInSilence: the log dropped entries before they were applied, while streams were live.
func TestAGapInTheLogIsNotPassedInSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(Config{})
		f.history.commit(events(1, 10), 10)
		all := f.subscribe(t.Context(), bridge.SubscribeRequest{AfterCursor: cursorAt(8)})
		none := f.subscribe(t.Context(), bridge.SubscribeRequest{AfterCursor: cursorAt(10), Filter: filter(t, &pb.EventFilter{Operations: []string{"NOTHING"}})})
		synctest.Wait()
		f.put(events(11, 12)...)
		synctest.Wait()
		f.history.commit(events(21, 25), 25)
		f.history.retain(21)
		f.Lost(21)
		f.Publish(events(21, 25), 25)
		for _, c := range []*client{all, none} {
			e := expectReason(t, <-c.done, pb.ErrorReason_ERROR_REASON_CURSOR_EXPIRED)
			if e.Metadata["earliest_cursor"] != cursorAt(20) {
				t.Errorf("%v", e.Metadata)
			}
		}
		expect(t, all, "c", "9", "10", "u", "11", "12", "f")
		again := f.subscribe(t.Context(), bridge.SubscribeRequest{AfterCursor: cursorAt(20)})
		synctest.Wait()
		f.put(events(26, 26)...)
		synctest.Wait()
		expect(t, again, "c", "21", "22", "23", "24", "25", "u", "26")
		again.end()
	})
}

func TestEarliestMeansWhateverIsHeldWhenReadingBegins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(Config{PageEvents: 5})
		f.history.commit(events(1, 20), 20)
		f.history.onScan = func() { f.history.retain(15) }
		s := f.subscribe(t.Context(), bridge.SubscribeRequest{Start: pb.Start_START_EARLIEST})
		synctest.Wait()
		expect(t, s, "c", "15", "16", "17", "18", "19", "20", "u")
		s.end()
	})
}

func TestReadersOfHistoryTakeTurnsAndHoldNoneWhileSending(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(Config{CatchUpReaders: 1, PageEvents: 5, RingEvents: 4})
		f.history.commit(events(1, 100), 100)
		slow := f.subscribeHeld(t.Context(), bridge.SubscribeRequest{Start: pb.Start_START_EARLIEST})
		synctest.Wait()
		quick := f.subscribe(t.Context(), bridge.SubscribeRequest{Start: pb.Start_START_EARLIEST})
		synctest.Wait()
		if got := kinds(quick.messages()); got[len(got)-1] != "u" {
			t.Errorf("a reader that does not read its client's socket holds the turn: %v", got)
		}
		// Whoever waits for a turn says that it is alive.
		release := make(chan struct{})
		f.history.onScan = func() { <-release }
		slow.hold.Unlock()
		synctest.Wait()
		waiting := f.subscribe(t.Context(), bridge.SubscribeRequest{Start: pb.Start_START_EARLIEST, HeartbeatInterval: 10 * time.Second})
		waiting.await(t, 3, 18*time.Second, 22*time.Second)
		expect(t, waiting, "c", "h", "h")
		close(release)
		synctest.Wait()
		if got := kinds(waiting.messages()); got[len(got)-1] != "u" || len(got) != 104 {
			t.Errorf("%v", got)
		}
		for _, s := range []*client{slow, quick, waiting} {
			s.end()
		}
	})
}

func TestQueueIsFairAndForgetsWhoLeaves(t *testing.T) {
	q := &queue{free: 2}
	a, b, c, d, e := q.enter(), q.enter(), q.enter(), q.enter(), q.enter()
	if !admitted(a) || !admitted(b) || admitted(c) {
		t.Fatal("two are admitted")
	}
	q.leave(d) // gives up
	q.leave(a)
	if !admitted(c) || admitted(e) {
		t.Fatal("first come, first served")
	}
	q.leave(b)
	if !admitted(e) {
		t.Fatal("then the next one")
	}
	q.leave(c)
	q.leave(e)
	if q.free != 2 || len(q.waiting) != 0 {
		t.Fatalf("%d free, %d waiting", q.free, len(q.waiting))
	}
}

func TestHistoryThatIsBehindIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(Config{RingEvents: 4, Head: func() uint64 { return 20 }})
		f.put(events(1, 20)...)
		f.history.mu.Lock()
		all := f.history.events
		f.history.events, f.history.mark = all[:5], 5 // it is being rebuilt
		f.history.mu.Unlock()
		s := f.subscribe(t.Context(), bridge.SubscribeRequest{AfterCursor: cursorAt(3), HeartbeatInterval: 10 * time.Second})
		s.await(t, 4, 9*time.Second, 11*time.Second)
		expect(t, s, "c", "4", "5", "h")
		f.history.mu.Lock()
		f.history.events, f.history.mark = all, 20
		f.history.mu.Unlock()
		s.await(t, 4+15+1, 0, time.Second)
		if got := kinds(s.messages()); len(got) != 4+15+1 || got[19] != "u" {
			t.Errorf("%v", got)
		}
		s.end()
	})
}

func TestErrorsOfHistoryEndTheStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(Config{PageEvents: 2})
		f.history.commit(events(1, 10), 10)
		f.history.onScanned = func() {
			f.history.mu.Lock()
			defer f.history.mu.Unlock()
			f.history.err = bridge.HistoryUnavailable(errors.New("disk"))
		}
		s := f.subscribe(t.Context(), bridge.SubscribeRequest{Start: pb.Start_START_EARLIEST})
		expectReason(t, <-s.done, pb.ErrorReason_ERROR_REASON_HISTORY_UNAVAILABLE)
		expectReason(t, f.Subscribe(t.Context(), bridge.SubscribeRequest{}, s), pb.ErrorReason_ERROR_REASON_HISTORY_UNAVAILABLE)
		f.history.err, f.history.log = nil, bridge.LogID{}
		expectReason(t, f.Subscribe(t.Context(), bridge.SubscribeRequest{}, s), pb.ErrorReason_ERROR_REASON_STARTING)
	})
}

func TestAnotherLogEndsAllStreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(Config{})
		f.put(events(1, 20)...)
		s := f.subscribe(t.Context(), bridge.SubscribeRequest{})
		synctest.Wait()
		f.Publish(events(1, 3), 3)
		expectReason(t, <-s.done, pb.ErrorReason_ERROR_REASON_HISTORY_UNAVAILABLE)
		if f.Watermark() != 3 {
			t.Errorf("watermark %d", f.Watermark())
		}
	})
}

func TestPublishingTwiceChangesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(Config{})
		s := f.subscribe(t.Context(), bridge.SubscribeRequest{})
		synctest.Wait()
		first := events(1, 5)
		f.put(first...)
		f.Publish(first[2:], 5)
		f.put(events(6, 7)...)
		synctest.Wait()
		got := slices.DeleteFunc(kinds(s.messages()), func(k string) bool { return k == "u" })
		if !slices.Equal(got, []string{"c", "1", "2", "3", "4", "5", "6", "7"}) {
			t.Errorf("%v", got)
		}
		s.end()
	})
}

func TestAResumeWithinTheRingReadsNoHistory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(Config{})
		keep := f.subscribe(t.Context(), bridge.SubscribeRequest{})
		synctest.Wait()
		f.put(events(1, 50)...)
		s := f.subscribe(t.Context(), bridge.SubscribeRequest{AfterCursor: cursorAt(45)})
		synctest.Wait()
		expect(t, s, "c", "46", "47", "48", "49", "50", "u")
		if f.history.scans != 0 {
			t.Errorf("%d scans", f.history.scans)
		}
		s.end()
		keep.end()
	})
}

func TestTooManySubscriptionsAreRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(Config{MaxSubscriptions: 1})
		s := f.subscribe(t.Context(), bridge.SubscribeRequest{})
		synctest.Wait()
		expectReason(t, f.Subscribe(t.Context(), bridge.SubscribeRequest{}, s), pb.ErrorReason_ERROR_REASON_TOO_MANY_STREAMS)
		s.end()
		s = f.subscribe(t.Context(), bridge.SubscribeRequest{})
		synctest.Wait()
		expect(t, s, "c", "u")
		s.end()
	})
}

func TestSubscriptionsAreListed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(Config{RingEvents: 4, PageEvents: 2})
		f.put(events(1, 10, func(m *bridge.Meta) { m.AppendTime = m.AppendTime.Add(-time.Minute) })...)
		live := f.subscribe(t.Context(), bridge.SubscribeRequest{ClientName: "live", Peer: "p", Filter: filter(t, &pb.EventFilter{EventTypes: []string{"OTHER"}})})
		synctest.Wait()
		slow := f.subscribe(t.Context(), bridge.SubscribeRequest{ClientName: "slow", AfterCursor: cursorAt(2)})
		synctest.Wait()
		slow.hold.Lock()
		f.put(events(11, 20)...)
		synctest.Wait()
		got := f.Subscriptions()
		if len(got) != 2 || got[0].ClientName != "live" || got[0].State != bridge.SubscriptionLive || got[0].Position != 20 || got[0].Lag != 0 ||
			!strings.Contains(got[0].Filter.String(), "OTHER") || got[0].Peer != "p" {
			t.Errorf("%+v", got)
		}
		if x := got[1]; x.ClientName != "slow" || x.Head != 20 || x.Position != 10 || x.EventsSent != 8 || x.BytesSent != 8 || x.Lag != time.Minute {
			t.Errorf("%+v", x)
		}
		slow.hold.Unlock()
		live.end()
		slow.end()
	})
}

func TestAPanicOfASenderIsAnError(t *testing.T) {
	f := newFixture(Config{})
	err := f.Subscribe(t.Context(), bridge.SubscribeRequest{}, panicking{})
	if err == nil || !strings.Contains(err.Error(), "panic: ouch") {
		t.Error(err)
	}
}

type panicking struct{ bridge.Sender }

func (panicking) SendMessage(*pb.SubscribeResponse) error { panic("ouch") }
