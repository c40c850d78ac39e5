package main

import (
	"context"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
)

// rawCodec carries bytes as they are: what the baseline sends is encoded once, and the clients of both sides decode
// nothing, so that the comparison is of the servers.
type rawCodec struct{}

func (rawCodec) Name() string { return "proto" }

func (rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	switch x := v.(type) {
	case []byte:
		return mem.BufferSlice{mem.SliceBuffer(x)}, nil
	case [][]byte:
		out := make(mem.BufferSlice, len(x))
		for i, p := range x {
			out[i] = mem.SliceBuffer(p)
		}
		return out, nil
	default:
		b, err := proto.Marshal(v.(proto.Message))
		return mem.BufferSlice{mem.SliceBuffer(b)}, err
	}
}

// received is a message that is only measured.
type received struct{ bytes int }

func (rawCodec) Unmarshal(data mem.BufferSlice, v any) error {
	switch r := v.(type) {
	case *received:
		r.bytes = data.Len()
	case *delivery:
		return r.read(data)
	}
	return nil
}

const subscribeMethod = "/spotbridge.v1.SubscriptionService/Subscribe"

// serveRaw serves one streaming method on loopback: the baseline.
func serveRaw(handler func(stream grpc.ServerStream) error) (addr string, stop func(), err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	s := grpc.NewServer(grpc.ForceServerCodecV2(rawCodec{}), grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error { return handler(stream) }))
	go func() { _ = s.Serve(l) }()
	return l.Addr().String(), s.Stop, nil
}

// subscribeRaw opens a stream on a connection of its own and calls got with the size of every message until it ends.
func subscribeRaw(ctx context.Context, addr string, req proto.Message, got func(bytes int) error) error {
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(rawCodec{}), grpc.MaxCallRecvMsgSize(17<<20)))
	if err != nil {
		return err
	}
	defer conn.Close()
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, subscribeMethod)
	if err != nil {
		return err
	}
	if err := stream.SendMsg(req); err != nil {
		return err
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	var r received
	for {
		if err := stream.RecvMsg(&r); err != nil {
			return err
		}
		if err := got(r.bytes); err != nil {
			return err
		}
	}
}
