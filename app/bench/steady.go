package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"github.com/spotbridge/spotbridge/bridge"
	"github.com/spotbridge/spotbridge/bridge/live"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
	"github.com/spotbridge/spotbridge/server"
)

const (
	steadyRate = 10_000 // deliveries per second
	// perConn is how many streams share a connection where there are many: both ends of each are in this process.
	perConn = 100

	groupKey = "bench-group"
)

// load is a steady load: so many subscribers in groups with a filter each, of which an event matches one.
type load struct {
	size, subs, groups int
	// stalled more subscribers stop reading their sockets before the first event.
	stalled int
}

// steady: latency and CPU per delivery at a steady rate, and memory per subscriber, beside static bytes over grpc-go to as
// many streams that a timer wakes.
func (b *bench) steady(ctx context.Context) error {
	for _, l := range []load{{size: 1 << 10, subs: 100, groups: 1}, {size: 1 << 10, subs: 1000, groups: 1}, {size: 1 << 10, subs: 10_000, groups: 1}, {size: 20 << 10, subs: 10_000, groups: 100}} {
		var xs, ys []sample
		var p50, p99, cost []float64
		var xMem, yMem []int64
		for range b.rounds {
			y, yBytes, err := b.steadyStatic(ctx, l)
			if err != nil {
				return err
			}
			x, xBytes, err := b.steadyBridge(ctx, l)
			if err != nil {
				return err
			}
			xs, ys, xMem, yMem = append(xs, x), append(ys, y), append(xMem, xBytes), append(yMem, yBytes)
			p50, p99 = append(p50, float64(x.p50)/float64(y.p50)), append(p99, float64(x.p99)/float64(y.p99))
			cost = append(cost, float64(x.cpuPer)/float64(y.cpuPer))
		}
		name := fmt.Sprintf("steady %d deliveries/s, %d KB, %d subscribers", steadyRate, l.size>>10, l.subs)
		if l.groups > 1 {
			name += fmt.Sprintf(", 1 in %d matches", l.groups)
		}
		b.add(row{name + " (static bytes)", medianSample(xs).String(), medianSample(ys).String(), fmt.Sprintf("%.2f %.2f %.2f", median(p50), median(p99), median(cost)), "<= 1.3"})
		if l.subs >= 10_000 {
			x, y := median(xMem), median(yMem)
			b.add(row{fmt.Sprintf("memory per idle subscriber, %d of them, both ends (grpc-go)", l.subs), fmt.Sprintf("%d B", x), fmt.Sprintf("%d B", y), fmt.Sprintf("+%d B", x-y), "< +65536 B"})
		}
	}
	return b.steadyStalled(ctx)
}

// steadyStalled: what subscribers that stop reading cost the others: nothing.
func (b *bench) steadyStalled(ctx context.Context) error {
	with, without := load{size: 20 << 10, subs: 100, groups: 1, stalled: 20}, load{size: 20 << 10, subs: 100, groups: 1}
	var xs, ys []sample
	var p50, p99, cost []float64
	for range b.rounds {
		y, _, err := b.steadyBridge(ctx, without)
		if err != nil {
			return err
		}
		x, _, err := b.steadyBridge(ctx, with)
		if err != nil {
			return err
		}
		xs, ys = append(xs, x), append(ys, y)
		p50, p99 = append(p50, float64(x.p50)/float64(y.p50)), append(p99, float64(x.p99)/float64(y.p99))
		cost = append(cost, float64(x.cpuPer)/float64(y.cpuPer))
	}
	b.add(row{fmt.Sprintf("the same, %d KB to %d beside %d that do not read (without those)", with.size>>10, with.subs, with.stalled),
		medianSample(xs).String(), medianSample(ys).String(), fmt.Sprintf("%.2f %.2f %.2f", median(p50), median(p99), median(cost)), "about 1"})
	return nil
}

// stoppable is a connection that stops reading for good: bytes pile up in the sockets' buffers, then in the server.
type stoppable struct {
	net.Conn
	stop, gone <-chan struct{}
}

func (s *stoppable) Read(b []byte) (int, error) {
	select {
	case <-s.stop:
		<-s.gone
		return 0, io.EOF
	default:
		return s.Conn.Read(b)
	}
}

// stall opens streams whose clients read until they are live, and then stop.
func (c *steadyClients) stall(ctx context.Context, addr string, n int) error {
	stop := make(chan struct{})
	defer close(stop)
	for range n {
		conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.ForceCodecV2(rawCodec{})),
			grpc.WithContextDialer(func(dialing context.Context, addr string) (net.Conn, error) {
				raw, err := (&net.Dialer{}).DialContext(dialing, "tcp", addr)
				return &stoppable{raw, stop, ctx.Done()}, err
			}))
		if err != nil {
			return err
		}
		c.conns = append(c.conns, conn)
		stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, subscribeMethod)
		if err != nil {
			return err
		}
		err = errors.Join(stream.SendMsg(&pb.SubscribeRequest{View: pb.EventView_EVENT_VIEW_RAW}), stream.CloseSend())
		var r received
		for range 2 {
			err = errors.Join(err, stream.RecvMsg(&r))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// clock remembers when each event was published, for at most so many events.
type clock []atomic.Int64

// run calls publish with the number of each event at its time.
func (c clock) run(l load, publish func(n int)) {
	interval := time.Second * time.Duration(l.subs/l.groups) / steadyRate
	start := time.Now()
	for n := range c {
		time.Sleep(time.Until(start.Add(time.Duration(n) * interval)))
		c[n].Store(time.Now().UnixNano())
		publish(n)
	}
}

// steadyClients are subscribers that measure latency.
type steadyClients struct {
	ready, delivered atomic.Int64
	took             [][]time.Duration
	wg               sync.WaitGroup
	cancel           context.CancelFunc
	conns            []*grpc.ClientConn
	mu               sync.Mutex
	err              error
}

func connectClients(ctx context.Context, addr string, l load, times clock, before int) (*steadyClients, error) {
	ctx, cancel := context.WithCancel(ctx)
	c := &steadyClients{cancel: cancel, took: make([][]time.Duration, l.subs)}
	share := 1
	if l.subs > perConn {
		share = perConn
	}
	for i := range l.subs {
		if i%share == 0 {
			conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.ForceCodecV2(rawCodec{})))
			if err != nil {
				return c, err
			}
			c.conns = append(c.conns, conn)
		}
		conn, group := c.conns[len(c.conns)-1], i%l.groups
		req := &pb.SubscribeRequest{View: pb.EventView_EVENT_VIEW_RAW}
		if l.groups > 1 {
			req.Filter = &pb.EventFilter{Operations: []string{fmt.Sprintf("OP_%d", group)}}
		}
		c.wg.Go(func() {
			ctx := metadata.AppendToOutgoingContext(ctx, groupKey, strconv.Itoa(group)) // the baseline knows no filters
			err := c.receive(ctx, conn, req, before, func(k int) {
				c.took[i] = append(c.took[i], time.Duration(time.Now().UnixNano()-times[group+k*l.groups].Load()))
			})
			if ctx.Err() == nil && !errors.Is(err, io.EOF) {
				c.mu.Lock()
				c.err = errors.Join(c.err, err)
				c.mu.Unlock()
			}
		})
	}
	for c.ready.Load() < int64(l.subs) {
		if err := c.failure(); err != nil {
			return c, err
		}
		time.Sleep(time.Millisecond)
	}
	return c, c.stall(ctx, addr, l.stalled)
}

func (c *steadyClients) receive(ctx context.Context, conn *grpc.ClientConn, req proto.Message, before int, got func(k int)) error {
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, subscribeMethod)
	if err != nil {
		return err
	}
	if err := errors.Join(stream.SendMsg(req), stream.CloseSend()); err != nil {
		return err
	}
	var r received
	for k := -before; ; k++ {
		if err := stream.RecvMsg(&r); err != nil {
			return err
		}
		switch {
		case k == -1:
			c.ready.Add(1)
		case k >= 0:
			got(k)
			c.delivered.Add(1)
		}
	}
}

func (c *steadyClients) failure() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

func (c *steadyClients) close() {
	c.cancel()
	for _, conn := range c.conns {
		_ = conn.Close()
	}
	c.wg.Wait()
}

// steadyRun connects the clients, publishes at the steady rate for as long as a measurement takes, and waits for all.
func (b *bench) steadyRun(ctx context.Context, addr string, l load, before int, publish func(n int)) (sample, int64, error) {
	matching := l.subs / l.groups
	events := max(3, int(b.duration.Seconds()*steadyRate)/matching)
	times := make(clock, events)
	base := inUse()
	c, err := connectClients(ctx, addr, l, times, before)
	defer c.close()
	if err != nil {
		return sample{}, 0, err
	}
	memory := (inUse() - base) / int64(l.subs)
	want, used := int64(events*matching), cpu()
	times.run(l, publish)
	for deadline := time.Now().Add(30 * time.Second); c.delivered.Load() < want; time.Sleep(time.Millisecond) {
		if err := c.failure(); err != nil || time.Now().After(deadline) {
			return sample{}, 0, fmt.Errorf("%d of %d deliveries: %w", c.delivered.Load(), want, errors.Join(err, ctx.Err()))
		}
	}
	used = cpu() - used
	c.close()
	var took []time.Duration
	for _, t := range c.took {
		took = append(took, t...)
	}
	return sample{rate: steadyRate, p50: percentile(took, 0.5), p99: percentile(took, 0.99), cpuPer: used / time.Duration(want)}, memory, nil
}

// inUse returns the memory of heap and stacks after a collection.
func inUse() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapInuse + m.StackInuse)
}

// topic wakes the streams of a group.
type topic struct {
	mu sync.Mutex
	n  int
	ch chan struct{}
}

func (t *topic) add() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.n++
	close(t.ch)
	t.ch = make(chan struct{})
}

func (t *topic) get() (int, <-chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.n, t.ch
}

func (b *bench) steadyStatic(ctx context.Context, l load) (sample, int64, error) {
	message := make([]byte, l.size)
	topics := make([]*topic, l.groups)
	for i := range topics {
		topics[i] = &topic{ch: make(chan struct{})}
	}
	addr, stop, err := serveRaw(func(stream grpc.ServerStream) error {
		var r received
		if err := stream.RecvMsg(&r); err != nil {
			return err
		}
		g, err := strconv.Atoi(strings.Join(metadata.ValueFromIncomingContext(stream.Context(), groupKey), ""))
		if err != nil {
			return err
		}
		if err := stream.SendMsg([]byte("ready")); err != nil {
			return err
		}
		for sent := 0; ; {
			n, more := topics[g].get()
			for ; sent < n; sent++ {
				if err := stream.SendMsg(message); err != nil {
					return err
				}
			}
			select {
			case <-more:
			case <-stream.Context().Done():
				return nil
			}
		}
	})
	if err != nil {
		return sample{}, 0, err
	}
	defer stop()
	return b.steadyRun(ctx, addr, l, 1, func(n int) { topics[n%l.groups].add() })
}

func (b *bench) steadyBridge(ctx context.Context, l load) (sample, int64, error) {
	var sequence atomic.Uint64
	none := nothing{hub: sequence.Load}
	hub := live.New(live.Config{History: none, Head: sequence.Load})
	srv, err := server.New(server.Config{Hub: hub, History: none, Deliveries: noDeliveries{}, Drift: noDrift{}})
	if err != nil {
		return sample{}, 0, err
	}
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return sample{}, 0, err
	}
	go func() { _ = srv.GRPC().Serve(lis) }()
	defer func() { _ = srv.Close() }()
	hub.Publish(nil, 0)
	body := pnrBody(l.size)
	return b.steadyRun(ctx, lis.Addr().String(), l, 2, func(n int) { // confirmation and caught_up come before
		seq := uint64(n + 1)
		entry := &bridge.Entry{Source: "bench", EventID: fmt.Sprintf("bench.%d", seq), Sequence: seq, Body: body}
		env := &bridge.Envelope{EventType: "PNR_V3", Operation: fmt.Sprintf("OP_%d", n%l.groups)}
		e, meta, err := bridge.EncodeEnvelope(entry, env, time.Now(), pb.Ordering_ORDERING_IN_ORDER)
		if err != nil {
			return // the deliveries are missed
		}
		sequence.Store(seq)
		hub.Publish([]*bridge.Encoded{bridge.NewEncoded(meta, e, body, len(body), nil)}, seq)
	})
}
