package eventlog_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/spotbridge/spotbridge/bridge"
	"github.com/spotbridge/spotbridge/bridge/bridgetest"
	"github.com/spotbridge/spotbridge/bridge/eventlog"
)

func TestEmbeddedLog(t *testing.T) {
	bridgetest.LogSuite(t, func(t *testing.T) bridge.Log { return bridgetest.NewLog(t) })
}

func TestIdentityAndEntriesSurviveARestart(t *testing.T) {
	dir := t.TempDir()
	l := bridgetest.OpenLog(t, dir)
	id := l.ID()
	for i := range 5 {
		if _, err := l.Append(t.Context(), bridgetest.Entry("s", fmt.Sprint(i), "{}")); err != nil {
			t.Fatal(err)
		}
	}
	l.Close()
	l = bridgetest.OpenLog(t, dir)
	defer l.Close()
	if l.ID() != id {
		t.Fatal("the log has another identity after a restart")
	}
	if got := bridgetest.Follow(t, l, 0, 5, bridge.FollowOptions{}); got[4].Sequence != 5 {
		t.Fatalf("%+v", got[4])
	}
}

// external runs a NATS server of its own with a listener, as an operator would.
func external(t *testing.T, change func(*server.Options)) string {
	t.Helper()
	opts := &server.Options{
		Host: "127.0.0.1", Port: -1, NoSigs: true, JetStream: true, StoreDir: t.TempDir(), SyncAlways: true, MaxPayload: 9 << 20,
		JetStreamMaxStore: 4 << 30, JetStreamMaxMemory: 1 << 20,
	}
	change(opts)
	ns, err := server.NewServer(opts)
	if err != nil {
		t.Fatal(err)
	}
	ns.Start()
	t.Cleanup(func() { ns.Shutdown(); ns.WaitForShutdown() })
	return ns.ClientURL()
}

func TestExternalLog(t *testing.T) {
	bridgetest.LogSuite(t, func(t *testing.T) bridge.Log {
		url := external(t, func(*server.Options) {})
		l, err := eventlog.Open(t.Context(), eventlog.Config{URL: url, MaxBytes: 1 << 30, MaxBody: 8 << 20})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(l.Close)
		return l
	})
}

func TestUnfitServersAreRefusedWithTheRemedy(t *testing.T) {
	for _, tt := range []struct {
		name, want string
		change     func(*server.Options)
	}{
		{"no JetStream", "enable jetstream", func(o *server.Options) { o.JetStream = false }},
		{"small max_payload", "raise max_payload", func(o *server.Options) { o.MaxPayload = 1 << 20 }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := eventlog.Open(t.Context(), eventlog.Config{URL: external(t, tt.change), MaxBytes: 1 << 30, MaxBody: 8 << 20})
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("got %v, want something with %q", err, tt.want)
			}
		})
	}
}

func TestALogBelowItsReserveIsUnhealthyAndNamesTheRemedy(t *testing.T) {
	l, err := eventlog.Open(t.Context(), eventlog.Config{Dir: filepath.Join(t.TempDir(), "log"), MaxBytes: 1 << 30, MaxBody: 1 << 20, Reserve: 1 << 60})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := l.Healthy(); err == nil || !strings.Contains(err.Error(), "free some space") {
		t.Fatal(err)
	}
}

func TestTheOldestEntriesGoFirst(t *testing.T) {
	dir := t.TempDir()
	open := func() *eventlog.Log {
		l, err := eventlog.Open(t.Context(), eventlog.Config{Dir: dir, MaxBytes: 64 << 10, MaxBody: 1 << 20, Reserve: 1})
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	l := open()
	for i := range 20 {
		if _, err := l.Append(t.Context(), bridgetest.Entry("s", fmt.Sprint(i), strings.Repeat("x", 10<<10))); err != nil {
			t.Fatal(err)
		}
	}
	l.Close() // while it is open, it may hand out the newest entries longer than it holds them
	l = open()
	defer l.Close()
	st, err := l.State(t.Context())
	if err != nil || st.Floor < 10 || st.Head != 20 {
		t.Fatalf("%+v, %v", st, err)
	}
	if got := bridgetest.Follow(t, l, 0, 1, bridge.FollowOptions{}); got[0].Sequence != st.Floor {
		t.Fatalf("first entry %d, floor %d", got[0].Sequence, st.Floor)
	}
}
