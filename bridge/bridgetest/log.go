package bridgetest

import (
	"crypto/sha256"
	"fmt"
	"testing"
	"time"

	"github.com/spotbridge/spotbridge/bridge"
	"github.com/spotbridge/spotbridge/bridge/eventlog"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

// NewLog returns a real embedded log in a folder of its own, closed with the test.
func NewLog(t testing.TB) *eventlog.Log {
	t.Helper()
	l := OpenLog(t, t.TempDir())
	t.Cleanup(l.Close)
	return l
}

// OpenLog opens an embedded log in dir. The caller closes it.
func OpenLog(t testing.TB, dir string) *eventlog.Log {
	t.Helper()
	l, err := eventlog.Open(t.Context(), eventlog.Config{Dir: dir, MaxBytes: 1 << 30, MaxBody: 8 << 20, Reserve: 1})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// Entry returns the log entry of a delivery with this body.
func Entry(source, webhookID, body string) *bridge.Entry {
	e := &bridge.Entry{
		Kind: bridge.EntryEvent, Source: source, EventID: bridge.EventID(source, webhookID), WebhookID: bridge.WebhookIDText(webhookID),
		ReceiveTime: time.Now().UTC(), BodyHash: sha256.Sum256([]byte(body)), Body: []byte(body), BodySize: len(body),
	}
	env, cause := bridge.ParseEnvelope([]byte(body))
	if cause != pb.DeliveryCause_DELIVERY_CAUSE_UNSPECIFIED {
		e.Kind, e.Cause = bridge.EntryQuarantine, cause
		return e
	}
	e.EventType, e.Operation, e.Organizations = env.EventType, env.Operation, env.Organizations
	return e
}

// PNRBody returns a small readable body.
func PNRBody(operation, organization, pnr string, version int) string {
	return fmt.Sprintf(`{"event_type":"PNR_V3","operation":%q,"audience":{"organizationId":%q},"timestamp":"2026-01-01T00:00:00Z","payload":{"pnrId":%q,"tripId":"trip-%s","version":%d}}`,
		operation, organization, pnr, pnr, version)
}
