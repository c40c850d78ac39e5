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

// inStream waits until the stream has everything that is confirmed.
func (j *journal) inStream() {
	j.mu.Lock()
	defer j.mu.Unlock()
	for j.pumped < j.next-1 {
		j.changed.Wait()
	}
}

// TestEntriesOfTheTailAreWhatTheLogHolds: what a follower is given must not depend on whether it came live, from the
// journal or from the stream.
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
		live, err := l.tail.take(rt.Context(), a.Sequence-1, 1, time.Time{})
		if err != nil {
			rt.Fatal(err)
		}
		early, err := l.Get(rt.Context(), a.Sequence)
		if err != nil {
			rt.Fatal(err)
		}
		l.journal.inStream()
		held, err := l.Get(rt.Context(), a.Sequence)
		if err != nil {
			rt.Fatal(err)
		}
		for _, e := range []*bridge.Entry{live[0], early} {
			if got, want := *e, *held; !got.AppendTime.Equal(want.AppendTime) || !got.ReceiveTime.Equal(want.ReceiveTime) {
				rt.Fatalf("times %v %v, the log has %v %v", got.AppendTime, got.ReceiveTime, want.AppendTime, want.ReceiveTime)
			} else {
				want.AppendTime, want.ReceiveTime = got.AppendTime, got.ReceiveTime
				if !reflect.DeepEqual(got, want) {
					rt.Fatalf("got %+v, the log has %+v", got, want)
				}
			}
		}
	})
}

// TestASmallTailLosesNothing: followers fall behind it and come back.
func TestASmallTailLosesNothing(t *testing.T) {
	l := openLog(t)
	l.tail.maxEntries = 3
	followers := []*follower{
		follow(t, l, bridge.FollowOptions{}), follow(t, l, bridge.FollowOptions{HeadersOnly: true, MaxBatch: 2}),
		follow(t, l, bridge.FollowOptions{Linger: 3 * time.Millisecond, LoadedLinger: 10 * time.Millisecond}),
	}
	const writers, each = 4, 100
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				if _, err := l.Append(t.Context(), numbered(w*each+i)); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	for _, f := range followers {
		f.reaches(t, writers*each)
	}
}

// TestTailHandsOutInOrder compares with what a reader may get, whatever the limits.
func TestTailHandsOutInOrder(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		tl := newTail()
		tl.begin(0)
		tl.maxEntries = rapid.IntRange(1, 5).Draw(rt, "entries")
		after := uint64(0)
		for s := range uint64(8) {
			tl.put(&bridge.Entry{Sequence: s + 1})
			for tl.next > after+1 && rapid.Bool().Draw(rt, "reads") {
				batch, err := tl.take(rt.Context(), after, rapid.IntRange(1, 3).Draw(rt, "limit"), time.Time{})
				if errors.Is(err, errBehind) { // read from the stream up to where the tail begins
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
		if n := len(tl.entries); n > tl.maxEntries || tl.first()+uint64(n) != tl.next {
			rt.Fatalf("%d entries from %d, next %d", n, tl.first(), tl.next)
		}
	})
}
