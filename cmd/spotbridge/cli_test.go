package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spotbridge/spotbridge/app"
	"github.com/spotbridge/spotbridge/bridge"
	"github.com/spotbridge/spotbridge/bridge/bridgetest/samples"
)

// startBridge runs a bridge in this process and returns it.
func startBridge(t *testing.T) *app.App {
	t.Helper()
	cfg := app.DefaultConfig()
	cfg.DataDir = t.TempDir()
	cfg.Listen = app.ListenConfig{Webhook: "127.0.0.1:0", REST: "127.0.0.1:0", GRPC: "127.0.0.1:0", Admin: "127.0.0.1:0"}
	cfg.Sources = []app.Source{{Name: "sandbox", Secrets: []app.Secret{app.Secret(samples.Secrets()[0])}}}
	cfg.Log.MaxBytes, cfg.Log.Reserve = 1<<30, 1
	a, err := app.New(t.Context(), cfg, app.Options{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	<-a.Ready()
	return a
}

// cli runs the program as a shell would, and returns what it printed.
func cli(t *testing.T, stdin string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	var out, errw bytes.Buffer
	code = run(ctx, args, strings.NewReader(stdin), &out, &errw)
	return code, out.String(), errw.String()
}

func ok(t *testing.T, stdin string, args ...string) string {
	t.Helper()
	code, stdout, stderr := cli(t, stdin, args...)
	if code != 0 {
		t.Fatalf("%s: exit %d\n%s%s", strings.Join(args, " "), code, stdout, stderr)
	}
	return stdout
}

// until repeats a command until its output is as wanted: what was answered 200 is in the history a moment later.
func until(t *testing.T, want func(string) bool, args ...string) string {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		out := ok(t, "", args...)
		if want(out) {
			return out
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: still %q", strings.Join(args, " "), out)
		}
		<-time.After(10 * time.Millisecond)
	}
}

func lines(s string) []string { return strings.Split(strings.TrimSpace(s), "\n") }

func TestACommandLineSession(t *testing.T) {
	a := startBridge(t)
	secret := samples.Secrets()[0]
	door := []string{"--url", "http://" + a.WebhookAddr() + "/webhooks/sandbox", "--secret", secret}
	server := []string{"--server", a.GRPCAddr()}
	trigger := func(stdin string, args ...string) string {
		return ok(t, stdin, append(append([]string{"trigger"}, args...), door...)...)
	}

	// A story, one event with overrides, a file twice, rubbish.
	if out := trigger("", "--lifecycle", "air-void"); strings.Count(out, "200 accepted") != 4 || !strings.Contains(out, "TICKET_VOIDED") {
		t.Fatal(out)
	}
	trigger("", "PNR_V3", "FLIGHT_CHANGED", "--set", "payload.pnrId=cli-pnr", "--set", "payload.version=3")
	body := string(samples.Deliveries()[0].Body)
	if out := trigger(body, "--file", "-", "--webhook-id", "cli-1") + trigger(body, "--file", "-", "--webhook-id", "cli-1"); !strings.Contains(out, "200 accepted") || !strings.Contains(out, "200 duplicate") {
		t.Fatal(out)
	}
	if out := trigger("rubbish", "--file", "-"); !strings.Contains(out, "200 quarantined") {
		t.Fatal(out)
	}
	if out := trigger("", "TRAVELER_V2", "--count", "30", "--parallel", "4"); !strings.Contains(out, "30  200 accepted") {
		t.Fatal(out)
	}

	// History.
	out := until(t, func(s string) bool { return strings.Contains(s, "cli-pnr") }, append([]string{"events", "list", "--pnr", "cli-pnr", "--json"}, server...)...)
	var event struct {
		ID        string `json:"id"`
		Operation string `json:"operation"`
		Entity    struct{ Version int }
	}
	if err := json.Unmarshal([]byte(lines(out)[0]), &event); err != nil || event.Operation != "FLIGHT_CHANGED" || event.Entity.Version != 3 {
		t.Fatalf("%v %s", err, out)
	}
	if out := ok(t, "", append([]string{"events", "get", event.ID, "--view", "envelope"}, server...)...); !strings.Contains(out, "cli-pnr") {
		t.Fatal(out)
	}
	file := filepath.Join(t.TempDir(), "body")
	ok(t, "", append([]string{"events", "body", bridge.EventID("sandbox", "cli-1"), "--output", file}, server...)...)
	if got, err := os.ReadFile(file); err != nil || string(got) != body {
		t.Fatalf("the body differs: %v", err)
	}
	if n := len(lines(ok(t, "", append([]string{"events", "list", "--type", "TRAVELER_V2", "--limit", "300"}, server...)...))); n != 31 {
		t.Fatalf("%d travelers", n)
	}

	// Deliveries, also a refused one.
	code, _, stderr := cli(t, "", "trigger", "PNR_V3", "--url", "http://"+a.WebhookAddr()+"/webhooks/sandbox", "--secret", samples.Secrets()[1])
	if code == 0 || !strings.Contains(stderr, "deliveries --outcome refused") || !strings.Contains(stderr, "one of the source's secrets") {
		t.Fatalf("exit %d, %s", code, stderr)
	}
	until(t, func(s string) bool { return strings.Contains(s, "WRONG_SIGNATURE") }, append([]string{"deliveries", "--outcome", "refused"}, server...)...)
	until(t, func(s string) bool { return strings.Contains(s, "NOT_JSON") }, append([]string{"deliveries", "--outcome", "quarantined"}, server...)...)
	if out := ok(t, "", append([]string{"deliveries", "reprocess", "--dry-run"}, server...)...); !strings.Contains(out, "1 quarantined: 0 would become events") {
		t.Fatal(out)
	}

	// A tail that keeps its place.
	cursor := filepath.Join(t.TempDir(), "cursor")
	tail := append([]string{"tail", "--start", "earliest", "--stop-at-head", "--json", "--view", "envelope", "--quiet", "--cursor-file", cursor}, server...)
	if n := len(lines(ok(t, "", tail...))); n != 36 {
		t.Fatalf("%d events", n)
	}
	trigger("", "SERVICE_CHARGE", "SERVICE_FEE")
	if out := lines(ok(t, "", tail...)); len(out) != 1 || !strings.Contains(out[0], "SERVICE_FEE") {
		t.Fatalf("after a resume: %q", out)
	}

	// Mistakes.
	for _, tt := range []struct {
		args []string
		want string
	}{
		{append([]string{"tail", "--after", "rubbish"}, server...), "INVALID_CURSOR"},
		{append([]string{"events", "get", "nobody.nothing"}, server...), "EVENT_NOT_FOUND"},
		{append([]string{"events", "list", "--view", "most"}, server...), `"most" is none of envelope, typed, raw, full`},
		{append([]string{"events", "list", "--since", "soon"}, server...), "is no time"},
		{append([]string{"trigger", "NO_SUCH"}, door...), "there is no fixture"},
		{append([]string{"trigger", "--lifecycle", "no-such"}, door...), "air-void"},
		{append([]string{"trigger", "PNR_V3", "BOOKING_UPDATED", "--set", "payload.pnrTravelers.99=1"}, door...), "is no index"},
		{[]string{"trigger", "PNR_V3", "--secret", "whsec_???"}, "--secret"},
		{[]string{"nonsense"}, "unknown command"},
	} {
		code, _, stderr := cli(t, "", tt.args...)
		if code == 0 || !strings.Contains(stderr, tt.want) {
			t.Errorf("%v: exit %d, %q, want something with %q", tt.args, code, stderr, tt.want)
		}
	}
}

func TestConfigCheckPrintsNoSecret(t *testing.T) {
	file := filepath.Join(t.TempDir(), "c.yaml")
	secret := samples.Secrets()[0]
	if err := os.WriteFile(file, []byte("sources: [{name: a, secrets: [\""+secret+"\"]}]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	code, stdout, stderr := cli(t, "", "config", "check", "--config", file)
	if code != 0 || !strings.Contains(stdout, "data_dir: ./data") || !strings.Contains(stderr, "is good") {
		t.Fatalf("exit %d\n%s%s", code, stdout, stderr)
	}
	if strings.Contains(stdout+stderr, strings.TrimPrefix(secret, "whsec_")) {
		t.Fatal("a secret was printed")
	}
	if code, _, stderr := cli(t, "", "config", "check"); code == 0 || !strings.Contains(stderr, "sources: is empty") {
		t.Fatalf("exit %d, %s", code, stderr)
	}
	if code, _, stderr := cli(t, "", "serve", "--listen-grpc", "0.0.0.0:9090"); code == 0 || !strings.Contains(stderr, "listen.grpc") {
		t.Fatalf("exit %d, %s", code, stderr)
	}
}

func TestHelpHasExamplesAndShellsHaveCompletion(t *testing.T) {
	for _, cmd := range []string{"serve", "dev", "tail", "trigger", "events list", "events get", "events body", "deliveries", "deliveries body", "deliveries reprocess", "drift", "config check",
		"groups", "groups create", "groups get", "groups list", "groups update", "groups delete", "groups pause", "groups resume", "groups seek", "groups consume",
		"groups dead", "groups dead list", "groups dead redrive", "groups dead delete", "conformance", "conformance run", "conformance serve", "conformance door"} {
		if out := ok(t, "", append(strings.Fields(cmd), "--help")...); !strings.Contains(out, "Examples:") {
			t.Errorf("%s --help has no example", cmd)
		}
	}
	if out := ok(t, "", "completion", "bash"); !strings.Contains(out, "spotbridge") {
		t.Error("no completion")
	}
	if out := ok(t, "", "version"); !strings.HasPrefix(out, "spotbridge ") {
		t.Error(out)
	}
}

func TestEveryCatalogueEventCanBeTriggeredAndEveryFixtureIsOne(t *testing.T) {
	for _, e := range catalogueEvents() {
		eventType, operation, _ := strings.Cut(e, " ")
		s, err := fixtureFor(eventType, operation)
		if err != nil {
			t.Error(err)
			continue
		}
		body, err := s.body(newIDs([]step{s}), time.Now(), nil)
		if err != nil {
			t.Error(e, err)
			continue
		}
		env, cause := bridge.ParseEnvelope(body)
		if cause != 0 || env.EventType != eventType || (operation != "" && env.Operation != operation) {
			t.Errorf("%s: became %v %+v", e, cause, env)
		}
	}
	for _, eventType := range fixtureTypes() {
		if !bridge.KnownEventType(eventType) {
			t.Errorf("the fixtures have %s, which the catalogue does not", eventType)
		}
	}
	for name := range lifecycles {
		steps, err := lifecycle(name)
		if err != nil || len(steps) < 4 {
			t.Errorf("%s: %d steps, %v", name, len(steps), err)
		}
	}
}
