package main

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

const latencyRate = 200 // a second

// latency: from the moment a delivery is sent until a subscriber has it, at 200 a second, beside a publish to an embedded
// JetStream and its ordered consumer.
func (b *bench) latency(ctx context.Context) error {
	br, err := startBridge(ctx, filepath.Join(b.dir, "latency"))
	if err != nil {
		return err
	}
	defer br.stop()
	base, err := startMinimal(filepath.Join(b.dir, "latency-minimal"))
	if err != nil {
		return err
	}
	defer base.stop()
	body := pnrBody(20 << 10)
	n := int(latencyRate * max(b.duration, 5*time.Second).Seconds())

	viaBridge := func() (sample, error) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		stream, err := pb.NewSubscriptionServiceClient(br.conn).Subscribe(ctx, &pb.SubscribeRequest{View: pb.EventView_EVENT_VIEW_RAW})
		if err != nil {
			return sample{}, err
		}
		if _, err := stream.Recv(); err != nil {
			return sample{}, err
		}
		conn, err := net.Dial("tcp", br.door)
		if err != nil {
			return sample{}, err
		}
		defer conn.Close()
		r := bufio.NewReader(conn)
		return paced(n, func(id string) error { return postOne(conn, r, "/webhooks/bench", id, body) },
			func() (string, error) {
				for {
					m, err := stream.Recv()
					if err != nil {
						return "", err
					}
					if e := m.GetEvent(); e != nil {
						return e.GetWebhookId(), nil
					}
				}
			})
	}
	viaStream := func() (sample, error) {
		cons, err := base.js.OrderedConsumer(ctx, "bench", jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverNewPolicy})
		if err != nil {
			return sample{}, err
		}
		it, err := cons.Messages()
		if err != nil {
			return sample{}, err
		}
		defer it.Stop()
		return paced(n, func(id string) error {
			_, err := base.js.PublishMsg(ctx, &nats.Msg{Subject: "bench.x", Data: body, Header: nats.Header{jetstream.MsgIDHeader: {id}}})
			return err
		}, func() (string, error) {
			m, err := it.Next()
			if err != nil {
				return "", err
			}
			return m.Headers().Get(jetstream.MsgIDHeader), nil
		})
	}
	var xs, ys []sample
	var r50, r99 []float64
	for range b.rounds {
		y, err := viaStream()
		if err != nil {
			return err
		}
		x, err := viaBridge()
		if err != nil {
			return err
		}
		xs, ys = append(xs, x), append(ys, y)
		r50, r99 = append(r50, float64(x.p50)/float64(y.p50)), append(r99, float64(x.p99)/float64(y.p99))
	}
	x, y := medianSample(xs), medianSample(ys)
	b.add(row{"webhook in to subscriber out, 200/s (publish to consumer)", fmt.Sprintf("p50 %s p99 %s", short(x.p50), short(x.p99)),
		fmt.Sprintf("p50 %s p99 %s", short(y.p50), short(y.p99)), fmt.Sprintf("%.2f %.2f", median(r50), median(r99)), "<= 2"})
	return nil
}

// paced sends n at the fixed rate and measures from the moment each was due, so that a stall counts for all it delays.
func paced(n int, send func(id string) error, receive func() (string, error)) (sample, error) {
	prefix := "l" + strconv.FormatInt(nextID.Add(1), 10) + "_"
	due := make([]time.Time, n)
	start := time.Now().Add(50 * time.Millisecond)
	for i := range due {
		due[i] = start.Add(time.Duration(i) * time.Second / latencyRate)
	}
	var sendErr error
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := range n {
			time.Sleep(time.Until(due[i]))
			if sendErr = send(prefix + strconv.Itoa(i)); sendErr != nil {
				return
			}
		}
	})
	var all []time.Duration
	for len(all) < n {
		id, err := receive()
		if err != nil {
			return sample{}, err
		}
		if len(id) <= len(prefix) || id[:len(prefix)] != prefix {
			continue
		}
		i, err := strconv.Atoi(id[len(prefix):])
		if err != nil || i >= n {
			continue
		}
		all = append(all, time.Since(due[i]))
	}
	wg.Wait()
	return sample{rate: latencyRate, p50: percentile(all, .5), p99: percentile(all, .99)}, sendErr
}
