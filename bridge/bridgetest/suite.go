package bridgetest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spotbridge/spotbridge/bridge"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

var errEnough = errors.New("enough")

// Follow reads n entries after a sequence.
func Follow(t testing.TB, r bridge.Reader, after uint64, n int, opts bridge.FollowOptions) []*bridge.Entry {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var got []*bridge.Entry
	if n == 0 {
		return nil
	}
	err := r.Follow(ctx, after, opts, func(batch []*bridge.Entry) error {
		if got = append(got, batch...); len(got) >= n {
			return errEnough
		}
		return nil
	})
	if !errors.Is(err, errEnough) {
		t.Fatalf("follow after %d: %d of %d entries, then %v", after, len(got), n, err)
	}
	return got
}

// LogSuite holds every Log to its contract. open returns a new, empty log for a test.
func LogSuite(t *testing.T, open func(t *testing.T) bridge.Log) {
	appendOK := func(t *testing.T, l bridge.Log, e *bridge.Entry) bridge.Appended {
		t.Helper()
		a, err := l.Append(t.Context(), e)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}

	t.Run("EntriesComeBackExactlyAndInOrder", func(t *testing.T) {
		l := open(t)
		var want []*bridge.Entry
		for i := range 20 {
			e := Entry("sandbox", fmt.Sprintf("msg_%d", i), PNRBody("BOOKING_CREATED", "org-1", fmt.Sprint(i), 1))
			e.TraceID, e.SpanID, e.APIVersion, e.TimestampText = "trace", "span", "2.0", "1767225600"
			if i%5 == 4 {
				e = Entry("sandbox", fmt.Sprintf("msg_%d", i), "not json at all")
			}
			a := appendOK(t, l, e)
			e.Sequence = a.Sequence
			want = append(want, e)
		}
		for i, got := range Follow(t, l, 0, len(want), bridge.FollowOptions{}) {
			w := want[i]
			if got.Sequence != w.Sequence || got.Kind != w.Kind || got.Cause != w.Cause || got.EventID != w.EventID ||
				got.WebhookID != w.WebhookID || got.Source != w.Source || got.TraceID != w.TraceID || got.SpanID != w.SpanID ||
				got.APIVersion != w.APIVersion || got.TimestampText != w.TimestampText || got.BodyHash != w.BodyHash ||
				!got.ReceiveTime.Equal(w.ReceiveTime) || !bytes.Equal(got.Body, w.Body) || got.AppendTime.IsZero() {
				t.Fatalf("entry %d:\n got %+v\nwant %+v", i, got, w)
			}
		}
	})

	t.Run("HeadersOnlyLeavesBodiesOutAndKeepsTheirSize", func(t *testing.T) {
		l := open(t)
		e := Entry("sandbox", "a", PNRBody("X", "o", "1", 1))
		appendOK(t, l, e)
		got := Follow(t, l, 0, 1, bridge.FollowOptions{HeadersOnly: true})[0]
		if len(got.Body) != 0 || got.BodySize != len(e.Body) || got.BodyHash != e.BodyHash || got.EventID != e.EventID {
			t.Fatalf("got %+v", got)
		}
	})

	t.Run("SameMessageIDIsADuplicateWithTheFirstHash", func(t *testing.T) {
		l := open(t)
		first := Entry("sandbox", "a", PNRBody("X", "o", "1", 1))
		a := appendOK(t, l, first)
		again := appendOK(t, l, Entry("sandbox", "a", PNRBody("Y", "o", "1", 2)))
		if !again.Duplicate || again.Sequence != a.Sequence || again.FirstHash != first.BodyHash {
			t.Fatalf("got %+v, first was %+v", again, a)
		}
		// A quarantined body of the same webhook is another entry, and each distinct body one.
		q := Entry("sandbox", "a", PNRBody("Y", "o", "1", 2))
		q.Kind, q.Cause = bridge.EntryQuarantine, pb.DeliveryCause_DELIVERY_CAUSE_CONFLICT
		if a := appendOK(t, l, q); a.Duplicate {
			t.Fatal("a conflicting body was swallowed")
		}
		if a := appendOK(t, l, q); !a.Duplicate {
			t.Fatal("the same conflicting body was stored twice")
		}
	})

	t.Run("FollowStartsAfterTheSequenceAndSeesWhatComes", func(t *testing.T) {
		l := open(t)
		for i := range 10 {
			appendOK(t, l, Entry("s", fmt.Sprint(i), PNRBody("X", "o", "1", i)))
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var mu sync.Mutex
		var seen []uint64
		reached := make(chan struct{})
		done := make(chan error, 1)
		go func() {
			done <- l.Follow(ctx, 5, bridge.FollowOptions{}, func(b []*bridge.Entry) error {
				mu.Lock()
				defer mu.Unlock()
				for _, e := range b {
					if seen = append(seen, e.Sequence); e.Sequence == 10 || e.Sequence == 30 {
						reached <- struct{}{}
					}
				}
				return nil
			})
		}()
		<-reached
		for i := range 20 {
			appendOK(t, l, Entry("s", fmt.Sprint(10+i), PNRBody("X", "o", "1", i)))
		}
		<-reached
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		for i, s := range seen {
			if s != uint64(6+i) {
				t.Fatalf("sequences %v", seen)
			}
		}
	})

	t.Run("StateTellsFloorAndHead", func(t *testing.T) {
		l := open(t)
		st, err := l.State(t.Context())
		if err != nil || st.Head != 0 || st.Floor != 1 || st.ID.IsZero() {
			t.Fatalf("empty: %+v, %v", st, err)
		}
		for i := range 3 {
			appendOK(t, l, Entry("s", fmt.Sprint(i), PNRBody("X", "o", "1", i)))
		}
		st, err = l.State(t.Context())
		if err != nil || st.Head != 3 || st.Floor != 1 || st.Entries != 3 || st.HeadTime.IsZero() {
			t.Fatalf("%+v, %v", st, err)
		}
	})

	t.Run("HostileValuesDoNoHarm", func(t *testing.T) {
		l := open(t)
		for i, value := range []string{"*", ">", "a.b", "a b", "\r\n", "ü", strings.Repeat("x", 5000), "~", "\x00", "$JS.API.>", strings.Repeat(".", 300)} {
			e := Entry("sandbox", fmt.Sprintf("%d%s", i, strings.Repeat("y", 1000)), PNRBody("X", "o", "1", 1))
			e.EventType, e.Operation, e.Organizations = value, value, []string{value}
			appendOK(t, l, e)
		}
		if got := Follow(t, l, 0, 11, bridge.FollowOptions{}); len(got) != 11 {
			t.Fatalf("%d entries", len(got))
		}
	})

	t.Run("ABodyOfExactlyTheLimitPasses", func(t *testing.T) {
		l := open(t)
		body := bytes.Repeat([]byte{0xff}, 8<<20)
		e := Entry("sandbox", strings.Repeat("z", 60_000), "x")
		e.Body, e.BodySize, e.BodyHash = body, len(body), sha256.Sum256(body)
		appendOK(t, l, e)
		got := Follow(t, l, 0, 1, bridge.FollowOptions{})
		if !bytes.Equal(got[0].Body, body) {
			t.Fatal("body differs")
		}
	})

	t.Run("GetReturnsNilForWhatIsNotThere", func(t *testing.T) {
		l := open(t)
		e := Entry("s", "a", PNRBody("X", "o", "1", 1))
		a := appendOK(t, l, e)
		got, err := l.Get(t.Context(), a.Sequence)
		if err != nil || got == nil || got.BodyHash != e.BodyHash {
			t.Fatalf("%+v, %v", got, err)
		}
		if got, err := l.Get(t.Context(), 99); got != nil || err != nil {
			t.Fatalf("%+v, %v", got, err)
		}
	})

	t.Run("ConcurrentAppendsOfOneIDStoreOne", func(t *testing.T) {
		l := open(t)
		var wg sync.WaitGroup
		var mu sync.Mutex
		stored := 0
		for range 32 {
			wg.Go(func() {
				a, err := l.Append(t.Context(), Entry("s", "one", PNRBody("X", "o", "1", 1)))
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					t.Error(err)
				} else if !a.Duplicate {
					stored++
				}
			})
		}
		wg.Wait()
		if stored != 1 {
			t.Fatalf("stored %d times", stored)
		}
	})

	t.Run("AnEndedContextIsReportedAsSuch", func(t *testing.T) {
		l := open(t)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := l.Append(ctx, Entry("s", "a", "{}")); !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
	})
}
