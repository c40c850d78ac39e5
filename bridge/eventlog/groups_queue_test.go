package eventlog

import (
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/spotbridge/spotbridge/bridge"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

// TestEntriesOfAQueueComeWithoutHeaders: they are the dearest part of a delivery, and nobody reads them.
func TestEntriesOfAQueueComeWithoutHeaders(t *testing.T) {
	l := openLog(t)
	nc, err := l.connect("test", withoutHeaders)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	sub, err := nc.SubscribeSync("x")
	if err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := l.read.PublishMsg(&nats.Msg{Subject: "x", Reply: "y", Header: nats.Header{"A": {"b"}}, Data: []byte("c")}); err != nil {
		t.Fatal(err)
	}
	m, err := sub.NextMsg(10 * time.Second)
	if err != nil || m.Header != nil || m.Reply != "y" || string(m.Data) != "c" {
		t.Fatalf("%+v, %v", m, err)
	}
}

// TestATakerNoticesThatItsQueueIsGone although the engine's words about it come without headers.
func TestATakerNoticesThatItsQueueIsGone(t *testing.T) {
	l := openLog(t)
	s, err := l.OpenGroups(t.Context(), GroupConfig{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	r := &bridge.GroupRecord{Name: "g", Key: [32]byte{1}, Queue: "q", Settings: bridge.GroupSettings{AckDeadline: time.Minute, MaxDeliveries: 3}}
	if err := s.CreateGroup(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	taker, err := s.OpenTaker(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	defer taker.Close()
	if _, err := l.Append(t.Context(), numbered(1)); err != nil {
		t.Fatal(err)
	}
	if err := taker.Request(2); err != nil {
		t.Fatal(err)
	}
	await := func() ([]bridge.Taken, error) {
		for {
			select {
			case <-taker.Ready():
				if ts, err := taker.Take(10); len(ts) > 0 || err != nil {
					return ts, err
				}
			case <-time.After(time.Minute):
				t.Fatal("nothing comes")
			}
		}
	}
	if ts, err := await(); err != nil || len(ts) != 1 || ts[0].Sequence != 1 || ts[0].Deliveries != 1 {
		t.Fatalf("%+v, %v", ts, err)
	}
	if n := taker.Requested(); n != 1 {
		t.Fatalf("%d are asked for, want 1", n)
	}
	if err := s.js.DeleteConsumer(t.Context(), streamName, mainQueue(r)); err != nil {
		t.Fatal(err)
	}
	if ts, err := await(); !errors.Is(err, bridge.ErrQueueGone) {
		t.Fatalf("%+v, %v", ts, err)
	}
}

// TestWhatIsOnlyInTheJournalWaitsForItsGroups: a stream that takes nothing must not look like groups that are done.
func TestWhatIsOnlyInTheJournalWaitsForItsGroups(t *testing.T) {
	l := openTestLog(t, t.TempDir())
	defer l.Close()
	s, err := l.OpenGroups(t.Context(), GroupConfig{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	all := &bridge.GroupRecord{Name: "all", Key: [32]byte{1}, Queue: "q", Settings: bridge.GroupSettings{AckDeadline: time.Minute, MaxDeliveries: 3}}
	none := &bridge.GroupRecord{Name: "none", Key: [32]byte{2}, Queue: "q", Settings: all.Settings}
	if none.Settings.Filter, err = bridge.CompileFilter(&pb.EventFilter{Sources: []string{"another"}}, "filter"); err != nil {
		t.Fatal(err)
	}
	for _, r := range []*bridge.GroupRecord{all, none} {
		if err := s.CreateGroup(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	add := func(from, to int) {
		for i := from; i < to; i++ {
			if _, err := l.Append(t.Context(), numbered(i)); err != nil {
				t.Fatal(err)
			}
		}
	}
	waiting := func(r *bridge.GroupRecord) int64 {
		st, err := s.QueueState(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		return st.Waiting
	}
	add(0, 5)
	l.journal.inStream()
	l.stream.down.Store(true)
	add(5, 12)
	if a, n := waiting(all), waiting(none); a != 12 || n != 0 {
		t.Fatalf("%d and %d wait, want 12 and 0", a, n)
	}
	l.stream.down.Store(false)
	l.journal.inStream()
	if a, n := waiting(all), waiting(none); a != 12 || n != 0 {
		t.Fatalf("%d and %d wait afterwards, want 12 and 0", a, n)
	}
}
