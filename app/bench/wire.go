package main

import (
	"context"
	"encoding/binary"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
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
type received struct {
	bytes int
	// count says that batches may come; events then is how many events there are in it, 0 when it is something else.
	count  bool
	events int
}

// read counts events by their tags and lengths; what is in them is passed over.
func (r *received) read(data mem.BufferSlice) error {
	r.bytes, r.events = data.Len(), 0
	if !r.count {
		return nil
	}
	event := uint64(3) // number of the field
	return eachField(data, func(_ *mem.Reader, field uint64) (inside bool, err error) {
		switch field {
		case event:
			r.events++
		case 9:
			event = 1 // of the batch, which is the last field
			return true, nil
		}
		return false, nil
	})
}

// eachField passes over a response of which all fields, and all of a batch in it, have lengths. f may read from the beginning
// of a field; inside says to go on with what is in it.
func eachField(data mem.BufferSlice, f func(in *mem.Reader, field uint64) (inside bool, err error)) error {
	in := data.Reader()
	defer func() { _ = in.Close() }()
	for in.Remaining() > 0 {
		tag, err := binary.ReadUvarint(in)
		if err != nil {
			return err
		}
		size, err := binary.ReadUvarint(in)
		if err != nil {
			return err
		}
		end := in.Remaining() - int(size)
		inside, err := f(in, tag>>3)
		if err != nil {
			return err
		}
		if inside {
			continue
		}
		if _, err := in.Discard(in.Remaining() - end); err != nil {
			return err
		}
	}
	return nil
}

func (rawCodec) Unmarshal(data mem.BufferSlice, v any) error {
	switch r := v.(type) {
	case *received:
		return r.read(data)
	case *deliveries:
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

// subscribeRaw opens a stream on a connection of its own and calls got with every message until it ends.
func subscribeRaw(ctx context.Context, addr string, req *pb.SubscribeRequest, got func(r *received) error) error {
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
	r := received{count: req.GetMaxBatchEvents() > 1}
	for {
		if err := stream.RecvMsg(&r); err != nil {
			return err
		}
		if err := got(&r); err != nil {
			return err
		}
	}
}
