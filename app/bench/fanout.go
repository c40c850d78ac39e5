package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/spotbridge/spotbridge/bridge"
	"github.com/spotbridge/spotbridge/bridge/live"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
	"github.com/spotbridge/spotbridge/server"
)

// window is how many events are published ahead of the slowest subscriber.
const window = 512

// nothing is a history without events: the subscribers of this part never leave the ring.
type nothing struct {
	bridge.History
	hub func() uint64
}

func (n nothing) Bounds(context.Context) (bridge.Bounds, error) {
	return bridge.Bounds{Log: bridge.LogID{1}, Floor: 1, Watermark: n.hub()}, nil
}

func (n nothing) Scan(_ context.Context, r bridge.ScanRequest) (bridge.ScanResult, error) {
	return bridge.ScanResult{}, errors.New("a subscriber fell off the ring")
}

type noDeliveries struct{ bridge.Deliveries }

type noDrift struct{ bridge.DriftReader }

// fanout: events to many subscribers at the full rate, beside static bytes over grpc-go to as many.
func (b *bench) fanout(ctx context.Context) error {
	for _, q := range []struct{ size, subs, batch int }{
		{1 << 10, 1, 0}, {1 << 10, 1, 100}, {1 << 10, 100, 0}, {1 << 10, 100, 100}, {1 << 10, 1000, 0},
		{20 << 10, 1, 0}, {20 << 10, 100, 0}, {20 << 10, 1000, 0},
	} {
		x, y, ratio, err := b.pair(
			func() (sample, error) { return b.fanBridge(ctx, q.subs, q.size, q.batch) },
			func() (sample, error) { return b.fanStatic(ctx, q.subs, q.size) })
		if err != nil {
			return err
		}
		name, goal := "", ">= 0.8"
		if q.batch > 0 {
			name, goal = fmt.Sprintf(", up to %d in a message", q.batch), "-"
		}
		b.add(row{fmt.Sprintf("fan-out of %d KB to %d subscribers%s (static bytes)", q.size>>10, q.subs, name),
			fmt.Sprintf("%.0f/s %.2f GB/s cpu %s", x.rate, x.rate*float64(q.size)/1e9, short(x.cpuPer)),
			fmt.Sprintf("%.0f/s %.2f GB/s cpu %s", y.rate, y.rate*float64(q.size)/1e9, short(y.cpuPer)), fmt.Sprintf("%.2f", ratio), goal})
	}
	return nil
}

// receivers are subscribers that count.
type receivers struct {
	counts []atomic.Int64
	wg     sync.WaitGroup
	cancel context.CancelFunc
	mu     sync.Mutex
	err    error
}

func receive(ctx context.Context, addr string, subs, minBytes, batch int) *receivers {
	ctx, cancel := context.WithCancel(ctx)
	r := &receivers{counts: make([]atomic.Int64, subs), cancel: cancel}
	for i := range subs {
		r.wg.Go(func() {
			err := subscribeRaw(ctx, addr, &pb.SubscribeRequest{View: pb.EventView_EVENT_VIEW_RAW, MaxBatchEvents: int32(batch)}, func(m *received) error {
				if m.events > 0 {
					r.counts[i].Add(int64(m.events))
				} else if m.bytes >= minBytes {
					r.counts[i].Add(1)
				} else {
					r.counts[i].CompareAndSwap(0, 0) // confirmation and caught_up
				}
				return nil
			})
			if ctx.Err() == nil {
				r.mu.Lock()
				r.err = errors.Join(r.err, err)
				r.mu.Unlock()
			}
		})
	}
	return r
}

func (r *receivers) total() (sum, least int64) {
	least = 1 << 62
	for i := range r.counts {
		n := r.counts[i].Load()
		sum, least = sum+n, min(least, n)
	}
	return sum, least
}

func (r *receivers) measure(d time.Duration) (sample, error) {
	time.Sleep(d / 4)
	begin, _ := r.total()
	start, used := time.Now(), cpu()
	time.Sleep(d)
	end, _ := r.total()
	elapsed, used := time.Since(start), cpu()-used
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err != nil {
		return sample{}, r.err
	}
	if end == begin {
		return sample{}, errors.New("nothing was received")
	}
	return sample{rate: float64(end-begin) / elapsed.Seconds(), cpuPer: used / time.Duration(end-begin)}, nil
}

// messageSize is the size of the message that carries an event with a body of size bytes, give or take a byte.
func messageSize(size int) (int, error) {
	body := pnrBody(size)
	envelope, _, err := bridge.EncodeEnvelope(fanEntry(1, body), fanEnvelope(), time.Now(), pb.Ordering_ORDERING_IN_ORDER)
	if err != nil {
		return 0, err
	}
	event := len(envelope) + protowire.SizeTag(50) + protowire.SizeBytes(len(body))
	return protowire.SizeTag(1) + protowire.SizeBytes(len(bridge.Cursor{}.String())) + protowire.SizeTag(3) + protowire.SizeBytes(event), nil
}

func fanEntry(n uint64, body []byte) *bridge.Entry {
	return &bridge.Entry{Source: "bench", EventID: fmt.Sprintf("bench.%d", n), Sequence: n, Body: body}
}

func fanEnvelope() *bridge.Envelope {
	return &bridge.Envelope{EventType: "PNR_V3", Operation: "BOOKING_UPDATED"}
}

// fanStatic sends the same bytes again and again, as many as a message of the bridge has.
func (b *bench) fanStatic(ctx context.Context, subs, size int) (sample, error) {
	n, err := messageSize(size)
	if err != nil {
		return sample{}, err
	}
	message := make([]byte, n)
	addr, stop, err := serveRaw(func(stream grpc.ServerStream) error {
		var r received
		if err := stream.RecvMsg(&r); err != nil {
			return err
		}
		for {
			if err := stream.SendMsg(message); err != nil {
				return err
			}
		}
	})
	if err != nil {
		return sample{}, err
	}
	defer stop()
	r := receive(ctx, addr, subs, 0, 0)
	defer r.wg.Wait()
	defer r.cancel()
	for _, least := r.total(); least == 0; _, least = r.total() {
		time.Sleep(time.Millisecond)
	}
	return r.measure(b.duration)
}

func (b *bench) fanBridge(ctx context.Context, subs, size, batch int) (sample, error) {
	var sequence atomic.Uint64
	none := nothing{hub: sequence.Load}
	hub := live.New(live.Config{History: none, Head: sequence.Load, RingEvents: 8 * window, RingBytes: 1 << 30})
	srv, err := server.New(server.Config{Hub: hub, History: none, Deliveries: noDeliveries{}, Drift: noDrift{}})
	if err != nil {
		return sample{}, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return sample{}, err
	}
	go func() { _ = srv.GRPC().Serve(l) }()
	defer func() { _ = srv.Close() }()
	hub.Publish(nil, 0)
	r := receive(ctx, l.Addr().String(), subs, size, batch)
	defer r.wg.Wait()
	defer r.cancel()
	for len(hub.Subscriptions()) < subs {
		time.Sleep(time.Millisecond)
	}

	body := pnrBody(size)
	// The projection encodes an event before the hub has it; here that is done before the clock runs. The same envelopes come
	// again and again, under new sequences and cursors.
	type encoded struct {
		envelope []byte
		meta     bridge.Meta
	}
	made := make([]encoded, 4*window)
	for i := range made {
		n := uint64(i) + 1
		x := &made[i]
		x.envelope, x.meta, err = bridge.EncodeEnvelope(fanEntry(n, body), fanEnvelope(), time.Now(), pb.Ordering_ORDERING_IN_ORDER)
		if err != nil {
			return sample{}, err
		}
	}
	publishing := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-publishing:
				return
			default:
			}
			if _, least := r.total(); int64(sequence.Load())-least > window-16 {
				time.Sleep(100 * time.Microsecond)
				continue
			}
			batch := make([]*bridge.Encoded, 16)
			now := time.Now()
			encoder := bridge.Encoder{Expect: len(batch)}
			for i := range batch {
				n := sequence.Load() + uint64(i) + 1
				x := &made[n%uint64(len(made))]
				x.meta.Sequence, x.meta.AppendTime = n, now
				batch[i] = encoder.New(x.meta, x.envelope, body, len(body), nil)
			}
			sequence.Add(16)
			hub.Publish(batch, sequence.Load())
		}
	}()
	defer func() { close(publishing); <-done }()
	return r.measure(b.duration)
}
