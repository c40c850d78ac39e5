package server

import (
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	"github.com/spotbridge/spotbridge/bridge"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

// TestADeliveryFrameIsTheMessage holds the frame that is written by hand to the message that it stands for.
func TestADeliveryFrameIsTheMessage(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		body := rapid.SliceOfN(rapid.Byte(), 0, 64).Draw(rt, "body")
		for range rapid.IntRange(0, 7).Draw(rt, "doublings") { // joined and not
			body = append(body, body...)
		}
		envelope, err := proto.Marshal(&pb.Event{Id: "sandbox.1", Sequence: rapid.Uint64().Draw(rt, "sequence")})
		if err != nil {
			rt.Fatal(err)
		}
		d := &bridge.GroupDelivery{
			ID: rapid.StringMatching(`[A-Za-z0-9_-]{0,256}`).Draw(rt, "id"), Attempt: rapid.IntRange(0, 1<<31-1).Draw(rt, "attempt"),
			Redriven: rapid.Bool().Draw(rt, "redriven"),
			Deadline: time.Unix(rapid.Int64Range(0, 1<<33).Draw(rt, "seconds"), rapid.Int64Range(0, 999_999_999).Draw(rt, "nanoseconds")),
			Event:    bridge.NewEncoded(bridge.Meta{}, envelope, body, len(body), nil),
		}
		view := rapid.SampledFrom([]pb.EventView{pb.EventView_EVENT_VIEW_ENVELOPE, pb.EventView_EVENT_VIEW_RAW}).Draw(rt, "view")
		f := deliveryFrame(d, view, defaultMessageBytes)
		b := f.parts.Materialize()
		var got pb.ConsumeResponse
		if err := proto.Unmarshal(b, &got); err != nil || len(b) != f.size {
			rt.Fatalf("%v; %d bytes, said %d", err, len(b), f.size)
		}
		ev, err := d.Event.Event(view, 0)
		if err != nil {
			rt.Fatal(err)
		}
		want := &pb.ConsumeResponse{Content: &pb.ConsumeResponse_Delivery{Delivery: &pb.GroupDelivery{
			DeliveryId: d.ID, Attempt: int32(d.Attempt), Redriven: d.Redriven, AckDeadlineTime: timestamppb.New(d.Deadline), Event: ev,
		}}}
		if !proto.Equal(&got, want) {
			rt.Fatalf("got  %v\nwant %v", &got, want)
		}
	})
}
