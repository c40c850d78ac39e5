// Package compat holds old and new together: a client that was generated from the published contract, and has not been
// touched since, works with a bridge that has more; and a client of today with a bridge that has less.
package compat

import (
	"context"
	"errors"
	"io"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"

	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

// client is a client that was generated from some contract. It does what docs/streams.md asks for and no more: it keeps the
// cursor of each message, whatever its kind, and resumes with it.
type client struct {
	conn     *grpc.ClientConn
	contract schema
	cursor   string
}

var subscribeDesc = &grpc.StreamDesc{StreamName: "Subscribe", ServerStreams: true}

// follow reads one stream to its end; set changes the request, which else only has the cursor.
func (c *client) follow(ctx context.Context, t testing.TB, set func(*dynamicpb.Message), each func(*dynamicpb.Message)) error {
	t.Helper()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.conn.NewStream(ctx, subscribeDesc, "/spotbridge.v1.SubscriptionService/Subscribe")
	if err != nil {
		t.Fatal(err)
	}
	req := dynamicpb.NewMessage(c.contract.message(t, "SubscribeRequest"))
	if set != nil {
		set(req)
	}
	if c.cursor != "" {
		req.Set(req.Descriptor().Fields().ByName("after_cursor"), protoreflect.ValueOfString(c.cursor))
		req.Clear(req.Descriptor().Fields().ByName("start"))
	}
	if err := errors.Join(stream.SendMsg(req), stream.CloseSend()); err != nil {
		t.Fatal(err)
	}
	for {
		m := dynamicpb.NewMessage(c.contract.message(t, "SubscribeResponse"))
		if err := stream.RecvMsg(m); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		if err := ctx.Err(); err != nil {
			return err // what is still in buffers was not handled, and the cursor must not say so
		}
		if text := cursorOf(m, "cursor"); text != "" {
			c.cursor = text
		}
		each(m)
	}
}

// call calls a unary method.
func (c *client) call(t testing.TB, name string, req *dynamicpb.Message) *dynamicpb.Message {
	t.Helper()
	method := c.contract.method("spotbridge.v1.EventService", name)
	if req == nil {
		req = dynamicpb.NewMessage(method.Input())
	}
	resp := dynamicpb.NewMessage(method.Output())
	if err := c.conn.Invoke(t.Context(), "/spotbridge.v1.EventService/"+name, req, resp); err != nil {
		t.Fatal(err)
	}
	return resp
}

func TestAnOldClientWorksWithALaterServer(t *testing.T) {
	old, future := baseline(t), later(t)
	s := &server{t: t, contract: future, stream: script(t, future), each: 5}
	c := &client{conn: s.serve(), contract: old}

	var got []*dynamicpb.Message
	for {
		err := c.follow(t.Context(), t, nil, func(m *dynamicpb.Message) { got = append(got, m) })
		if err == nil {
			break
		}
		if status.Code(err) != codes.Unavailable {
			t.Fatal(err)
		}
	}
	if len(got) != len(s.stream) {
		t.Fatalf("%d messages were read, %d sent: it does not go on where it was", len(got), len(s.stream))
	}
	kinds, payloads, strange := map[protoreflect.Name]bool{}, map[protoreflect.Name]bool{}, 0
	content, payload := old.message(t, "SubscribeResponse").Oneofs().ByName("content"), old.message(t, "Event").Oneofs().ByName("payload")
	for i, m := range got {
		want := dynamicpb.NewMessage(m.Descriptor())
		known(s.stream[i], want)
		if withoutUnknown(m) == 0 {
			t.Errorf("message %d has nothing that the old client does not know", i)
		}
		if !proto.Equal(m, want) {
			t.Errorf("message %d was read as\n%v\nwant\n%v", i, m, want)
		}
		fd := m.WhichOneof(content)
		if fd == nil {
			strange++ // of a kind that it does not know, with a cursor
			continue
		}
		kinds[fd.Name()] = true
		if fd.Name() == "event" {
			if p := m.Get(fd).Message().WhichOneof(payload); p != nil {
				payloads[p.Name()] = true
			} else {
				payloads["none"] = true
			}
		}
	}
	// That all of it was there: every kind and payload the old client knows, an event of a type that it does not know, and
	// kinds of messages that it does not know.
	if len(kinds) != content.Fields().Len() || len(payloads) != payload.Fields().Len()+1 || strange < 2 {
		t.Errorf("kinds %v, payloads %v, %d of unknown kinds", kinds, payloads, strange)
	}
	if last := cursorOf(s.stream[len(s.stream)-1], "cursor"); c.cursor != last {
		t.Errorf("its position is %s, want %s", c.cursor, last)
	}
}

func TestAnOldClientReadsTheHistoryOfALaterServer(t *testing.T) {
	old, future := baseline(t), later(t)
	s := &server{t: t, contract: future}
	c := &client{conn: s.serve(), contract: old}
	for _, name := range []string{"GetEvent", "ListEvents", "CountEvents"} {
		got := c.call(t, name, nil)
		want := dynamicpb.NewMessage(got.Descriptor())
		known(fill(future.method("spotbridge.v1.EventService", name).Output(), nil), want)
		if withoutUnknown(got) == 0 {
			t.Errorf("%s has nothing new", name)
		}
		if !proto.Equal(got, want) {
			t.Errorf("%s was read as\n%v\nwant\n%v", name, got, want)
		}
	}
}

// TestAnOldClientPassesOnWhatItDoesNotKnow: one that stores or forwards messages as bytes loses nothing of a later server.
func TestAnOldClientPassesOnWhatItDoesNotKnow(t *testing.T) {
	old, future := baseline(t), later(t)
	for _, sent := range script(t, future) {
		text, err := proto.Marshal(sent)
		if err != nil {
			t.Fatal(err)
		}
		read := dynamicpb.NewMessage(old.message(t, "SubscribeResponse"))
		if err := proto.Unmarshal(text, read); err != nil {
			t.Fatal(err)
		}
		if text, err = proto.Marshal(read); err != nil {
			t.Fatal(err)
		}
		back := dynamicpb.NewMessage(sent.Descriptor())
		if err := proto.Unmarshal(text, back); err != nil || !proto.Equal(back, sent) {
			t.Errorf("%v\n%v\nwant\n%v", err, back, sent)
		}
	}
}

func TestTodaysClientWorksWithAnOldServer(t *testing.T) {
	old := baseline(t)
	s := &server{t: t, contract: old, stream: script(t, old), each: 1000}
	conn := s.serve()
	// A request with everything in it that there is today.
	req := &pb.SubscribeRequest{}
	todays := fill(req.ProtoReflect().Descriptor(), nil)
	todays.Clear(todays.Descriptor().Fields().ByName("after_cursor"))
	known(todays, req.ProtoReflect())
	stream, err := pb.NewSubscriptionServiceClient(conn).Subscribe(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	for i, sent := range s.stream {
		m, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		want := &pb.SubscribeResponse{}
		known(sent, want.ProtoReflect())
		if !proto.Equal(m, want) {
			t.Errorf("message %d was read as\n%v\nwant\n%v", i, m, want)
		}
		if m.GetCursor() == "" || m.GetContent() == nil {
			t.Errorf("message %d has no cursor or no content", i)
		}
	}
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		t.Error(err)
	}
	// The old server has read of the request what it knows.
	want := dynamicpb.NewMessage(old.message(t, "SubscribeRequest"))
	known(req.ProtoReflect(), want)
	got := s.requests[0]
	withoutUnknown(got)
	if !proto.Equal(got, want) {
		t.Errorf("the server read\n%v\nwant\n%v", got, want)
	}

	resp, err := pb.NewEventServiceClient(conn).GetEvent(t.Context(), &pb.GetEventRequest{EventId: "x"})
	if err != nil || resp.GetEvent().GetId() == "" {
		t.Errorf("%v %v", resp, err)
	}
	// What the old server does not have is said, and is not a broken connection.
	if old.method("spotbridge.v1.ConsumerGroupService", "ListConsumerGroups") == nil {
		_, err := pb.NewConsumerGroupServiceClient(conn).ListConsumerGroups(t.Context(), &pb.ListConsumerGroupsRequest{})
		if status.Code(err) != codes.Unimplemented {
			t.Errorf("a method that it does not have: %v", err)
		}
	}
}
