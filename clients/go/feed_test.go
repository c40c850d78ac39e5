package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"
)

// fakeBridge answers the attempts of a feed one after the other, each as the test says, and those after the last one by
// keeping the stream open.
type fakeBridge struct {
	*httptest.Server
	reached chan int // the number of each attempt, from 1

	mu      sync.Mutex
	answers []http.HandlerFunc
	body    http.HandlerFunc
	resumed []string // the Last-Event-ID of each attempt
}

func newFakeBridge(t testing.TB, answers ...http.HandlerFunc) *fakeBridge {
	b := &fakeBridge{answers: answers, reached: make(chan int, 100), body: http.NotFound}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/events:subscribe", func(w http.ResponseWriter, r *http.Request) {
		b.mu.Lock()
		b.resumed = append(b.resumed, r.Header.Get("Last-Event-ID"))
		n := len(b.resumed)
		answer := open
		if n <= len(b.answers) {
			answer = b.answers[n-1]
		}
		b.mu.Unlock()
		b.reached <- n
		if r.Header.Get("Accept") != "text/event-stream" {
			t.Errorf("asked for %q", r.Header.Get("Accept"))
		}
		answer(w, r)
	})
	mux.HandleFunc("GET /v1/events/{id}/body", func(w http.ResponseWriter, r *http.Request) { b.body(w, r) })
	b.Server = httptest.NewServer(mux)
	t.Cleanup(b.Close)
	return b
}

// await waits for an attempt.
func (b *fakeBridge) await(t testing.TB, n int) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	for {
		select {
		case reached := <-b.reached:
			if reached >= n {
				return
			}
		case <-deadline:
			t.Fatalf("attempt %d did not come", n)
		}
	}
}

// open keeps a stream open without a word.
func open(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	_ = http.NewResponseController(w).Flush()
	<-r.Context().Done()
}

// sends writes text and ends.
func sends(text ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
		fmt.Fprint(w, strings.Join(text, ""))
	}
}

func answers(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		fmt.Fprint(w, body)
	}
}

func message(name, cursor, content string) string {
	return fmt.Sprintf("event: %s\nid: %s\ndata: {\"cursor\":%q,%q:%s}\n\n", name, cursor, cursor, name, content)
}

// ticketed is an event that issues a ticket, with things in it that no version of the contract has.
func ticketed(cursor, id, ticket string) string {
	return message("event", cursor, fmt.Sprintf(`{"id":%q,"eventType":"PNR_V3","operation":"BOOKING_TICKETED","pnrId":"p",`+
		`"organizationId":"o","entity":{"kind":"ENTITY_KIND_NEW","id":"p","version":2},"ordering":"ORDERING_NEW",`+
		`"operationSummary":{"ticketsIssued":[%q],"ticketsLost":["9"]},`+
		`"pnrV3":{"totalFare":{"amount":12.5,"currencyCode":"EUR"},"new":[{}]},"newField":{"a":[1]}}`, id, ticket))
}

func newFeed(t testing.TB, b *fakeBridge) *feed {
	return &feed{
		bridge: b.URL, heartbeat: 10 * time.Second, store: newStore(t), client: b.Client(), notices: t.Output(),
		backoff: backoff{first: time.Millisecond, last: 4 * time.Millisecond},
	}
}

// start runs a feed until the test ends and returns a function that stops it and waits.
func start(t testing.TB, f *feed) (stop func() error) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- f.run(ctx) }()
	stop = sync.OnceValue(func() error {
		cancel()
		select {
		case err := <-done:
			return err
		case <-time.After(10 * time.Second):
			t.Error("the feed does not end")
			return nil
		}
	})
	t.Cleanup(func() { _ = stop() })
	return stop
}

// runToItsEnd runs a feed that has to stop by itself; the end is nil when it does not.
func runToItsEnd(t testing.TB, f *feed) error {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	return f.run(ctx)
}

func lines(t testing.TB, write func(*bytes.Buffer) error) []string {
	t.Helper()
	var out bytes.Buffer
	if err := write(&out); err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
}

// TestTheFeedResumesWhereItWas: whatever ends a stream, the next one begins after the last message that was stored, and
// what comes again counts once.
func TestTheFeedResumesWhereItWas(t *testing.T) {
	first, second := ticketed("c2", "s.1", "1"), ticketed("c4", "s.2", "2")
	b := newFakeBridge(t,
		sends("retry: 1\n\n", message("confirmation", "c1", `{"view":"EVENT_VIEW_NEW","warnings":[{"field":"filter","message":"odd"}]}`), first),
		sends(message("heartbeat", "c3", `{}`), second[:len(second)-1]), // its blank line is missing
		sends(second[:len(second)/2]),
		sends(first, second, "event: error\ndata: {\"code\":14,\"message\":\"draining\",\"details\":[{\"reason\":\"DRAINING\"}]}\n\n"),
		sends(message("event", "c5", `{"id":"s.3","eventType":"NEW_V1","other":{"a":1}}`), message("something_new", "c6", `{"x":{}}`)),
		sends("event: event\nid: c7\ndata: {\"event\": nonsense\n\n"),
		sends("event: error\ndata: nonsense\n\n"),
		answers(http.StatusServiceUnavailable, `{"code":14,"message":"starting"}`),
		answers(http.StatusTooManyRequests, "slow down"),
		answers(http.StatusBadGateway, "<html>"),
		answers(http.StatusOK, "<html>"),
		sends(message("goodbye", "c8", `{"reason":"GOODBYE_REASON_NEW"}`)),
	)
	f := newFeed(t, b)
	stop := start(t, f)
	b.await(t, 13)
	if err := stop(); err != nil {
		t.Error(err)
	}
	want := []string{"", "c2", "c3", "c3", "c4", "c6", "c6", "c6", "c6", "c6", "c6", "c6", "c8"}
	if !reflect.DeepEqual(b.resumed, want) {
		t.Errorf("resumed after %q, want %q", b.resumed, want)
	}
	if got := lines(t, func(w *bytes.Buffer) error { return f.store.processed(w) }); !reflect.DeepEqual(got, []string{"s.1", "s.2", "s.3"}) {
		t.Errorf("processed %q", got)
	}
	if got := lines(t, func(w *bytes.Buffer) error { return f.store.dump(w) }); !reflect.DeepEqual(got, []string{
		"1\tp\to\t\tEUR\t12500\t0\t12500\tISSUED\t2\ts.1", "2\tp\to\t\tEUR\t12500\t0\t12500\tISSUED\t2\ts.2",
	}) {
		t.Errorf("expenses %q", got)
	}
}

func TestWhichEndsStopTheFeed(t *testing.T) {
	event := func(code int) http.HandlerFunc {
		return sends(fmt.Sprintf("event: error\ndata: {\"code\":%d,\"message\":\"m\"}\n\n", code))
	}
	status := func(code int) http.HandlerFunc { return answers(code, `{"code":3,"message":"m"}`) }
	for _, c := range []struct {
		name   string
		answer http.HandlerFunc
		stops  bool
	}{
		{"CANCELLED", event(1), false},
		{"UNKNOWN", event(2), false},
		{"INVALID_ARGUMENT", event(3), true},
		{"DEADLINE_EXCEEDED", event(4), false},
		{"NOT_FOUND", event(5), true},
		{"PERMISSION_DENIED", event(7), true},
		{"RESOURCE_EXHAUSTED", event(8), false},
		{"FAILED_PRECONDITION", event(9), true},
		{"ABORTED", event(10), false},
		{"OUT_OF_RANGE", event(11), true},
		{"UNIMPLEMENTED", event(12), true},
		{"INTERNAL", event(13), false},
		{"UNAVAILABLE", event(14), false},
		{"DATA_LOSS", event(15), true},
		{"UNAUTHENTICATED", event(16), true},
		{"ALREADY_EXISTS", event(6), true},
		{"a code to come", event(99), false},
		{"400", status(400), true},
		{"401", status(401), true},
		{"403", status(403), true},
		{"404", status(404), true},
		{"409", status(409), true},
		{"410", status(410), true},
		{"429", status(429), false},
		{"500", status(500), false},
		{"501", status(501), true},
		{"502", status(502), false},
		{"503", status(503), false},
		{"504", status(504), false},
		{"204", status(204), false},
		{"a connection that breaks", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := newFakeBridge(t, c.answer)
			f := newFeed(t, b)
			if c.stops {
				if err := runToItsEnd(t, f); err == nil {
					t.Error("it does not end")
				} else if exitCode(err) != 1 || !strings.HasSuffix(err.Error(), ": m") {
					t.Errorf("exit code %d: %v", exitCode(err), err)
				}
				return
			}
			stop := start(t, f)
			b.await(t, 2)
			if err := stop(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestSilenceEndsAConnection: comments are no messages, and a bridge that only sends those is dead.
func TestSilenceEndsAConnection(t *testing.T) {
	comments := func(before string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			fmt.Fprint(w, before)
			for r.Context().Err() == nil {
				fmt.Fprint(w, ": still here\n\n")
				_ = http.NewResponseController(w).Flush()
				select {
				case <-time.After(time.Millisecond):
				case <-r.Context().Done():
				}
			}
		}
	}
	for _, c := range []struct {
		name      string
		heartbeat time.Duration
		answer    http.HandlerFunc
	}{
		{"no answer", 20 * time.Millisecond, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }},
		{"no message", 20 * time.Millisecond, open},
		{"comments before the confirmation", 20 * time.Millisecond, comments("")},
		{"comments after a shorter interval was confirmed", time.Minute, comments(message("confirmation", "c", `{"heartbeatInterval":"0.020s"}`))},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := newFakeBridge(t, c.answer)
			f := newFeed(t, b)
			f.heartbeat = c.heartbeat
			stop := start(t, f)
			b.await(t, 2)
			if err := stop(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestTheConfirmedIntervalCounts: a bridge that confirms a longer interval than was asked for is not taken for dead.
func TestTheConfirmedIntervalCounts(t *testing.T) {
	alive := make(chan struct{})
	b := newFakeBridge(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		fmt.Fprint(w, message("confirmation", "c", `{"heartbeatInterval":"60s"}`))
		_ = http.NewResponseController(w).Flush()
		select {
		case <-time.After(400 * time.Millisecond): // longer than three of the requested
			close(alive)
		case <-r.Context().Done():
		}
	})
	f := newFeed(t, b)
	f.heartbeat = 100 * time.Millisecond
	start(t, f)
	select {
	case <-alive:
	case <-time.After(10 * time.Second):
		t.Error("the feed went")
	}
}

func TestGoodbyeIsObeyed(t *testing.T) {
	said := make(chan time.Time, 1)
	b := newFakeBridge(t, func(w http.ResponseWriter, r *http.Request) {
		said <- time.Now()
		sends("retry: 7\n", message("goodbye", "c1", `{"reason":"GOODBYE_REASON_DRAIN","retryAfter":"0.3s"}`))(w, r)
	})
	start(t, newFeed(t, b))
	b.await(t, 2)
	if waited := time.Since(<-said); waited < 300*time.Millisecond {
		t.Errorf("back after %v", waited)
	}
	if want := []string{"", "c1"}; !reflect.DeepEqual(b.resumed, want) {
		t.Errorf("resumed after %q", b.resumed)
	}
}

func TestBackoff(t *testing.T) {
	b := backoff{first: 250 * time.Millisecond, last: 15 * time.Second}
	for round := range 2 {
		for i, base := range []time.Duration{250, 500, 1000, 2000, 4000, 8000, 15000, 15000} {
			base *= time.Millisecond
			if got := b.wait(); got < base/2 || got >= base {
				t.Errorf("round %d, wait %d: %v of %v", round, i, got, base)
			}
		}
		b.reset()
	}
}

// TestTheBackoffStartsAnewAfterAMessage: a confirmation is none, since a bridge may confirm and break off again and again.
func TestTheBackoffStartsAnewAfterAMessage(t *testing.T) {
	b := newFakeBridge(t, sends(message("confirmation", "c1", "{}")), sends(message("heartbeat", "c2", "{}")))
	f := newFeed(t, b)
	for i, want := range []time.Duration{time.Hour, f.backoff.first} {
		f.backoff.next = time.Hour
		var end *ended
		if err := f.stream(t.Context()); !errors.As(err, &end) || f.backoff.next != want {
			t.Errorf("stream %d ended with %v, and the next wait is %v", i+1, err, f.backoff.next)
		}
	}
}

// TestALargeEventIsReadByItself: the bridge leaves the payload out, and the body is asked for until it comes.
func TestALargeEventIsReadByItself(t *testing.T) {
	const body = `{"operation":"TICKET_REFUNDED","payload":{"pnrId":"p","data":{"totalFare":{"amount":100.5,"currencyCode":"EUR"},"dob":7,
		"pnrTravelers":[{"userId":{"id":"bob"}}],"airPnr":{"travelerInfos":["?",{"userId":{"id":"ann"},"tickets":[{"ticketNumber":12},
		{"ticketNumber":"1","refundInfo":{"refundAmount":{"base":{"amount":7.25},"tax":{"amount":1e999}}}}]}]}}}}`
	omitted := message("event", "c1", `{"id":"s.1","eventType":"PNR_V3","operation":"TICKET_REFUNDED","pnrId":"p","organizationId":"o",`+
		`"entity":{"version":3},"operationSummary":{"ticketsRefunded":["1","2"]},"omitted":{"reason":"OMITTED_REASON_NEW","bytes":"9000000"}}`)
	b := newFakeBridge(t, sends(omitted), sends(omitted), sends(omitted))
	asked := 0
	b.body = func(w http.ResponseWriter, r *http.Request) {
		switch asked++; asked {
		case 1:
			answers(http.StatusServiceUnavailable, `{"code":14}`)(w, r)
		case 2:
			w.Header().Set("Content-Length", "1000")
			fmt.Fprint(w, body[:100]) // and no more
		default:
			if r.PathValue("id") != "s.1" {
				t.Errorf("asked for the body of %s", r.PathValue("id"))
			}
			fmt.Fprint(w, body)
		}
	}
	f := newFeed(t, b)
	stop := start(t, f)
	b.await(t, 4)
	if err := stop(); err != nil {
		t.Error(err)
	}
	if want := []string{"", "", "", "c1"}; !reflect.DeepEqual(b.resumed, want) {
		t.Errorf("resumed after %q", b.resumed)
	}
	if got := lines(t, func(w *bytes.Buffer) error { return f.store.dump(w) }); !reflect.DeepEqual(got, []string{
		"1\tp\to\tann\tEUR\t100500\t7250\t93250\tREFUNDED\t3\ts.1", "2\tp\to\tbob\tEUR\t100500\t100500\t0\tREFUNDED\t3\ts.1",
	}) {
		t.Errorf("expenses %q", got)
	}
}

func TestABodyThatIsNoLongerHeldStopsTheFeed(t *testing.T) {
	b := newFakeBridge(t, sends(message("event", "c1", `{"id":"s.1","eventType":"PNR_V3","operation":"TICKET_VOIDED","omitted":{}}`)))
	b.body = answers(http.StatusNotFound, `{"code":5,"message":"gone"}`)
	f := newFeed(t, b)
	if err := runToItsEnd(t, f); err == nil || !strings.Contains(err.Error(), "gone") {
		t.Errorf("ended with %v", err)
	}
	if cursor, err := f.store.cursor(); err != nil || cursor != "" {
		t.Errorf("moved to %q, %v", cursor, err)
	}
}

// TestTheFeedEndsInOrder: in a stream, and in a wait.
func TestTheFeedEndsInOrder(t *testing.T) {
	for name, answer := range map[string]http.HandlerFunc{
		"in a stream": sends("event: heartbeat\nid: c\ndata: {}\n\n"),
		"in a wait":   sends(message("goodbye", "c", `{"retryAfter":"3600s"}`)),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newFakeBridge(t, answer)
			stop := start(t, newFeed(t, b))
			b.await(t, 1)
			if err := stop(); err != nil {
				t.Error(err)
			}
		})
	}
}
