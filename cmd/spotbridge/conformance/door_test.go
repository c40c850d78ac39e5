package conformance

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/spotbridge/spotbridge/app"
	"github.com/spotbridge/spotbridge/bridge/bridgetest/samples"
	"github.com/spotbridge/spotbridge/bridge/webhook"
)

// tryDoor runs the checks and returns the names of those that failed.
func tryDoor(t *testing.T, url string, args ...string) (failed []string, passed int) {
	t.Helper()
	var out bytes.Buffer
	cmd := New()
	cmd.SetArgs(append([]string{"door", "--url", url, "--secret", samples.Secrets()[0], "--json"}, args...))
	cmd.SetOut(&out)
	cmd.SetErr(io.Discard)
	cmd.SilenceUsage, cmd.SilenceErrors = true, true
	err := cmd.ExecuteContext(t.Context())
	for line := range strings.Lines(out.String()) {
		var x result
		if json.Unmarshal([]byte(line), &x) != nil || x.Result == "" {
			continue
		}
		if x.Result == pass {
			passed++
			continue
		}
		failed = append(failed, x.Scenario)
		t.Log(strings.TrimSpace(line))
	}
	if (err != nil) != (len(failed) > 0) {
		t.Fatalf("%v with %v", err, failed)
	}
	return failed, passed
}

func TestTheDoorOfTheBridgePassesStrictly(t *testing.T) {
	t.Parallel()
	cfg := app.DefaultConfig()
	cfg.DataDir = t.TempDir()
	cfg.Listen = app.ListenConfig{Webhook: "127.0.0.1:0", REST: "127.0.0.1:0", GRPC: "127.0.0.1:0", Admin: "127.0.0.1:0"}
	source := app.Source{Name: "sandbox", RequireHeaders: map[string]app.Secret{"X-Partner-Key": "let me in"}}
	for _, s := range samples.Secrets() {
		source.Secrets = append(source.Secrets, app.Secret(s))
	}
	off, small := app.Duration(0), app.Size(256<<10)
	ageless := source
	ageless.Name, ageless.MaxAge, ageless.MaxBody = "any-time", &off, &small
	cfg.Sources = []app.Source{source, ageless}
	cfg.Log.MaxBytes, cfg.Log.Reserve = 1<<30, 1
	a, err := app.New(t.Context(), cfg, app.Options{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	<-a.Ready()
	url := "http://" + a.WebhookAddr() + "/webhooks/"
	all := len(doorChecks())
	if failed, passed := tryDoor(t, url+"sandbox", "--strict", "--secret", samples.Secrets()[1], "--header", "X-Partner-Key: let me in"); failed != nil || passed != all {
		t.Errorf("%v failed, %d of %d passed", failed, passed, all)
	}
	// Without a window and the second secret five checks make no sense.
	if failed, passed := tryDoor(t, url+"any-time", "--strict", "--max-age", "off", "--max-body", "256KiB", "--header", "X-Partner-Key:let me in"); failed != nil || passed != all-5 {
		t.Errorf("%v failed, %d of %d passed", failed, passed, all-5)
	}
	// Without the required header nothing comes in, and what is to be refused is.
	if failed, _ := tryDoor(t, url+"sandbox", "--only", "signed,duplicate,wrong-signature,no-id"); !slices.Equal(failed, []string{"signed", "duplicate"}) {
		t.Errorf("%v failed", failed)
	}
}

// receiver is a small front door of somebody else's. Its faults are what people get wrong.
type receiver struct{ fault string }

func (v receiver) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	secret, _ := webhook.ParseSecret(samples.Secrets()[0])
	id, stamp, signatures := r.Header.Get(webhook.HeaderID), r.Header.Get(webhook.HeaderTimestamp), r.Header.Get(webhook.HeaderSignature)
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 256<<10))
	seconds, numeric := strconv.ParseInt(stamp, 10, 64)
	age := time.Since(time.Unix(seconds, 0))
	var event struct {
		Type   string `json:"event_type"`
		Camel  string `json:"eventType"`
		Action string `json:"operation"`
	}
	switch {
	case r.Method != http.MethodPost && v.fault != "any-method":
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	case err != nil:
		w.WriteHeader(http.StatusRequestEntityTooLarge)
		return
	case v.fault == "no-signature":
	case v.fault == "whole-header" && webhook.Sign(secret, id, stamp, body) != signatures, v.fault != "whole-header" && !webhook.Verify([]webhook.Secret{secret}, id, stamp, signatures, body):
		w.WriteHeader(http.StatusUnauthorized)
		return
	case v.fault != "no-window" && (numeric != nil || age > 15*24*time.Hour || age < -5*time.Minute):
		w.WriteHeader(http.StatusUnauthorized)
		return
	case v.fault == "short-window" && age > 5*time.Minute:
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	err = json.Unmarshal(body, &event)
	switch {
	case v.fault == "created":
		w.WriteHeader(http.StatusCreated)
	case v.fault == "redirects":
		http.Redirect(w, r, "/elsewhere", http.StatusFound)
	case err != nil && v.fault == "500":
		w.WriteHeader(http.StatusInternalServerError)
	case err != nil:
		w.WriteHeader(http.StatusBadRequest)
	case v.fault == "closed-list" && !strings.Contains("BOOKING_TICKETED BOOKING_UPDATED", event.Action):
		w.WriteHeader(http.StatusUnprocessableEntity)
	case v.fault == "snake-only" && event.Type == "":
		w.WriteHeader(http.StatusBadRequest)
	}
}

func TestReceiversOfOthers(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		fault string
		fails []string
	}{
		{"", nil},
		{"no-signature", []string{
			"wrong-signature", "altered-body", "altered-id", "altered-timestamp", "reformatted-body", "text-as-key", "rotated-none", "no-id", "no-timestamp", "no-signature",
			"empty-signature", "no-headers", "too-old", "too-far-ahead", "timestamp-text", "timestamp-millis",
		}},
		{"whole-header", []string{"rotated-first", "rotated-last", "v1-prefix"}},
		{"no-window", []string{"too-old", "too-far-ahead", "timestamp-text", "timestamp-millis"}},
		{"short-window", []string{"old"}},
		{"any-method", []string{"wrong-method"}},
		{"closed-list", []string{"unknown-type", "unknown-operation"}},
		{"snake-only", []string{"camel-case"}},
		{"500", []string{"bom", "malformed", "not-json", "empty-body", "array", "two-documents", "type-no-text", "utf-16"}},
	} {
		t.Run("fault "+tt.fault, func(t *testing.T) {
			t.Parallel()
			s := httptest.NewServer(receiver{tt.fault})
			defer s.Close()
			if failed, _ := tryDoor(t, s.URL, "--max-body", "256KiB"); !slices.Equal(failed, tt.fails) {
				t.Errorf("%v failed, want %v", failed, tt.fails)
			}
		})
	}
	for _, fault := range []string{"created", "redirects"} {
		s := httptest.NewServer(receiver{fault})
		if failed, _ := tryDoor(t, s.URL, "--only", "signed,wrong-signature"); !slices.Equal(failed, []string{"signed"}) {
			t.Errorf("%s: %v failed", fault, failed)
		}
		s.Close()
	}
	s := httptest.NewServer(receiver{})
	defer s.Close()
	if failed, _ := tryDoor(t, s.URL, "--strict", "--only", "signed,malformed,duplicate"); !slices.Equal(failed, []string{"signed", "duplicate", "malformed"}) {
		t.Errorf("%v failed", failed)
	}
}

func TestDoorsThatCannotBeTried(t *testing.T) {
	for want, args := range map[string][]string{
		"give the address of the door":     {"--secret", samples.Secrets()[0]},
		"give the signing secret":          {"--url", "http://127.0.0.1:1/"},
		"whsec_":                           {"--url", "http://127.0.0.1:1/", "--secret", "nonsense"},
		"--max-age":                        {"--url", "http://127.0.0.1:1/", "--max-age", "long"},
		"--max-body":                       {"--url", "http://127.0.0.1:1/", "--max-body", "large"},
		"--header":                         {"--url", "http://127.0.0.1:1/", "--header", "nonsense"},
		"--only: there is no check nobody": {"--url", "http://127.0.0.1:1/", "--only", "signed,nobody"},
	} {
		cmd := New()
		cmd.SetArgs(append([]string{"door"}, args...))
		cmd.SetOut(io.Discard)
		cmd.SilenceUsage, cmd.SilenceErrors = true, true
		if err := cmd.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, want something with %q", args, err, want)
		}
	}
	if failed, _ := tryDoor(t, "http://127.0.0.1:1/", "--only", "signed"); !slices.Equal(failed, []string{"signed"}) {
		t.Errorf("nobody listens, and %v failed", failed)
	}
}
