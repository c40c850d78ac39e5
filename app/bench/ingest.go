package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

var benchKey = []byte("0123456789abcdef0123456789abcdef")

const benchSecret = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="

// ingest: durable ingest over HTTP, 20 KB bodies, beside the minimal handler that does the same: net/http, HMAC and a
// SyncAlways publish to an embedded JetStream. A bare publish and a raw group-commit append are printed too.
func (b *bench) ingest(ctx context.Context) error {
	br, err := startBridge(ctx, filepath.Join(b.dir, "ingest"))
	if err != nil {
		return err
	}
	defer br.stop()
	base, err := startMinimal(filepath.Join(b.dir, "minimal"))
	if err != nil {
		return err
	}
	defer base.stop()
	body := pnrBody(20 << 10)
	for _, callers := range []int{1, 16, 128} {
		x, y, ratio, err := b.pair(
			func() (sample, error) { return b.post(ctx, br.door, "/webhooks/bench", callers, body) },
			func() (sample, error) { return b.post(ctx, base.addr, "/", callers, body) })
		if err != nil {
			return err
		}
		b.add(row{fmt.Sprintf("durable ingest 20 KB, %d callers (minimal handler)", callers), x.String(), y.String(),
			fmt.Sprintf("%.2f", ratio), fmt.Sprintf(">= 0.9; +%s cpu of <= 150µs", short(x.cpuPer-y.cpuPer))})
	}
	for _, callers := range []int{1, 16, 128} {
		s, err := b.closedLoop(callers, func(_ int) func(i int64) error {
			return func(i int64) error {
				_, err := base.js.PublishMsg(ctx, &nats.Msg{Subject: "bench.x", Data: body, Header: nats.Header{jetstream.MsgIDHeader: {"p" + strconv.FormatInt(i, 10) + strconv.Itoa(callers)}}})
				return err
			}
		})
		if err != nil {
			return err
		}
		raw, err := b.groupCommit(callers, body)
		if err != nil {
			return err
		}
		b.add(row{fmt.Sprintf("for scale, %d callers: bare SyncAlways publish; raw group commit", callers), "", s.String() + "; " + fmt.Sprintf("%.0f/s", raw.rate), "", ""})
	}
	return nil
}

var nextID atomic.Int64

// closedLoop runs callers that each work one after another, for the bench's duration after a warm-up.
func (b *bench) closedLoop(callers int, worker func(n int) func(i int64) error) (sample, error) {
	var wg sync.WaitGroup
	var measuring, done atomic.Bool
	var mu sync.Mutex
	var all []time.Duration
	var first error
	for n := range callers {
		work := worker(n)
		wg.Go(func() {
			var mine []time.Duration
			for !done.Load() {
				start := time.Now()
				if err := work(nextID.Add(1)); err != nil {
					mu.Lock()
					if first == nil {
						first = err
					}
					mu.Unlock()
					return
				}
				if measuring.Load() {
					mine = append(mine, time.Since(start))
				}
			}
			mu.Lock()
			all = append(all, mine...)
			mu.Unlock()
		})
	}
	time.Sleep(b.duration / 4)
	measuring.Store(true)
	start, used := time.Now(), cpu()
	time.Sleep(b.duration)
	elapsed, used := time.Since(start), cpu()-used
	done.Store(true)
	wg.Wait()
	if first != nil {
		return sample{}, first
	}
	if len(all) == 0 {
		return sample{}, errors.New("nothing was done in time")
	}
	return sample{
		rate: float64(len(all)) / elapsed.Seconds(), p50: percentile(all, .5), p99: percentile(all, .99),
		cpuPer: used / time.Duration(len(all)),
	}, nil
}

// post sends signed deliveries over kept-alive connections, framed by hand so that the client is a small part of it.
func (b *bench) post(_ context.Context, addr, path string, callers int, body []byte) (sample, error) {
	conns := make([]net.Conn, callers)
	for i := range conns {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			return sample{}, err
		}
		defer c.Close()
		conns[i] = c
	}
	return b.closedLoop(callers, func(n int) func(int64) error {
		r := bufio.NewReader(conns[n])
		return func(i int64) error { return postOne(conns[n], r, path, "bench_"+strconv.FormatInt(i, 10), body) }
	})
}

func postOne(c net.Conn, r *bufio.Reader, path, id string, body []byte) error {
	ts := strconv.FormatInt(time.Now().Unix(), 10)
	var buf bytes.Buffer
	fmt.Fprintf(&buf, "POST %s HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: %d\r\nx-spotnana-webhook-id: %s\r\nx-spotnana-webhook-timestamp: %s\r\nx-spotnana-webhook-signature: %s\r\n\r\n",
		path, len(body), id, ts, sign(id, ts, body))
	bufs := net.Buffers{buf.Bytes(), body}
	if _, err := bufs.WriteTo(c); err != nil {
		return err
	}
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("answer %d %s", resp.StatusCode, text)
	}
	return nil
}

func sign(id, ts string, body []byte) string {
	h := hmac.New(sha256.New, benchKey)
	h.Write([]byte(id + "." + ts + "."))
	h.Write(body)
	return base64.StdEncoding.EncodeToString(h.Sum(nil))
}

// minimal is the baseline: what an afternoon of Go gives.
type minimal struct {
	ns   *server.Server
	nc   *nats.Conn
	js   jetstream.JetStream
	http *http.Server
	addr string
}

func startMinimal(dir string) (*minimal, error) {
	ns, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, JetStream: true, StoreDir: dir, SyncAlways: true, MaxPayload: 9 << 20, JetStreamMaxStore: 64 << 30})
	if err != nil {
		return nil, err
	}
	ns.Start()
	m := &minimal{ns: ns}
	if m.nc, err = nats.Connect("", nats.InProcessServer(ns)); err != nil {
		return nil, err
	}
	if m.js, err = jetstream.New(m.nc); err != nil {
		return nil, err
	}
	if _, err = m.js.CreateStream(context.Background(), jetstream.StreamConfig{Name: "bench", Subjects: []string{"bench.>"}, MaxBytes: 32 << 30}); err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	m.addr = l.Addr().String()
	m.http = &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 8<<20))
		if err != nil {
			http.Error(w, "too large", http.StatusRequestEntityTooLarge)
			return
		}
		id := r.Header.Get("x-spotnana-webhook-id")
		if !hmac.Equal([]byte(sign(id, r.Header.Get("x-spotnana-webhook-timestamp"), body)), []byte(r.Header.Get("x-spotnana-webhook-signature"))) {
			http.Error(w, "no", http.StatusUnauthorized)
			return
		}
		if _, err := m.js.PublishMsg(r.Context(), &nats.Msg{Subject: "bench.event", Data: body, Header: nats.Header{jetstream.MsgIDHeader: {id}}}); err != nil {
			http.Error(w, "later", http.StatusServiceUnavailable)
		}
	})}
	go func() { _ = m.http.Serve(l) }()
	return m, nil
}

func (m *minimal) stop() {
	_ = m.http.Close()
	m.nc.Close()
	m.ns.Shutdown()
	m.ns.WaitForShutdown()
}

// groupCommit is the disk's own limit: one writer, a batch is what queued during the last sync.
func (b *bench) groupCommit(callers int, body []byte) (sample, error) {
	f, err := os.Create(filepath.Join(b.dir, "raw"))
	if err != nil {
		return sample{}, err
	}
	defer func() {
		_ = f.Close()
		_ = os.Remove(f.Name())
	}()
	queue := make(chan chan error, callers)
	go func() {
		for first := range queue {
			batch := []chan error{first}
			for more := true; more; {
				select {
				case c, ok := <-queue:
					if ok {
						batch = append(batch, c)
					} else {
						more = false
					}
				default:
					more = false
				}
			}
			var err error
			for range batch {
				if _, e := f.Write(body); e != nil {
					err = e
				}
			}
			if e := f.Sync(); e != nil {
				err = e
			}
			for _, c := range batch {
				c <- err
			}
		}
	}()
	defer close(queue)
	return b.closedLoop(callers, func(int) func(int64) error {
		c := make(chan error, 1)
		return func(int64) error {
			queue <- c
			return <-c
		}
	})
}
