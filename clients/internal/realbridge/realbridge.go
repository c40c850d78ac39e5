// Package realbridge starts the built bridge for tests of clients: a process of its own, on free ports, with the sample
// deliveries in it.
package realbridge

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/spotbridge/spotbridge/bridge/bridgetest/samples"
)

// Bridge is a running bridge.
type Bridge struct {
	// Dir is its data folder.
	Dir string
	// Addresses of its listeners, host:port.
	Webhook, REST, GRPC, Admin string
	// Events is how many there are: the samples.
	Events int
}

// Root is the folder of the repository.
func Root() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(file), "../../..")
}

// Start starts .bin/spotbridge and returns when history has all samples and one refused delivery. The test's end stops it.
func Start(t testing.TB) *Bridge {
	t.Helper()
	b := &Bridge{Dir: t.TempDir()}
	cmd := exec.Command(filepath.Join(Root(), ".bin/spotbridge"), "dev", "--once", "--rate", "500")
	cmd.Env = append(os.Environ(), "SPOTBRIDGE_DATA_DIR="+b.Dir)
	for _, l := range []string{"WEBHOOK", "REST", "GRPC", "ADMIN"} {
		cmd.Env = append(cmd.Env, "SPOTBRIDGE_LISTEN_"+l+"=127.0.0.1:0")
	}
	var stdout, stderr Output
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Start(); err != nil {
		t.Fatalf("%v; make build makes it", err)
	}
	ended := make(chan error, 1)
	go func() {
		err := cmd.Wait()
		stdout.End()
		ended <- err
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := <-ended; err != nil {
			t.Errorf("the bridge ended with %v:\n%s", err, stderr.String())
		}
	})
	stdout.Await(t, "the samples are sent", func(out string) bool { return strings.Contains(out, "all samples sent") })
	for name, to := range map[string]*string{"webhook": &b.Webhook, "rest": &b.REST, "grpc": &b.GRPC, "admin": &b.Admin} {
		m := regexp.MustCompile(`msg=listening .*\b` + name + `=(\S+)`).FindStringSubmatch(stderr.String())
		if m == nil {
			t.Fatalf("no address of %s in\n%s", name, stderr.String())
		}
		*to = m[1]
	}
	b.refuseOne(t)
	b.awaitHistory(t)
	return b
}

// refuseOne sends a delivery that the door turns away, so that there is one to show.
func (b *Bridge) refuseOne(t testing.TB) {
	t.Helper()
	resp, err := http.Post("http://"+b.Webhook+"/webhooks/sandbox", "application/json", strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusUnauthorized {
		t.Fatalf("an unsigned delivery got %s", resp.Status)
	}
}

func (b *Bridge) awaitHistory(t testing.TB) {
	t.Helper()
	ids := map[string]bool{}
	for _, d := range samples.Deliveries() {
		ids[d.WebhookID()] = true
	}
	b.Events = len(ids)
	deadline := time.Now().Add(20 * time.Second)
	for {
		var count struct{ Total string }
		var refused struct{ Deliveries []any }
		b.Get(t, "/v1/events:count", &count)
		b.Get(t, "/v1/deliveries?outcomes=REFUSED", &refused)
		if count.Total == fmt.Sprint(b.Events) && len(refused.Deliveries) == 1 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("history has %q events and %d refused deliveries, want %d and 1", count.Total, len(refused.Deliveries), b.Events)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// Get reads the JSON of a path of REST.
func (b *Bridge) Get(t testing.TB, path string, into any) {
	t.Helper()
	resp, err := http.Get("http://" + b.REST + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s %v %s", path, resp.Status, err, text)
	}
	if err := json.Unmarshal(text, into); err != nil {
		t.Fatalf("%s: %v in %s", path, err, text)
	}
}

// Forget deletes a consumer group if there is one.
func (b *Bridge) Forget(t testing.TB, group string) {
	t.Helper()
	req, err := http.NewRequest(http.MethodDelete, fmt.Sprintf("http://%s/v1/groups/%s?force=true", b.REST, group), nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusNotFound {
		t.Fatalf("delete group %s: %s", group, resp.Status)
	}
}
