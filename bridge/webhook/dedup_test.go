package webhook_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spotbridge/spotbridge/bridge"
	"github.com/spotbridge/spotbridge/bridge/webhook"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

// Bodies of one webhook id.
var (
	bodyA       = pnr(orgA, "a")
	bodyB       = pnr(orgA, "b")
	unreadable1 = "not JSON 1"
	unreadable2 = "not JSON 2"
)

func TestWhatASecondDeliveryOfAnIDBecomes(t *testing.T) {
	for _, tc := range []struct {
		name   string
		bodies []string
		want   []string
		events int
		causes []string // of what is in quarantine
	}{
		{"same body", []string{bodyA, bodyA, bodyA}, []string{"accepted", "duplicate", "duplicate"}, 1, nil},
		{"other body", []string{bodyA, bodyB}, []string{"accepted", "conflict"}, 1, []string{"conflict"}},
		{"other body, again", []string{bodyA, bodyB, bodyB, bodyA}, []string{"accepted", "conflict", "duplicate", "duplicate"}, 1, []string{"conflict"}},
		{"several other bodies", []string{bodyA, bodyB, bodyA + " ", bodyB}, []string{"accepted", "conflict", "conflict", "duplicate"}, 1, []string{"conflict", "conflict"}},
		{"unreadable after an event", []string{bodyA, unreadable1, unreadable1}, []string{"accepted", "conflict", "duplicate"}, 1, []string{"conflict"}},
		{"same unreadable body", []string{unreadable1, unreadable1}, []string{"quarantined", "duplicate"}, 0, []string{"not_json"}},
		{"other unreadable body", []string{unreadable1, unreadable2, unreadable1}, []string{"quarantined", "quarantined", "duplicate"}, 0, []string{"not_json", "not_json"}},
		{"readable after unreadable", []string{unreadable1, bodyA, bodyA}, []string{"quarantined", "accepted", "duplicate"}, 1, []string{"not_json"}},
		{"unreadable, readable, both again", []string{unreadable1, bodyA, unreadable1, bodyB}, []string{"quarantined", "accepted", "duplicate", "conflict"}, 1, []string{"not_json", "conflict"}},
	} {
		for _, follow := range []string{"never", "always", "late"} {
			t.Run(tc.name+", table follows "+follow, func(t *testing.T) {
				f := newFront(t)
				for i, body := range tc.bodies {
					f.want(post{body: body}, 200, tc.want[i])
					switch {
					case follow == "always":
						f.ids.followAll()
					case follow == "late" && i > 0:
						f.ids.follow(uint64(i))
					}
					if tc.want[i] == "duplicate" {
						d := f.recorder.next(t)
						sum := sha256.Sum256([]byte(body))
						if d.GetOutcome() != duplicateOutcome || d.GetBodySha256() != hex.EncodeToString(sum[:]) || d.GetSequence() == 0 {
							t.Errorf("row %v", d)
						}
						if first := f.log.all()[d.GetSequence()-1]; first.BodyHash != sum {
							t.Errorf("the row names another body's place in the log: %d", d.GetSequence())
						}
					}
				}
				f.recorder.none(t)
				f.wantStored(tc.events, len(tc.causes))
				for i, e := range f.quarantine() {
					if e.Cause != cause(tc.causes[i]) || e.EventID != "sandbox.msg_1" {
						t.Errorf("quarantined body %d: %v", i, e.Cause)
					}
				}
				if tc.events == 1 {
					if e := f.events()[0]; string(e.Body) != bodyA {
						t.Errorf("the first body did not stay: %s", e.Body)
					}
				}
			})
		}
	}
}

func TestFiftyConcurrentDeliveriesOfOneIDAreOneAppend(t *testing.T) {
	f := newFront(t)
	entered, leave := make(chan struct{}, 100), make(chan struct{})
	letGo := sync.OnceFunc(func() { close(leave) })
	t.Cleanup(letGo)
	f.log.faults(func(context.Context, *bridge.Entry) error {
		entered <- struct{}{}
		<-leave
		return nil
	}, nil)
	const n = 50
	answers := make(chan reply, n)
	for range n {
		go func() {
			a, err := f.try(post{body: bodyA})
			if err != nil {
				a.status = err.Error()
			}
			answers <- a
		}()
	}
	<-entered
	eventually(t, "all are in flight", func() bool { return f.metric("spotbridge_webhook_in_flight_deliveries") == n })
	letGo()
	got := map[string]int{}
	for range n {
		got[(<-answers).status]++
	}
	if got["accepted"] != 1 || got["duplicate"] != n-1 {
		t.Errorf("answers %v", got)
	}
	f.wantStored(1, 0)
	if len(entered) != 0 {
		t.Errorf("%d more appends were tried", len(entered))
	}
}

func TestConcurrentBodiesOfOneIDAreJudgedAgainstTheFirst(t *testing.T) {
	f := newFront(t)
	const each = 10
	bodies := []string{bodyA, bodyB, unreadable1}
	answers := make(chan string, each*len(bodies))
	for range each {
		for _, body := range bodies {
			go func() {
				a, err := f.try(post{body: body})
				if err != nil {
					a.status = err.Error()
				}
				answers <- a.status
			}()
		}
	}
	got := map[string]int{}
	for range each * len(bodies) {
		got[<-answers]++
	}
	f.wantStored(1, 2)
	if got["accepted"] != 1 || got["conflict"]+got["quarantined"] != 2 || got["duplicate"] != each*len(bodies)-3 {
		t.Errorf("answers %v", got)
	}
}

func TestAnIDThatLeavesMemoryWhileTheTableIsAskedIsNotForgotten(t *testing.T) {
	f := newFront(t)
	f.want(post{id: "x", body: bodyA}, 200, "accepted")
	// The table reads its answer before it has the id, and gives it after the id has left memory.
	asked := false
	f.ids.lookups(func(_ context.Context, id string) error {
		if id == "sandbox.x" && !asked {
			asked = true
			f.ids.followAll()
			f.want(post{id: "y", body: bodyA}, 200, "accepted") // makes memory forget
			if n := f.metric("spotbridge_webhook_remembered_entries"); n != 1 {
				t.Errorf("memory holds %v entries, want only y's", n)
			}
		}
		return nil
	})
	f.want(post{id: "x", body: bodyB}, 200, "conflict")
	f.want(post{id: "x", body: bodyA}, 200, "duplicate")
	f.wantStored(2, 1)
	if !asked {
		t.Error("the table was not asked")
	}
}

func TestMemoryHoldsIDsUntilTheWatermarkPassesThem(t *testing.T) {
	f := newFront(t)
	remembered := func() float64 { return f.metric("spotbridge_webhook_remembered_entries") }
	for i := range 5 {
		f.want(post{id: fmt.Sprint("m", i), body: bodyA}, 200, "accepted")
	}
	for watermark, want := range []float64{5, 4, 3, 2, 1, 0} {
		f.ids.follow(uint64(watermark))
		if got := remembered(); got != want {
			t.Errorf("watermark %d: %v remembered, want %v", watermark, got, want)
		}
		for i := range 5 {
			f.want(post{id: fmt.Sprint("m", i), body: bodyA}, 200, "duplicate")
		}
	}
	f.wantStored(5, 0)
}

func TestDedupIsExactWithASlowTableAndNoMessageIDWindow(t *testing.T) {
	f := newFront(t)
	f.ids.lookups(func(context.Context, string) error {
		for range rand.IntN(20) {
			runtime.Gosched()
		}
		return nil
	})
	stop := make(chan struct{})
	var follower, senders sync.WaitGroup
	follower.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				f.ids.follow(uint64(rand.IntN(len(f.log.all()) + 1)))
				runtime.Gosched()
			}
		}
	})
	secret := parseSecret(t, secretText)
	const ids = 40
	for range 16 {
		senders.Go(func() {
			for range 150 {
				p := post{id: fmt.Sprint("id", rand.IntN(ids)), body: []string{bodyA, bodyB, unreadable1}[rand.IntN(3)]}
				p.signature = webhook.Sign(secret, p.id, at(0), []byte(p.body))
				w := newWriter()
				f.handler.ServeHTTP(w, p.request(t, "http://door"))
				if w.code != 200 {
					t.Errorf("answer %d", w.code)
				}
				for len(f.recorder.rows) > 500 {
					<-f.recorder.rows
				}
			}
		})
	}
	senders.Wait()
	close(stop)
	follower.Wait()
	events, quarantined := map[string]int{}, map[string]int{}
	for _, e := range f.log.all() {
		if e.Kind == bridge.EntryEvent {
			events[e.EventID]++
		} else {
			quarantined[e.EventID+string(e.BodyHash[:])]++
		}
	}
	for id, n := range events {
		if n != 1 {
			t.Errorf("%s was appended %d times", id, n)
		}
	}
	for id, n := range quarantined {
		if n != 1 {
			t.Errorf("a body of %s was quarantined %d times", id[:12], n)
		}
	}
	if len(events) != ids {
		t.Errorf("%d events of %d ids", len(events), ids)
	}
}

func TestAnotherReplicasEventDecides(t *testing.T) {
	for _, tc := range []struct{ name, first, second, want string }{
		{"same body", bodyA, bodyA, "duplicate"},
		{"other body", bodyA, bodyB, "conflict"},
		{"same unreadable body", unreadable1, unreadable1, "duplicate"},
		{"readable after unreadable", unreadable1, bodyA, "accepted"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			here, there := newFront(t), newFront(t)
			here.log.window = true
			there.want(post{body: tc.first}, 200, map[bool]string{true: "quarantined", false: "accepted"}[tc.first == unreadable1])
			here.log.store(there.log.all()[0])
			here.want(post{body: tc.second}, 200, tc.want)
			here.want(post{body: tc.second}, 200, "duplicate") // from memory now
			here.want(post{body: tc.first}, 200, "duplicate")
			if n := len(here.events()); n > 1 {
				t.Errorf("%d events", n)
			}
		})
	}
}

func TestAStalledLogIs503AndTheIDIsReleased(t *testing.T) {
	f := newFront(t, func(c *webhook.Config) { c.AppendTimeout = 20 * time.Millisecond })
	f.log.faults(untilDone, nil)
	a := f.want(post{body: bodyA}, 503, "unavailable")
	if a.header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	if d := f.recorder.next(t); d.GetCause() != cause("log_unavailable") || d.GetHttpStatus() != 503 {
		t.Errorf("row %v", d)
	}
	f.wantStored(0, 0)
	f.log.faults(nil, nil)
	f.want(post{body: bodyA}, 200, "accepted")
	f.wantStored(1, 0)
}

func TestAnAppendThatLandedAfterItsTimeoutIsFoundByTheRetry(t *testing.T) {
	for _, tc := range []struct{ name, retry, want string }{{"same body", bodyA, "duplicate"}, {"other body", bodyB, "conflict"}} {
		for _, known := range []string{"the log's message ids", "the table"} {
			t.Run(tc.name+", known to "+known, func(t *testing.T) {
				f := newFront(t, func(c *webhook.Config) { c.AppendTimeout = 20 * time.Millisecond })
				f.log.window = known != "the table"
				f.log.faults(nil, untilDone) // stored, but nobody hears of it
				f.want(post{body: bodyA}, 503, "unavailable")
				f.log.faults(nil, nil)
				if known == "the table" {
					f.ids.followAll()
				}
				f.want(post{body: tc.retry}, 200, tc.want)
				if n := len(f.events()); n != 1 {
					t.Errorf("%d events", n)
				}
			})
		}
	}
}

func TestWaitingForAnIDEndsWithTheTimeoutToo(t *testing.T) {
	f := newFront(t, func(c *webhook.Config) { c.AppendTimeout = 20 * time.Millisecond })
	entered, leave := make(chan struct{}), make(chan struct{})
	f.log.faults(func(context.Context, *bridge.Entry) error { // does not even look at its context
		entered <- struct{}{}
		<-leave
		return nil
	}, nil)
	first := make(chan reply, 1)
	go func() { a, _ := f.try(post{body: bodyA}); first <- a }()
	<-entered
	for range 3 {
		f.want(post{body: bodyA}, 503, "unavailable")
	}
	close(leave)
	if a := <-first; a.status != "accepted" {
		t.Errorf("the first: %+v", a)
	}
	f.want(post{body: bodyA}, 200, "duplicate")
	f.wantStored(1, 0)
}

func TestAClientThatLeavesDoesNotStopItsAppend(t *testing.T) {
	f := newFront(t)
	ctx, cancel := context.WithCancel(t.Context())
	f.log.faults(func(ctx context.Context, _ *bridge.Entry) error {
		cancel()
		return ctx.Err()
	}, nil)
	w := newWriter()
	f.handler.ServeHTTP(w, post{body: bodyA}.request(t, "http://door").WithContext(ctx))
	if got := f.delivered("accepted", ""); w.code != 200 || got != 1 {
		t.Errorf("answer %d, %v accepted", w.code, got)
	}
	f.log.faults(nil, nil)
	f.want(post{body: bodyA}, 200, "duplicate")
	f.wantStored(1, 0)
}

func TestAClientThatLeavesWhileItWaitsForItsIDLeavesNothing(t *testing.T) {
	f := newFront(t)
	ctx, cancel := context.WithCancel(t.Context())
	f.log.faults(func(context.Context, *bridge.Entry) error {
		cancel()
		w := newWriter()
		f.handler.ServeHTTP(w, post{body: bodyB}.request(t, "http://door").WithContext(ctx))
		if w.code != 503 {
			t.Errorf("answer %d", w.code)
		}
		return nil
	}, nil)
	f.want(post{body: bodyA}, 200, "accepted")
	f.wantStored(1, 0)
}

func TestAConflictThatCannotBeKeptIsNotAnswered200(t *testing.T) {
	f := newFront(t)
	f.want(post{body: bodyA}, 200, "accepted")
	f.log.faults(func(context.Context, *bridge.Entry) error { return errTest }, nil)
	f.want(post{body: bodyB}, 503, "unavailable")
	f.want(post{body: bodyA}, 200, "duplicate") // needs no append
	f.log.faults(nil, nil)
	f.want(post{body: bodyB}, 200, "conflict")
	f.wantStored(1, 1)
}

func TestABodyThatWasQuarantinedAndIsReadableNowBecomesAnEvent(t *testing.T) {
	f := newFront(t, func(c *webhook.Config) { c.Sources[0].Organizations = []string{orgB} })
	f.want(post{body: bodyA}, 200, "quarantined")
	again := newFront(t, func(c *webhook.Config) { c.Log, c.IDs = f.log, f.ids })
	f.ids.followAll()
	again.want(post{body: bodyA}, 200, "accepted")
	again.want(post{body: bodyA}, 200, "duplicate")
	f.wantStored(1, 1)
}

func TestTheDoorClosesWhenMemoryIsFull(t *testing.T) {
	if testing.Short() {
		t.Skip("fills 262,144 places")
	}
	f := newFront(t)
	secret := parseSecret(t, secretText)
	send := func(id string) int {
		p := post{id: id, body: `{"event_type":"T"}`}
		p.signature = webhook.Sign(secret, id, at(0), []byte(p.body))
		w := newWriter()
		f.handler.ServeHTTP(w, p.request(t, "http://door"))
		return w.code
	}
	for i := range 1 << 18 {
		if code := send(fmt.Sprint(i)); code != 200 {
			t.Fatalf("delivery %d: %d", i, code)
		}
	}
	if code := send("more"); code != 503 {
		t.Errorf("answer %d, want 503", code)
	}
	f.ids.followAll()
	if code := send("more"); code != 200 {
		t.Errorf("after the table has caught up: %d", code)
	}
}

// fakeDeliveries gives quarantined bodies from a fakeLog.
type fakeDeliveries struct {
	bridge.Deliveries
	log *fakeLog
	err error
}

func (d fakeDeliveries) Quarantined(_ context.Context, r *pb.ReprocessDeliveriesRequest, handle func(bridge.QuarantinedBody) error) error {
	for _, e := range d.log.all() {
		if e.Kind != bridge.EntryQuarantine || e.Cause == cause("conflict") || (len(r.GetSources()) > 0 && r.GetSources()[0] != e.Source) {
			continue
		}
		if err := handle(bridge.QuarantinedBody{Entry: e, Delivery: &pb.Delivery{}}); err != nil {
			return err
		}
	}
	return d.err
}

func TestReprocessTurnsBodiesThatAreReadableNowIntoEventsOnce(t *testing.T) {
	before := newFront(t, func(c *webhook.Config) { c.Sources[0].Organizations = []string{orgB} })
	before.want(post{id: "one", body: bodyA, headers: map[string]string{"X-B3-TraceId": "trace-1"}}, 200, "quarantined")
	before.want(post{id: "one", body: bodyB}, 200, "quarantined") // another body of the same id
	before.want(post{id: "two", body: unreadable1}, 200, "quarantined")
	before.want(post{id: "three", body: bodyA}, 200, "quarantined")
	before.want(post{id: "three", body: pnr(orgB, "")}, 200, "accepted")
	before.want(post{id: "four", body: bodyA}, 200, "quarantined")
	before.want(post{id: "five", body: pnr("33333333-3333-4333-8333-333333333333", "")}, 200, "quarantined")
	before.ids.followAll()

	f := newFront(t, func(c *webhook.Config) {
		c.Log, c.IDs = before.log, before.ids
		c.Sources[0].Organizations = []string{orgA, orgB}
		c.Now = func() time.Time { return now.Add(time.Hour) }
	})
	f.log, f.ids = before.log, before.ids
	deliveries := fakeDeliveries{log: f.log}
	want := &pb.ReprocessDeliveriesResponse{Matched: 6, Appended: 2, AlreadyEvents: 2, StillUnreadable: 2}
	for _, dry := range []bool{true, true, false} {
		got, err := f.handler.Reprocess(t.Context(), deliveries, &pb.ReprocessDeliveriesRequest{DryRun: dry})
		if err != nil || got.String() != want.String() {
			t.Fatalf("dry run %v: %v, %v; want %v", dry, got, err, want)
		}
		if dry {
			f.wantStored(1, 6)
		}
	}
	f.wantStored(3, 6)
	e := f.events()[1]
	if e.EventID != "sandbox.one" || e.WebhookID != "one" || string(e.Body) != bodyA || e.TraceID != "trace-1" || !e.ReceiveTime.Equal(now) ||
		e.EventType != "PNR_V3" || e.Organizations[0] != orgA || e.Cause != 0 || e.BodyHash != sha256.Sum256([]byte(bodyA)) {
		t.Errorf("event %+v", e)
	}
	// Again, and from a door that knows nothing in memory: nothing more.
	want = &pb.ReprocessDeliveriesResponse{Matched: 6, AlreadyEvents: 4, StillUnreadable: 2}
	if got, err := f.handler.Reprocess(t.Context(), deliveries, &pb.ReprocessDeliveriesRequest{}); err != nil || got.String() != want.String() {
		t.Errorf("again: %v, %v", got, err)
	}
	f.want(post{id: "one", body: bodyA}, 200, "duplicate")
	f.want(post{id: "one", body: bodyB}, 200, "duplicate") // it is in quarantine already
	f.wantStored(3, 6)
	if n := f.metric("spotbridge_webhook_reprocessed_total", "source", "sandbox"); n != 2 {
		t.Errorf("%v counted", n)
	}
	if lines := f.lines.String(); strings.Contains(lines, "6789533589") || !strings.Contains(lines, "quarantined body became an event") {
		t.Errorf("lines\n%s", lines)
	}
}

func TestReprocessAndDeliveriesOfOneIDDoNotBothAppend(t *testing.T) {
	before := newFront(t, func(c *webhook.Config) { c.Sources[0].Organizations = []string{orgB} })
	before.want(post{body: bodyA}, 200, "quarantined")
	before.ids.followAll()
	f := newFront(t, func(c *webhook.Config) { c.Log, c.IDs = before.log, before.ids })
	var all sync.WaitGroup
	for range 10 {
		all.Go(func() {
			if _, err := f.handler.Reprocess(t.Context(), fakeDeliveries{log: before.log}, &pb.ReprocessDeliveriesRequest{}); err != nil {
				t.Error(err)
			}
		})
		all.Go(func() {
			if a, err := f.try(post{body: bodyA}); err != nil || a.code != 200 {
				t.Errorf("%v, %v", a, err)
			}
		})
	}
	all.Wait()
	before.wantStored(1, 1)
}

func TestReprocessHoldsTheID(t *testing.T) {
	before := newFront(t, func(c *webhook.Config) { c.Sources[0].Organizations = []string{orgB} })
	before.want(post{body: bodyA}, 200, "quarantined")
	f := newFront(t, func(c *webhook.Config) {
		c.Log, c.IDs, c.AppendTimeout = before.log, before.ids, 20*time.Millisecond
	})
	appends := 0
	before.log.faults(func(context.Context, *bridge.Entry) error {
		if appends++; appends == 1 {
			f.want(post{body: bodyA}, 503, "unavailable")
		}
		return nil
	}, nil)
	if _, err := f.handler.Reprocess(t.Context(), fakeDeliveries{log: before.log}, &pb.ReprocessDeliveriesRequest{}); err != nil {
		t.Error(err)
	}
	f.want(post{body: bodyA}, 200, "duplicate")
	before.wantStored(1, 1)
}

func TestReprocessErrors(t *testing.T) {
	f := newFront(t)
	f.want(post{body: unreadable1}, 200, "quarantined")
	body := *f.log.all()[0]
	body.Body, body.EventID = []byte(bodyA), "sandbox.readable"
	f.log.store(&body)
	deliveries := fakeDeliveries{log: f.log}
	reprocess := func(req *pb.ReprocessDeliveriesRequest) error {
		_, err := f.handler.Reprocess(t.Context(), deliveries, req)
		return err
	}
	err := reprocess(&pb.ReprocessDeliveriesRequest{Causes: []pb.DeliveryCause{cause("not_json"), cause("conflict")}})
	if bridge.ReasonOf(err) != pb.ErrorReason_ERROR_REASON_INVALID_FIELD || !strings.Contains(err.Error(), "causes[1]") {
		t.Errorf("conflict: %v", err)
	}
	f.gate.close(cause("not_accepting"), 0)
	if err := reprocess(&pb.ReprocessDeliveriesRequest{}); bridge.ReasonOf(err) != pb.ErrorReason_ERROR_REASON_LOG_UNAVAILABLE {
		t.Errorf("closed door: %v", err)
	}
	f.gate.open()
	f.log.faults(func(context.Context, *bridge.Entry) error { return errTest }, nil)
	if err := reprocess(&pb.ReprocessDeliveriesRequest{}); bridge.ReasonOf(err) != pb.ErrorReason_ERROR_REASON_LOG_UNAVAILABLE {
		t.Errorf("log fails: %v", err)
	}
	f.log.faults(nil, nil)
	deliveries.err = bridge.HistoryUnavailable(errTest)
	if err := reprocess(&pb.ReprocessDeliveriesRequest{DryRun: true}); bridge.ReasonOf(err) != pb.ErrorReason_ERROR_REASON_HISTORY_UNAVAILABLE {
		t.Errorf("deliveries fail: %v", err)
	}
	f.wantStored(0, 2)
	deliveries.err = nil
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := f.handler.Reprocess(ctx, deliveries, &pb.ReprocessDeliveriesRequest{}); err == nil {
		t.Error("went on after its context had ended")
	}
	// A body of a source that is not configured any more stays.
	gone := newFront(t, func(c *webhook.Config) { c.Log, c.IDs, c.Sources[0].Name = f.log, f.ids, "other" })
	if got, err := gone.handler.Reprocess(t.Context(), deliveries, &pb.ReprocessDeliveriesRequest{}); err != nil || got.GetStillUnreadable() != 2 {
		t.Errorf("unknown source: %v, %v", got, err)
	}
}
