//go:build clients

package compare

import (
	"bytes"
	"cmp"
	"context"
	"database/sql" //nolint:depguard // to see how far a client is without starting it once more
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/encoding/protojson"
	_ "modernc.org/sqlite" //nolint:depguard // the driver; as above

	"github.com/spotbridge/spotbridge/bridge/bridgetest/samples"
	"github.com/spotbridge/spotbridge/bridge/webhook" //nolint:depguard // it signs, as Spotnana would
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

const (
	source = "sandbox"
	// sendTime is how long the deliveries take, so that kills fall among them.
	sendTime = 35 * time.Second
	// runTime bounds everything between the start of the bridge and the end of the last client.
	runTime = 150 * time.Second
	// commandTime bounds a single command, a start and an end of the bridge.
	commandTime = 20 * time.Second
	// endTime is what a client has to end in order.
	endTime = 10 * time.Second

	bridgeKills, clientKills = 3, 4
)

// client is a program that keeps a table of expenses.
type client struct {
	program
	db, group string // group is empty for those that keep a cursor
	launcher  string // in the folder of the clients; the Go one is built by the test
}

// clientList returns all clients; they are the table of ../README.md.
func clientList() []*client {
	return []*client{
		{program: program{name: "python"}, launcher: "python/expense-feed"},
		{program: program{name: "typescript"}, launcher: "typescript/expense-feed"},
		{program: program{name: "java"}, launcher: "java/expense-feed", group: "expenses-java"},
		{program: program{name: "rust"}, launcher: "rust/expense-feed", group: "expenses-rust"},
		{program: program{name: "go"}},
	}
}

// TestClientsAgree sends every sample and some hundred deliveries made from them to a real bridge, while the bridge and
// every client are killed at random points and started again. In the end every client has processed each event once, ends
// in order, and has the table of the reference.
func TestClientsAgree(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("SPOTBRIDGE_CLIENTS_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("SPOTBRIDGE_CLIENTS_SEED: %v", err)
		}
	}
	t.Logf("seed: SPOTBRIDGE_CLIENTS_SEED=%d", seed)
	random := rand.New(rand.NewPCG(seed, 0))

	h := newHarness(t)
	if len(h.clients) == 0 {
		t.Skip("there is no client to run")
	}
	m := &maker{t: t, r: random}
	deliveries, late := m.make()
	want := newReference()
	for _, d := range deliveries {
		if err := want.add(source, d.webhookID, d.body); err != nil {
			t.Fatal(err)
		}
	}
	table := want.dump()
	t.Logf("%d deliveries, %d events to process, %d tickets: %d issued, %d voided, %d refunded", len(deliveries)+len(late), len(want.processed),
		len(want.facts), strings.Count(table, "\tISSUED\t"), strings.Count(table, "\tVOIDED\t"), strings.Count(table, "\tREFUNDED\t"))

	ctx, cancel := context.WithTimeout(t.Context(), runTime)
	defer cancel()
	h.run(ctx, random, deliveries, late, len(want.processed))
	if t.Failed() {
		return
	}
	for _, c := range h.clients {
		t.Run(c.name, func(t *testing.T) {
			c.compare(t, table, want.ids())
			if t.Failed() {
				t.Logf("end of the log:\n%s", c.tail(40))
			}
		})
	}
}

// harness has the bridge and the clients.
type harness struct {
	t       testing.TB
	root    string // of the repository
	dir     string
	reaper  *reaper
	bridge  *program
	clients []*client

	door, rest, grpc, admin string
}

func newHarness(t *testing.T) *harness {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "spotbridge-clients-") // the reaper removes it
	if err != nil {
		t.Fatal(err)
	}
	h := &harness{t: t, root: root, dir: dir, reaper: startReaper(t, dir)}
	addrs := freeAddresses(t, 4)
	h.door, h.rest, h.grpc, h.admin = addrs[0], addrs[1], addrs[2], addrs[3]

	chosen := os.Getenv("SPOTBRIDGE_CLIENTS")
	names := strings.FieldsFunc(chosen, func(r rune) bool { return r == ',' || r == ' ' })
	for _, c := range clientList() {
		if chosen != "" && !slices.Contains(names, c.name) {
			continue
		}
		names = slices.DeleteFunc(names, func(n string) bool { return n == c.name })
		h.prepare(t, c)
	}
	if len(names) > 0 {
		t.Fatalf("SPOTBRIDGE_CLIENTS names clients that there are not: %q", names)
	}
	h.bridge = h.newBridge()
	return h
}

// prepare adds a client, when it can be run.
func (h *harness) prepare(t *testing.T, c *client) {
	var err error
	if c.launcher == "" {
		if c.path, err = h.build("go-feed", "./clients/go"); err != nil {
			t.Fatal(err) // it needs no more than this test does
		}
	} else {
		c.path, err = exec.LookPath(filepath.Join(h.root, "clients", c.launcher))
	}
	c.dir = filepath.Join(h.dir, c.name)
	if err == nil {
		err = os.Mkdir(c.dir, 0o700)
	}
	c.log, c.reaper, c.db = h.logFile(c.name), h.reaper, filepath.Join(c.dir, "expenses.db")
	// The first answer to an empty table says whether it runs here at all.
	c.env = []string{"EXPENSES_DB=" + filepath.Join(c.dir, "probe.db")}
	if err == nil {
		var out string
		if out, err = c.output(t, "dump"); err == nil && out != "" {
			err = fmt.Errorf("dump of nothing prints %q", out)
		}
	}
	if err != nil {
		t.Run(c.name+" can be run", func(t *testing.T) {
			if os.Getenv("SPOTBRIDGE_CLIENTS_REQUIRED") == "1" {
				t.Fatalf("it is required: %v", err)
			}
			t.Skipf("%s is not part of this run (its setup.sh builds it): %v", c.name, err)
		})
		return
	}
	c.env = []string{
		"EXPENSES_DB=" + c.db, "SPOTBRIDGE_GRPC=" + h.grpc, "SPOTBRIDGE_REST=http://" + h.rest, "SPOTBRIDGE_GROUP=" + c.group, "SPOTBRIDGE_HEARTBEAT=5s",
	}
	h.clients = append(h.clients, c)
}

// newBridge finds or builds the bridge and writes its configuration. The addresses stay the same over its restarts.
func (h *harness) newBridge() *program {
	path := os.Getenv("SPOTBRIDGE_BIN")
	switch {
	case path == "":
		var err error
		if path, err = h.build("spotbridge", "./cmd/spotbridge"); err != nil {
			h.t.Fatal(err)
		}
	case !filepath.IsAbs(path):
		path = filepath.Join(h.root, path)
	}
	file := filepath.Join(h.dir, "spotbridge.yaml")
	// The samples are of March 2026: no timestamp is too old here.
	text := fmt.Sprintf(`data_dir: %q
listen: {webhook: %q, rest: %q, grpc: %q, admin: %q}
sources:
  - {name: %s, secrets: [%q], max_age: off}
log: {max_bytes: 2GiB, reserve: 1MiB}
`, filepath.Join(h.dir, "data"), h.door, h.rest, h.grpc, h.admin, source, samples.Secrets()[0])
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		h.t.Fatal(err)
	}
	return &program{name: "bridge", path: path, args: []string{"serve", "--config", file}, dir: h.dir, log: h.logFile("bridge"), reaper: h.reaper}
}

func (h *harness) build(name, pkg string) (string, error) {
	path := filepath.Join(h.dir, name)
	cmd := exec.Command("go", "build", "-buildvcs=false", "-o", path, pkg)
	cmd.Dir = h.root
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w: %s", pkg, err, bytes.TrimSpace(out))
	}
	return path, nil
}

func (h *harness) logFile(name string) *os.File {
	f, err := os.OpenFile(filepath.Join(h.dir, name+".log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { f.Close() })
	return f
}

// freeAddresses returns addresses that nobody listens on. They lie below the ports that the system gives to outgoing
// connections: one of those, of anybody, must not take the place of the bridge while that is restarted.
func freeAddresses(t testing.TB, n int) (out []string) {
	for range 1000 {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 10240+rand.IntN(32768-10240)))
		if err != nil {
			continue
		}
		defer l.Close()
		if out = append(out, l.Addr().String()); len(out) == n {
			return out
		}
	}
	t.Fatal("there are no free ports")
	return nil
}

// run is the whole story, up to the end of every process. Its failures are the test's, with the ends of all logs.
func (h *harness) run(ctx context.Context, random *rand.Rand, deliveries, late []delivery, events int) {
	t := h.t
	defer func() {
		for _, p := range h.programs() {
			if p.cmd != nil && !p.ended() {
				p.kill()
			}
		}
		if t.Failed() {
			for _, p := range h.programs() {
				t.Logf("end of the log of %s:\n%s", p.name, p.tail(40))
			}
		}
	}()
	if err := h.startBridge(ctx); err != nil {
		t.Error(err)
		return
	}
	for _, c := range h.clients {
		err := h.createGroup(ctx, c.group)
		if err == nil {
			err = c.start()
		}
		if err != nil {
			t.Error(err)
			return
		}
	}
	if err := h.sendAndKill(ctx, random, deliveries, late); err != nil {
		t.Error(err)
		return
	}
	if err := h.awaitClients(ctx, events); err != nil {
		t.Error(err)
		return
	}
	var wg sync.WaitGroup
	for _, c := range h.clients {
		wg.Go(func() {
			if err := c.terminate(endTime); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, c := range h.clients {
		if s, err := h.group(ctx, c.group); err != nil || len(s.GetMembers()) > 0 || s.GetLagEvents() > 0 || s.GetDeadLetters() > 0 {
			t.Errorf("%s ended and its group is not as it should be: %v, %v", c.name, s, err)
		}
	}
	if err := h.bridge.terminate(commandTime); err != nil {
		t.Error(err)
	}
}

func (h *harness) programs() (out []*program) {
	out = append(out, h.bridge)
	for _, c := range h.clients {
		out = append(out, &c.program)
	}
	return out
}

func (h *harness) startBridge(ctx context.Context) error {
	if err := h.bridge.start(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, commandTime)
	defer cancel()
	return until(ctx, "the bridge to be ready", func() (bool, error) {
		if h.bridge.ended() {
			return false, fmt.Errorf("the bridge ended: %w", h.bridge.err)
		}
		_, err := h.get(ctx, "http://"+h.admin+"/readyz")
		return err == nil, nil
	})
}

// get returns the body of an answer that is 200.
func (h *harness) get(ctx context.Context, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, b)
	}
	return b, err
}

// until asks again and again until the answer is yes.
func until(ctx context.Context, what string, is func() (bool, error)) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		if ok, err := is(); err != nil || ok {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w", what, ctx.Err())
		}
	}
}

// createGroup creates a consumer group as an operator would. Its deadline is short: what a member of a killed bridge held
// comes back only after it.
func (h *harness) createGroup(ctx context.Context, group string) error {
	if group == "" {
		return nil
	}
	cmd := exec.CommandContext(ctx, h.bridge.path, "groups", "create", group, "--server", h.grpc, "--type", "PNR_V3",
		"--operation", "BOOKING_TICKETED,TICKET_VOIDED,TICKET_REFUNDED", "--start", "earliest", "--view", "typed", "--ack-deadline", "5s")
	cmd.Env = h.bridge.environment()
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("groups create %s: %w: %s", group, err, bytes.TrimSpace(out))
	}
	return nil
}

// group returns the state of a consumer group; of none, an empty one.
func (h *harness) group(ctx context.Context, name string) (*pb.ConsumerGroupState, error) {
	if name == "" {
		return nil, nil
	}
	b, err := h.get(ctx, "http://"+h.rest+"/v1/groups/"+name)
	if err != nil {
		return nil, err
	}
	var r pb.GetConsumerGroupResponse
	err = protojson.Unmarshal(b, &r)
	return r.GetGroup().GetState(), err
}

// kill says that a program is killed when so many deliveries are stored, and a little later.
type kill struct {
	at    int64
	after time.Duration
	of    *program
}

// sendAndKill sends while it kills one program after the other. Then it cuts the power of all of them, and sends the rest.
func (h *harness) sendAndKill(ctx context.Context, random *rand.Rand, deliveries, late []delivery) error {
	before := len(deliveries) * 9 / 10
	var kills []kill
	for _, p := range h.programs() {
		n := clientKills
		if p == h.bridge {
			n = bridgeKills
		}
		for range n {
			after := time.Duration(random.Int64N(int64(300 * time.Millisecond)))
			kills = append(kills, kill{random.Int64N(int64(before)), after, p})
		}
	}
	slices.SortStableFunc(kills, func(a, b kill) int { return cmp.Compare(a.at, b.at) })

	var stored atomic.Int64
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return h.send(gctx, deliveries[:before], sendTime, &stored) })
	g.Go(func() error {
		for _, k := range kills {
			err := until(gctx, "deliveries", func() (bool, error) { return stored.Load() >= k.at, h.checkAlive() })
			if err == nil {
				err = h.kill(gctx, k)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err := g.Wait(); err != nil {
		return err
	}
	for _, p := range h.programs() {
		p.kill()
	}
	// The bridge last: clients have to bear that it is not there yet.
	for _, c := range h.clients {
		if err := c.start(); err != nil {
			return err
		}
	}
	if err := h.startBridge(ctx); err != nil {
		return err
	}
	for _, rest := range [][]delivery{deliveries[before:], late} {
		if err := h.send(ctx, rest, time.Second, &stored); err != nil {
			return err
		}
	}
	return nil
}

// kill kills a program and starts it again.
func (h *harness) kill(ctx context.Context, k kill) error {
	select {
	case <-time.After(k.after): // the other half of the randomness
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if err := h.checkAlive(); err != nil {
		return err
	}
	k.of.kill()
	if k.of == h.bridge {
		h.t.Logf("killed the bridge after %d deliveries", k.at)
		return h.startBridge(ctx)
	}
	for _, c := range h.clients {
		if k.of == &c.program {
			n, err := c.count(ctx)
			if err != nil {
				return fmt.Errorf("%s: its table cannot be read after it was killed: %w", c.name, err)
			}
			h.t.Logf("killed %s after %d deliveries, when it had processed %d events", c.name, k.at, n)
		}
	}
	return k.of.start()
}

// checkAlive wants every program to run that was not killed.
func (h *harness) checkAlive() error {
	for _, p := range h.programs() {
		if p.ended() {
			return fmt.Errorf("%s ended by itself: %v", p.name, p.cmd.ProcessState)
		}
	}
	return nil
}

// send posts deliveries, spread over a time, as Spotnana does: what is not answered 200 is sent again.
func (h *harness) send(ctx context.Context, deliveries []delivery, over time.Duration, stored *atomic.Int64) error {
	secret, err := webhook.ParseSecret(samples.Secrets()[0])
	if err != nil {
		return err
	}
	pace := time.NewTicker(over / time.Duration(len(deliveries)))
	defer pace.Stop()
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(4)
	for _, d := range deliveries {
		select {
		case <-pace.C:
		case <-ctx.Done():
			return cmp.Or(g.Wait(), context.Cause(ctx))
		}
		g.Go(func() error {
			err := until(ctx, "an answer of the door", func() (bool, error) { return h.post(ctx, secret, d) })
			if err == nil {
				stored.Add(1)
			}
			return err
		})
	}
	return g.Wait()
}

// post reports whether a delivery is stored. What the source would not send again is an error.
func (h *harness) post(ctx context.Context, secret webhook.Secret, d delivery) (bool, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+h.door+"/webhooks/"+source, bytes.NewReader(d.body))
	if err != nil {
		return false, err
	}
	timestamp := strconv.FormatInt(time.Now().Unix(), 10)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-Spotnana-Webhook-Id", d.webhookID)
	req.Header.Set("X-Spotnana-Webhook-Timestamp", timestamp)
	req.Header.Set("X-Spotnana-Webhook-Signature", webhook.Sign(secret, d.webhookID, timestamp, d.body))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false, nil // the bridge was killed
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode == http.StatusServiceUnavailable {
		return false, nil
	}
	if resp.StatusCode != http.StatusOK {
		return false, fmt.Errorf("the door answered %s to %s: %s", resp.Status, d.webhookID, answer)
	}
	return true, nil
}

// awaitClients waits until every client has processed so many events, and has acknowledged them where it has to.
func (h *harness) awaitClients(ctx context.Context, events int) error {
	var state []string
	err := until(ctx, "the clients to have processed everything", func() (bool, error) {
		done := true
		state = nil
		for _, c := range h.clients {
			n, err := c.count(ctx)
			group, groupErr := h.group(ctx, c.group)
			done = done && err == nil && n >= events && groupErr == nil && group.GetLagEvents() == 0
			state = append(state, fmt.Sprintf("%s: %d of %d events processed, group: %v %v", c.name, n, events, group, errors.Join(err, groupErr)))
		}
		return done, h.checkAlive()
	})
	if err != nil {
		err = fmt.Errorf("%w\n%s", err, strings.Join(state, "\n"))
	}
	return err
}

// count returns how many events a client has processed. It reads the table and changes nothing in it, also when the client
// was killed and its write-ahead log is still to be recovered.
func (c *client) count(ctx context.Context) (n int, err error) {
	if _, err := os.Stat(c.db); errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	dsn := url.URL{Scheme: "file", Path: filepath.ToSlash(c.db), RawQuery: "mode=ro&_pragma=busy_timeout(1000)"}
	db, err := sql.Open("sqlite", dsn.String())
	if err != nil {
		return 0, err
	}
	defer db.Close()
	err = db.QueryRowContext(ctx, "SELECT count(*) FROM processed").Scan(&n)
	return n, err
}

// compare wants a client's table and events to be those of the reference. Nothing runs any more.
func (c *client) compare(t *testing.T, table, ids string) {
	got, err := c.output(t, "dump")
	if err != nil {
		t.Fatal(err)
	}
	if got != table {
		t.Errorf("dump differs from the reference:\n%s", diffTables(table, got))
	}
	if got, err = c.output(t, "processed"); err != nil {
		t.Fatal(err)
	}
	if got != ids {
		t.Errorf("processed differs from the reference:\n%s", diffIDs(ids, got))
	}
}
