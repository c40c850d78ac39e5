package projection

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spotbridge/spotbridge/bridge"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

func openIDs(t testing.TB, cfg Config) *IDs {
	t.Helper()
	if cfg.Dir == "" {
		cfg.Dir = t.TempDir()
	}
	x, err := OpenIDs(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { x.Close() })
	return x
}

func remembered(t testing.TB, x *IDs, log *fakeLog) {
	t.Helper()
	until(t, "the ids to be complete", func() bool { return x.Watermark() >= log.head })
}

// TestIDsRememberEventsAndQuarantinedBodies.
func TestIDsRememberEventsAndQuarantinedBodies(t *testing.T) {
	log := newFakeLog()
	first := event("1", `{"event_type":"X"}`, t0)
	q1 := quarantine("2", "not json", pb.DeliveryCause_DELIVERY_CAUSE_NOT_JSON, t0)
	q2 := quarantine("2", "not json either", pb.DeliveryCause_DELIVERY_CAUSE_NOT_JSON, t0)
	later := event("2", `{"event_type":"Y"}`, t0)
	conflict := quarantine("1", `{"event_type":"Z"}`, pb.DeliveryCause_DELIVERY_CAUSE_CONFLICT, t0)
	log.append(first, q1, q2, later, conflict, &bridge.Entry{Kind: bridge.EntryUnknown, EventID: "sandbox.3", AppendTime: t0})
	x := openIDs(t, Config{})
	run(t, func(ctx context.Context) error { return x.Run(ctx, log) })
	remembered(t, x, log)
	for id, want := range map[string]bridge.IDState{
		"sandbox.1": {Found: true, Sequence: 1, BodyHash: first.BodyHash, Quarantined: map[[32]byte]uint64{conflict.BodyHash: 5}},
		"sandbox.2": {Found: true, Sequence: 4, BodyHash: later.BodyHash, Quarantined: map[[32]byte]uint64{q1.BodyHash: 2, q2.BodyHash: 3}},
		"sandbox.3": {},
		"":          {},
	} {
		got, err := x.Lookup(t.Context(), id)
		if err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s: %v, %v, want %v", id, got, err, want)
		}
	}
}

// TestIDsOutliveTheLog, restarts, and a deletion of projection.db.
func TestIDsOutliveTheLog(t *testing.T) {
	dir, log := t.TempDir(), newFakeLog()
	for i := range 100 {
		log.append(event(strconv.Itoa(i), `{"event_type":"X"}`, t0))
	}
	x := openIDs(t, Config{Dir: dir})
	stop := run(t, func(ctx context.Context) error { return x.Run(ctx, log) })
	remembered(t, x, log)
	stop()
	x.Close()
	log.expire(60)
	log.append(event("new", `{"event_type":"X"}`, t0))
	x = openIDs(t, Config{Dir: dir})
	if x.Watermark() != 100 {
		t.Errorf("watermark after a restart: %d", x.Watermark())
	}
	run(t, func(ctx context.Context) error { return x.Run(ctx, log) })
	remembered(t, x, log)
	for _, id := range []string{"0", "59", "60", "99", "new"} {
		if s, err := x.Lookup(t.Context(), "sandbox."+id); err != nil || !s.Found {
			t.Errorf("%s: %v, %v", id, s, err)
		}
	}
}

// TestIDsAreForgottenByAge and not before.
func TestIDsAreForgottenByAge(t *testing.T) {
	log := newFakeLog()
	for i := range 5000 {
		log.append(event(strconv.Itoa(i), `{"event_type":"X"}`, t0.Add(time.Duration(i)*time.Second)))
	}
	x := openIDs(t, Config{IDsMaxAge: time.Hour, Now: func() time.Time { return t0.Add(2 * time.Hour) }})
	run(t, func(ctx context.Context) error { return x.Run(ctx, log) })
	remembered(t, x, log)
	if err := x.retain(t.Context()); err != nil {
		t.Fatal(err)
	}
	for i, want := range map[int]bool{0: false, 3599: false, 3600: true, 4999: true} {
		if s, err := x.Lookup(t.Context(), fmt.Sprint("sandbox.", i)); err != nil || s.Found != want {
			t.Errorf("%d: %v, %v", i, s.Found, err)
		}
	}
}

// TestIDsOfAnotherLogAreNotThrownAway, unless the whole of this log can still be read.
func TestIDsOfAnotherLogAreNotThrownAway(t *testing.T) {
	dir, log := t.TempDir(), newFakeLog()
	log.append(event("1", `{"event_type":"X"}`, t0))
	x := openIDs(t, Config{Dir: dir})
	stop := run(t, func(ctx context.Context) error { return x.Run(ctx, log) })
	remembered(t, x, log)
	stop()
	x.Close()

	other := newFakeLog()
	other.id = bridge.LogID{7}
	other.append(event("2", `{"event_type":"X"}`, t0), event("3", `{"event_type":"X"}`, t0))
	other.expire(2)
	x = openIDs(t, Config{Dir: dir})
	if err := x.Run(t.Context(), other); !errors.Is(err, ErrForeignLog) || !strings.Contains(err.Error(), "move the file away") || x.Health() == nil {
		t.Errorf("another log: %v, health %v", err, x.Health())
	}
	if s, err := x.Lookup(t.Context(), "sandbox.1"); err != nil || !s.Found {
		t.Errorf("the ids are gone: %v, %v", s, err)
	}
	x.Close()

	fresh := newFakeLog()
	fresh.id = bridge.LogID{8}
	logged := &logBuffer{}
	x = openIDs(t, Config{Dir: dir, Logger: slog.New(slog.NewTextHandler(logged, nil))})
	run(t, func(ctx context.Context) error { return x.Run(ctx, fresh) })
	fresh.append(event("2", `{"event_type":"X"}`, t0))
	remembered(t, x, fresh)
	until(t, "the new id", func() bool {
		s, err := x.Lookup(context.Background(), "sandbox.2")
		return err == nil && s.Found
	})
	if s, err := x.Lookup(t.Context(), "sandbox.1"); err != nil || s.Found {
		t.Errorf("an id of another log counts: %v, %v", s, err)
	}
	if aside, _ := filepath.Glob(filepath.Join(dir, "ids.db.foreign-*")); len(aside) != 1 || !strings.Contains(logged.String(), aside[0]) {
		t.Errorf("moved aside: %v, log: %s", aside, logged)
	}
}

// TestIDsOfLostEntriesAreForgotten: what the log has lost was not stored.
func TestIDsOfLostEntriesAreForgotten(t *testing.T) {
	dir, log := t.TempDir(), newFakeLog()
	for i := range 5 {
		log.append(event(strconv.Itoa(i), `{"event_type":"X"}`, t0))
	}
	x := openIDs(t, Config{Dir: dir})
	stop := run(t, func(ctx context.Context) error { return x.Run(ctx, log) })
	remembered(t, x, log)
	stop()
	log.entries, log.head = log.entries[:3], 3
	run(t, func(ctx context.Context) error { return x.Run(ctx, log) })
	until(t, "the watermark to go back", func() bool { return x.Watermark() == 3 })
	log.append(event("4", `{"event_type":"again"}`, t0))
	remembered(t, x, log)
	for id, want := range map[string]uint64{"2": 3, "3": 0, "4": 4} {
		if s, err := x.Lookup(t.Context(), "sandbox."+id); err != nil || s.Sequence != want {
			t.Errorf("%s: %+v, %v", id, s, err)
		}
	}
}

// TestIDsOfReplacedEntriesAreForgotten: the log gives the sequences of lost entries again.
func TestIDsOfReplacedEntriesAreForgotten(t *testing.T) {
	log := newFakeLog()
	for i := range 5 {
		log.append(event(strconv.Itoa(i), fmt.Sprintf(`{"event_type":"X%d"}`, i), t0))
	}
	x := openIDs(t, Config{})
	stop := run(t, func(ctx context.Context) error { return x.Run(ctx, log) })
	remembered(t, x, log)
	stop()
	log.entries, log.head = log.entries[:3], 3
	for i := range 5 {
		log.append(event(fmt.Sprint("again", i), fmt.Sprintf(`{"event_type":"Y%d"}`, i), t0))
	}
	run(t, func(ctx context.Context) error { return x.Run(ctx, log) })
	remembered(t, x, log)
	for id, want := range map[string]uint64{"2": 3, "3": 0, "4": 0, "again0": 4, "again4": 8} {
		if s, err := x.Lookup(t.Context(), "sandbox."+id); err != nil || s.Sequence != want {
			t.Errorf("%s: %+v, %v", id, s, err)
		}
	}
}

// TestDamagedIDsAreRebuilt as far as the log goes, loudly.
func TestDamagedIDsAreRebuilt(t *testing.T) {
	dir, log := t.TempDir(), newFakeLog()
	log.append(event("1", `{"event_type":"X"}`, t0), event("2", `{"event_type":"X"}`, t0))
	log.expire(2)
	if err := os.WriteFile(filepath.Join(dir, "ids.db"), []byte(strings.Repeat("damaged ", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	logged := &logBuffer{}
	x := openIDs(t, Config{Dir: dir, Logger: slog.New(slog.NewTextHandler(logged, nil))})
	run(t, func(ctx context.Context) error { return x.Run(ctx, log) })
	remembered(t, x, log)
	if s, err := x.Lookup(t.Context(), "sandbox.2"); err != nil || !s.Found {
		t.Errorf("%v, %v", s, err)
	}
	if s := logged.String(); !strings.Contains(s, "level=ERROR") || !strings.Contains(s, "are forgotten") || !strings.Contains(s, "are not known") {
		t.Errorf("log: %s", s)
	}
}

// TestIDsSurviveAFullDisk.
func TestIDsSurviveAFullDisk(t *testing.T) {
	log := newFakeLog()
	x := openIDs(t, Config{})
	run(t, func(ctx context.Context) error { return x.Run(ctx, log) })
	set := func(text string) {
		x.wmu.Lock()
		defer x.wmu.Unlock()
		if _, err := x.st.write.ExecContext(t.Context(), text); err != nil {
			t.Fatal(err)
		}
	}
	set("PRAGMA max_page_count = 1")
	for i := range 500 {
		log.append(event(strconv.Itoa(i), `{"event_type":"X"}`, t0))
	}
	until(t, "the error to be known", func() bool { return x.Health() != nil })
	if !strings.Contains(x.Health().Error(), "free disk space") {
		t.Error(x.Health())
	}
	set("PRAGMA max_page_count = 1000000")
	remembered(t, x, log)
	until(t, "health", func() bool { return x.Health() == nil })
	if s, err := x.Lookup(t.Context(), "sandbox.499"); err != nil || s.Sequence != 500 {
		t.Errorf("%+v, %v", s, err)
	}
}

// TestIDsLookupBesideTheFollower has many readers while ids come in.
func TestIDsLookupBesideTheFollower(t *testing.T) {
	log := newFakeLog()
	x := openIDs(t, Config{})
	run(t, func(ctx context.Context) error { return x.Run(ctx, log) })
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for i := range 500 {
				w := x.Watermark()
				s, err := x.Lookup(context.Background(), fmt.Sprint("sandbox.", i))
				if err != nil || (uint64(i) < w && !s.Found) {
					t.Errorf("%d: %+v, %v at watermark %d", i, s, err, w)
				}
			}
		})
	}
	for i := range 500 {
		log.append(event(strconv.Itoa(i), `{"event_type":"X"}`, t0))
	}
	wg.Wait()
	remembered(t, x, log)
}

// BenchmarkIDsLookup looks ids up among a million.
func BenchmarkIDsLookup(b *testing.B) {
	x := openIDs(b, Config{})
	if err := x.begin(b.Context(), bridge.LogState{ID: bridge.LogID{1}, Floor: 1}); err != nil {
		b.Fatal(err)
	}
	const n = 1_000_000
	for i := 0; i < n; i += 10_000 {
		batch := make([]*bridge.Entry, 10_000)
		for j := range batch {
			batch[j] = &bridge.Entry{Kind: bridge.EntryEvent, Sequence: uint64(i + j + 1), EventID: fmt.Sprint("sandbox.", i+j), AppendTime: t0}
		}
		if err := x.remember(b.Context(), batch, 0); err != nil {
			b.Fatal(err)
		}
	}
	for name, prefix := range map[string]string{"known": "sandbox.", "unknown": "sandbox.no-"} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				if s, err := x.Lookup(b.Context(), prefix+strconv.Itoa(i*7919%n)); err != nil || s.Found != (name == "known") {
					b.Fatal(s, err)
				}
				i++
			}
		})
	}
}
