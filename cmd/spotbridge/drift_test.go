package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/spotbridge/spotbridge/bridge/bridgetest/samples"
)

func TestDriftOnTheCommandLine(t *testing.T) {
	a := startBridge(t)
	server := []string{"--server", a.GRPCAddr()}
	trigger := func(args ...string) {
		ok(t, "", append(append([]string{"trigger"}, args...), "--url", "http://"+a.WebhookAddr()+"/webhooks/sandbox", "--secret", samples.Secrets()[0])...)
	}
	trigger("PNR_V3", "BOOKING_UPDATED", "--set", "payload.brandNew=1", "--set", `payload.version="three"`)
	trigger("PNR_V3", "BOOKING_UPDATED", "--set", "payload.brandNew=2")
	out := until(t, func(s string) bool { return strings.Contains(s, "PNR_V3              UNKNOWN_FIELD            2 ") },
		append([]string{"drift", "--kind", "unknown-field,TYPE_MISMATCH"}, server...)...)
	if !strings.Contains(out, "TYPE_MISMATCH") || !strings.Contains(out, " $.payload.version  (sandbox.") || !strings.HasPrefix(out, "EVENT TYPE ") || strings.Contains(out, "DEPRECATED_FIELD") {
		t.Error(out)
	}
	var entry struct {
		Path           string
		EventCount     string
		ExampleEventID string `json:"exampleEventId"`
	}
	out = ok(t, "", append([]string{"drift", "--kind", "unknown_field", "--type", "PNR_V3", "--json"}, server...)...)
	for _, line := range lines(out) {
		if err := json.Unmarshal([]byte(line), &entry); err != nil {
			t.Fatal(err, line)
		}
		if entry.Path == "$.payload.brandNew" {
			break
		}
	}
	if entry.Path != "$.payload.brandNew" || entry.EventCount != "2" {
		t.Error(out)
	}
	ok(t, "", append([]string{"events", "get", entry.ExampleEventID, "--view", "envelope"}, server...)...)

	// What is about the entries is not among them.
	_, stdout, stderr := cli(t, "", append([]string{"drift", "--limit", "1"}, server...)...)
	if len(lines(stdout)) != 2 || !strings.Contains(stderr, "# 2 events inspected by schema revision ") || !strings.Contains(stderr, "raise --limit") {
		t.Error(stdout, stderr)
	}
	if _, stdout, _ := cli(t, "", append([]string{"drift", "--type", "NOBODY"}, server...)...); stdout != "" {
		t.Error(stdout)
	}
	for _, tt := range []struct{ args, want string }{
		{"--kind conflict", "kinds[0]"}, {"--kind nonsense", `"nonsense" is none of`}, {"--since soon", "is no time"},
	} {
		if code, _, stderr := cli(t, "", append(append([]string{"drift"}, strings.Fields(tt.args)...), server...)...); code == 0 || !strings.Contains(stderr, tt.want) {
			t.Errorf("%s: exit %d, %s", tt.args, code, stderr)
		}
	}
}
