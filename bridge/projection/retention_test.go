package projection

import (
	"context"
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/spotbridge/spotbridge/bridge"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

// TestRetentionKeepsCountsExact deletes up to any point and compares all tables with those of what is left.
func TestRetentionKeepsCountsExact(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		log := genLog(r, rapid.IntRange(1, 100).Draw(r, "entries"))
		sink := &collector{}
		p := projectedInto(t, r, log, sink)
		floor := uint64(rapid.IntRange(0, int(p.Watermark())+5).Draw(r, "floor"))
		if err := p.retain(t.Context(), floor); err != nil {
			r.Fatal(err)
		}
		var m model
		for _, e := range sink.all() {
			if e.Sequence >= floor {
				m.events = append(m.events, e)
			}
		}
		b, err := p.Bounds(t.Context())
		if err != nil || b.Floor != max(1, min(floor, p.Watermark()+1)) {
			r.Fatalf("bounds %+v, %v; floor %d", b, err, floor)
		}
		for range 6 {
			f := genFilter(r)
			start, end := genTimes(r)
			checkList(t, r, p, m, f, start, end)
			checkCount(t, r, p, m, f, start, end)
		}
		for _, table := range []string{"events", "wide", "body", "other_org", "ent", "quarantine"} {
			var n int
			if err := p.st.read.QueryRowContext(t.Context(), "SELECT count(*) FROM "+table+" WHERE seq < ?", floor).Scan(&n); err != nil || n > 0 {
				r.Errorf("%s: %d rows below the floor, %v", table, n, err)
			}
		}
		// The dictionary and the sums are those of what is left.
		var bad int
		if err := p.st.read.QueryRowContext(t.Context(), `SELECT (SELECT count(*) FROM dict d WHERE n + extra <= 0 OR n < 0 OR extra < 0
			OR n <> (SELECT count(*) FROM events WHERE d.id IN (typ, op, org, src)) OR extra <> (SELECT count(*) FROM other_org WHERE org = d.id))
			+ (SELECT count(*) FROM rollup WHERE n <= 0) + (SELECT count(*) FROM seen WHERE n <= 0)
			+ (SELECT count(*) FROM events) - (SELECT coalesce(sum(n), 0) FROM rollup)
			+ (SELECT count(*) FROM events) - (SELECT coalesce(sum(n), 0) FROM seen)`).Scan(&bad); err != nil || bad != 0 {
			r.Errorf("sums differ: %d, %v", bad, err)
		}
		for k, e := range p.dict.byKey {
			var n, extra int64
			if err := p.st.read.QueryRowContext(t.Context(), "SELECT n, extra FROM dict WHERE kind = ? AND value = ?", int(k.kind), k.value).Scan(&n, &extra); err != nil || n != e.n || extra != e.extra {
				r.Errorf("%v: memory has %+v, the file %d %d, %v", k, e, n, extra, err)
			}
		}
	})
}

// TestRetentionByAge deletes what is too old, quarantined bodies too, and goes on as time passes.
func TestRetentionByAge(t *testing.T) {
	log := newFakeLog()
	for i := range 1000 {
		at := t0.Add(time.Duration(i) * time.Minute)
		if i%10 == 9 {
			log.append(quarantine(fmt.Sprint(i), "x", pb.DeliveryCause_DELIVERY_CAUSE_NOT_JSON, at))
		} else {
			log.append(event(fmt.Sprint(i), pnr("OP", "o", fmt.Sprint(i%50), i, ""), at))
		}
	}
	now := t0.Add(500 * time.Minute)
	p := projected(t, Config{HistoryMaxAge: 200 * time.Minute, Now: func() time.Time { return now }}, log)
	for _, minutes := range []int{500, 501, 900, 5000} {
		p.wmu.Lock()
		now = t0.Add(time.Duration(minutes) * time.Minute)
		p.wmu.Unlock()
		if err := p.retain(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
		want := uint64(min(minutes-200, 1000) + 1)
		b, err := p.Bounds(t.Context())
		if err != nil || b.Floor != want {
			t.Errorf("after %d minutes: %+v, %v, want floor %d", minutes, b, err, want)
		}
	}
	if out, err := p.Count(t.Context(), bridge.CountRequest{}); err != nil || out.Total != 0 {
		t.Errorf("%+v, %v", out, err)
	}
	// Entities outlive their events.
	log.append(event("late", pnr("OP", "o", "1", 1, ""), t0.Add(5000*time.Minute)))
	caughtUp(t, p, log)
	e, err := p.Get(t.Context(), "sandbox.late")
	if err != nil || !e.Stale {
		t.Errorf("ordering after retention: %v", err)
	}
}

// TestRetentionByBytesShrinksTheFile.
func TestRetentionByBytesShrinksTheFile(t *testing.T) {
	log := newFakeLog()
	for i := range 800 {
		log.append(event(fmt.Sprint(i), string(noisyBody(i, 15_000)), t0))
	}
	p := open(t, Config{})
	stop := run(t, func(ctx context.Context) error { return p.Run(ctx, log, nil) })
	caughtUp(t, p, log)
	stop()
	before, _, err := p.size(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	p.cfg.HistoryMaxBytes, p.minFree = before/2, 100
	if err := p.retain(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	after, free, err := p.size(t.Context())
	if err != nil || after > before/2 || after < before/5 {
		t.Errorf("%d bytes of %d are left, %v", after, before, err)
	}
	if free >= 100 && free*4096 > after/7 {
		t.Errorf("%d free pages are left beside %d bytes", free, after)
	}
	b, err := p.Bounds(t.Context())
	if err != nil || b.Floor < 350 || b.Floor > 650 || b.Watermark != 800 {
		t.Errorf("%+v, %v", b, err)
	}
	if out, err := p.Count(t.Context(), bridge.CountRequest{}); err != nil || out.Total != int64(b.Watermark-b.Floor+1) {
		t.Errorf("%+v, %v", out, err)
	}
}

// noisyBody is a readable body that does not compress.
func noisyBody(seed, size int) []byte {
	x := uint64(seed)*2654435761 + 1
	noise := make([]byte, size)
	for i := range noise {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		noise[i] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"[x>>58]
	}
	return fmt.Appendf(nil, `{"event_type":"NOISE","noise":"%s"}`, noise)
}

// TestRetentionWhileFollowing keeps everything consistent with a writer and readers at work.
func TestRetentionWhileFollowing(t *testing.T) {
	log := newFakeLog()
	p := open(t, Config{BatchEntries: 8})
	run(t, func(ctx context.Context) error { return p.Run(ctx, log, nil) })
	run(t, func(ctx context.Context) error {
		for ctx.Err() == nil {
			out, err := p.List(ctx, bridge.ListRequest{PageSize: 100, Bodies: true})
			if err != nil && ctx.Err() == nil {
				return err
			}
			for i := 1; i < len(out.Events); i++ {
				if out.Events[i].Sequence >= out.Events[i-1].Sequence {
					return fmt.Errorf("out of order: %v", seqsOf(out.Events))
				}
			}
			if _, err := p.Count(ctx, bridge.CountRequest{GroupBy: []pb.CountGroup{pb.CountGroup_COUNT_GROUP_ORGANIZATION}}); err != nil && ctx.Err() == nil {
				return err
			}
		}
		return nil
	})
	for i := range 500 {
		log.append(event(fmt.Sprint(i), pnr("OP", fmt.Sprint("o", i), fmt.Sprint(i), 1, ""), t0))
		if i%20 == 0 {
			if err := p.retain(t.Context(), uint64(max(0, i-100))); err != nil {
				t.Fatal(err)
			}
		}
	}
	caughtUp(t, p, log)
	if err := p.retain(t.Context(), 401); err != nil {
		t.Fatal(err)
	}
	out, err := p.Count(t.Context(), bridge.CountRequest{GroupBy: []pb.CountGroup{pb.CountGroup_COUNT_GROUP_ORGANIZATION}})
	if err != nil || out.Total != 100 || len(out.Counts) != 100 {
		t.Errorf("total %d, %d organizations, %v", out.Total, len(out.Counts), err)
	}
}
