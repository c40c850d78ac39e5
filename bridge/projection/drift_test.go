package projection

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/spotbridge/spotbridge/bridge"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

const (
	unknownField = pb.IssueKind_ISSUE_KIND_UNKNOWN_FIELD
	mismatch     = pb.IssueKind_ISSUE_KIND_TYPE_MISMATCH
)

func differs(eventType string, kind pb.IssueKind, path string, minute int, example string) bridge.DriftEntry {
	at := t0.Add(time.Duration(minute) * time.Minute)
	return bridge.DriftEntry{EventType: eventType, Kind: kind, Path: path, FirstSeen: at, LastSeen: at, Events: 1, Occurrences: 2, Example: example}
}

func beginDrift(t testing.TB, p *Projection, revision string, first uint64) bridge.DriftRun {
	t.Helper()
	run, err := p.Begin(t.Context(), revision, first)
	if err != nil {
		t.Fatal(err)
	}
	return run
}

func storeDrift(t testing.TB, p *Projection, b bridge.DriftBatch) bridge.DriftChange {
	t.Helper()
	c, err := p.Record(t.Context(), b)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func listDrift(t testing.TB, p *Projection, r bridge.DriftListRequest) bridge.DriftListResult {
	t.Helper()
	if r.PageSize == 0 {
		r.PageSize = 1000
	}
	res, err := p.ListDrift(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

func paths(r bridge.DriftListResult) (out []string) {
	for _, e := range r.Entries {
		out = append(out, e.Path)
	}
	return out
}

func TestDriftIsSummedUp(t *testing.T) {
	p := open(t, Config{})
	if got := listDrift(t, p, bridge.DriftListRequest{}); got.Run.ID != 0 || got.Next != nil || got.Entries != nil {
		t.Error("drift before the first run:", got)
	}
	run := beginDrift(t, p, "r1", 7)
	if run.First != 7 || run.Watermark != 6 || run.Revision != "r1" {
		t.Fatal(run)
	}
	c := storeDrift(t, p, bridge.DriftBatch{Run: run.ID, After: 6, Watermark: 9, Events: 2, Skipped: 1, Entries: []bridge.DriftEntry{
		differs("A", unknownField, "$.x", 5, "e5"), differs("A", mismatch, "$.x", 5, "e5"), differs("B", unknownField, "$.x", 5, "e5"),
	}})
	if !maps.Equal(c.New, map[pb.IssueKind]int64{unknownField: 2, mismatch: 1}) || c.Overflow != 0 {
		t.Error(c)
	}
	// The same again from a newer event, and from one with an earlier time.
	c = storeDrift(t, p, bridge.DriftBatch{Run: run.ID, After: 9, Watermark: 12, Events: 3, Overflow: 4, Complete: true, Entries: []bridge.DriftEntry{
		differs("A", unknownField, "$.x", 8, "e8"), differs("B", unknownField, "$.x", 1, "e1"),
	}})
	if len(c.New) != 0 || c.Overflow != 4 {
		t.Error(c)
	}
	got := listDrift(t, p, bridge.DriftListRequest{})
	if r := got.Run; r.First != 7 || r.Watermark != 12 || r.Events != 5 || r.Skipped != 1 || r.Overflow != 4 || got.Next != nil {
		t.Error(r, got.Next)
	}
	want := []bridge.DriftEntry{differs("A", mismatch, "$.x", 5, "e5"), differs("A", unknownField, "$.x", 5, "e8"), differs("B", unknownField, "$.x", 1, "e5")}
	want[1].LastSeen, want[1].Events, want[1].Occurrences = t0.Add(8*time.Minute), 2, 4
	want[2].LastSeen, want[2].Events, want[2].Occurrences = t0.Add(5*time.Minute), 2, 4
	if !slices.Equal(got.Entries, want) {
		t.Errorf("%v\nwant %v", got.Entries, want)
	}
	if totals, err := p.Totals(t.Context()); err != nil || !maps.Equal(totals, map[pb.IssueKind]int64{unknownField: 2, mismatch: 1}) {
		t.Error(err, totals)
	}
	// It survives a restart.
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	p = open(t, Config{Dir: p.cfg.Dir})
	if again := listDrift(t, p, bridge.DriftListRequest{}); !slices.Equal(again.Entries, want) || again.Run != got.Run || beginDrift(t, p, "r1", 1) != got.Run {
		t.Error("after a restart:", again)
	}
}

func TestDriftIsListedInPagesAndByFilter(t *testing.T) {
	p := open(t, Config{})
	run := beginDrift(t, p, "r", 1)
	var entries []bridge.DriftEntry
	for i := range 30 {
		entries = append(entries, differs([]string{"A", "B", "A%"}[i%3], []pb.IssueKind{unknownField, mismatch}[i/3%2], fmt.Sprintf("$.p%d", i), i, "e"))
	}
	storeDrift(t, p, bridge.DriftBatch{Run: run.ID, Watermark: 1, Entries: entries, Complete: true})
	for _, r := range []bridge.DriftListRequest{
		{}, {EventTypes: []string{"A"}}, {EventTypes: []string{"B", "A%"}, Kinds: []pb.IssueKind{mismatch}}, {FirstSeenSince: t0.Add(20 * time.Minute)}, {EventTypes: []string{"C"}},
	} {
		var want []string
		sorted := slices.Clone(entries)
		slices.SortFunc(sorted, func(a, b bridge.DriftEntry) int {
			key := func(e bridge.DriftEntry) string { return fmt.Sprintf("%s\x00%03d\x00%s", e.EventType, e.Kind, e.Path) }
			if key(a) < key(b) {
				return -1
			}
			return 1
		})
		for _, e := range sorted {
			if (r.EventTypes == nil || slices.Contains(r.EventTypes, e.EventType)) && (r.Kinds == nil || slices.Contains(r.Kinds, e.Kind)) && !e.FirstSeen.Before(r.FirstSeenSince) {
				want = append(want, e.Path)
			}
		}
		for _, size := range []int{1, 7, len(want), 1000} {
			if r.PageSize, r.After = size, nil; size == 0 {
				continue
			}
			var got []string
			for {
				page := listDrift(t, p, r)
				got = append(got, paths(page)...)
				if !page.More {
					break
				}
				last := page.Entries[len(page.Entries)-1]
				r.After = &bridge.DriftKey{EventType: last.EventType, Kind: last.Kind, Path: last.Path}
			}
			if !slices.Equal(got, want) {
				t.Errorf("%+v:\n%v\nwant\n%v", r, got, want)
			}
		}
	}
}

// TestDriftOfAnotherRevisionTakesOverWhenItHasCaughtUp: until then readers see the earlier one, and are told.
func TestDriftOfAnotherRevisionTakesOverWhenItHasCaughtUp(t *testing.T) {
	p := open(t, Config{})
	older := beginDrift(t, p, "older", 1)
	storeDrift(t, p, bridge.DriftBatch{Run: older.ID, Watermark: 9, Events: 9, Entries: []bridge.DriftEntry{differs("A", unknownField, "$.old", 1, "e")}, Complete: true})

	newer := beginDrift(t, p, "newer", 3)
	storeDrift(t, p, bridge.DriftBatch{Run: newer.ID, After: 2, Watermark: 5, Events: 3, Entries: []bridge.DriftEntry{differs("A", mismatch, "$.new", 1, "e")}})
	sees := func(revision, next string, want ...string) {
		t.Helper()
		got := listDrift(t, p, bridge.DriftListRequest{})
		has := ""
		if got.Next != nil {
			has = got.Next.Revision
		}
		if got.Run.Revision != revision || has != next || !slices.Equal(paths(got), want) {
			t.Errorf("revision %s, next %s, %v", got.Run.Revision, has, paths(got))
		}
	}
	sees("older", "newer", "$.old")
	if totals, err := p.Totals(t.Context()); err != nil || totals[unknownField] != 1 || totals[mismatch] != 0 {
		t.Error(err, totals)
	}
	if again := beginDrift(t, p, "newer", 4); again.ID != newer.ID || again.Watermark != 5 {
		t.Error("a restart does not go on:", again)
	}
	// A release is taken back: the earlier run goes on where it was.
	if back := beginDrift(t, p, "older", 4); back.ID != older.ID || back.Watermark != 9 {
		t.Error("the earlier run is lost:", back)
	}
	sees("older", "", "$.old")
	if _, err := p.Record(t.Context(), bridge.DriftBatch{Run: newer.ID, After: 5, Watermark: 6}); !errors.Is(err, bridge.ErrDriftMoved) {
		t.Error("a run that was given up goes on:", err)
	}
	// And comes again, from the start; then another one before that has caught up.
	third := beginDrift(t, p, "newer", 4)
	if third.ID == newer.ID || third.ID == older.ID || third.Watermark != 3 {
		t.Error(third)
	}
	fourth := beginDrift(t, p, "newest", 4)
	sees("older", "newest", "$.old")
	storeDrift(t, p, bridge.DriftBatch{Run: fourth.ID, After: 3, Watermark: 9, Events: 6, Complete: true})
	sees("newest", "")
	for _, table := range []string{"drift", "drift_run"} {
		var n int
		if err := p.st.row(t.Context(), "SELECT count(*) FROM "+table+" WHERE run <> ?", []any{fourth.ID}, &n); err != nil || n != 0 {
			t.Errorf("%s: %d rows of earlier runs, %v", table, n, err)
		}
	}
}

func TestDriftThatIsNotWhereItWasIsRefusedWhole(t *testing.T) {
	p := open(t, Config{})
	run := beginDrift(t, p, "r", 1)
	storeDrift(t, p, bridge.DriftBatch{Run: run.ID, Watermark: 5})
	for _, b := range []bridge.DriftBatch{{Run: run.ID, After: 4, Watermark: 6}, {Run: run.ID + 1, After: 5, Watermark: 6}} {
		b.Entries = []bridge.DriftEntry{differs("A", unknownField, "$.x", 1, "e")}
		if _, err := p.Record(t.Context(), b); !errors.Is(err, bridge.ErrDriftMoved) {
			t.Error(err)
		}
	}
	if got := listDrift(t, p, bridge.DriftListRequest{}); got.Run.Watermark != 5 || len(got.Entries) > 0 {
		t.Error(got)
	}
}

// TestDriftIsBounded: a sender that makes names up fills what one kind of its event type has, and no more, and pushes
// nothing out.
func TestDriftIsBounded(t *testing.T) {
	p := open(t, Config{})
	run := beginDrift(t, p, "r", 1)
	storeDrift(t, p, bridge.DriftBatch{Run: run.ID, Watermark: 1, Entries: []bridge.DriftEntry{differs("A", unknownField, "$.early", 1, "e")}})
	var made []bridge.DriftEntry
	for i := range 700 {
		made = append(made, differs("A", unknownField, fmt.Sprintf("$.made%d", i), 2, "e"))
	}
	c := storeDrift(t, p, bridge.DriftBatch{Run: run.ID, After: 1, Watermark: 2, Entries: made, Overflow: 3})
	if c.New[unknownField] != maxDriftPaths-1 || c.Overflow != 2*(700-maxDriftPaths+1)+3 {
		t.Error(c)
	}
	storeDrift(t, p, bridge.DriftBatch{Run: run.ID, After: 2, Watermark: 3, Complete: true, Entries: []bridge.DriftEntry{
		differs("A", unknownField, "$.early", 3, "e"), differs("A", unknownField, "$.late", 3, "e"), differs("A", mismatch, "$.x", 3, "e"), differs("B", unknownField, "$.x", 3, "e"),
	}})
	got := listDrift(t, p, bridge.DriftListRequest{PageSize: 5000})
	if len(got.Entries) != maxDriftPaths+2 || got.Run.Overflow != c.Overflow+2 {
		t.Errorf("%d entries, overflow %d", len(got.Entries), got.Run.Overflow)
	}
	i := slices.IndexFunc(got.Entries, func(e bridge.DriftEntry) bool { return e.Path == "$.early" })
	if i < 0 || got.Entries[i].Events != 2 {
		t.Error("what was there first was pushed out, or not counted on")
	}
}

// TestAFileFromBeforeDriftGetsItsTables: without being rebuilt.
func TestAFileFromBeforeDriftGetsItsTables(t *testing.T) {
	log := newFakeLog()
	log.append(event("w1", pnr("X", "o", "1", 1, ""), t0))
	p := open(t, Config{})
	stop := run(t, func(ctx context.Context) error { return p.Run(ctx, log, nil) })
	caughtUp(t, p, log)
	stop()
	for _, text := range []string{"DROP TABLE drift", "DROP TABLE drift_run"} {
		if _, err := p.st.write.ExecContext(t.Context(), text); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	before, err := os.Stat(p.path())
	if err != nil {
		t.Fatal(err)
	}
	p = open(t, Config{Dir: p.cfg.Dir})
	if after, err := os.Stat(p.path()); err != nil || !os.SameFile(before, after) || p.Watermark() != 1 {
		t.Error("the file was made anew:", err)
	}
	beginDrift(t, p, "r", 1)
	if got := listDrift(t, p, bridge.DriftListRequest{}); got.Run.Revision != "r" || got.Head != 1 {
		t.Error(got)
	}
}
