package app_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/spotbridge/spotbridge/bridge"
	"github.com/spotbridge/spotbridge/bridge/bridgetest"
	"github.com/spotbridge/spotbridge/bridge/bridgetest/samples"
	"github.com/spotbridge/spotbridge/bridge/webhook"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

var binary = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "spotbridge-test-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "spotbridge")
	out, err := exec.Command("go", "build", "-buildvcs=false", "-o", path, "../cmd/spotbridge").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build: %w\n%s", err, out)
	}
	return path, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if path, err := binary(); err == nil {
		_ = os.RemoveAll(filepath.Dir(path))
	}
	os.Exit(code)
}

// process is the real binary.
type process struct {
	cmd  *exec.Cmd
	log  *bytes.Buffer
	done chan error
}

// ports returns free ports. They stay the same over the restarts of a test, as an operator's would.
func ports(t testing.TB, n int) []string {
	t.Helper()
	var out []string
	var hold []net.Listener
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		hold = append(hold, l)
		out = append(out, l.Addr().String())
	}
	for _, l := range hold {
		l.Close()
	}
	return out
}

func spawn(t testing.TB, dir string, addrs []string) *process {
	t.Helper()
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "spotbridge.yaml")
	yaml := fmt.Sprintf(`data_dir: %s
listen: {webhook: %q, rest: %q, grpc: %q, admin: %q}
sources:
  - {name: sandbox, secrets: [%q], max_age: off}
log: {max_bytes: 2GiB, reserve: 1MiB}
logging: {level: warn}
`, filepath.Join(dir, "data"), addrs[0], addrs[1], addrs[2], addrs[3], samples.Secrets()[0])
	if err := os.WriteFile(file, []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	p := &process{cmd: exec.Command(path, "serve", "--config", file), log: &bytes.Buffer{}, done: make(chan error, 1)}
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { p.done <- p.cmd.Wait() }()
	t.Cleanup(func() { _ = p.cmd.Process.Kill() })
	eventually(t, func() bool {
		select {
		case err := <-p.done:
			p.done <- err
			t.Fatalf("the process ended: %v\n%s", err, p.log)
		default:
		}
		resp, err := http.Get("http://" + addrs[3] + "/readyz")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
	return p
}

func (p *process) kill(t testing.TB) {
	t.Helper()
	if err := p.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := <-p.done; err == nil {
		t.Fatal("a killed process ended well")
	}
}

func dial(t testing.TB, addr string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// post sends a delivery and returns the answer's status, or an error when it is not known what became of it.
func post(client *http.Client, addr string, secret webhook.Secret, id string, body []byte) (int, string, error) {
	req, err := http.NewRequest(http.MethodPost, "http://"+addr+"/webhooks/sandbox", bytes.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	ts := strconv.FormatInt(time.Now().Unix(), 10)
	req.Header.Set("X-Spotnana-Webhook-Id", id)
	req.Header.Set("X-Spotnana-Webhook-Timestamp", ts)
	req.Header.Set("X-Spotnana-Webhook-Signature", webhook.Sign(secret, id, ts, body))
	resp, err := client.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, "", err
	}
	var answer struct{ Status string }
	_ = json.Unmarshal(b, &answer)
	return resp.StatusCode, answer.Status, nil
}

// TestNothingIsLostWhenTheProcessIsKilled kills the real binary under load. Senders behave as Spotnana does: what was not
// answered 200 is sent again. Afterwards every acknowledged webhook is there once, a subscriber that resumed with its
// cursor has seen each event once and in order, and the projection agrees with the log.
func TestNothingIsLostWhenTheProcessIsKilled(t *testing.T) {
	kills := 5
	if testing.Short() {
		kills = 2
	}
	dir, addrs := t.TempDir(), ports(t, 4)
	secret, err := webhook.ParseSecret(samples.Secrets()[0])
	if err != nil {
		t.Fatal(err)
	}
	p := spawn(t, dir, addrs)

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var acked, stop atomic.Int64
	var senders sync.WaitGroup
	const workers = 8
	ids := make([][]string, workers)
	for w := range workers {
		senders.Go(func() {
			client := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{}}
			defer client.CloseIdleConnections()
			for n := 0; stop.Load() == 0; n++ {
				id := fmt.Sprintf("w%d-%d", w, n)
				body := []byte(bridgetest.PNRBody("BOOKING_UPDATED", "org", fmt.Sprintf("pnr-%d", w), n+1))
				for {
					code, _, err := post(client, addrs[0], secret, id, body)
					if err == nil && code == http.StatusOK {
						break
					}
					if err == nil && code != http.StatusServiceUnavailable {
						t.Errorf("webhook %s: answer %d", id, code)
						return
					}
					select {
					case <-time.After(20 * time.Millisecond): // the source's backoff
					case <-ctx.Done():
						return
					}
				}
				acked.Add(1)
				ids[w] = append(ids[w], id)
			}
		})
	}

	// A subscriber that keeps its cursor.
	var mu sync.Mutex
	seen := map[string]int{}
	var last uint64
	caught := make(chan struct{}, 1)
	var final atomic.Uint64
	conn := dial(t, addrs[2])
	var subscriber sync.WaitGroup
	subscriber.Go(func() {
		req := &pb.SubscribeRequest{Start: pb.Start_START_EARLIEST, View: pb.EventView_EVENT_VIEW_ENVELOPE}
		for ctx.Err() == nil {
			stream, err := pb.NewSubscriptionServiceClient(conn).Subscribe(ctx, req)
			for err == nil {
				var m *pb.SubscribeResponse
				if m, err = stream.Recv(); err != nil {
					break
				}
				if e := m.GetEvent(); e != nil {
					mu.Lock()
					if seen[e.GetId()]++; e.GetSequence() <= last {
						t.Errorf("sequence %d after %d", e.GetSequence(), last)
					}
					last = e.GetSequence()
					mu.Unlock()
				}
				req.AfterCursor, req.Start = m.GetCursor(), pb.Start_START_UNSPECIFIED
				if f := final.Load(); f != 0 && last >= f {
					select {
					case caught <- struct{}{}:
					default:
					}
				}
			}
			select {
			case <-time.After(20 * time.Millisecond): // the client's backoff
			case <-ctx.Done():
			}
		}
	})

	for k := range kills {
		goal := acked.Load() + int64(100+37*k)
		eventually(t, func() bool { return acked.Load() >= goal })
		p.kill(t)
		p = spawn(t, dir, addrs)
	}
	goal := acked.Load() + 50
	eventually(t, func() bool { return acked.Load() >= goal })
	stop.Store(1)
	senders.Wait()

	want := map[string]bool{}
	for _, list := range ids {
		for _, id := range list {
			want[bridge.EventID("sandbox", id)] = true
		}
	}
	// The projection has each once, and nothing else.
	events := pb.NewEventServiceClient(conn)
	eventually(t, func() bool {
		got, err := events.CountEvents(ctx, &pb.CountEventsRequest{})
		return err == nil && got.GetTotal() >= int64(len(want))
	})
	listed := map[string]int{}
	req := &pb.ListEventsRequest{PageSize: 1000, Order: pb.Order_ORDER_OLDEST_FIRST, View: pb.EventView_EVENT_VIEW_ENVELOPE}
	var head uint64
	for {
		page, err := events.ListEvents(ctx, req)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range page.GetEvents() {
			listed[e.GetId()]++
			head = e.GetSequence()
		}
		if req.PageToken = page.GetNextPageToken(); req.PageToken == "" {
			break
		}
	}
	final.Store(head)
	<-time.After(time.Millisecond)
	mu.Lock()
	done := last >= head
	mu.Unlock()
	if !done {
		select {
		case <-caught:
		case <-time.After(60 * time.Second):
			t.Fatal("the subscriber did not reach the head")
		}
	}
	cancel()
	subscriber.Wait()
	for id := range want {
		if listed[id] != 1 || seen[id] != 1 {
			t.Fatalf("%s: %d times in the history, %d times on the stream", id, listed[id], seen[id])
		}
	}
	if len(listed) != len(want) || len(seen) != len(want) {
		t.Fatalf("%d acknowledged, %d in the history, %d on the stream", len(want), len(listed), len(seen))
	}
	t.Logf("%d webhooks over %d kills: each once", len(want), kills)

	// The log itself agrees.
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := <-p.done; err != nil {
		t.Fatalf("exit: %v\n%s", err, p.log)
	}
	l := bridgetest.OpenLog(t, filepath.Join(dir, "data", "log"))
	defer l.Close()
	st, err := l.State(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	inLog := map[string]int{}
	for _, e := range bridgetest.Follow(t, l, 0, int(st.Entries), bridge.FollowOptions{HeadersOnly: true}) {
		inLog[e.EventID]++
	}
	for id := range want {
		if inLog[id] != 1 {
			t.Fatalf("%s stands %d times in the log", id, inLog[id])
		}
	}
}

// TestSIGTERMDrains: not ready, the door answers 503, streams get goodbye and end well, everything taken is kept, and the
// process ends with 0 within 10 s.
func TestSIGTERMDrains(t *testing.T) {
	dir, addrs := t.TempDir(), ports(t, 4)
	p := spawn(t, dir, addrs)
	secret, err := webhook.ParseSecret(samples.Secrets()[0])
	if err != nil {
		t.Fatal(err)
	}
	stream, err := pb.NewSubscriptionServiceClient(dial(t, addrs[2])).Subscribe(t.Context(), &pb.SubscribeRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	sse, err := http.Get("http://" + addrs[1] + "/v1/events:subscribe?heartbeat_interval=5s")
	if err != nil {
		t.Fatal(err)
	}
	defer sse.Body.Close()

	// Load until the door is shut: every answer is 200, 503, or a connection that the closed listener refused.
	var accepted atomic.Int64
	var senders sync.WaitGroup
	for w := range 4 {
		senders.Go(func() {
			client := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{}}
			defer client.CloseIdleConnections()
			for n := 0; ; n++ {
				code, _, err := post(client, addrs[0], secret, fmt.Sprintf("d%d-%d", w, n), []byte(bridgetest.PNRBody("X", "o", "p", n)))
				switch {
				case err != nil:
					var op *net.OpError
					if !errors.As(err, &op) && !errors.Is(err, io.EOF) && !strings.Contains(err.Error(), "EOF") {
						t.Errorf("a delivery during the drain: %v", err)
					}
					return
				case code == http.StatusOK:
					accepted.Add(1)
				case code == http.StatusServiceUnavailable:
				default:
					t.Errorf("answer %d", code)
					return
				}
			}
		})
	}
	eventually(t, func() bool { return accepted.Load() > 100 })
	start := time.Now()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	goodbye := false
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("the stream ended with %v, want OK", err)
		}
		if g := m.GetGoodbye(); g != nil {
			goodbye = g.GetReason() == pb.GoodbyeReason_GOODBYE_REASON_DRAIN
		}
	}
	if !goodbye {
		t.Error("no goodbye before the end of the stream")
	}
	found := false
	for s := bufio.NewScanner(sse.Body); s.Scan(); {
		found = found || strings.Contains(s.Text(), "GOODBYE_REASON_DRAIN")
	}
	if !found {
		t.Error("no goodbye on the REST stream")
	}
	select {
	case err := <-p.done:
		if err != nil {
			t.Errorf("exit: %v\n%s", err, p.log)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the process did not end within 10 s")
	}
	t.Logf("drained in %v", time.Since(start).Round(time.Millisecond))
	senders.Wait()

	l := bridgetest.OpenLog(t, filepath.Join(dir, "data", "log"))
	defer l.Close()
	st, err := l.State(t.Context())
	if err != nil || st.Entries < uint64(accepted.Load()) {
		t.Fatalf("%d accepted, %d in the log, %v", accepted.Load(), st.Entries, err)
	}
}
