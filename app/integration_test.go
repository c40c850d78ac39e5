//go:build integration

package app_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/spotbridge/spotbridge/app"
	"github.com/spotbridge/spotbridge/bridge"
	"github.com/spotbridge/spotbridge/bridge/bridgetest"
	"github.com/spotbridge/spotbridge/bridge/eventlog"
)

// natsServer builds the server from the module that the embedded one comes from.
var natsServer = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "nats-server-test-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "nats-server")
	out, err := exec.Command("go", "build", "-o", path, "github.com/nats-io/nats-server/v2").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build nats-server: %w\n%s", err, out)
	}
	return path, nil
})

// externalServer runs a NATS server in a process of its own, for one test, and returns its URL.
func externalServer(t testing.TB) string {
	t.Helper()
	path, err := natsServer()
	if err != nil {
		t.Fatal(err)
	}
	addr := ports(t, 1)[0]
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "nats.conf")
	conf := fmt.Sprintf("host: 127.0.0.1\nport: %s\nmax_payload: 16MB\njetstream {store_dir: %q, max_file: 16GB, sync_interval: always}\n", port, filepath.Join(dir, "data"))
	if err := os.WriteFile(file, []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, "-c", file)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	eventually(t, func() bool {
		c, err := net.DialTimeout("tcp", addr, time.Second)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	return "nats://" + addr
}

func TestGroupsOnAnExternalServer(t *testing.T) {
	groupSuite(t, func(t testing.TB) app.Config {
		cfg := testConfig(t)
		cfg.Log.URL = externalServer(t)
		return cfg
	})
}

func TestTheLogOnAnExternalServer(t *testing.T) {
	bridgetest.LogSuite(t, func(t *testing.T) bridge.Log {
		l, err := eventlog.Open(t.Context(), eventlog.Config{URL: externalServer(t), Durability: "synced", MaxBytes: 1 << 30, MaxBody: 8 << 20})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(l.Close)
		return l
	})
}
