package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	"github.com/spotbridge/spotbridge/bridge"
	"github.com/spotbridge/spotbridge/bridge/live"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

// sink is a client's codec that only counts: the clients share the machine, and decoding is not what is measured.
type sinkCodec struct{ encoding.CodecV2 }

func (c sinkCodec) Unmarshal(data mem.BufferSlice, v any) error {
	if n, ok := v.(*int); ok {
		*n = data.Len()
		return nil
	}
	return c.CodecV2.Unmarshal(data, v)
}

// receivers are subscribers, each with a connection of its own.
type receivers struct {
	b   *testing.B
	got []atomic.Int64
	// more has a token when a subscriber may have got something; it is closed with its stream.
	more   []chan struct{}
	bytes  atomic.Int64
	cancel context.CancelFunc
	conns  []*grpc.ClientConn
	wg     sync.WaitGroup
}

func receive(b *testing.B, addr, method string, req proto.Message, subs, before int) *receivers {
	b.Helper()
	f := &fixture{addr: addr}
	ctx, cancel := context.WithCancel(context.Background())
	r := &receivers{b: b, got: make([]atomic.Int64, subs), more: make([]chan struct{}, subs), cancel: cancel}
	var ready sync.WaitGroup
	for i := range subs {
		conn := f.dial(b, grpc.WithDefaultCallOptions(grpc.ForceCodecV2(sinkCodec{encoding.GetCodecV2("proto")})))
		r.conns = append(r.conns, conn)
		s, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, method)
		if err != nil {
			b.Fatal(err)
		}
		if err := s.SendMsg(req); err != nil {
			b.Fatal(err)
		}
		_ = s.CloseSend()
		ready.Add(1)
		r.more[i] = make(chan struct{}, 1)
		r.wg.Go(func() {
			defer close(r.more[i])
			var n int
			for range before {
				if err := s.RecvMsg(&n); err != nil {
					b.Error(err)
				}
			}
			ready.Done()
			total := int64(0)
			defer func() { r.bytes.Add(total) }()
			for s.RecvMsg(&n) == nil {
				total += int64(n)
				r.got[i].Add(1)
				select {
				case r.more[i] <- struct{}{}:
				default:
				}
			}
		})
	}
	ready.Wait()
	return r
}

// reached waits until every subscriber has so many messages.
func (r *receivers) reached(n int64) {
	for i := range r.got {
		for r.got[i].Load() < n {
			if _, open := <-r.more[i]; !open {
				r.b.Fatal("a subscriber's stream has ended")
			}
		}
	}
}

func (r *receivers) close() {
	r.cancel()
	for _, c := range r.conns {
		c.Close()
	}
	r.wg.Wait()
}

func cpu() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// measured is a rate and what a delivery cost, clients included.
type measured struct {
	rate  float64
	cost  time.Duration
	bytes int64
}

func measure(deliveries int, run func()) measured {
	runtime.GC()
	begin, used := time.Now(), cpu()
	run()
	return measured{rate: float64(deliveries) / time.Since(begin).Seconds(), cost: (cpu() - used) / time.Duration(deliveries)}
}

// staticBytes sends the same bytes over grpc-go to as many subscribers, with the same codec and no hub.
func staticBytes(b *testing.B, f *frame, subs, events int) measured {
	b.Helper()
	start := make(chan struct{})
	srv := grpc.NewServer(append(transportOptions(Config{MaxStreams: 1024, SendTimeout: time.Minute, pingAfter: time.Minute}), grpc.ForceServerCodecV2(newCodec()))...)
	srv.RegisterService(&grpc.ServiceDesc{ServiceName: "static", HandlerType: (*any)(nil), Streams: []grpc.StreamDesc{{
		StreamName: "Send", ServerStreams: true, Handler: func(_ any, s grpc.ServerStream) error {
			if err := s.RecvMsg(&pb.SubscribeRequest{}); err != nil {
				return err
			}
			if err := s.SendMsg(f); err != nil {
				return err
			}
			<-start
			for range events {
				if err := s.SendMsg(f); err != nil {
					return err
				}
			}
			<-s.Context().Done()
			return nil
		},
	}}}, nil)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	go srv.Serve(l)
	defer srv.Stop()
	r := receive(b, l.Addr().String(), "/static/Send", &pb.SubscribeRequest{}, subs, 1)
	m := measure(subs*events, func() {
		close(start)
		r.reached(int64(events))
	})
	r.close()
	m.bytes = r.bytes.Load()
	return m
}

// throughHub publishes events to as many subscriptions, as fast as they take them.
func throughHub(b *testing.B, events []*bridge.Encoded, subs int) measured {
	b.Helper()
	// The ring holds everything: it is the fan-out that is measured, not catching up.
	f := newFixture(b, func(c *Config, lc *live.Config) { lc.RingBytes, lc.RingEvents, c.Logger = 4<<30, len(events), nil })
	r := receive(b, f.addr, pb.SubscriptionService_Subscribe_FullMethodName, &pb.SubscribeRequest{View: pb.EventView_EVENT_VIEW_RAW}, subs, 2)
	m := measure(subs*len(events), func() {
		const batch = 64
		for i := 0; i < len(events); i += batch {
			part := events[i:min(i+batch, len(events))]
			f.hub.Publish(part, part[len(part)-1].Sequence)
		}
		r.reached(int64(len(events)))
	})
	for _, s := range f.hub.Subscriptions() {
		if s.State != bridge.SubscriptionLive {
			b.Errorf("%+v", s)
		}
	}
	r.close()
	m.bytes = r.bytes.Load()
	return m
}

// BenchmarkFanOut compares the hub with static bytes over grpc-go. Static bytes run twice per round, and who begins changes
// with every round: "control" is static against static, which says how far a ratio can be trusted. Ratios are those of a
// round, and the median of them is reported.
func BenchmarkFanOut(b *testing.B) {
	for _, size := range []int{1 << 10, 20 << 10} {
		for _, subs := range []int{1, 100, 1000} {
			b.Run(fmt.Sprintf("bytes=%d/subs=%d", size, subs), func(b *testing.B) {
				n := map[int]int{1: 100_000, 100: 4000, 1000: 300}[subs]
				if size > 1<<10 {
					n /= 4
				}
				body := bytes.Repeat([]byte("x"), size-300) // with an envelope of about 250 bytes
				var ratios, controls, costs, controlCosts, rates []float64
				for round := 0; b.Loop(); round++ {
					events := make([]*bridge.Encoded, n)
					for i := range events {
						events[i] = makeEvent(uint64(i+1), body)
					}
					f, _ := (&maker{}).newFrame(events[0], bridge.Cursor{}, pb.EventView_EVENT_VIEW_RAW, defaultMessageBytes).Value.(*frame)
					runs := []func() measured{
						func() measured { return staticBytes(b, f, subs, n) },
						func() measured { return throughHub(b, events, subs) },
						func() measured { return staticBytes(b, f, subs, n) },
					}
					var m [3]measured
					for i := range runs {
						k := (i + round) % len(runs)
						m[k] = runs[k]()
					}
					// Sequences take a byte or two more as they grow; anything else would be another amount of work.
					if d := float64(m[1].bytes) / float64(m[0].bytes); d < 0.99 || d > 1.02 || m[0].bytes != m[2].bytes {
						b.Fatalf("not the same work: %d bytes through the hub, %d and %d static", m[1].bytes, m[0].bytes, m[2].bytes)
					}
					static := (m[0].rate + m[2].rate) / 2
					ratios, controls = append(ratios, m[1].rate/static), append(controls, m[2].rate/m[0].rate)
					costs = append(costs, float64(m[1].cost)/(float64(m[0].cost+m[2].cost)/2))
					controlCosts = append(controlCosts, float64(m[2].cost)/float64(m[0].cost))
					rates = append(rates, m[1].rate)
				}
				for name, values := range map[string][]float64{
					"deliveries/s": rates, "ratio": ratios, "control": controls, "cpu-ratio": costs, "cpu-control": controlCosts,
				} {
					slices.Sort(values)
					b.ReportMetric(values[len(values)/2], name)
				}
				b.ReportMetric(ratios[0], "ratio-min")
				b.ReportMetric(ratios[len(ratios)-1], "ratio-max")
				b.ReportMetric(controls[0], "control-min")
				b.ReportMetric(controls[len(controls)-1], "control-max")
			})
		}
	}
}

// BenchmarkIdleSubscriber tells the memory of a subscription that has nothing to do, beside a stream of grpc-go that has
// nothing to do. Many share a connection.
func BenchmarkIdleSubscriber(b *testing.B) {
	const subs, perConn = 5000, 500
	heap := func() uint64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapInuse + m.StackInuse
	}
	open := func(addr, method string, before int) (func(), uint64) {
		f := &fixture{addr: addr}
		ctx, cancel := context.WithCancel(context.Background())
		var conns []*grpc.ClientConn
		base := heap()
		for i := range subs {
			if i%perConn == 0 {
				conns = append(conns, f.dial(b))
			}
			s, err := conns[len(conns)-1].NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, method)
			if err != nil {
				b.Fatal(err)
			}
			if err := s.SendMsg(&pb.SubscribeRequest{}); err != nil {
				b.Fatal(err)
			}
			_ = s.CloseSend()
			for range before {
				if err := s.RecvMsg(&pb.SubscribeResponse{}); err != nil && !errors.Is(err, io.EOF) {
					b.Fatal(err)
				}
			}
		}
		used := heap() - base
		return func() {
			cancel()
			for _, c := range conns {
				c.Close()
			}
		}, used / subs
	}
	for b.Loop() {
		srv := grpc.NewServer()
		srv.RegisterService(&grpc.ServiceDesc{ServiceName: "static", HandlerType: (*any)(nil), Streams: []grpc.StreamDesc{{
			StreamName: "Send", ServerStreams: true, Handler: func(_ any, s grpc.ServerStream) error {
				if err := s.RecvMsg(&pb.SubscribeRequest{}); err != nil {
					return err
				}
				for range 2 {
					if err := s.SendMsg(&pb.SubscribeResponse{Cursor: cursorAt(1)}); err != nil {
						return err
					}
				}
				<-s.Context().Done()
				return nil
			},
		}}}, nil)
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		go srv.Serve(l)
		closeAll, static := open(l.Addr().String(), "/static/Send", 2)
		closeAll()
		srv.Stop()
		f := newFixture(b, func(c *Config, _ *live.Config) { c.Logger = nil })
		closeAll, hub := open(f.addr, pb.SubscriptionService_Subscribe_FullMethodName, 2)
		closeAll()
		b.ReportMetric(float64(hub), "B/subscriber")
		b.ReportMetric(float64(static), "B/stream")
	}
}
