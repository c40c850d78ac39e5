package eventlog

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"pgregory.net/rapid"

	"github.com/spotbridge/spotbridge/bridge"
)

var errFault = errors.New("made to fail")

// faultyFile fails, holds up and counts what the journal does to a file.
type faultyFile struct {
	journalFile
	faults *faults
}

type faults struct {
	syncs atomic.Int64
	write atomic.Int64                  // this many writes fail,
	part  atomic.Int64                  // after so many percent of their bytes
	sync  atomic.Int64                  // this many syncs fail
	hold  atomic.Pointer[chan struct{}] // syncs wait until it is closed
	// syncing is told of a sync that begins, when there is room.
	syncing atomic.Pointer[chan struct{}]
}

func (f *faults) open(path string) (journalFile, error) {
	file, err := openJournalFile(path)
	if err != nil {
		return nil, err
	}
	return faultyFile{file, f}, nil
}

func take(n *atomic.Int64) bool {
	for {
		v := n.Load()
		if v <= 0 {
			return false
		}
		if n.CompareAndSwap(v, v-1) {
			return true
		}
	}
}

func (f faultyFile) WriteAt(b []byte, at int64) (int, error) {
	if take(&f.faults.write) {
		n, _ := f.journalFile.WriteAt(b[:len(b)*int(f.faults.part.Load())/100], at)
		return n, errFault
	}
	return f.journalFile.WriteAt(b, at)
}

func (f faultyFile) Sync() error {
	f.faults.syncs.Add(1)
	if c := f.faults.syncing.Load(); c != nil {
		select {
		case *c <- struct{}{}:
		default:
		}
	}
	if c := f.faults.hold.Load(); c != nil {
		<-*c
	}
	if take(&f.faults.sync) {
		return errFault
	}
	return f.journalFile.Sync()
}

// faultyStream keeps entries from the stream while it is down, and loses answers after the first half or all of a batch.
type faultyStream struct {
	streamWriter
	down       atomic.Bool
	half, lost atomic.Int64
}

func (s *faultyStream) publish(ctx context.Context, first uint64, batch []*nats.Msg) error {
	if s.down.Load() {
		return errFault
	}
	if take(&s.half) {
		return errors.Join(errFault, s.streamWriter.publish(ctx, first, batch[:(len(batch)+1)/2]))
	}
	err := s.streamWriter.publish(ctx, first, batch)
	if take(&s.lost) {
		return errors.Join(errFault, err)
	}
	return err
}

// testLog is a log whose journal can be disturbed and whose process can "die".
type testLog struct {
	*Log
	faults *faults
	stream *faultyStream
}

func openTestLog(t testing.TB, dir string) testLog {
	t.Helper()
	l, err := tryTestLog(dir)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func tryTestLog(dir string) (testLog, error) {
	f := &faults{}
	l, err := Open(context.Background(), Config{Dir: dir, MaxBytes: 1 << 30, MaxBody: 2 << 20, Reserve: 1, openJournalFile: f.open})
	if err != nil {
		return testLog{}, err
	}
	s := &faultyStream{streamWriter: l.journal.stream}
	l.journal.mu.Lock()
	l.journal.stream = s
	l.journal.mu.Unlock()
	return testLog{l, f, s}, nil
}

// die ends the log as a kill would: nothing more goes into the stream.
func (l testLog) die() {
	l.stream.down.Store(true)
	l.journal.stop()
	l.Close()
}

func (l testLog) ids(t testing.TB) []string {
	t.Helper()
	st, err := l.State(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for s := uint64(1); s <= st.Head; s++ {
		e, err := l.Get(context.Background(), s)
		if err != nil || e == nil || e.Sequence != s {
			t.Fatalf("entry %d: %+v, %v", s, e, err)
		}
		ids = append(ids, e.EventID)
	}
	return ids
}

func TestEntriesThatWaitShareASync(t *testing.T) {
	l := openTestLog(t, t.TempDir())
	defer l.Close()
	hold := make(chan struct{})
	l.faults.hold.Store(&hold)
	before := l.faults.syncs.Load()
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			if _, err := l.Append(t.Context(), numbered(i)); err != nil {
				t.Error(err)
			}
		})
	}
	l.journal.mu.Lock()
	for len(l.journal.ids) < 100 { // all are queued, but those of the sync that is held
		l.journal.changed.Wait()
	}
	l.journal.mu.Unlock()
	close(hold)
	wg.Wait()
	// The first one syncs alone, or with a few; the others wait for it and share one.
	if n := l.faults.syncs.Load() - before; n > 3 {
		t.Fatalf("%d syncs for 100 entries", n)
	}
}

func TestNothingIsConfirmedBeforeItsSync(t *testing.T) {
	l := openTestLog(t, t.TempDir())
	defer l.Close()
	hold, syncing := make(chan struct{}), make(chan struct{}, 1)
	l.faults.hold.Store(&hold)
	l.faults.syncing.Store(&syncing)
	done := make(chan error, 1)
	go func() {
		_, err := l.Append(context.Background(), numbered(1))
		done <- err
	}()
	<-syncing
	select {
	case err := <-done:
		t.Fatalf("answered before the sync: %v", err)
	default:
	}
	if st, err := l.State(t.Context()); err != nil || st.Head != 0 {
		t.Fatalf("head %d before the sync, %v", st.Head, err)
	}
	close(hold)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// TestConfirmedEntriesSurviveAnyFault appends while files and the stream fail and the process dies, at random, and holds
// the log to its promise: what was confirmed is there, once, in order, at the sequence that was told; what was not
// confirmed is there once or not at all.
func TestConfirmedEntriesSurviveAnyFault(t *testing.T) {
	root := t.TempDir()
	run := 0
	rapid.Check(t, func(rt *rapid.T) {
		run++
		dir := filepath.Join(root, fmt.Sprint(run))
		l := openTestLog(t, dir)
		l.journal.fileSize = 4 << 10 // both files take turns
		confirmed := map[string]uint64{}
		tried := map[string]bool{}
		next := 0
		add := func(id int) {
			e := numbered(id)
			tried[e.EventID] = true
			a, err := l.Append(context.Background(), e)
			if err != nil {
				return
			}
			if s, ok := confirmed[e.EventID]; ok && (!a.Duplicate || a.Sequence != s) {
				rt.Fatalf("%s was confirmed at %d, and then %+v", e.EventID, s, a)
			}
			confirmed[e.EventID] = a.Sequence
		}
		reopen := func() {
			l.die()
			l = openTestLog(t, dir)
			l.journal.fileSize = 4 << 10
		}
		rt.Repeat(map[string]func(*rapid.T){
			"append": func(rt *rapid.T) {
				for range rapid.IntRange(1, 20).Draw(rt, "n") {
					next++
					add(next)
				}
			},
			"together": func(*rapid.T) {
				var wg sync.WaitGroup
				var mu sync.Mutex
				for range 30 {
					next++
					id := next
					tried[numbered(id).EventID] = true
					wg.Go(func() {
						if a, err := l.Append(context.Background(), numbered(id)); err == nil {
							mu.Lock()
							defer mu.Unlock()
							confirmed[numbered(id).EventID] = a.Sequence
						}
					})
				}
				wg.Wait()
			},
			"again": func(rt *rapid.T) {
				if next > 0 {
					add(rapid.IntRange(1, next).Draw(rt, "id"))
				}
			},
			"write fails": func(rt *rapid.T) {
				l.faults.part.Store(rapid.SampledFrom([]int64{0, 2, 50, 100}).Draw(rt, "percent"))
				l.faults.write.Store(rapid.Int64Range(1, 4).Draw(rt, "times"))
			},
			"sync fails":   func(rt *rapid.T) { l.faults.sync.Store(rapid.Int64Range(1, 4).Draw(rt, "times")) },
			"stream stops": func(*rapid.T) { l.stream.down.Store(true) },
			"half arrives": func(*rapid.T) { l.stream.half.Store(1) },
			"answer lost":  func(*rapid.T) { l.stream.lost.Store(1) },
			"stream works": func(*rapid.T) { l.stream.down.Store(false) },
			"dies":         func(*rapid.T) { reopen() },
			"": func(rt *rapid.T) {
				ids := l.ids(t)
				at := map[string]int{}
				for i, id := range ids {
					if at[id] != 0 || !tried[id] {
						rt.Fatalf("%s at %d and %d", id, at[id], i+1)
					}
					at[id] = i + 1
				}
				for id, s := range confirmed {
					if at[id] != int(s) {
						rt.Fatalf("%s was confirmed at %d and is at %d", id, s, at[id])
					}
				}
			},
		})
		reopen()
		l.journal.inStream()
		if st, err := l.State(t.Context()); err != nil || int(st.Head) < len(confirmed) {
			rt.Fatalf("%+v, %v: %d were confirmed", st, err, len(confirmed))
		}
		l.Close()
	})
}

func TestTheFilesTakeTurnsAndStaySmall(t *testing.T) {
	dir := t.TempDir()
	l := openTestLog(t, dir)
	l.journal.fileSize = 1 << 20
	for i := range 200 {
		e := numbered(i)
		e.Body = []byte(strings.Repeat("x", 100<<10))
		if _, err := l.Append(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	l.Close()
	for i := range 2 {
		info, err := os.Stat(filepath.Join(dir, "journal", fmt.Sprintf("%d.journal", i)))
		// A file is left when it is full and the other one is free, and what is not in the stream yet is bounded.
		if err != nil || info.Size() < 1<<20 || info.Size() > journalBacklogBytes+2*journalExtension {
			t.Fatalf("%v, %v", info, err)
		}
	}
	l = openTestLog(t, dir)
	defer l.Close()
	if n := len(l.ids(t)); n != 200 {
		t.Fatalf("%d entries", n)
	}
}

// TestAppendsWaitWhileTheStreamIsTooFarBehind: what is confirmed and not in the stream is bounded.
func TestAppendsWaitWhileTheStreamIsTooFarBehind(t *testing.T) {
	l := openTestLog(t, t.TempDir())
	defer l.Close()
	l.stream.down.Store(true)
	big := func(i int) *bridge.Entry {
		e := numbered(i)
		e.Body = make([]byte, 2<<20)
		return e
	}
	i := 0
	for ; i < 3*journalBacklogBytes/(2<<20); i++ {
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		_, err := l.Append(ctx, big(i))
		cancel()
		if errors.Is(err, context.DeadlineExceeded) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if limit := journalBacklogBytes / (2 << 20); i < limit || i > limit+1 {
		t.Fatalf("%d entries were taken, the limit is %d", i, limit)
	}
	l.stream.down.Store(false)
	if _, err := l.Append(t.Context(), big(i+1)); err != nil {
		t.Fatal(err)
	}
}

func TestDuplicatesAreKnownAfterARestart(t *testing.T) {
	dir := t.TempDir()
	l := openTestLog(t, dir)
	l.stream.down.Store(true) // some of them come from the journal
	for i := range 3 {
		if _, err := l.Append(t.Context(), numbered(i)); err != nil {
			t.Fatal(err)
		}
	}
	l.die()
	l = openTestLog(t, dir)
	defer l.Close()
	for i := range 3 {
		a, err := l.Append(t.Context(), numbered(i))
		if err != nil || !a.Duplicate || a.Sequence != uint64(i+1) {
			t.Fatalf("%+v, %v", a, err)
		}
	}
}

// TestAForeignWriterIsNoticed: sequences are given before the stream has the entries, so nobody else may write there.
func TestAForeignWriterIsNoticed(t *testing.T) {
	l := openTestLog(t, t.TempDir())
	defer l.Close()
	if _, err := l.Append(t.Context(), numbered(1)); err != nil {
		t.Fatal(err)
	}
	l.journal.inStream()
	if _, err := l.appJS.Publish(t.Context(), "ev.s.T.O.~", []byte("{}")); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Append(t.Context(), numbered(2)); err != nil { // it is in the journal
		t.Fatal(err)
	}
	l.journal.mu.Lock()
	for l.journal.broken == nil {
		l.journal.changed.Wait()
	}
	l.journal.mu.Unlock()
	if err := l.Healthy(); !errors.Is(err, errForeignWriter) {
		t.Fatalf("healthy: %v", err)
	}
	if _, err := l.Append(t.Context(), numbered(3)); err == nil {
		t.Fatal("an entry was taken")
	}
}

// TestALowerLimitLosesNothing: what was accepted with a larger max_body is not taken for the end of the journal.
func TestALowerLimitLosesNothing(t *testing.T) {
	dir := t.TempDir()
	l := openTestLog(t, dir)
	l.stream.down.Store(true)
	e := numbered(1)
	e.Body = make([]byte, 2<<20)
	if _, err := l.Append(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	l.die()
	if l, err := Open(t.Context(), Config{Dir: dir, MaxBytes: 1 << 30, MaxBody: 1 << 20, Reserve: 1}); err == nil || !strings.Contains(err.Error(), "larger max_body") {
		if err == nil {
			l.Close()
		}
		t.Fatal(err)
	}
	l = openTestLog(t, dir)
	defer l.Close()
	if ids := l.ids(t); len(ids) != 1 {
		t.Fatal(ids)
	}
}

func TestForeignAndOlderFilesAreRefusedWithTheRemedy(t *testing.T) {
	dir := t.TempDir()
	l := openTestLog(t, dir)
	l.stream.down.Store(true)
	for i := range 3 {
		if _, err := l.Append(t.Context(), numbered(i)); err != nil {
			t.Fatal(err)
		}
	}
	l.die()
	other := t.TempDir()
	openTestLog(t, other).Close()
	for i := range 2 {
		name := filepath.Join("journal", fmt.Sprintf("%d.journal", i))
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err == nil {
			err = os.WriteFile(filepath.Join(other, name), b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if l, err := tryTestLog(other); err == nil || !strings.Contains(err.Error(), "belongs to another log") {
		if err == nil {
			l.Close()
		}
		t.Fatal(err)
	}
}

// TestAJournalThatWasCutOffKeepsWhatIsBefore damages a file anywhere: what is read is a beginning of what was written.
func TestAJournalThatWasCutOffKeepsWhatIsBefore(t *testing.T) {
	dir := t.TempDir()
	id := bridge.LogID{1}
	rapid.Check(t, func(rt *rapid.T) {
		path := filepath.Join(dir, "x")
		_ = os.Remove(path)
		file, err := openJournalFile(path)
		if err != nil {
			rt.Fatal(err)
		}
		defer file.Close()
		s := &segment{file: file}
		generations := uint64(rapid.IntRange(1, 3).Draw(rt, "generations"))
		var ends []int64
		for g := uint64(1); g <= generations; g++ {
			s.begin(g, 10*g)
			b := encodeHeader(id, g, s.first)
			ends = nil
			for i := range rapid.IntRange(1, 5).Draw(rt, "records") {
				m := message(numbered(i))
				m.Data = make([]byte, rapid.IntRange(0, 300).Draw(rt, "size"))
				b = appendRecord(b, g, s.first+uint64(i), m.Subject, m.Header, m.Data)
				ends = append(ends, int64(len(b)))
			}
			if err := s.write(b, 0); err != nil {
				rt.Fatal(err)
			}
		}
		at := rapid.Int64Range(0, ends[len(ends)-1]-1).Draw(rt, "at")
		if rapid.Bool().Draw(rt, "truncate") {
			if err := os.Truncate(path, at); err != nil {
				rt.Fatal(err)
			}
		} else {
			var b [1]byte
			if _, err := file.ReadAt(b[:], at); err != nil {
				rt.Fatal(err)
			}
			b[0] ^= byte(rapid.IntRange(1, 255).Draw(rt, "flip"))
			if _, err := file.WriteAt(b[:], at); err != nil {
				rt.Fatal(err)
			}
		}
		want := 0
		for want < len(ends) && ends[want] <= at {
			want++
		}
		got := 0
		info, err := os.Stat(path)
		if err != nil {
			rt.Fatal(err)
		}
		err = (&segment{file: file, size: info.Size()}).load(id, func(r record) {
			if r.sequence != 10*generations+uint64(got) || r.msg.Header.Get(hdrEventID) != fmt.Sprintf("s.%d", got) {
				rt.Fatalf("record %d is %d %v", got, r.sequence, r.msg.Header)
			}
			got++
		})
		if err != nil && !errors.Is(err, errForeignJournal) || got != want && at >= journalHeader || got > 0 && at < journalHeader {
			rt.Fatalf("%d records, want %d; %v", got, want, err)
		}
	})
}

func FuzzJournal(f *testing.F) {
	m := message(numbered(1))
	whole := appendRecord(encodeHeader(bridge.LogID{1}, 1, 1), 1, 1, m.Subject, m.Header, m.Data)
	f.Add(whole)
	f.Add(whole[:len(whole)-1])
	f.Add([]byte(journalMagic))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		path := filepath.Join(t.TempDir(), "x")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		file, err := openJournalFile(path)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		n := uint64(0)
		s := &segment{file: file, size: int64(len(b))}
		if err := s.load(bridge.LogID{1}, func(record) { n++ }); err == nil && s.last+1-s.first != n {
			t.Fatalf("%d records from %d to %d", n, s.first, s.last)
		}
		_, _ = parsePayload(b)
	})
}
