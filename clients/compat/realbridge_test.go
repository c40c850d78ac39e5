//go:build clients

package compat

import (
	"context"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/spotbridge/spotbridge/clients/internal/realbridge"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

// TestAnOldClientWorksWithTheBridge: the client of the published contract reads every event of today's bridge as today's
// client does, also over a connection that breaks.
func TestAnOldClientWorksWithTheBridge(t *testing.T) {
	b := realbridge.Start(t)
	conn := dial(t, b.GRPC)
	c := &client{conn: conn, contract: baseline(t)}
	set := func(req *dynamicpb.Message) {
		fields := req.Descriptor().Fields()
		req.Set(fields.ByName("start"), protoreflect.ValueOfEnum(pb.Start_START_EARLIEST.Number()))
		req.Set(fields.ByName("view"), protoreflect.ValueOfEnum(pb.EventView_EVENT_VIEW_FULL.Number()))
		req.Set(fields.ByName("stop_at_head"), protoreflect.ValueOfBool(true))
	}
	var got []protoreflect.Message
	caughtUp := false
	for read := 0; !caughtUp; read = 0 {
		ctx, cancel := context.WithCancel(t.Context())
		err := c.follow(ctx, t, set, func(m *dynamicpb.Message) {
			fields := m.Descriptor().Fields()
			if event := fields.ByName("event"); m.Has(event) {
				got = append(got, m.Get(event).Message())
				if read++; read == 10 {
					cancel() // the connection breaks
				}
			}
			caughtUp = caughtUp || m.Has(fields.ByName("caught_up"))
		})
		if err != nil && ctx.Err() == nil {
			t.Fatal(err)
		}
		cancel()
	}
	events := todaysEvents(t, pb.NewSubscriptionServiceClient(conn))
	if len(got) != b.Events || len(events) != b.Events {
		t.Fatalf("the old client read %d events, today's %d; there are %d", len(got), len(events), b.Events)
	}
	for i, event := range events {
		want := dynamicpb.NewMessage(got[i].Descriptor())
		known(event.ProtoReflect(), want)
		withoutUnknown(got[i])
		if !proto.Equal(got[i].Interface(), want) {
			t.Errorf("event %s was read as\n%v\nwant\n%v", event.GetId(), got[i], want)
		}
	}

	req := dynamicpb.NewMessage(c.contract.message(t, "GetEventRequest"))
	req.Set(req.Descriptor().Fields().ByName("event_id"), protoreflect.ValueOfString(events[0].GetId()))
	resp := c.call(t, "GetEvent", req)
	event := resp.Get(resp.Descriptor().Fields().ByName("event")).Message()
	if id := event.Get(event.Descriptor().Fields().ByName("id")).String(); id != events[0].GetId() {
		t.Errorf("GetEvent gave %s, want %s", id, events[0].GetId())
	}
}

func todaysEvents(t *testing.T, c pb.SubscriptionServiceClient) (events []*pb.Event) {
	t.Helper()
	stream, err := c.Subscribe(t.Context(), &pb.SubscribeRequest{Start: pb.Start_START_EARLIEST, View: pb.EventView_EVENT_VIEW_FULL, StopAtHead: true})
	if err != nil {
		t.Fatal(err)
	}
	for {
		m, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if e := m.GetEvent(); e != nil {
			events = append(events, e)
		}
		if m.GetCaughtUp() != nil {
			return events
		}
	}
}
