package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

const (
	// groupWindow is how many events a member may hold, there and here.
	groupWindow = 1000
	// ackBatch is how many acks the client sends at once, when there are so many.
	ackBatch = 64
)

// groups: acknowledged events per second of a consumer group with one and four members, beside a bare JetStream durable pull
// consumer of the same bodies with as many workers. Both read a backlog, and both acknowledge every event.
func (b *bench) groups(ctx context.Context) error {
	for _, size := range []int{1 << 10, 20 << 10} {
		if err := b.groupsOf(ctx, size); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) groupsOf(ctx context.Context, size int) error {
	name := fmt.Sprintf("%d KB", size>>10)
	br, err := startBridge(ctx, filepath.Join(b.dir, "groups"+fmt.Sprint(size)))
	if err != nil {
		return err
	}
	defer br.stop()
	base, err := startMinimal(filepath.Join(b.dir, "groups-minimal"+fmt.Sprint(size)))
	if err != nil {
		return err
	}
	defer base.stop()
	body := pnrBody(size)
	if err := fillBridge(ctx, br, body); err != nil {
		return err
	}
	if err := fillStream(ctx, base, body); err != nil {
		return err
	}
	round := 0
	for _, members := range []int{1, 4} {
		for _, view := range []pb.EventView{pb.EventView_EVENT_VIEW_RAW, pb.EventView_EVENT_VIEW_ENVELOPE} {
			viaGroup := func() (sample, error) {
				round++
				return timeGroup(ctx, br, fmt.Sprintf("bench-%d", round), members, view)
			}
			bare := func() (sample, error) {
				round++
				return timeConsumer(ctx, base, fmt.Sprintf("bench-%d", round), members)
			}
			x, y, ratio, err := b.pair(viaGroup, bare)
			if err != nil {
				return err
			}
			goal := ">= 0.6"
			if view == pb.EventView_EVENT_VIEW_ENVELOPE {
				goal = "-"
			}
			b.add(row{
				fmt.Sprintf("group, %s, %d members, %s (bare pull consumer)", name, members, view.String()[len("EVENT_VIEW_"):]),
				fmt.Sprintf("%.0f/s cpu %s", x.rate, short(x.cpuPer)), fmt.Sprintf("%.0f/s cpu %s", y.rate, short(y.cpuPer)), fmt.Sprintf("%.2f", ratio), goal,
			})
		}
	}
	return nil
}

// timeGroup has a new group read everything.
func timeGroup(ctx context.Context, br *bridgeProcess, group string, members int, view pb.EventView) (sample, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	service := pb.NewConsumerGroupServiceClient(br.conn)
	if _, err := service.CreateConsumerGroup(ctx, &pb.CreateConsumerGroupRequest{Group: group, Start: pb.Start_START_EARLIEST}); err != nil {
		return sample{}, err
	}
	var acked atomic.Int64
	done := make(chan struct{})
	var once sync.Once
	errs := make(chan error, members)
	begin, used := time.Now(), cpu()
	for range members {
		go func() {
			errs <- consumeAll(ctx, br.GRPCAddr(), group, view, func(n int) {
				if acked.Add(int64(n)) >= replayEvents {
					once.Do(func() { close(done) })
				}
			}, done)
		}()
	}
	<-done
	took, spent := time.Since(begin), cpu()-used
	for range members {
		if err := <-errs; err != nil {
			return sample{}, err
		}
	}
	_, err := service.DeleteConsumerGroup(ctx, &pb.DeleteConsumerGroupRequest{Group: group})
	return sample{rate: replayEvents / took.Seconds(), cpuPer: spent / replayEvents}, err
}

// consumeAll is one member. Its acks are sent and not waited for, like those of the baseline.
func consumeAll(ctx context.Context, addr, group string, view pb.EventView, acked func(int), done <-chan struct{}) error {
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := pb.NewConsumerGroupServiceClient(conn).Consume(ctx)
	if err != nil {
		return err
	}
	join := &pb.Join{Group: group, View: view, Credit: &pb.Credit{Events: groupWindow}, AutoCredit: true}
	if err := stream.Send(&pb.ConsumeRequest{Content: &pb.ConsumeRequest_Join{Join: join}}); err != nil {
		return err
	}
	ids := make(chan string, groupWindow)
	received := make(chan error, 1)
	go func() {
		for {
			m, err := stream.Recv()
			if err != nil {
				close(ids)
				received <- err
				return
			}
			if d := m.GetDelivery(); d != nil {
				ids <- d.GetDeliveryId()
			}
			if r := m.GetRefused(); r != nil {
				received <- fmt.Errorf("an ack was refused: %s", r.GetReason())
				return
			}
		}
	}()
	for {
		var batch []string
		select {
		case id, ok := <-ids:
			if !ok {
				return <-received
			}
			batch = append(batch, id)
		case <-done:
			return nil
		}
		for more := true; more && len(batch) < ackBatch; {
			select {
			case id, ok := <-ids:
				if more = ok; ok {
					batch = append(batch, id)
				}
			default:
				more = false
			}
		}
		if err := stream.Send(&pb.ConsumeRequest{Content: &pb.ConsumeRequest_Ack{Ack: &pb.Ack{DeliveryIds: batch}}}); err != nil {
			return errors.Join(err, <-received)
		}
		acked(len(batch))
	}
}

// timeConsumer is the baseline: workers on one durable consumer, in this process and without gRPC.
func timeConsumer(ctx context.Context, base *minimal, name string, workers int) (sample, error) {
	cons, err := base.js.CreateConsumer(ctx, "bench", jetstream.ConsumerConfig{
		Durable: name, AckPolicy: jetstream.AckExplicitPolicy, AckWait: 30 * time.Second, MaxAckPending: groupWindow * workers,
	})
	if err != nil {
		return sample{}, err
	}
	var acked atomic.Int64
	done := make(chan struct{})
	var once sync.Once
	begin, used := time.Now(), cpu()
	var running []jetstream.ConsumeContext
	for range workers {
		c, err := cons.Consume(func(m jetstream.Msg) {
			_ = m.Ack()
			if acked.Add(1) == replayEvents {
				once.Do(func() { close(done) })
			}
		}, jetstream.PullMaxMessages(groupWindow))
		if err != nil {
			return sample{}, err
		}
		running = append(running, c)
	}
	select {
	case <-done:
	case <-ctx.Done():
		return sample{}, ctx.Err()
	}
	took, spent := time.Since(begin), cpu()-used
	for _, c := range running {
		c.Stop()
	}
	return sample{rate: replayEvents / took.Seconds(), cpuPer: spent / replayEvents}, base.js.DeleteConsumer(ctx, "bench", name)
}
