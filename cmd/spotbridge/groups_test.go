package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spotbridge/spotbridge/bridge/bridgetest/samples"
)

func TestGroupsOnTheCommandLine(t *testing.T) {
	a := startBridge(t)
	groups := func(args ...string) string {
		t.Helper()
		// Flags of ours come before those of a command to run.
		return ok(t, "", append([]string{"groups", args[0], "--server", a.GRPCAddr()}, args[1:]...)...)
	}
	dead := func(args ...string) string {
		t.Helper()
		return ok(t, "", append([]string{"groups", "dead", args[0], "--server", a.GRPCAddr()}, args[1:]...)...)
	}
	trigger := func(args ...string) {
		t.Helper()
		ok(t, "", append(append([]string{"trigger"}, args...), "--url", "http://"+a.WebhookAddr()+"/webhooks/sandbox", "--secret", samples.Secrets()[0])...)
	}
	if out := groups("create", "expenses", "--type", "PNR_V3", "--start", "earliest", "--ack-deadline", "20s", "--max-deliveries", "2"); !strings.Contains(out, "expenses") {
		t.Fatal(out)
	}
	trigger("--lifecycle", "air-void") // four events
	trigger("TRAVELER_V2")

	// A command per event: JSON on its standard input, acknowledged after exit 0.
	dir := t.TempDir()
	script := filepath.Join(dir, "handle.sh")
	if err := os.WriteFile(script, []byte("#!/bin/sh\ncat >> "+filepath.Join(dir, "got")+"\necho handled $SPOTBRIDGE_EVENT_ID attempt $SPOTBRIDGE_ATTEMPT\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	out := groups("consume", "expenses", "--limit", "2", "--", script)
	if strings.Count(out, "handled sandbox.") != 2 || strings.Count(out, "attempt 1") != 2 {
		t.Fatal(out)
	}
	b, err := os.ReadFile(filepath.Join(dir, "got"))
	if err != nil {
		t.Fatal(err)
	}
	var event struct {
		EventType string         `json:"eventType"`
		PnrV3     map[string]any `json:"pnrV3"`
	}
	if got := lines(string(b)); len(got) != 2 || json.Unmarshal([]byte(got[1]), &event) != nil || event.EventType != "PNR_V3" || event.PnrV3 == nil {
		t.Fatalf("%q", b)
	}
	until(t, func(s string) bool { return strings.Contains(s, "lag 2 events") && strings.Contains(s, "0 in flight") }, "groups", "get", "expenses", "--server", a.GRPCAddr())

	// A command that fails: dead letters.
	groups("consume", "expenses", "--limit", "2", "--on-failure", "park", "--", "false")
	until(t, func(s string) bool { return strings.Contains(s, "lag 0 events") }, "groups", "get", "expenses", "--server", a.GRPCAddr())
	letters := lines(dead("list", "expenses"))
	if len(letters) != 2 || !strings.Contains(letters[0], "parked") || !strings.Contains(letters[0], "the command failed: exit status 1") {
		t.Fatalf("%q", letters)
	}
	if out := dead("redrive", "expenses", "--dry-run"); !strings.Contains(out, "would be redriven") {
		t.Fatal(out)
	}
	if out := dead("redrive", "expenses", "--cause", "exhausted"); !strings.HasPrefix(out, "0 dead letters redriven") {
		t.Fatal(out)
	}
	id, _, _ := strings.Cut(letters[0], " ")
	dead("redrive", "expenses", "--id", id)
	// Its attempts go on counting; the next one fails, too, and the one after it succeeds.
	groups("consume", "expenses", "--limit", "2", "--retry-after", "1ms", "--", "sh", "-c", `test "$SPOTBRIDGE_ATTEMPT" = 3`)
	until(t, func(s string) bool { return len(lines(s)) == 1 && s != "" }, "groups", "dead", "list", "expenses", "--server", a.GRPCAddr())
	dead("redrive", "expenses")
	if out := groups("consume", "expenses", "--limit", "1", "--view", "raw"); !strings.Contains(out, "rawBody") { // printed, without a command
		t.Fatal(out)
	}
	if out := dead("list", "expenses"); out != "" {
		t.Fatal(out)
	}
	dead("delete", "expenses", "--all")

	groups("pause", "expenses")
	if out := groups("list"); !strings.Contains(out, "PAUSED") {
		t.Fatal(out)
	}
	groups("resume", "expenses")
	groups("update", "expenses", "--description", "for the books", "--no-filter")
	groups("seek", "expenses", "--start", "earliest")
	if out := groups("get", "expenses", "--json"); !strings.Contains(out, `"for the books"`) || strings.Contains(out, "eventTypes") || !strings.Contains(out, `"lagEvents":"5"`) {
		t.Fatal(out)
	}
	groups("delete", "expenses")
	for want, args := range map[string][]string{
		"GROUP_NOT_FOUND":                    {"get", "expenses"},
		"INVALID_FIELD":                      {"create", "a.b"},
		`"maybe" is none of retry`:           {"consume", "x", "--on-failure", "maybe"},
		"--parallel: must be 1 to 1000":      {"consume", "x", "--parallel", "0"},
		"there is no consumer group nothing": {"consume", "nothing"},
	} {
		code, _, stderr := cli(t, "", append([]string{"groups", args[0], "--server", a.GRPCAddr()}, args[1:]...)...)
		if code == 0 || !strings.Contains(stderr, want) {
			t.Errorf("%v: exit %d, %q, want something with %q", args, code, stderr, want)
		}
	}
}
