package compat

import (
	"net"
	"strconv"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"
)

// server is a gRPC server that knows one contract and nothing else: no generated code, its messages are made of the
// contract's descriptors.
type server struct {
	t        testing.TB
	contract schema
	// stream is what Subscribe sends, each message with its cursor.
	stream []*dynamicpb.Message
	// each is how many of them one call gets before it ends with UNAVAILABLE.
	each int
	// requests are those of Subscribe, in order.
	requests []*dynamicpb.Message
}

// serve starts the server on a socket and returns a connection to it.
func (s *server) serve() *grpc.ClientConn {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		s.t.Fatal(err)
	}
	g := grpc.NewServer(grpc.UnknownServiceHandler(s.handle))
	served := make(chan error, 1)
	go func() { served <- g.Serve(l) }()
	s.t.Cleanup(func() {
		g.Stop()
		if err := <-served; err != nil {
			s.t.Error(err)
		}
	})
	return dial(s.t, l.Addr().String())
}

func dial(t testing.TB, addr string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(16<<20)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func (s *server) handle(_ any, stream grpc.ServerStream) error {
	full, _ := grpc.MethodFromServerStream(stream)
	service, name, _ := strings.Cut(strings.TrimPrefix(full, "/"), "/")
	method := s.contract.method(service, name)
	if method == nil {
		return status.Errorf(codes.Unimplemented, "unknown method %s", full)
	}
	req := dynamicpb.NewMessage(method.Input())
	if err := stream.RecvMsg(req); err != nil {
		return err
	}
	if !method.IsStreamingServer() {
		return stream.SendMsg(fill(method.Output(), nil))
	}
	s.requests = append(s.requests, req)
	position, err := strconv.Atoi(strings.TrimPrefix(cursorOf(req, "after_cursor"), "c"))
	if err != nil {
		position = 0
	}
	for i, m := range s.stream[position:] {
		if i == s.each {
			return status.Error(codes.Unavailable, "the connection is gone")
		}
		if err := stream.SendMsg(m); err != nil {
			return err
		}
	}
	return nil
}

func cursorOf(m protoreflect.Message, field protoreflect.Name) string {
	return m.Get(m.Descriptor().Fields().ByName(field)).String()
}

// script is a stream that has each kind of message and an event with each kind of payload that the contract knows, two of
// each, all fields filled.
func script(t testing.TB, contract schema) []*dynamicpb.Message {
	t.Helper()
	response := contract.message(t, "SubscribeResponse")
	content, payload := response.Oneofs().ByName("content"), contract.message(t, "Event").Oneofs().ByName("payload")
	var out []*dynamicpb.Message
	add := func(chosen map[protoreflect.FullName]protoreflect.Name) {
		m := fill(response, chosen)
		m.Set(response.Fields().ByName("cursor"), protoreflect.ValueOfString("c"+strconv.Itoa(len(out)+1)))
		out = append(out, m)
	}
	for range 2 {
		for i := range content.Fields().Len() {
			kind := content.Fields().Get(i).Name()
			if kind != "event" {
				add(map[protoreflect.FullName]protoreflect.Name{content.FullName(): kind})
				continue
			}
			for j := range payload.Fields().Len() {
				add(map[protoreflect.FullName]protoreflect.Name{content.FullName(): kind, payload.FullName(): payload.Fields().Get(j).Name()})
			}
		}
	}
	return out
}
