package eventlog

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/spotbridge/spotbridge/bridge"
)

func openLog(t *testing.T) *Log {
	t.Helper()
	l, err := Open(t.Context(), Config{Dir: t.TempDir(), MaxBytes: 1 << 30, MaxBody: 1 << 20, Reserve: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l
}

func numbered(i int) *bridge.Entry {
	return &bridge.Entry{
		Kind: bridge.EntryEvent, Source: "s", EventID: fmt.Sprintf("s.%d", i), WebhookID: fmt.Sprint(i), EventType: "T", Operation: "O",
		ReceiveTime: time.Now(), Body: []byte(strings.Repeat("x", 100)), BodySize: 100,
	}
}

// follower notes what it gets, and fails the test when the order has a gap or a repeat.
type follower struct {
	mu   sync.Mutex
	last uint64
	err  error
	news chan struct{}
}

func follow(t *testing.T, l *Log, opts bridge.FollowOptions) *follower {
	f := &follower{news: make(chan struct{}, 1)}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = l.Follow(ctx, 0, opts, func(batch []*bridge.Entry) error {
			f.mu.Lock()
			defer f.mu.Unlock()
			for _, e := range batch {
				if e.Sequence != f.last+1 && f.err == nil {
					f.err = fmt.Errorf("sequence %d after %d", e.Sequence, f.last)
				}
				if opts.HeadersOnly != (len(e.Body) == 0) || e.BodySize != 100 {
					f.err = fmt.Errorf("sequence %d: %d bytes of body, size %d", e.Sequence, len(e.Body), e.BodySize)
				}
				f.last = e.Sequence
			}
			select {
			case f.news <- struct{}{}:
			default:
			}
			return nil
		})
	}()
	t.Cleanup(func() { cancel(); <-done })
	return f
}

func (f *follower) reaches(t *testing.T, sequence uint64) {
	t.Helper()
	timeout := time.After(30 * time.Second)
	for {
		f.mu.Lock()
		last, err := f.last, f.err
		f.mu.Unlock()
		if err != nil {
			t.Fatal(err)
		}
		if last >= sequence {
			return
		}
		select {
		case <-f.news:
		case <-timeout:
			t.Fatalf("at sequence %d, want %d", last, sequence)
		}
	}
}

// TestFollowersSeeWhatWasStoredWithoutAnAnswer: an append that failed may have been stored.
func TestFollowersSeeWhatWasStoredWithoutAnAnswer(t *testing.T) {
	l := openLog(t)
	all, headers := follow(t, l, bridge.FollowOptions{}), follow(t, l, bridge.FollowOptions{HeadersOnly: true})
	add := func(i int) {
		if _, err := l.Append(t.Context(), numbered(i)); err != nil {
			t.Fatal(err)
		}
	}
	unanswered := func(i int) {
		if _, err := l.appJS.PublishMsg(t.Context(), message(numbered(i), time.Now())); err != nil {
			t.Fatal(err)
		}
	}
	add(1)
	unanswered(2)
	unanswered(3)
	add(4) // shows the gap
	for _, f := range []*follower{all, headers} {
		f.reaches(t, 4)
	}
	unanswered(5)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := l.Append(ctx, numbered(6)); !errors.Is(err, context.Canceled) { // makes the log look
		t.Fatal(err)
	}
	for _, f := range []*follower{all, headers} {
		f.reaches(t, 5)
	}
}

// TestEntriesOfTheTailAreWhatTheLogHolds: what a follower is given must not depend on whether it came live.
func TestEntriesOfTheTailAreWhatTheLogHolds(t *testing.T) {
	l := openLog(t)
	n := 0
	rapid.Check(t, func(rt *rapid.T) {
		n++
		text := rapid.SampledFrom([]string{"", "a", "a:b", "ü", "1772366400", strings.Repeat("y", 2000)})
		e := numbered(n)
		e.TimestampText, e.TraceID, e.SpanID, e.APIVersion = text.Draw(rt, "timestamp"), text.Draw(rt, "trace"), text.Draw(rt, "span"), text.Draw(rt, "version")
		e.EventType, e.Operation, e.Organizations = text.Draw(rt, "type"), text.Draw(rt, "operation"), []string{text.Draw(rt, "organization")}
		e.BodyHash[n%32] = byte(n)
		if rapid.Bool().Draw(rt, "quarantine") {
			e.Kind, e.Cause = bridge.EntryQuarantine, 3
		}
		a, err := l.Append(rt.Context(), e)
		if err != nil {
			rt.Fatal(err)
		}
		live, err := l.tail.take(rt.Context(), a.Sequence-1, 1, time.Time{}, func() {})
		if err != nil {
			rt.Fatal(err)
		}
		held, err := l.Get(rt.Context(), a.Sequence)
		if err != nil {
			rt.Fatal(err)
		}
		if got, want := *live[0], *held; !got.AppendTime.Equal(want.AppendTime) || !got.ReceiveTime.Equal(want.ReceiveTime) {
			rt.Fatalf("times %v %v, the log has %v %v", got.AppendTime, got.ReceiveTime, want.AppendTime, want.ReceiveTime)
		} else {
			want.AppendTime, want.ReceiveTime = got.AppendTime, got.ReceiveTime
			if !reflect.DeepEqual(got, want) {
				rt.Fatalf("got %+v, the log has %+v", got, want)
			}
		}
	})
}

// TestASmallTailLosesNothing: followers fall behind it and come back, while appends end out of order and some are not
// told to it at all.
func TestASmallTailLosesNothing(t *testing.T) {
	l := openLog(t)
	l.tail.maxEntries, l.tail.patience = 3, 2*time.Millisecond
	followers := []*follower{
		follow(t, l, bridge.FollowOptions{}), follow(t, l, bridge.FollowOptions{HeadersOnly: true, MaxBatch: 2}),
		follow(t, l, bridge.FollowOptions{Linger: 3 * time.Millisecond, LoadedLinger: 10 * time.Millisecond}),
	}
	const writers, each = 4, 100
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				id := w*each + i
				var err error
				if id%17 == 5 {
					_, err = l.appJS.PublishMsg(t.Context(), message(numbered(id), time.Now()))
				} else {
					_, err = l.Append(t.Context(), numbered(id))
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	l.checkTail(t.Context())
	for _, f := range followers {
		f.reaches(t, writers*each)
	}
}

// TestTailKeepsOrder puts sequences in any order, some never, and compares with what a reader may get.
func TestTailKeepsOrder(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		tl := newTail(0)
		tl.maxEntries, tl.patience = rapid.IntRange(1, 5).Draw(rt, "entries"), time.Hour
		order := rapid.Permutation([]uint64{1, 2, 3, 4, 5, 6, 7, 8}).Draw(rt, "order")
		after := uint64(0)
		for _, s := range order {
			switch {
			case rapid.IntRange(0, 9).Draw(rt, "fate") == 0: // not told
			default:
				tl.put(&bridge.Entry{Sequence: s})
			}
			if rapid.IntRange(0, 5).Draw(rt, "impatient") == 0 {
				tl.giveUp()
			}
			for tl.next > after+1 {
				batch, err := tl.take(rt.Context(), after, rapid.IntRange(1, 3).Draw(rt, "limit"), time.Time{}, func() {})
				if errors.Is(err, errBehind) { // read from the log up to where the tail begins
					after = tl.first() - 1
					continue
				}
				if err != nil {
					rt.Fatal(err)
				}
				for _, e := range batch {
					if e.Sequence != after+1 {
						rt.Fatalf("%d after %d", e.Sequence, after)
					}
					after = e.Sequence
				}
			}
		}
		if tl.patient != nil {
			tl.patient.Stop()
		}
		if n := len(tl.entries); n > tl.maxEntries || tl.first()+uint64(n) != tl.next {
			rt.Fatalf("%d entries from %d, next %d", n, tl.first(), tl.next)
		}
	})
}
