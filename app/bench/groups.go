package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"

	"github.com/spotbridge/spotbridge/bridge/eventlog"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

const (
	// logStream is the name of the log's stream.
	logStream = "spotbridge_log"
	// groupWindow is how many events a member may hold, there and here.
	groupWindow = 1000
	// ackBatch is how many acks the client sends at once, when there are so many.
	ackBatch = 64
	// batchEvents is how many events a member takes in one message, where it asks for batches.
	batchEvents = 100
)

// groups: acknowledged events per second of a consumer group with one and four members, beside a bare JetStream durable pull
// consumer of the same log with as many workers. Both read a backlog, and both acknowledge every event. The baseline has a TCP
// connection for each worker, as a member has; beside it stands the same one in this process, which a member never is.
func (b *bench) groups(ctx context.Context) error {
	for _, q := range []struct{ size, events int }{{1 << 10, 60_000}, {20 << 10, 20_000}} {
		if err := b.groupsOf(ctx, q.size, q.events); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) groupsOf(ctx context.Context, size, events int) error {
	name := fmt.Sprintf("%d KB", size>>10)
	br, err := startBridge(ctx, filepath.Join(b.dir, "groups"+fmt.Sprint(size)))
	if err != nil {
		return err
	}
	defer br.stop()
	body := pnrBody(size)
	if err := fillBridge(ctx, br, body, events); err != nil {
		return err
	}
	if err := inspected(ctx, br); err != nil {
		return err
	}
	dir := filepath.Join(b.dir, "groups-minimal"+fmt.Sprint(size))
	if err := makeLog(ctx, dir, body, events); err != nil {
		return err
	}
	base, err := startMinimal(dir)
	if err != nil {
		return err
	}
	defer base.stop()
	round := 0
	for _, members := range []int{1, 4} {
		viaGroup := func(view pb.EventView, batch int) func() (sample, error) {
			return func() (sample, error) {
				round++
				return timeGroup(ctx, br, fmt.Sprintf("bench-%d", round), members, batch, view, events)
			}
		}
		bare := func(overTCP bool) func() (sample, error) {
			return func() (sample, error) {
				round++
				return timeConsumer(ctx, base, fmt.Sprintf("bench-%d", round), members, events, overTCP)
			}
		}
		const raw, envelope = pb.EventView_EVENT_VIEW_RAW, pb.EventView_EVENT_VIEW_ENVELOPE
		for _, q := range []struct {
			what             string
			bridge, baseline func() (sample, error)
			goal             string
		}{
			{"RAW (pull consumer over TCP)", viaGroup(raw, 0), bare(true), ">= 0.6"},
			{fmt.Sprintf("RAW, up to %d in a message (over TCP)", batchEvents), viaGroup(raw, batchEvents), bare(true), ">= 0.6"},
			{"RAW (pull consumer in process)", viaGroup(raw, 0), bare(false), ">= 0.6"},
			{fmt.Sprintf("RAW, up to %d in a message (in process)", batchEvents), viaGroup(raw, batchEvents), bare(false), ">= 0.6"},
			{"ENVELOPE (in process)", viaGroup(envelope, 0), bare(false), "-"},
		} {
			if err := b.ratio(fmt.Sprintf("group, %s, %d members, %s", name, members, q.what), q.bridge, q.baseline, q.goal); err != nil {
				return err
			}
		}
	}
	return nil
}

// ratio adds a row of rates.
func (b *bench) ratio(what string, bridge, baseline func() (sample, error), goal string) error {
	x, y, ratio, err := b.pair(bridge, baseline)
	if err != nil {
		return err
	}
	rate := func(s sample) string { return fmt.Sprintf("%.0f/s cpu %s", s.rate, short(s.cpuPer)) }
	b.add(row{what, rate(x), rate(y), fmt.Sprintf("%.2f", ratio), goal})
	return nil
}

// inspected waits until the bridge has looked for drift in everything: it does so once, in the background.
func inspected(ctx context.Context, br *bridgeProcess) error {
	for {
		got, err := pb.NewCatalogServiceClient(br.conn).ListSchemaDrift(ctx, &pb.ListSchemaDriftRequest{PageSize: 1})
		if err != nil {
			return err
		}
		if got.GetNextInspection() == nil && got.GetInspection().GetWatermark() >= got.GetHead() {
			return nil
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// makeLog writes a log without a bridge.
func makeLog(ctx context.Context, dir string, body []byte, events int) error {
	l, err := eventlog.Open(ctx, eventlog.Config{Dir: dir, MaxBytes: 32 << 30, MaxBody: 8 << 20})
	if err != nil {
		return err
	}
	defer l.Close()
	return parallel(events, func(i int) error {
		_, err := l.Append(ctx, benchEntry("r"+strconv.Itoa(i), "OP_"+strconv.Itoa(i%60), body))
		return err
	})
}

// timeGroup has a new group read everything.
func timeGroup(ctx context.Context, br *bridgeProcess, group string, members, batch int, view pb.EventView, events int) (sample, error) {
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
			errs <- consumeAll(ctx, br.GRPCAddr(), group, view, batch, func(n int) {
				if acked.Add(int64(n)) >= int64(events) {
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
	return sample{rate: float64(events) / took.Seconds(), cpuPer: spent / time.Duration(events)}, err
}

// deliveries is a message to a member of which only the delivery ids are read.
type deliveries struct {
	ids     []string
	refused bool
}

// read passes over what is in the events.
func (d *deliveries) read(data mem.BufferSlice) error {
	d.ids, d.refused = nil, false
	delivery := uint64(2) // number of the field
	return eachField(data, func(in *mem.Reader, field uint64) (inside bool, err error) {
		switch field {
		case delivery:
			tag, err := binary.ReadUvarint(in)
			if err != nil {
				return false, err
			}
			size, err := binary.ReadUvarint(in)
			if err != nil {
				return false, err
			}
			if tag>>3 != 1 || int(size) > in.Remaining() {
				return false, errors.New("a delivery without its id in front")
			}
			id := make([]byte, size)
			if _, err := io.ReadFull(in, id); err != nil {
				return false, err
			}
			d.ids = append(d.ids, string(id))
		case 4:
			d.refused = true
		case 8:
			delivery = 1 // of the batch, which is the only field
			return true, nil
		}
		return false, nil
	})
}

// consumeAll is one member. Its acks are sent and not waited for, and what it acknowledges is not decoded, like the
// baseline's.
func consumeAll(ctx context.Context, addr, group string, view pb.EventView, batch int, acked func(int), done <-chan struct{}) error {
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, pb.ConsumerGroupService_Consume_FullMethodName, grpc.ForceCodecV2(rawCodec{}))
	if err != nil {
		return err
	}
	join := &pb.Join{Group: group, View: view, Credit: &pb.Credit{Events: groupWindow}, AutoCredit: true, MaxBatchEvents: int32(batch)}
	if err := stream.SendMsg(&pb.ConsumeRequest{Content: &pb.ConsumeRequest_Join{Join: join}}); err != nil {
		return err
	}
	ids := make(chan string, groupWindow)
	received := make(chan error, 1)
	go func() {
		for {
			var m deliveries
			if err := stream.RecvMsg(&m); err != nil {
				close(ids)
				received <- err
				return
			}
			if m.refused {
				received <- errors.New("an ack was refused")
				return
			}
			for _, id := range m.ids {
				ids <- id
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
		if err := stream.SendMsg(&pb.ConsumeRequest{Content: &pb.ConsumeRequest_Ack{Ack: &pb.Ack{DeliveryIds: batch}}}); err != nil {
			return errors.Join(err, <-received)
		}
		acked(len(batch))
	}
}

// timeConsumer is the baseline: workers on one durable consumer, without gRPC; in this process, or each with a connection.
func timeConsumer(ctx context.Context, base *minimal, name string, workers, events int, overTCP bool) (sample, error) {
	cons, err := base.js.CreateConsumer(ctx, logStream, jetstream.ConsumerConfig{
		Durable: name, FilterSubject: "ev.>", AckPolicy: jetstream.AckExplicitPolicy, AckWait: 30 * time.Second, MaxAckPending: groupWindow * workers,
	})
	if err != nil {
		return sample{}, err
	}
	consumers := slices.Repeat([]jetstream.Consumer{cons}, workers)
	for i := 0; i < workers && overTCP; i++ {
		nc, err := nats.Connect(base.ns.ClientURL())
		if err != nil {
			return sample{}, err
		}
		defer nc.Close()
		js, err := jetstream.New(nc)
		if err != nil {
			return sample{}, err
		}
		if consumers[i], err = js.Consumer(ctx, logStream, name); err != nil {
			return sample{}, err
		}
	}
	var acked atomic.Int64
	done := make(chan struct{})
	var once sync.Once
	begin, used := time.Now(), cpu()
	var running []jetstream.ConsumeContext
	for _, cons := range consumers {
		c, err := cons.Consume(func(m jetstream.Msg) {
			_ = m.Ack()
			if acked.Add(1) == int64(events) {
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
	return sample{rate: float64(events) / took.Seconds(), cpuPer: spent / time.Duration(events)}, base.js.DeleteConsumer(ctx, logStream, name)
}
