package webhook_test

import (
	"crypto/sha256"
	"strings"
	"testing"

	"github.com/spotbridge/spotbridge/bridge"
	"github.com/spotbridge/spotbridge/bridge/bridgetest"
	"github.com/spotbridge/spotbridge/bridge/webhook"
)

// Two replicas on one real log, whose memories of ids never catch up: only the log's message ids tell duplicates.
func TestReplicasOnARealLogAgree(t *testing.T) {
	log := bridgetest.NewLog(t)
	replica := func() *front {
		return newFront(t, func(c *webhook.Config) { c.Log, c.Sources[0].MaxBody = log, 8<<20 })
	}
	one, two := replica(), replica()
	one.want(post{body: bodyA}, 200, "accepted")
	two.want(post{body: bodyA}, 200, "duplicate")
	two.want(post{body: bodyB}, 200, "conflict")
	one.want(post{body: bodyB}, 200, "duplicate")
	one.want(post{id: "q", body: unreadable1}, 200, "quarantined")
	two.want(post{id: "q", body: unreadable1}, 200, "duplicate")
	two.want(post{id: "q", body: bodyA}, 200, "accepted")
	one.want(post{id: "q", body: bodyA}, 200, "duplicate")
	entries := bridgetest.Follow(t, log, 0, 4, bridge.FollowOptions{})
	for i, want := range []struct {
		kind  bridge.EntryKind
		body  string
		cause string
	}{{bridge.EntryEvent, bodyA, "unspecified"}, {bridge.EntryQuarantine, bodyB, "conflict"}, {bridge.EntryQuarantine, unreadable1, "not_json"}, {bridge.EntryEvent, bodyA, "unspecified"}} {
		if e := entries[i]; e.Kind != want.kind || string(e.Body) != want.body || e.Cause != cause(want.cause) {
			t.Errorf("entry %d: %v %v %s", i, e.Kind, e.Cause, e.Body)
		}
	}
}

func TestARealLogTakesWhatTheDoorTakes(t *testing.T) {
	log := bridgetest.NewLog(t)
	f := newFront(t, func(c *webhook.Config) { c.Log, c.Sources[0].MaxBody = log, 8<<20 })
	headers := map[string]string{"X-B3-TraceId": "\x80" + strings.Repeat("t", 200), "X-B3-SpanId": "a\tb", "API-Version": "2.0 é"}
	posts := []post{
		{id: "largest", body: padded(8 << 20)},
		{id: "empty", body: ""},
		{id: strings.Repeat("x", 1000), body: bodyA},
		{id: strings.Repeat("é", 25_000), body: bodyA},
		{id: "a b*.>~\t\xff", body: bodyA},
		{id: "types", body: `{"event_type":"*.>\u0000 ","operation":"` + strings.Repeat("é.", 2000) + `","organizationId":"> *"}`},
		{id: "unreadable", body: "\x00\r\n\r\nPUB x"},
	}
	for _, p := range posts {
		p.headers = headers
		want := "accepted"
		if p.id == "empty" || p.id == "unreadable" {
			want = "quarantined"
		}
		f.want(p, 200, want)
		f.want(p, 200, "duplicate")
	}
	for i, e := range bridgetest.Follow(t, log, 0, len(posts), bridge.FollowOptions{}) {
		p := posts[i]
		if string(e.Body) != p.body || e.WebhookID != bridge.WebhookIDText(p.id) || e.EventID != bridge.EventID("sandbox", p.id) || e.BodyHash != sha256.Sum256([]byte(p.body)) || e.BodySize != len(p.body) {
			t.Errorf("entry %d (%.20q) came back otherwise: webhook id of %d bytes, event id %s, body of %d bytes", i, p.id, len(e.WebhookID), e.EventID, len(e.Body))
		}
		if len(e.TraceID) > 64 || !strings.HasPrefix(e.TraceID, "%80ttt") || e.SpanID != "a\tb" || e.APIVersion != "2.0 é" || e.TimestampText != at(0) || !e.ReceiveTime.Equal(now) {
			t.Errorf("entry %d: trace %q, span %q, API version %q, timestamp %q, received %v", i, e.TraceID, e.SpanID, e.APIVersion, e.TimestampText, e.ReceiveTime)
		}
	}
}
