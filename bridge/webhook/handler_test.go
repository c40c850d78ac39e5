package webhook_test

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spotbridge/spotbridge/bridge"
	"github.com/spotbridge/spotbridge/bridge/bridgetest/samples"
	"github.com/spotbridge/spotbridge/bridge/webhook"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

// Short names of the contract's values.
const (
	duplicateOutcome = pb.DeliveryOutcome_DELIVERY_OUTCOME_DUPLICATE
	refusedOutcome   = pb.DeliveryOutcome_DELIVERY_OUTCOME_REFUSED
)

func cause(name string) pb.DeliveryCause {
	n, ok := pb.DeliveryCause_value["DELIVERY_CAUSE_"+strings.ToUpper(name)]
	if !ok {
		panic("no cause " + name)
	}
	return pb.DeliveryCause(n)
}

func at(offset time.Duration) string { return strconv.FormatInt(now.Add(offset).Unix(), 10) }

func TestAcceptedDeliveryIsOnTheLogWithEverythingItSaid(t *testing.T) {
	f := newFront(t)
	body := pnr(orgA, "")
	a := f.want(post{body: body, headers: map[string]string{
		"X-B3-TraceId": strings.Repeat("a", 64) + "bc", "X-B3-SpanId": "3f73836a3a728a29", "API-Version": "2.0",
	}}, 200, "accepted")
	if ct := a.header.Get("Content-Type"); ct != "application/json" {
		t.Errorf("Content-Type %q", ct)
	}
	f.wantStored(1, 0)
	e := f.log.all()[0]
	if string(e.Body) != body || e.BodySize != len(body) || e.BodyHash != sha256.Sum256([]byte(body)) {
		t.Error("the body or what is said of it differs")
	}
	if e.Kind != bridge.EntryEvent || e.Source != "sandbox" || e.EventID != "sandbox.msg_1" || e.WebhookID != "msg_1" ||
		e.EventType != "PNR_V3" || e.Operation != "BOOKING_CREATED" || len(e.Organizations) != 1 || e.Organizations[0] != orgA ||
		e.Cause != 0 || !e.ReceiveTime.Equal(now) || e.TimestampText != at(0) ||
		e.TraceID != strings.Repeat("a", 64) || e.SpanID != "3f73836a3a728a29" || e.APIVersion != "2.0" {
		t.Errorf("entry %+v", e)
	}
	f.recorder.none(t) // it is in the log
	if got := f.delivered("accepted", ""); got != 1 {
		t.Errorf("counted %v", got)
	}
}

func TestEverySampleDeliveryIsTakenOnce(t *testing.T) {
	f := newFront(t, func(c *webhook.Config) {
		c.Now = func() time.Time { return time.Date(2026, 3, 15, 0, 0, 0, 0, time.UTC) }
		c.Sources[0].Secrets = nil
		for _, s := range samples.Secrets() {
			c.Sources[0].Secrets = append(c.Sources[0].Secrets, parseSecret(t, s))
		}
	})
	stored := 0
	for _, d := range samples.Deliveries() {
		want := "accepted"
		if d.RedeliveryOf != 0 {
			want = "duplicate"
		} else {
			stored++
		}
		p := post{body: string(d.Body), id: d.WebhookID(), timestamp: d.Headers["x-spotnana-webhook-timestamp"], signature: d.Headers["x-spotnana-webhook-signature"]}
		f.want(p, 200, want)
	}
	f.wantStored(stored, 0)
	for _, e := range f.log.all() {
		if hash := hex.EncodeToString(e.BodyHash[:]); !strings.Contains(fmt.Sprint(hashes()), hash) {
			t.Errorf("%s is not a sample's body", hash)
		}
	}
}

func hashes() []string {
	var out []string
	for _, d := range samples.Deliveries() {
		out = append(out, d.SHA256)
	}
	return out
}

func TestEveryRefusalHasItsStatusRowAndCount(t *testing.T) {
	for _, tc := range []struct {
		name  string
		setup func(f *front)
		post  post
		code  int
		cause string
		// row is what the delivery row has beyond source, outcome, cause, status, webhook id and timestamp.
		row func(p post, d *pb.Delivery)
	}{
		{"no id", nil, post{without: []string{webhook.HeaderID}}, 401, "missing_id", func(_ post, d *pb.Delivery) { d.WebhookId = "" }},
		{"empty id", nil, post{headers: map[string]string{webhook.HeaderID: ""}}, 401, "missing_id", func(_ post, d *pb.Delivery) { d.WebhookId = "" }},
		{"no timestamp", nil, post{without: []string{webhook.HeaderTimestamp}}, 401, "missing_timestamp", func(_ post, d *pb.Delivery) { d.TimestampText = "" }},
		{"timestamp no number", nil, post{timestamp: "2026-03-10T12:00:00Z"}, 401, "missing_timestamp", nil},
		{"timestamp signed", nil, post{timestamp: "+1772707191"}, 401, "missing_timestamp", nil},
		{"timestamp negative", nil, post{timestamp: "-5"}, 401, "missing_timestamp", nil},
		{"timestamp fraction", nil, post{timestamp: "1772707191.5"}, 401, "missing_timestamp", nil},
		{"timestamp beyond 64 bits", nil, post{timestamp: "99999999999999999999"}, 401, "missing_timestamp", nil},
		{"no signature", nil, post{without: []string{webhook.HeaderSignature}}, 401, "missing_signature", nil},
		{"wrong signature", nil, post{secret: otherText}, 401, "wrong_signature", nil},
		{"unreadable signature", nil, post{signature: "v1,%%%"}, 401, "wrong_signature", nil},
		{"too old", nil, post{timestamp: at(-15*24*time.Hour - time.Second)}, 401, "too_old", authenticRow},
		{"epoch", nil, post{timestamp: "0"}, 401, "too_old", authenticRow},
		{"too new", nil, post{timestamp: at(5*time.Minute + time.Second)}, 401, "too_new", authenticRow},
		{"largest timestamp", nil, post{timestamp: "9223372036854775807"}, 401, "too_new", authenticRow},
		{"body too large", nil, post{body: padded(200_001)}, 413, "too_large", nil},
		{"chunked body too large", nil, post{body: padded(200_001), chunked: true}, 413, "too_large", func(_ post, d *pb.Delivery) { d.BodyBytes = 200_001 }},
		{"door closed", func(f *front) { f.gate.close(cause("not_accepting"), 7*time.Second) }, post{}, 503, "not_accepting", nil},
		{"door closed, no room on the log", func(f *front) { f.gate.close(cause("log_unavailable"), 0) }, post{}, 503, "log_unavailable", nil},
		{"door closed for an odd reason", func(f *front) { f.gate.close(cause("conflict"), 0) }, post{}, 503, "not_accepting", nil},
		{"log fails", func(f *front) { f.log.faults(func(context.Context, *bridge.Entry) error { return errTest }, nil) }, post{}, 503, "log_unavailable", eventRow},
		{"memory of ids fails", func(f *front) { f.ids.lookups(func(context.Context, string) error { return errTest }) }, post{}, 503, "not_accepting", eventRow},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := newFront(t)
			if tc.setup != nil {
				tc.setup(f)
			}
			if tc.post.body == "" {
				tc.post.body = pnr(orgA, "")
			}
			status := map[int]string{400: "incomplete", 401: "unauthorized", 413: "too_large", 503: "unavailable"}[tc.code]
			a := f.want(tc.post, tc.code, status)
			if retry := a.header.Get("Retry-After"); (retry != "") != (tc.code == 503) {
				t.Errorf("Retry-After %q", retry)
			}
			if tc.name == "door closed" && a.header.Get("Retry-After") != "7" {
				t.Errorf("Retry-After %q, want the gate's", a.header.Get("Retry-After"))
			}
			want := &pb.Delivery{
				Source: "sandbox", WebhookId: "msg_1", Outcome: refusedOutcome, Cause: cause(tc.cause), HttpStatus: int32(tc.code),
				TimestampText: tc.post.timestamp,
			}
			if want.TimestampText == "" {
				want.TimestampText = at(0)
			}
			switch tc.cause {
			case "wrong_signature", "too_old", "too_new":
				want.BodyBytes = int64(len(tc.post.body))
			}
			if tc.row != nil {
				tc.row(tc.post, want)
			}
			wantRow(t, f.recorder.next(t), want)
			f.recorder.none(t)
			f.wantStored(0, 0)
			if got := f.delivered("refused", tc.cause); got != 1 {
				t.Errorf("counted %v", got)
			}
			if !strings.Contains(f.lines.String(), `"level":"WARN"`) || strings.Count(f.lines.String(), "\n") != 1 {
				t.Errorf("want one warning, got\n%s", f.lines)
			}
		})
	}
}

func authenticRow(p post, d *pb.Delivery) { d.BodyBytes = int64(len(p.body)) }

func eventRow(p post, d *pb.Delivery) {
	sum := sha256.Sum256([]byte(p.body))
	d.BodyBytes, d.BodySha256 = int64(len(p.body)), hex.EncodeToString(sum[:])
	d.EventType, d.Operation, d.OrganizationId = "PNR_V3", "BOOKING_CREATED", orgA
}

func TestAuthenticationFailuresAllLookTheSame(t *testing.T) {
	f := newFront(t, func(c *webhook.Config) { c.Sources[0].RequireHeaders = map[string]string{"X-Partner-Key": "right"} })
	key := map[string]string{"x-partner-key": "right"}
	var first []byte
	for name, p := range map[string]post{
		"no id": {without: []string{webhook.HeaderID}, headers: key}, "no signature": {without: []string{webhook.HeaderSignature}, headers: key},
		"wrong signature": {secret: otherText, headers: key}, "too old": {timestamp: "1", headers: key}, "too new": {timestamp: at(time.Hour), headers: key},
		"required header": {},
	} {
		res, err := f.client.Do(p.request(t, f.url))
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(res.Body)
		res.Body.Close()
		res.Header.Del("Date")
		b = fmt.Append(b, res.StatusCode, res.Header)
		if err != nil || (first != nil && string(b) != string(first)) || res.StatusCode != 401 {
			t.Errorf("%s: %s, %v; another got %s", name, b, err, first)
		}
		first = b
	}
}

func TestUnknownPathAndWrongMethodAreOnlyCounted(t *testing.T) {
	f := newFront(t)
	for _, path := range []string{"/", "/webhooks", "/webhooks/", "/webhooks/sandbox/", "/webhooks/production", "/webhooks/SANDBOX", "/x/../webhooks/other"} {
		f.want(post{path: path}, 404, "not_found")
	}
	for _, method := range []string{"GET", "PUT", "DELETE", "OPTIONS", "PATCH", "BREW"} {
		a := f.want(post{method: method}, 405, "method_not_allowed")
		if a.header.Get("Allow") != "POST" {
			t.Errorf("%s: Allow %q", method, a.header.Get("Allow"))
		}
	}
	f.want(post{method: "HEAD"}, 405, "")
	f.want(post{method: "GET", path: "/nothing"}, 404, "not_found")
	f.recorder.none(t)
	if f.lines.String() != "" {
		t.Errorf("logged\n%s", f.lines)
	}
	if got := f.metric("spotbridge_webhook_deliveries_total", "source", "", "outcome", "refused", "cause", "unknown_path"); got != 8 {
		t.Errorf("%v unknown paths counted", got)
	}
	if got := f.delivered("refused", "wrong_method"); got != 7 {
		t.Errorf("%v wrong methods counted", got)
	}
}

// unreadable is a body that nobody may read.
type unreadable struct{ t *testing.T }

func (u unreadable) Read([]byte) (int, error) {
	u.t.Error("the body was read")
	return 0, errors.New("must not be read")
}
func (unreadable) Close() error { return nil }

func TestChecksComeInOrder(t *testing.T) {
	closed := func(f *front) { f.gate.close(cause("not_accepting"), time.Second) }
	for _, tc := range []struct {
		name   string
		setup  func(f *front)
		post   post
		length int64 // Content-Length when the body must not be read
		code   int
		cause  string
	}{
		{"path before method", nil, post{path: "/nothing", method: "GET"}, 10, 404, ""},
		{"method before headers", nil, post{method: "GET", without: []string{webhook.HeaderID}}, 10, 405, ""},
		{"id before size, body unread", nil, post{without: []string{webhook.HeaderID}}, 1 << 40, 401, "missing_id"},
		{"timestamp before size, body unread", nil, post{timestamp: "soon"}, 1 << 40, 401, "missing_timestamp"},
		{"signature header before size, body unread", nil, post{without: []string{webhook.HeaderSignature}}, -1, 401, "missing_signature"},
		{"required header before size, body unread", nil, post{headers: map[string]string{"X-Partner-Key": "wrong"}}, 1 << 40, 401, "required_header"},
		{"headers before the gate", closed, post{without: []string{webhook.HeaderID}}, 10, 401, "missing_id"},
		{"announced size before reading", nil, post{}, 200_001, 413, "too_large"},
		{"size before the gate", closed, post{}, 200_001, 413, "too_large"},
		{"gate before reading", closed, post{}, 10, 503, "not_accepting"},
		{"gate before reading, unknown length", closed, post{}, -1, 503, "not_accepting"},
		{"size before signature", nil, post{body: padded(200_001), secret: otherText}, 0, 413, "too_large"},
		{"size before signature, chunked", nil, post{body: padded(200_001), secret: otherText, chunked: true}, 0, 413, "too_large"},
		{"signature before window", nil, post{body: "{}", secret: otherText, timestamp: "1"}, 0, 401, "wrong_signature"},
		{"window before duplicate", func(f *front) { f.send(post{body: "{}", headers: partner}) }, post{body: "{}", timestamp: "1"}, 0, 401, "too_old"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := newFront(t, func(c *webhook.Config) { c.Sources[0].RequireHeaders = partner })
			if tc.setup != nil {
				tc.setup(f)
			}
			if tc.post.headers == nil {
				tc.post.headers = partner
			}
			var got reply
			if tc.length != 0 {
				r := tc.post.request(t, "http://door")
				r.Body, r.ContentLength = unreadable{t}, tc.length
				r.RemoteAddr = "127.0.0.1:1"
				w := httptest.NewRecorder()
				f.handler.ServeHTTP(w, r)
				got.code = w.Code
			} else {
				got = f.send(tc.post)
			}
			if got.code != tc.code {
				t.Errorf("answer %d, want %d", got.code, tc.code)
			}
			if tc.cause == "" {
				f.recorder.none(t)
			} else if d := f.recorder.next(t); d.GetCause() != cause(tc.cause) {
				t.Errorf("cause %v, want %s", d.GetCause(), tc.cause)
			}
		})
	}
}

var partner = map[string]string{"X-Partner-Key": "right"}

func TestRefusalByHeadersDoesNotAskForTheBody(t *testing.T) {
	f := newFront(t)
	f.gate.close(cause("not_accepting"), time.Second)
	conn := f.dial()
	fmt.Fprintf(conn, "POST /webhooks/sandbox HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\nExpect: 100-continue\r\n\r\n")
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil || !strings.HasPrefix(line, "HTTP/1.1 401") {
		t.Errorf("%q, %v", line, err)
	}
}

// dial returns a bare connection to the front door.
func (f *front) dial() net.Conn {
	f.t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(f.url, "http://"))
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		f.t.Fatal(err)
	}
	return conn
}

func TestABodyOfExactlyTheLimitPasses(t *testing.T) {
	for _, limit := range []int{500, 64 << 10, 64<<10 + 1, 300_000} {
		for _, chunked := range []bool{false, true} {
			t.Run(fmt.Sprintf("limit %d, chunked %v", limit, chunked), func(t *testing.T) {
				f := newFront(t, func(c *webhook.Config) { c.Sources[0].MaxBody = int64(limit) })
				f.want(post{id: "more", body: padded(limit + 1), chunked: chunked}, 413, "too_large")
				f.want(post{id: "exact", body: padded(limit), chunked: chunked}, 200, "accepted")
				f.want(post{id: "less", body: padded(limit - 1), chunked: chunked}, 200, "accepted")
				f.wantStored(2, 0)
				if e := f.log.all()[0]; string(e.Body) != padded(limit) {
					t.Error("the body differs")
				}
				if n := f.metric("spotbridge_webhook_in_flight_bytes"); n != 0 {
					t.Errorf("%v bytes are still in flight", n)
				}
			})
		}
	}
}

func TestIncompleteBodyIsRefused(t *testing.T) {
	for name, rest := range map[string]string{
		"known length":         "Content-Length: 1000\r\n\r\n{\"event_type\":",
		"nothing came":         "Content-Length: 1000\r\n\r\n",
		"chunked, cut":         "Transfer-Encoding: chunked\r\n\r\n64\r\n{\"event_type\":",
		"chunked, no last one": "Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n",
		"chunked, bad size":    "Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			f := newFront(t)
			conn := f.dial()
			fmt.Fprintf(conn, "POST /webhooks/sandbox HTTP/1.1\r\nHost: x\r\nx-spotnana-webhook-id: msg_1\r\nx-spotnana-webhook-timestamp: %s\r\nx-spotnana-webhook-signature: AAAA\r\n%s", at(0), rest)
			if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
				t.Fatal(err)
			}
			res, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatal(err)
			}
			if a, err := readReply(res); err != nil || a.code != 400 || a.status != "incomplete" {
				t.Errorf("%+v, %v", a, err)
			}
			if d := f.recorder.next(t); d.GetCause() != cause("incomplete_body") || d.GetHttpStatus() != 400 || d.GetBodySha256() != "" {
				t.Errorf("row %v", d)
			}
			f.wantStored(0, 0)
		})
	}
	t.Run("the body does not come in time", func(t *testing.T) {
		f := newFront(t)
		srv := httptest.NewUnstartedServer(nil)
		srv.Config = webhook.NewServer(f.handler, nil, nil)
		srv.Config.ReadTimeout = 20 * time.Millisecond
		srv.Start()
		t.Cleanup(srv.Close)
		f.url = srv.URL
		conn := f.dial()
		fmt.Fprintf(conn, "POST /webhooks/sandbox HTTP/1.1\r\nHost: x\r\nx-spotnana-webhook-id: msg_1\r\nx-spotnana-webhook-timestamp: %s\r\nx-spotnana-webhook-signature: AAAA\r\nContent-Length: 1000\r\n\r\n{", at(0))
		if d := f.recorder.next(t); d.GetCause() != cause("incomplete_body") || d.GetBodyBytes() != 1 {
			t.Errorf("row %v", d)
		}
		res, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		if a, err := readReply(res); err != nil || a.code != 400 {
			t.Errorf("%+v, %v", a, err)
		}
	})
	t.Run("the client vanishes", func(t *testing.T) {
		f := newFront(t)
		conn := f.dial()
		fmt.Fprintf(conn, "POST /webhooks/sandbox HTTP/1.1\r\nHost: x\r\nx-spotnana-webhook-id: msg_1\r\nx-spotnana-webhook-timestamp: %s\r\nx-spotnana-webhook-signature: AAAA\r\nContent-Length: 1000\r\n\r\n{", at(0))
		conn.Close()
		if d := f.recorder.next(t); d.GetCause() != cause("incomplete_body") {
			t.Errorf("row %v", d)
		}
		eventually(t, "bytes given back", func() bool { return f.metric("spotbridge_webhook_in_flight_bytes") == 0 })
	})
}

func TestWindow(t *testing.T) {
	year := 365 * 24 * time.Hour
	for _, tc := range []struct {
		name   string
		maxAge time.Duration
		ts     string
		code   int
	}{
		{"now", time.Hour, at(0), 200},
		{"exactly max_age", time.Hour, at(-time.Hour), 200},
		{"a second older", time.Hour, at(-time.Hour - time.Second), 401},
		{"exactly 5 minutes ahead", time.Hour, at(5 * time.Minute), 200},
		{"a second further ahead", time.Hour, at(5*time.Minute + time.Second), 401},
		{"two weeks, default", webhook.DefaultMaxAge, at(-14 * 24 * time.Hour), 200},
		{"off: years old", 0, at(-10 * year), 200},
		{"off: years ahead", 0, at(10 * year), 200},
		{"off: no number all the same", 0, "soon", 401},
		{"leading zeros", time.Hour, "00" + at(0), 200},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := newFront(t, func(c *webhook.Config) { c.Sources[0].MaxAge = tc.maxAge })
			if a := f.send(post{body: pnr(orgA, ""), timestamp: tc.ts}); a.code != tc.code {
				t.Errorf("answer %d, want %d", a.code, tc.code)
			}
		})
	}
}

func TestRequiredHeaders(t *testing.T) {
	f := newFront(t, func(c *webhook.Config) {
		c.Sources[0].RequireHeaders = map[string]string{"X-Partner-Key": "right", "x-second": "two"}
	})
	for _, tc := range []struct {
		name    string
		headers map[string]string
		code    int
	}{
		{"both", map[string]string{"x-partner-key": "right", "X-Second": "two"}, 200},
		{"one missing", map[string]string{"X-Partner-Key": "right"}, 401},
		{"one wrong", map[string]string{"X-Partner-Key": "right", "X-Second": "three"}, 401},
		{"prefix", map[string]string{"X-Partner-Key": "righ", "X-Second": "two"}, 401},
		{"longer", map[string]string{"X-Partner-Key": "right1", "X-Second": "two"}, 401},
		{"other case", map[string]string{"X-Partner-Key": "Right", "X-Second": "two"}, 401},
		{"empty", map[string]string{"X-Partner-Key": "", "X-Second": "two"}, 401},
	} {
		if a := f.send(post{id: "msg-" + strconv.Itoa(tc.code) + tc.name[:3], body: pnr(orgA, ""), headers: tc.headers}); a.code != tc.code {
			t.Errorf("%s: answer %d, want %d", tc.name, a.code, tc.code)
		}
	}
}

func TestSecretsRotateWithoutLosingADelivery(t *testing.T) {
	f := newFront(t, func(c *webhook.Config) {
		c.Sources[0].Secrets = []webhook.Secret{parseSecret(t, otherText), parseSecret(t, secretText)}
	})
	body := pnr(orgA, "")
	f.want(post{id: "old", body: body, secret: otherText}, 200, "accepted")
	f.want(post{id: "new", body: body, secret: secretText}, 200, "accepted")
	both := webhook.Sign(parseSecret(t, "whsec_AAAA"), "both", at(0), []byte(body)) + " " + webhook.Sign(parseSecret(t, secretText), "both", at(0), []byte(body))
	f.want(post{id: "both", body: body, signature: both}, 200, "accepted")
	f.want(post{id: "none", body: body, secret: "whsec_AAAA"}, 401, "unauthorized")
	// Several header lines are one list.
	r := post{id: "lines", body: body, secret: "whsec_AAAA"}.request(t, f.url)
	r.Header.Add(webhook.HeaderSignature, webhook.Sign(parseSecret(t, secretText), "lines", at(0), []byte(body)))
	res, err := f.client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	if a, err := readReply(res); err != nil || a.status != "accepted" {
		t.Errorf("%+v, %v", a, err)
	}
}

func TestSourcesAreApart(t *testing.T) {
	f := newFront(t, func(c *webhook.Config) {
		c.Sources = append(c.Sources, webhook.Source{Name: "production", Path: "/hooks/prod", Secrets: []webhook.Secret{parseSecret(t, otherText)}})
	})
	f.want(post{body: pnr(orgA, "")}, 200, "accepted")
	f.want(post{body: pnr(orgA, ""), path: "/hooks/prod"}, 401, "unauthorized")
	f.want(post{body: pnr(orgB, ""), path: "/hooks/prod", secret: otherText}, 200, "accepted")
	f.want(post{path: "/webhooks/production", secret: otherText}, 404, "not_found")
	if e := f.events(); len(e) != 2 || e[0].EventID != "sandbox.msg_1" || e[1].EventID != "production.msg_1" {
		t.Errorf("events %v", e)
	}
}

func TestUnreadableBodiesAreQuarantinedWithTheirExactBytes(t *testing.T) {
	for _, tc := range []struct{ name, body, cause string }{
		{"empty", "", "empty_body"},
		{"white space", " \r\n\t", "empty_body"},
		{"not JSON", "event_type=PNR_V3", "not_json"},
		{"cut off", `{"event_type":"PNR_V3"`, "not_json"},
		{"not JSON deep inside", `{"event_type":"PNR_V3","payload":{"a":[1,2,}]}}`, "not_json"},
		{"gzip", "\x1f\x8b\x08\x00\x00\x00\x00\x00", "not_json"},
		{"UTF-16", "\xff\xfe{\x00}\x00", "not_json"},
		{"array", `[{"event_type":"PNR_V3"}]`, "not_an_object"},
		{"string", `"PNR_V3"`, "not_an_object"},
		{"null", `null`, "not_an_object"},
		{"two documents", `{"event_type":"PNR_V3"}{"event_type":"PNR_V3"}`, "trailing_data"},
		{"too deep", `{"event_type":"PNR_V3","payload":` + strings.Repeat("[", 1000) + strings.Repeat("]", 1000) + `}`, "too_deep"},
		{"no event type", `{"operation":"X"}`, "no_event_type"},
		{"event type a number", `{"event_type":7}`, "bad_event_type"},
		{"event type empty", `{"event_type":""}`, "bad_event_type"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := newFront(t)
			f.want(post{body: tc.body}, 200, "quarantined")
			f.wantStored(0, 1)
			e := f.log.all()[0]
			if string(e.Body) != tc.body || e.BodySize != len(tc.body) || e.Cause != cause(tc.cause) || e.EventID != "sandbox.msg_1" || e.BodyHash != sha256.Sum256([]byte(tc.body)) {
				t.Errorf("entry %+v", e)
			}
			f.recorder.none(t)
			if got := f.delivered("quarantined", tc.cause); got != 1 {
				t.Errorf("counted %v", got)
			}
			f.want(post{body: tc.body}, 200, "duplicate")
			wantRow(t, f.recorder.next(t), &pb.Delivery{
				Source: "sandbox", WebhookId: "msg_1", Outcome: duplicateOutcome, HttpStatus: 200, Sequence: 1,
				BodyBytes: int64(len(tc.body)), BodySha256: hex.EncodeToString(e.BodyHash[:]), TimestampText: at(0),
			})
			f.wantStored(0, 1)
		})
	}
}

func TestAllowListQuarantinesOtherOrganizations(t *testing.T) {
	several := func(orgs ...string) string {
		var items []string
		for _, o := range orgs {
			items = append(items, fmt.Sprintf(`{"organizationId":%q}`, o))
		}
		return `{"event_type":"PNR_V3","audience":[` + strings.Join(items, ",") + `]}`
	}
	// More organizations than an envelope holds: the ones beyond cannot be checked.
	many := make([]string, 65)
	for i := range many {
		many[i] = fmt.Sprintf("org-%d", i)
	}
	f := newFront(t, func(c *webhook.Config) { c.Sources[0].Organizations = append(many, orgA, orgB) })
	for _, tc := range []struct{ name, body, status string }{
		{"one allowed", pnr(orgA, ""), "accepted"},
		{"all allowed", several(orgA, orgB), "accepted"},
		{"as many as an envelope holds", several(many[:64]...), "accepted"},
		{"one too many", several(many...), "quarantined"},
		{"one of two not", several(orgA, "33333333-3333-4333-8333-333333333333"), "quarantined"},
		{"not allowed", pnr("33333333-3333-4333-8333-333333333333", ""), "quarantined"},
		{"none", `{"event_type":"PNR_V3"}`, "quarantined"},
		{"unreadable is told as such", `{}`, "quarantined"},
	} {
		a := f.send(post{id: strings.ReplaceAll(tc.name, " ", "-"), body: tc.body})
		if a.code != 200 || a.status != tc.status {
			t.Errorf("%s: %d %s, want %s", tc.name, a.code, a.status, tc.status)
		}
	}
	for _, e := range f.quarantine() {
		want := cause("organization_not_allowed")
		if e.WebhookID == "unreadable-is-told-as-such" {
			want = cause("no_event_type")
		}
		if e.Cause != want {
			t.Errorf("%s: %v, want %v", e.WebhookID, e.Cause, want)
		}
	}
}

func TestHostileValuesDoNoHarm(t *testing.T) {
	huge := strings.Repeat("é", 40_000)
	for _, tc := range []struct {
		name, id, body string
		check          func(t *testing.T, e *bridge.Entry)
	}{
		{"wildcards in the type", "a", `{"event_type":"*.>. \u0000","operation":"> *"}`, func(t *testing.T, e *bridge.Entry) {
			if s := bridge.EventSubject(e.Source, e.EventType, e.Operation, e.Organizations); strings.ContainsAny(s, "*> \x00") {
				t.Errorf("subject %q", s)
			}
		}},
		{"huge type", "b", `{"event_type":"` + huge + `"}`, func(t *testing.T, e *bridge.Entry) {
			if len(e.EventType) > 100 || !strings.HasPrefix(e.EventType, "sha256-") {
				t.Errorf("type of %d bytes", len(e.EventType))
			}
		}},
		{"id of 1,000 characters", strings.Repeat("x", 1000), pnr(orgA, ""), func(t *testing.T, e *bridge.Entry) {
			if e.WebhookID != strings.Repeat("x", 1000) || !strings.HasPrefix(e.EventID, "sandbox.sha256-") || len(e.EventID) != len("sandbox.sha256-")+64 {
				t.Errorf("id %q, webhook id of %d bytes", e.EventID, len(e.WebhookID))
			}
		}},
		{"id with odd characters", "a b/../c.d>*", pnr(orgA, ""), func(t *testing.T, e *bridge.Entry) {
			if e.WebhookID != "a b/../c.d>*" || !strings.HasPrefix(e.EventID, "sandbox.sha256-") {
				t.Errorf("id %q, webhook id %q", e.EventID, e.WebhookID)
			}
		}},
		{"id that is not UTF-8", "msg\xff\xfe", pnr(orgA, ""), func(t *testing.T, e *bridge.Entry) {
			if e.WebhookID != "msg%FF%FE" || e.EventID != bridge.EventID("sandbox", "msg\xff\xfe") || e.TraceID != "%80%80" {
				t.Errorf("id %q, webhook id %q, trace %q", e.EventID, e.WebhookID, e.TraceID)
			}
		}},
		{"bytes that are not UTF-8 in the body", "c", "{\"event_type\":\"A\xffB\",\"operationSummary\":{\"ticketsIssued\":[{\"n\":\"\xff\"}]}}", func(t *testing.T, e *bridge.Entry) {
			if e.EventType != "A\uFFFDB" || !strings.Contains(string(e.Body), "\xff") {
				t.Errorf("type %q", e.EventType)
			}
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := newFront(t)
			p := post{id: tc.id, body: tc.body, headers: map[string]string{"X-B3-TraceId": "\x80\x80", "API-Version": strings.Repeat("v", 500)}}
			f.want(p, 200, "accepted")
			e := f.log.all()[0]
			tc.check(t, e)
			if len(e.APIVersion) != 64 {
				t.Errorf("API version of %d bytes", len(e.APIVersion))
			}
			env, _ := bridge.ParseEnvelope(e.Body)
			if _, _, err := bridge.EncodeEnvelope(e, env, now, 0); err != nil {
				t.Errorf("the event cannot be encoded: %v", err)
			}
			f.want(p, 200, "duplicate")
			f.recorder.next(t)
		})
	}
}

func TestForeignHeaderValuesAreCut(t *testing.T) {
	f := newFront(t)
	long := strings.Repeat("i", 300)
	f.want(post{id: long, timestamp: strings.Repeat("9", 300), body: "{}"}, 401, "unauthorized")
	f.want(post{id: strings.Repeat("\xff", 300), secret: otherText, body: "{}"}, 401, "unauthorized")
	f.want(post{id: long, body: "{}", timestamp: "1"}, 401, "unauthorized") // authentic: verbatim
	for _, want := range []struct{ id, timestamp int }{{256, 256}, {256, len(at(0))}, {300, 1}} {
		d := f.recorder.next(t)
		if len(d.GetWebhookId()) != want.id || len(d.GetTimestampText()) != want.timestamp {
			t.Errorf("id of %d bytes, timestamp of %d", len(d.GetWebhookId()), len(d.GetTimestampText()))
		}
	}
	for line := range strings.Lines(f.lines.String()) {
		if len(line) > 1200 {
			t.Errorf("a line of %d bytes", len(line))
		}
	}
}

func TestHeadersBeyondTheLimitAreRefusedByTheServer(t *testing.T) {
	f := newFront(t)
	if a, err := f.client.Do(post{headers: map[string]string{"X-Large": strings.Repeat("x", 80<<10)}}.request(t, f.url)); err != nil || a.StatusCode != 431 {
		t.Errorf("%v, %v", a, err)
	}
	f.want(post{id: strings.Repeat("x", 50<<10), body: pnr(orgA, "")}, 200, "accepted")
}

func TestBudgetRefusesRatherThanWaitsForEver(t *testing.T) {
	f := newFront(t, func(c *webhook.Config) {
		c.Sources[0].MaxBody = 100_000
		c.InFlightBytes, c.InFlightWait = 150_000, time.Millisecond
	})
	entered, leave := make(chan struct{}), make(chan struct{})
	letGo := sync.OnceFunc(func() { close(leave) })
	t.Cleanup(letGo)
	f.log.faults(func(context.Context, *bridge.Entry) error {
		entered <- struct{}{}
		<-leave
		return nil
	}, nil)
	first := make(chan reply, 1)
	go func() { a, _ := f.try(post{id: "first", body: padded(90_000)}); first <- a }()
	<-entered // it holds 90,000 bytes until the log answers
	for _, chunked := range []bool{false, true} {
		a := f.want(post{id: "second", body: padded(80_000), chunked: chunked}, 503, "unavailable")
		if a.header.Get("Retry-After") == "" {
			t.Error("no Retry-After")
		}
		if d := f.recorder.next(t); d.GetCause() != cause("overloaded") {
			t.Errorf("row %v", d)
		}
	}
	// Announcing much takes nothing: only bytes that came do.
	conn := f.dial()
	fmt.Fprintf(conn, "POST /webhooks/sandbox HTTP/1.1\r\nHost: x\r\nx-spotnana-webhook-id: slow\r\nx-spotnana-webhook-timestamp: 1\r\nx-spotnana-webhook-signature: AAAA\r\nContent-Length: 20000\r\n\r\n")
	eventually(t, "the slow one is being read", func() bool { return f.metric("spotbridge_webhook_in_flight_bytes") == 110_000 })
	small := make(chan reply, 1)
	go func() { a, _ := f.try(post{id: "small", body: padded(1_000)}); small <- a }()
	<-entered
	letGo()
	if a := <-small; a.status != "accepted" {
		t.Errorf("the small one: %+v", a)
	}
	if a := <-first; a.status != "accepted" {
		t.Errorf("the first: %+v", a)
	}
	conn.Close()
	f.recorder.next(t) // the slow one's
	eventually(t, "everything given back", func() bool { return f.metric("spotbridge_webhook_in_flight_bytes") == 0 })
	f.log.faults(nil, nil)
	f.want(post{id: "later", body: padded(100_000)}, 200, "accepted")
}

func TestABodyWaitsForRoom(t *testing.T) {
	f := newFront(t, func(c *webhook.Config) {
		c.Sources[0].MaxBody = 100_000
		c.InFlightBytes, c.InFlightWait = 120_000, 20*time.Second
	})
	entered, leave := make(chan struct{}, 2), make(chan struct{})
	letGo := sync.OnceFunc(func() { close(leave) })
	t.Cleanup(letGo)
	f.log.faults(func(context.Context, *bridge.Entry) error {
		entered <- struct{}{}
		<-leave
		return nil
	}, nil)
	answers := make(chan reply, 2)
	for _, id := range []string{"one", "two"} {
		go func() { a, _ := f.try(post{id: id, body: padded(90_000)}); answers <- a }()
	}
	<-entered
	eventually(t, "both are in flight", func() bool { return f.metric("spotbridge_webhook_in_flight_deliveries") == 2 })
	letGo()
	for range 2 {
		if a := <-answers; a.status != "accepted" {
			t.Errorf("%+v", a)
		}
	}
}

func TestLinesAndRowsNeverHoldPayloadsOrSecrets(t *testing.T) {
	const canary = "CanaryPayload"
	f := newFront(t, func(c *webhook.Config) {
		c.Sources[0].RequireHeaders = map[string]string{"X-Partner-Key": "CanaryPartnerKey"}
		c.Sources[0].Organizations = []string{orgA}
	})
	key := map[string]string{"X-Partner-Key": "CanaryPartnerKey", "Authorization": "Bearer CanaryToken", "X-B3-TraceId": "trace-1", "X-B3-SpanId": "span-1"}
	var rows []string
	send := func(p post) {
		p.headers = key
		p.id = strings.ReplaceAll(t.Name(), "/", "-") + p.id
		f.send(p)
	}
	body := pnr(orgA, canary)
	send(post{body: body})
	send(post{body: body})                                            // duplicate
	send(post{body: pnr(orgA, canary+"2")})                           // conflict
	send(post{id: "q1", body: canary})                                // not JSON
	send(post{id: "q2", body: pnr(orgB, canary)})                     // organization
	send(post{id: "q3", body: `{"event_type":{"` + canary + `":1}}`}) // type
	send(post{id: "r1", body: body, secret: otherText})               // signature
	send(post{id: "r2", body: body, timestamp: "1"})                  // window
	send(post{id: "r3", body: body, signature: "CanarySignature"})    // signature
	f.send(post{id: "r4", body: body, headers: map[string]string{"X-Partner-Key": "CanaryWrongKey"}})
	f.log.faults(func(context.Context, *bridge.Entry) error { return errTest }, nil)
	send(post{id: "r5", body: body})
	for range 6 {
		rows = append(rows, f.recorder.next(t).String())
	}
	text := f.lines.String() + strings.Join(rows, "\n")
	signed := webhook.Sign(parseSecret(t, secretText), strings.ReplaceAll(t.Name(), "/", "-"), at(0), []byte(body))
	for _, bad := range []string{"Canary", signed, signed[:20], "6789533589", "AAECAwQF"} {
		if i := strings.Index(text, bad); i >= 0 {
			t.Errorf("%q in …%s…", bad, text[max(0, i-200):min(len(text), i+100)])
		}
	}
	lines := strings.Split(strings.TrimSpace(f.lines.String()), "\n")
	if len(lines) != 11 {
		t.Fatalf("%d lines for 11 deliveries", len(lines))
	}
	for _, want := range []string{`"level":"INFO"`, `"outcome":"accepted"`, `"status":200`, `"source":"sandbox"`, `"event_type":"PNR_V3"`, `"operation":"BOOKING_CREATED"`,
		`"organization":"` + orgA, `"trace_id":"trace-1"`, `"span_id":"span-1"`, `"latency_ms":`, `"bytes":` + strconv.Itoa(len(body)), `"sequence":1`} {
		if !strings.Contains(lines[0], want) {
			t.Errorf("no %s in %s", want, lines[0])
		}
	}
	for _, want := range []string{`"level":"WARN"`, `"outcome":"refused"`, `"cause":"log_unavailable"`, `"status":503`, `"event_type":"PNR_V3"`, `"error":"`} {
		if !strings.Contains(lines[10], want) {
			t.Errorf("no %s in %s", want, lines[10])
		}
	}
}

func TestControlCharactersDoNotBreakLines(t *testing.T) {
	f := newFront(t)
	f.want(post{body: `{"event_type":"A\nlevel=ERROR \u001b[31m","operation":"B\r\n{}"}`}, 200, "accepted")
	f.want(post{id: "x", headers: map[string]string{"X-B3-TraceId": "a\tb\u0085"}, secret: otherText}, 401, "unauthorized")
	if lines := f.lines.String(); strings.Count(lines, "\n") != 2 || strings.ContainsAny(lines, "\r\x1b\t") {
		t.Errorf("%q", lines)
	}
}

func TestMetricLabelsStayClosed(t *testing.T) {
	f := newFront(t)
	series := func() int {
		families, err := f.registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, family := range families {
			n += len(family.GetMetric())
		}
		return n
	}
	before := series()
	for i := range 20 {
		f.send(post{path: "/webhooks/" + strconv.Itoa(i)})
		f.send(post{method: "M" + strconv.Itoa(i)})
		f.send(post{id: strconv.Itoa(i), body: fmt.Sprintf(`{"event_type":"T%d","operation":"O%d"}`, i, i)})
		f.send(post{id: strconv.Itoa(i), body: fmt.Sprintf(`{"event_type":"X%d"}`, i)})
		f.send(post{id: "q" + strconv.Itoa(i), body: "["})
		f.send(post{id: "r" + strconv.Itoa(i), secret: otherText})
	}
	if after := series(); after != before {
		t.Errorf("%d series became %d", before, after)
	}
	if n := f.metric("spotbridge_webhook_delivery_seconds", "source", "sandbox", "outcome", "accepted"); n != 20 {
		t.Errorf("%v latencies of accepted deliveries", n)
	}
}

func TestConfigurationProblemsAreAllTold(t *testing.T) {
	_, err := webhook.New(webhook.Config{Sources: []webhook.Source{
		{Name: "A b", Path: "x", MaxAge: -1, MaxBody: 1 << 40, RequireHeaders: map[string]string{"X": ""}, Organizations: []string{""}},
		{Name: "ok", Secrets: []webhook.Secret{parseSecret(t, secretText)}},
		{Name: "ok", Path: "/other", Secrets: []webhook.Secret{parseSecret(t, secretText)}},
		{Name: "other", Path: "/webhooks/ok", Secrets: []webhook.Secret{parseSecret(t, secretText)}},
		{Name: "zero", Secrets: []webhook.Secret{{}}},
	}})
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{"needs a log", `name "A b"`, `path "x"`, "at least one secret", "max_age", "max_body", "require_headers", "organizations", `name "ok" is taken`, `path "/webhooks/ok" is taken`, "secrets[0] is empty"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("nothing of %q in\n%v", want, err)
		}
	}
	if _, err := webhook.New(webhook.Config{}); err == nil || !strings.Contains(err.Error(), "at least one") {
		t.Errorf("no sources: %v", err)
	}
}
