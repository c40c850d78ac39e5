package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/spotbridge/spotbridge/bridge"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

const replayEvents = 36_000

// replay: everything from the first event on, and one event in sixty, beside one ordered consumer of the same entries that
// is relayed into a gRPC stream, and beside a filtered JetStream consumer.
func (b *bench) replay(ctx context.Context) error {
	br, err := startBridge(ctx, filepath.Join(b.dir, "replay"))
	if err != nil {
		return err
	}
	defer br.stop()
	base, err := startMinimal(filepath.Join(b.dir, "replay-minimal"))
	if err != nil {
		return err
	}
	defer base.stop()
	body := pnrBody(20 << 10)
	if err := fillBridge(ctx, br, body, replayEvents); err != nil {
		return err
	}
	if err := fillStream(ctx, base, body); err != nil {
		return err
	}
	earliest := &pb.SubscribeRequest{Start: pb.Start_START_EARLIEST}
	cursor, err := firstCursor(ctx, br)
	if err != nil {
		return err
	}
	for _, q := range []struct {
		name, subject, goal string
		from                *pb.SubscribeRequest
		filter              *pb.EventFilter
		want                int
	}{
		{"all (one ordered consumer relayed)", "bench.>", ">= 0.5", earliest, nil, replayEvents},
		{"all, from a time (the same)", "bench.>", ">= 0.5", &pb.SubscribeRequest{FromTime: timestamppb.New(time.Now().Add(-time.Hour))}, nil, replayEvents},
		{"all, from a cursor (the same)", "bench.>", ">= 0.5", &pb.SubscribeRequest{AfterCursor: cursor}, nil, replayEvents},
		{"1 in 60 (filtered JetStream consumer)", "bench.op.0", ">= 5", earliest, &pb.EventFilter{Operations: []string{"OP_0"}}, replayEvents / 60},
	} {
		viaBridge := func() (sample, error) {
			req := &pb.SubscribeRequest{Start: q.from.GetStart(), AfterCursor: q.from.GetAfterCursor(), FromTime: q.from.GetFromTime()}
			req.StopAtHead, req.View, req.Filter = true, pb.EventView_EVENT_VIEW_RAW, q.filter
			return timeReplay(ctx, br.GRPCAddr(), req, q.want)
		}
		relay := func() (sample, error) {
			addr, stop, err := serveRaw(func(stream grpc.ServerStream) error { return relayConsumer(ctx, base, q.subject, q.want, stream) })
			if err != nil {
				return sample{}, err
			}
			defer stop()
			return timeReplay(ctx, addr, &pb.SubscribeRequest{}, q.want)
		}
		x, y, ratio, err := b.pair(viaBridge, relay)
		if err != nil {
			return err
		}
		b.add(row{"replay of 20 KB events: " + q.name, fmt.Sprintf("%.0f/s", x.rate), fmt.Sprintf("%.0f/s", y.rate), fmt.Sprintf("%.2f", ratio), q.goal})
	}
	return nil
}

// firstCursor returns the cursor before the first event.
func firstCursor(ctx context.Context, br *bridgeProcess) (string, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := pb.NewSubscriptionServiceClient(br.conn).Subscribe(ctx, &pb.SubscribeRequest{Start: pb.Start_START_EARLIEST})
	if err != nil {
		return "", err
	}
	m, err := stream.Recv()
	return m.GetCursor(), err
}

// relayConsumer is the baseline: an ordered consumer whose messages go straight into the stream.
func relayConsumer(ctx context.Context, base *minimal, subject string, want int, stream grpc.ServerStream) error {
	var r received
	if err := stream.RecvMsg(&r); err != nil {
		return err
	}
	cons, err := base.js.OrderedConsumer(ctx, "bench", jetstream.OrderedConsumerConfig{FilterSubjects: []string{subject}})
	if err != nil {
		return err
	}
	it, err := cons.Messages()
	if err != nil {
		return err
	}
	defer it.Stop()
	for range want {
		m, err := it.Next()
		if err != nil {
			return err
		}
		if err := stream.SendMsg(m.Data()); err != nil {
			return err
		}
	}
	return nil
}

func timeReplay(ctx context.Context, addr string, req *pb.SubscribeRequest, want int) (sample, error) {
	start, n := time.Now(), 0
	err := subscribeRaw(ctx, addr, req, func(m *received) error {
		if m.bytes > 10<<10 {
			n++
		}
		return nil
	})
	if !errors.Is(err, io.EOF) {
		return sample{}, err
	}
	if n != want {
		return sample{}, fmt.Errorf("%d events, want %d", n, want)
	}
	return sample{rate: float64(n) / time.Since(start).Seconds()}, nil
}

// parallel runs n jobs, 64 at a time.
func parallel(n int, job func(i int) error) error {
	var wg sync.WaitGroup
	errs := make(chan error, 64)
	next := make(chan int)
	for range 64 {
		wg.Go(func() {
			for i := range next {
				if err := job(i); err != nil {
					select {
					case errs <- err:
					default:
					}
				}
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	wg.Wait()
	select {
	case err := <-errs:
		return err
	default:
		return nil
	}
}

func fillBridge(ctx context.Context, br *bridgeProcess, body []byte, events int) error {
	if err := parallel(events, func(i int) error {
		_, err := br.Log().Append(ctx, benchEntry("r"+strconv.Itoa(i), "OP_"+strconv.Itoa(i%60), body))
		return err
	}); err != nil {
		return err
	}
	for {
		got, err := pb.NewEventServiceClient(br.conn).CountEvents(ctx, &pb.CountEventsRequest{})
		if err != nil {
			return err
		}
		if got.GetTotal() == int64(events) {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func fillStream(ctx context.Context, base *minimal, body []byte) error {
	return parallel(replayEvents, func(i int) error {
		_, err := base.js.Publish(ctx, "bench.op."+strconv.Itoa(i%60), body)
		return err
	})
}

// benchEntry is the log entry of a delivery whose operation differs from the body's template.
func benchEntry(id, operation string, body []byte) *bridge.Entry {
	body = bytes.Replace(body, []byte(`"operation":"BOOKING_UPDATED"`), fmt.Appendf(nil, `"operation":%q`, operation), 1)
	return &bridge.Entry{
		Kind: bridge.EntryEvent, Source: "bench", EventID: bridge.EventID("bench", id), WebhookID: id, EventType: "PNR_V3", Operation: operation,
		ReceiveTime: time.Now(), BodyHash: sha256.Sum256(body), Body: body, BodySize: len(body),
	}
}
