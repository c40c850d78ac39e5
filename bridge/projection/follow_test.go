package projection

import (
	"bytes"
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/spotbridge/spotbridge/bridge"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

// dump returns everything the file says, with the texts of numbers, so that files with other numbers can be compared.
func dump(t testing.TB, st *store) string {
	t.Helper()
	var b strings.Builder
	for _, text := range []string{
		"SELECT hex(log), begun, floor, watermark, last_ts FROM state",
		"SELECT kind, value, n, extra FROM dict ORDER BY kind, value",
		`SELECT n.seq, n.ts, t.value, o.value, g.value, s.value, n.flags, hex(n.idh), hex(x.id), x.kind, n.ver, n.et FROM events n
			LEFT JOIN dict t ON t.id = n.typ LEFT JOIN dict o ON o.id = n.op LEFT JOIN dict g ON g.id = n.org LEFT JOIN dict s ON s.id = n.src
			LEFT JOIN entity x ON x.eid = n.eid ORDER BY n.seq`,
		"SELECT seq, size, hex(sha), stamp, hex(e) FROM wide ORDER BY seq",
		"SELECT seq, hex(z) FROM body ORDER BY seq",
		"SELECT d.value, o.seq FROM other_org o LEFT JOIN dict d ON d.id = o.org ORDER BY o.seq, d.value",
		"SELECT kind, hex(id), seq FROM ent ORDER BY kind, id, seq",
		"SELECT kind, hex(id), ver, et, proven FROM entity ORDER BY kind, id",
		`SELECT r.hour, s.value, t.value, o.value, coalesce(g.value, r.org), r.stale, r.n FROM rollup r
			LEFT JOIN dict t ON t.id = r.typ LEFT JOIN dict o ON o.id = r.op LEFT JOIN dict g ON g.id = r.org LEFT JOIN dict s ON s.id = r.src ORDER BY 1, 2, 3, 4, 5, 6`,
		"SELECT t.value, o.value, s.n, s.ts FROM seen s LEFT JOIN dict t ON t.id = s.typ LEFT JOIN dict o ON o.id = s.op ORDER BY 1, 2",
		"SELECT * FROM quarantine ORDER BY seq",
	} {
		dumpRows(t, &b, st, text)
	}
	return b.String()
}

func dumpRows(t testing.TB, b *strings.Builder, st *store, text string) {
	t.Helper()
	fmt.Fprintln(b, "--", text)
	rows, err := st.read.QueryContext(t.Context(), text)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		t.Fatal(err)
	}
	for rows.Next() {
		values := make([]any, len(columns))
		for i := range values {
			values[i] = new(any)
		}
		if err := rows.Scan(values...); err != nil {
			t.Fatal(err)
		}
		for _, v := range values {
			fmt.Fprintf(b, "%v|", *v.(*any))
		}
		fmt.Fprintln(b)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
}

func sameDump(t testing.TB, what, got, want string) {
	t.Helper()
	if got == want {
		return
	}
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range min(len(g), len(w)) {
		if g[i] != w[i] {
			t.Fatalf("%s: line %d:\n got %s\nwant %s", what, i, g[i], w[i])
		}
	}
	t.Fatalf("%s: %d lines instead of %d", what, len(g), len(w))
}

// TestRebuildGivesTheSameRows deletes the file and replays, in other batches.
func TestRebuildGivesTheSameRows(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		log := genLog(r, rapid.IntRange(0, 100).Draw(r, "entries"))
		var dumps []string
		for range 2 {
			p := projectedInto(t, r, log, &collector{})
			dumps = append(dumps, dump(t, p.st))
		}
		sameDump(t, "rebuilt", dumps[1], dumps[0])
	})
}

// TestApplyTwiceChangesNothing applies every batch twice, and ones that overlap.
func TestApplyTwiceChangesNothing(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		log := genLog(r, rapid.IntRange(1, 60).Draw(r, "entries"))
		want := projectedInto(t, r, log, &collector{})
		p := open(t, Config{})
		defer p.Close()
		state, _ := log.State(t.Context())
		if err := p.bind(t.Context(), state, false); err != nil {
			r.Fatal(err)
		}
		var published []uint64
		for i := 0; i < len(log.entries); {
			from := max(0, i-rapid.IntRange(0, 5).Draw(r, "again"))
			i = min(len(log.entries), i+rapid.IntRange(1, 10).Draw(r, "batch"))
			for range 2 {
				events, err := p.apply(t.Context(), prepare(log.entries[from:i], p.codec))
				if err != nil {
					r.Fatal(err)
				}
				published = append(published, seqsOf(events)...)
			}
		}
		sameDump(t, "applied twice", dump(t, p.st), dump(t, want.st))
		if !slices.IsSorted(published) || len(slices.Compact(published)) != len(published) {
			r.Fatalf("published twice: %v", published)
		}
	})
}

// TestRunPublishesAfterCommit looks events up while the sink has them.
func TestRunPublishesAfterCommit(t *testing.T) {
	log := newFakeLog()
	p := open(t, Config{BatchEntries: 3})
	var mu sync.Mutex
	var seqs []uint64
	var last uint64
	sink := sinkFunc(func(events []*bridge.Encoded, watermark uint64) {
		mu.Lock()
		defer mu.Unlock()
		if watermark != p.Watermark() || watermark < last {
			t.Errorf("watermark %d after %d, committed %d", watermark, last, p.Watermark())
		}
		last = watermark
		for _, e := range events {
			seqs = append(seqs, e.Sequence)
			got, err := p.Get(context.Background(), e.EventID)
			if err != nil || !bytes.Equal(got.Envelope, e.Envelope) || !bytes.Equal(got.Body, e.Body) {
				t.Errorf("event %d was published and is not found: %v", e.Sequence, err)
			}
		}
	})
	run(t, func(ctx context.Context) error { return p.Run(ctx, log, sink) })
	var want []uint64
	for i := range 20 {
		if i%5 == 4 {
			log.append(quarantine(fmt.Sprint(i), "", pb.DeliveryCause_DELIVERY_CAUSE_EMPTY_BODY, t0))
		} else {
			log.append(event(fmt.Sprint(i), pnr("OP", "o", "1", i, ""), t0))
			want = append(want, uint64(i+1))
		}
	}
	log.append(&bridge.Entry{Kind: bridge.EntryUnknown, AppendTime: t0})
	until(t, "the last watermark", func() bool { mu.Lock(); defer mu.Unlock(); return last == 21 })
	if !slices.Equal(seqs, want) {
		t.Errorf("published %v, want %v", seqs, want)
	}
	if p.Lag() != 0 || p.Health() != nil {
		t.Errorf("lag %d, health %v", p.Lag(), p.Health())
	}
}

// TestACheckpointComesAfterWhatIsWaitedFor: while few events come, the WAL is written back often, and no event waits for it.
func TestACheckpointComesAfterWhatIsWaitedFor(t *testing.T) {
	for name, q := range map[string]struct {
		batch   int
		written bool
	}{"few events": {1, true}, "many": {calmEntries + 1, false}} {
		t.Run(name, func(t *testing.T) {
			log := newFakeLog()
			for i := range 2 * calmTransactions * q.batch {
				log.append(event(fmt.Sprint(i), pnr("OP", "o", fmt.Sprint(i), 1, ""), t0))
			}
			p := open(t, Config{BatchEntries: q.batch})
			var sizes []int64 // of the file without its WAL, at each publication
			done := make(chan struct{})
			run(t, func(ctx context.Context) error {
				return p.Run(ctx, log, sinkFunc(func(events []*bridge.Encoded, _ uint64) {
					if len(events) == 0 {
						return
					}
					info, err := os.Stat(p.path())
					if err != nil {
						t.Error(err)
						return
					}
					if sizes = append(sizes, info.Size()); len(sizes) == 2*calmTransactions {
						close(done)
					}
				}))
			})
			<-done
			if before := sizes[:calmTransactions]; before[0] != before[len(before)-1] {
				t.Errorf("it was written while %d events were waited for: %v", len(before), sizes)
			}
			if after := sizes[calmTransactions]; (after > sizes[0]) != q.written {
				t.Errorf("after %d transactions it has %d bytes, before them %d", calmTransactions, after, sizes[0])
			}
		})
	}
}

type sinkFunc func(events []*bridge.Encoded, watermark uint64)

func (f sinkFunc) Lost(uint64) {}

func (f sinkFunc) Publish(events []*bridge.Encoded, watermark uint64) { f(events, watermark) }

// TestCrashAndResume copies the files while they are in use, as a crash leaves them, and goes on with the copy.
func TestCrashAndResume(t *testing.T) {
	log := newFakeLog()
	for i := range 300 {
		log.append(event(fmt.Sprint(i), pnr("OP", fmt.Sprint("o", i%7), fmt.Sprint(i%20), i/20, ""), t0.Add(time.Duration(i)*time.Minute)))
	}
	p := projected(t, Config{BatchEntries: 10}, log)
	crashed := t.TempDir()
	p.wmu.Lock()
	for _, suffix := range []string{"", "-wal"} {
		b, err := os.ReadFile(p.path() + suffix)
		if err != nil {
			t.Fatal(err)
		}
		if suffix == "-wal" {
			b = b[:len(b)*2/3] // the rest had not come to the disk
		}
		if err := os.WriteFile(filepath.Join(crashed, "projection.db"+suffix), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p.wmu.Unlock()
	again := open(t, Config{Dir: crashed})
	if w := again.Watermark(); w == 0 || w >= 300 {
		t.Fatalf("watermark after the crash: %d", w)
	}
	sink := &collector{}
	first := again.Watermark() + 1
	run(t, func(ctx context.Context) error { return again.Run(ctx, log, sink) })
	published(t, sink, log)
	sameDump(t, "resumed", dump(t, again.st), dump(t, p.st))
	if got := sink.sequences(); got[0] != first || len(got) != int(300-first)+1 {
		t.Errorf("published %d events from %d, want from %d", len(got), got[0], first)
	}
}

// TestRestartGoesOn closes and opens in order.
func TestRestartGoesOn(t *testing.T) {
	dir, log := t.TempDir(), newFakeLog()
	for round := range 3 {
		for i := range 10 {
			log.append(event(fmt.Sprint(round, "-", i), pnr("OP", fmt.Sprint("o", round), "1", round*10+i, ""), t0))
		}
		p, err := Open(t.Context(), Config{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		if want := uint64(10 * round); p.Watermark() != want {
			t.Fatalf("watermark %d, want %d", p.Watermark(), want)
		}
		stop := run(t, func(ctx context.Context) error { return p.Run(ctx, log, nil) })
		caughtUp(t, p, log)
		stop()
		if round == 2 {
			sameDump(t, "after restarts", dump(t, p.st), dump(t, projected(t, Config{}, log).st))
		}
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestUnreadableEventIsKept: what was an event when it was accepted stays one.
func TestUnreadableEventIsKept(t *testing.T) {
	log := newFakeLog()
	log.append(event("1", "this is not JSON", t0), event("2", pnr("OP", "o", "1", 1, ""), t0))
	bad := event("3", `{"event_type":"X"}`, t0)
	bad.APIVersion, bad.TraceID = "not \xff UTF-8", "\xfe"
	tickets := "{\"event_type\":\"X\",\"operationSummary\":{\"ticketsIssued\":[{\"a\":\"\xff\"}]}}"
	log.append(bad, event("4", tickets, t0))
	p := projected(t, Config{}, log)
	for id, body := range map[string]string{"1": "this is not JSON", "3": `{"event_type":"X"}`, "4": tickets} {
		e, err := p.Get(t.Context(), "sandbox."+id)
		if err != nil || string(e.Body) != body {
			t.Errorf("event %s: %v", id, err)
		}
	}
	out, err := p.List(t.Context(), bridge.ListRequest{PageSize: 10})
	if err != nil || len(out.Events) != 4 {
		t.Errorf("%d events, %v", len(out.Events), err)
	}
}

// TestAppendTimeNeverFalls although the log's clock does.
func TestAppendTimeNeverFalls(t *testing.T) {
	log := newFakeLog()
	for i, s := range []int{0, 10, 5, -100, 11} {
		log.append(event(fmt.Sprint(i), pnr("OP", "o", "1", i, ""), t0.Add(time.Duration(s)*time.Second)))
	}
	p := projected(t, Config{BatchEntries: 2}, log)
	out, err := p.List(t.Context(), bridge.ListRequest{PageSize: 10, OldestFirst: true})
	if err != nil {
		t.Fatal(err)
	}
	var got []float64
	for _, e := range out.Events {
		got = append(got, e.AppendTime.Sub(t0).Seconds())
	}
	if !slices.Equal(got, []float64{0, 10, 10, 10, 11}) {
		t.Error(got)
	}
}

// TestAnotherLogStartsFresh and says so.
func TestAnotherLogStartsFresh(t *testing.T) {
	for name, change := range map[string]func(*fakeLog){
		"foreign": func(l *fakeLog) { l.id = bridge.LogID{9} },
		"rewound": func(l *fakeLog) { l.entries, l.head = l.entries[:3], 3 },
		"replaced": func(l *fakeLog) {
			l.entries, l.head = l.entries[:3], 3
			for i := range 4 {
				l.append(event(fmt.Sprint("again", i), pnr("OP", "o", "3", i, ""), t0))
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir, log := t.TempDir(), newFakeLog()
			for i := range 5 {
				log.append(event(fmt.Sprint(i), pnr("OP", "o", "1", i, ""), t0))
			}
			p, err := Open(t.Context(), Config{Dir: dir})
			if err != nil {
				t.Fatal(err)
			}
			stop := run(t, func(ctx context.Context) error { return p.Run(ctx, log, nil) })
			caughtUp(t, p, log)
			stop()
			p.Close()
			change(log)
			log.append(event("new", pnr("OP", "o", "2", 1, ""), t0))
			logged := &logBuffer{}
			p = projected(t, Config{Dir: dir, Logger: slog.New(slog.NewTextHandler(logged, nil))}, log)
			sameDump(t, name, dump(t, p.st), dump(t, projected(t, Config{}, log).st))
			if !strings.Contains(logged.String(), "rebuilt") {
				t.Errorf("nothing is said: %s", logged)
			}
		})
	}
}

type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// TestOtherVersionIsRebuilt: a file of other rules is read again from the log.
func TestOtherVersionIsRebuilt(t *testing.T) {
	dir, log := t.TempDir(), newFakeLog()
	log.append(event("1", pnr("OP", "o", "1", 1, ""), t0))
	p := projected(t, Config{Dir: dir}, log)
	if _, err := p.st.write.ExecContext(t.Context(), "PRAGMA user_version = 4711"); err != nil {
		t.Fatal(err)
	}
	want := dump(t, p.st)
	logged := &logBuffer{}
	again := projected(t, Config{Dir: copyFiles(t, p), Logger: slog.New(slog.NewTextHandler(logged, nil))}, log)
	sameDump(t, "other version", dump(t, again.st), want)
	if !strings.Contains(logged.String(), "other rules") {
		t.Errorf("nothing is said: %s", logged)
	}
}

// copyFiles copies the file in use to a new folder.
func copyFiles(t testing.TB, p *Projection) string {
	t.Helper()
	dir := t.TempDir()
	for _, suffix := range []string{"", "-wal"} {
		b, err := os.ReadFile(p.path() + suffix)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, "projection.db"+suffix), b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// TestBegunAboveTheFirstSequence says UNKNOWN until an entity's first version was seen.
func TestBegunAboveTheFirstSequence(t *testing.T) {
	log := newFakeLog()
	log.head = 100
	log.floor = 101
	log.append(event("a", pnr("OP", "o", "1", 5, ""), t0), event("b", pnr("OP", "o", "2", 1, ""), t0), event("c", pnr("OP", "o", "2", 2, ""), t0))
	sink := &collector{}
	p := open(t, Config{})
	run(t, func(ctx context.Context) error { return p.Run(ctx, log, sink) })
	published(t, sink, log)
	checkOrdering(t, sink, unknown, inOrder, inOrder)
	b, err := p.Bounds(t.Context())
	if err != nil || b.Floor != 101 || b.Watermark != 103 || b.Log != log.id || !b.FloorTime.Equal(t0) {
		t.Errorf("%+v, %v", b, err)
	}
}

func checkOrdering(t *testing.T, sink *collector, want ...pb.Ordering) {
	t.Helper()
	var got []pb.Ordering
	for _, e := range sink.all() {
		ev, err := e.Event(pb.EventView_EVENT_VIEW_ENVELOPE, 0)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, ev.GetOrdering())
	}
	if !slices.Equal(got, want) {
		t.Errorf("ordering %v, want %v", got, want)
	}
}

// TestFloorPassesTheWatermark: entries that expired unseen make the order of all entities uncertain.
func TestFloorPassesTheWatermark(t *testing.T) {
	dir, log := t.TempDir(), newFakeLog()
	log.append(event("a", pnr("OP", "o", "1", 1, ""), t0), event("b", pnr("OP", "o", "2", 1, ""), t0))
	sink := &collector{}
	p, err := Open(t.Context(), Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	stop := run(t, func(ctx context.Context) error { return p.Run(ctx, log, sink) })
	published(t, sink, log)
	stop()
	p.Close()
	log.append(event("c", pnr("OP", "o", "1", 2, ""), t0), event("d", pnr("OP", "o", "1", 3, ""), t0), event("e", pnr("OP", "o", "3", 1, ""), t0), event("f", pnr("OP", "o", "4", 7, ""), t0))
	log.expire(4)
	logged := &logBuffer{}
	p = open(t, Config{Dir: dir, Logger: slog.New(slog.NewTextHandler(logged, nil))})
	run(t, func(ctx context.Context) error { return p.Run(ctx, log, sink) })
	published(t, sink, log)
	checkOrdering(t, sink, inOrder, inOrder, unknown, inOrder, unknown)
	if !slices.Equal(sink.lost, []uint64{4}) {
		t.Errorf("streams were told of gaps that end at %v", sink.lost)
	}
	if !strings.Contains(logged.String(), "history has a gap") {
		t.Errorf("nothing is said: %s", logged)
	}
	until(t, "retention below the log's floor", func() bool {
		b, err := p.Bounds(context.Background())
		return err == nil && b.Floor == 4
	})
}

// TestGapsInTheLogAreNoLoss: entries that were deleted from the middle or the end leave the order certain, and the
// projection becomes ready.
func TestGapsInTheLogAreNoLoss(t *testing.T) {
	log := newFakeLog()
	for i := range 6 {
		log.append(event(fmt.Sprint(i), pnr("OP", "o", "1", i, ""), t0))
	}
	log.remove(3)
	log.remove(5)
	log.remove(6)
	sink := &collector{}
	p := open(t, Config{})
	run(t, func(ctx context.Context) error { return p.Run(ctx, log, sink) })
	published(t, sink, log)
	checkOrdering(t, sink, inOrder, inOrder, gap)
	if p.Watermark() != 6 {
		t.Errorf("watermark %d", p.Watermark())
	}
}

// TestDiskFullIsLoudAndRecovers fills the file up and makes room again.
func TestDiskFullIsLoudAndRecovers(t *testing.T) {
	log := newFakeLog()
	log.append(event("1", pnr("OP", "o", "1", 1, ""), t0))
	logged := &logBuffer{}
	sink := &collector{}
	p := open(t, Config{Logger: slog.New(slog.NewTextHandler(logged, nil))})
	run(t, func(ctx context.Context) error { return p.Run(ctx, log, sink) })
	caughtUp(t, p, log)
	setPages(t, p, "PRAGMA max_page_count = 1") // means: not more than now
	noise := make([]byte, 200_000)
	rand.Read(noise)
	big := event("big", fmt.Sprintf(`{"event_type":"X","noise":%q}`, hex.EncodeToString(noise)), t0)
	log.append(big, event("2", pnr("OP", "o", "1", 2, ""), t0))
	until(t, "the error to be known", func() bool { return p.Health() != nil })
	if !strings.Contains(p.Health().Error(), "free disk space") || p.Watermark() != 1 {
		t.Errorf("watermark %d, health: %v", p.Watermark(), p.Health())
	}
	if e, err := p.Get(t.Context(), "sandbox.1"); err != nil || e.Sequence != 1 {
		t.Errorf("reading does not work meanwhile: %v", err)
	}
	setPages(t, p, "PRAGMA max_page_count = 1000000")
	published(t, sink, log)
	if p.Health() != nil {
		t.Error(p.Health())
	}
	if got := sink.sequences(); !slices.Equal(got, []uint64{1, 2, 3}) {
		t.Errorf("published %v", got)
	}
	if s := logged.String(); !strings.Contains(s, "nothing is skipped") || !strings.Contains(s, "back in order") {
		t.Errorf("log: %s", s)
	}
	sameDump(t, "after the disk was full", dump(t, p.st), dump(t, projected(t, Config{}, log).st))
}

func setPages(t *testing.T, p *Projection, text string) {
	t.Helper()
	p.wmu.Lock()
	defer p.wmu.Unlock()
	if _, err := p.st.write.ExecContext(t.Context(), text); err != nil {
		t.Fatal(err)
	}
}

// TestCorruptFileIsMovedAsideAndRebuilt, whether it is found at the beginning or later.
func TestCorruptFileIsMovedAsideAndRebuilt(t *testing.T) {
	log := newFakeLog()
	for i := range 200 {
		log.append(event(fmt.Sprint(i), pnr("OP", fmt.Sprint("o", i), fmt.Sprint(i), 1, ""), t0))
	}
	want := dump(t, projected(t, Config{}, log).st)
	for name, damage := range map[string]func(b []byte){
		"header":  func(b []byte) { copy(b, "this is no database") },
		"schema":  func(b []byte) { clear(b[100:4096]) },
		"pages":   func(b []byte) { rand.Read(b[4096*3:]) },
		"nothing": func(b []byte) { clear(b) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			p, err := Open(t.Context(), Config{Dir: dir})
			if err != nil {
				t.Fatal(err)
			}
			stop := run(t, func(ctx context.Context) error { return p.Run(ctx, log, nil) })
			caughtUp(t, p, log)
			stop()
			if _, err := p.st.write.ExecContext(t.Context(), "PRAGMA wal_checkpoint(TRUNCATE)"); err != nil {
				t.Fatal(err)
			}
			b, err := os.ReadFile(p.path()) // not closed in order
			if err != nil {
				t.Fatal(err)
			}
			p.Close()
			damage(b)
			if err := os.WriteFile(p.path(), b, 0o600); err != nil {
				t.Fatal(err)
			}
			logged := &logBuffer{}
			p = projected(t, Config{Dir: dir, Logger: slog.New(slog.NewTextHandler(logged, nil))}, log)
			sameDump(t, name, dump(t, p.st), want)
			aside, err := filepath.Glob(filepath.Join(dir, "projection.db.corrupt-*"))
			if err != nil || len(aside) != 1 {
				t.Errorf("moved aside: %v, %v", aside, err)
			}
			if s := logged.String(); !strings.Contains(s, p.path()) || !strings.Contains(s, "rebuilt from the log") || !strings.Contains(s, "level=ERROR") {
				t.Errorf("log: %s", s)
			}
		})
	}
	t.Run("while running", func(t *testing.T) {
		p := open(t, Config{})
		sink := &collector{}
		run(t, func(ctx context.Context) error { return p.Run(ctx, log, sink) })
		caughtUp(t, p, log)
		for range 3 { // readers that the new file is put in place under
			run(t, func(ctx context.Context) error {
				for ctx.Err() == nil {
					if _, err := p.List(ctx, bridge.ListRequest{PageSize: 5, Filter: filter(t, &pb.EventFilter{Operations: []string{"OP"}})}); err != nil && ctx.Err() == nil {
						return err
					}
					if _, err := p.Count(ctx, bridge.CountRequest{}); err != nil && ctx.Err() == nil {
						return err
					}
				}
				return nil
			})
		}
		setPages(t, p, "UPDATE body SET z = x'01aabbcc' WHERE seq = 7")
		_, err := p.Get(t.Context(), "sandbox.6")
		if bridge.ReasonOf(err) != pb.ErrorReason_ERROR_REASON_HISTORY_UNAVAILABLE {
			t.Fatalf("damaged body: %v", err)
		}
		until(t, "the damage to be repaired", func() bool {
			e, err := p.Get(context.Background(), "sandbox.6")
			return err == nil && len(e.Body) > 0 && p.Ready() && p.Watermark() == 200 && p.Health() == nil
		})
		published(t, sink, log)
		if got := sink.sequences(); len(got) != 200 {
			t.Errorf("%d events were published", len(got))
		}
		sameDump(t, "repaired", dump(t, p.st), want)
	})
}

// TestOpenNamesTheFolderThatIsNotUsable.
func TestOpenNamesTheFolderThatIsNotUsable(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), Config{Dir: file}); err == nil || !strings.Contains(err.Error(), file) {
		t.Error(err)
	}
}

// TestRunSurvivesTheLog: errors of the log are tried again.
func TestRunSurvivesTheLog(t *testing.T) {
	log := &brokenLog{fakeLog: newFakeLog()}
	log.append(event("1", pnr("OP", "o", "1", 1, ""), t0))
	log.fail(errors.New("no leader"))
	p := open(t, Config{})
	run(t, func(ctx context.Context) error { return p.Run(ctx, log, nil) })
	until(t, "the error to be known", func() bool { return p.Health() != nil })
	if p.Ready() || !strings.Contains(p.Health().Error(), "no leader") {
		t.Errorf("ready %v, health %v", p.Ready(), p.Health())
	}
	log.fail(nil)
	caughtUp(t, p, log.fakeLog)
	if p.Health() != nil {
		t.Error(p.Health())
	}
}

type brokenLog struct {
	*fakeLog
	err error
}

func (l *brokenLog) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.err = err
}

func (l *brokenLog) State(ctx context.Context) (bridge.LogState, error) {
	l.mu.Lock()
	err := l.err
	l.mu.Unlock()
	if err != nil {
		return bridge.LogState{}, err
	}
	return l.fakeLog.State(ctx)
}

// TestReadersDoNotWaitForTheWriter holds a write transaction open.
func TestReadersDoNotWaitForTheWriter(t *testing.T) {
	log := newFakeLog()
	log.append(event("1", pnr("OP", "o", "1", 1, ""), t0))
	p := projected(t, Config{}, log)
	p.wmu.Lock()
	defer p.wmu.Unlock()
	err := p.st.tx(t.Context(), func() error {
		if _, err := p.st.write.ExecContext(t.Context(), "DELETE FROM events"); err != nil {
			return err
		}
		if _, err := p.Get(t.Context(), "sandbox.1"); err != nil {
			return err
		}
		return sql.ErrTxDone // roll back
	})
	if !errors.Is(err, sql.ErrTxDone) {
		t.Error(err)
	}
}
