package server

import (
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	"github.com/spotbridge/spotbridge/bridge"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

// drawDelivery draws a delivery, and returns the message that it stands for in a view.
func drawDelivery(rt *rapid.T, view pb.EventView) (*bridge.GroupDelivery, *pb.GroupDelivery) {
	body := rapid.SliceOfN(rapid.Byte(), 0, 64).Draw(rt, "body")
	for range rapid.IntRange(0, 11).Draw(rt, "doublings") { // joined and not, up to 128 KB
		body = append(body, body...)
	}
	envelope, err := proto.Marshal(&pb.Event{Id: "sandbox.1", Sequence: rapid.Uint64().Draw(rt, "sequence")})
	if err != nil {
		rt.Fatal(err)
	}
	d := &bridge.GroupDelivery{
		ID: rapid.StringMatching(`[A-Za-z0-9_-]{1,256}`).Draw(rt, "id"), Attempt: rapid.IntRange(0, 1<<31-1).Draw(rt, "attempt"),
		Redriven: rapid.Bool().Draw(rt, "redriven"),
		Deadline: time.Unix(rapid.Int64Range(0, 1<<33).Draw(rt, "seconds"), rapid.Int64Range(0, 999_999_999).Draw(rt, "nanoseconds")),
		Event:    bridge.NewEncoded(bridge.Meta{}, envelope, body, len(body), nil),
	}
	ev, err := d.Event.Event(view, 0)
	if err != nil {
		rt.Fatal(err)
	}
	return d, &pb.GroupDelivery{
		DeliveryId: d.ID, Attempt: int32(d.Attempt), Redriven: d.Redriven, AckDeadlineTime: timestamppb.New(d.Deadline), Event: ev,
	}
}

// sentMessages is a stream that keeps what is sent.
type sentMessages struct {
	grpc.BidiStreamingServer[pb.ConsumeRequest, pb.ConsumeResponse]
	rt  *rapid.T
	got []*pb.ConsumeResponse
}

func (s *sentMessages) SendMsg(m any) error {
	f, ok := m.(*frame)
	if !ok {
		s.rt.Fatalf("it sent a %T", m)
	}
	b := f.parts.Materialize()
	var got pb.ConsumeResponse
	if err := proto.Unmarshal(b, &got); err != nil || len(b) != f.size {
		s.rt.Fatalf("%v; %d bytes, said %d", err, len(b), f.size)
	}
	s.got = append(s.got, &got)
	return nil
}

// TestADeliveryFrameIsTheMessage holds the frames that are written by hand to the messages that they stand for: one delivery
// as delivery, several as deliveries, and those no larger than a message may be.
func TestADeliveryFrameIsTheMessage(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		view := rapid.SampledFrom([]pb.EventView{pb.EventView_EVENT_VIEW_ENVELOPE, pb.EventView_EVENT_VIEW_RAW}).Draw(rt, "view")
		limit := rapid.SampledFrom([]int{160 << 10, defaultMessageBytes}).Draw(rt, "limit")
		to := &sentMessages{rt: rt}
		m := &memberStream{stream: to}
		var want []*pb.GroupDelivery
		ends := map[int]bool{} // after so many deliveries
		for range rapid.IntRange(1, 12).Draw(rt, "deliveries") {
			d, msg := drawDelivery(rt, view)
			want = append(want, msg)
			if size, err := m.Add(d, view, limit); err != nil || size != proto.Size(&pb.ConsumeResponse{Content: &pb.ConsumeResponse_Delivery{Delivery: msg}}) {
				rt.Fatalf("added %d bytes: %v", size, err)
			}
			if rapid.Bool().Draw(rt, "flush") {
				ends[len(want)] = true
				if err := m.Flush(); err != nil {
					rt.Fatal(err)
				}
			}
		}
		if err := m.Flush(); err != nil {
			rt.Fatal(err)
		}
		before := len(to.got)
		if err := m.Flush(); err != nil || len(to.got) != before {
			rt.Fatal("it sent something twice, or nothing as something")
		}
		var got []*pb.GroupDelivery
		for _, msg := range to.got {
			batch := msg.GetDeliveries().GetDeliveries()
			if batch == nil {
				batch = []*pb.GroupDelivery{msg.GetDelivery()}
			} else if len(batch) == 1 || proto.Size(msg) > min(limit, batchBytes) {
				rt.Fatalf("a message of %d deliveries and %d bytes", len(batch), proto.Size(msg))
			}
			for i := range batch {
				if got = append(got, batch[i]); i < len(batch)-1 && ends[len(got)] {
					rt.Fatal("a message goes on after it was sent")
				}
			}
		}
		if len(got) != len(want) {
			rt.Fatalf("%d deliveries instead of %d", len(got), len(want))
		}
		for i := range want {
			if !proto.Equal(got[i], want[i]) {
				rt.Fatalf("got  %v\nwant %v", got[i], want[i])
			}
		}
	})
}
