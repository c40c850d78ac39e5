package server

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"github.com/grpc-ecosystem/grpc-gateway/v2/utilities"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/spotbridge/spotbridge/bridge"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

const ndjsonType = "application/x-ndjson"

// errNothingMore ends a stream whose answer was given without a message.
var errNothingMore = errors.New("nothing more to come")

// streamWriter writes a subscription's messages to an answer of HTTP.
type streamWriter interface {
	// message writes a message with its JSON form. An error ends the stream.
	message(m *pb.SubscribeResponse, json []byte) error
	// failure writes the error that ends a stream after its first message.
	failure(json []byte) error
}

// serveStream serves a subscription as lines of JSON, {"result": message} each, or as server-sent events where the client
// accepts those. An error before the first message is an answer like any other; afterwards it is a last line
// {"error": ...}, or an event of that name. The gateway's own handler wraps both alike and calls the lines
// application/json.
func (h *rest) serveStream(w http.ResponseWriter, r *http.Request, asked http.Header, query url.Values) {
	w.Header().Add("Vary", "Accept, "+lastEventID)
	sse, resume := wantsSSE(asked), asked.Get(lastEventID)
	if sse && resume != "" {
		// A browser that reconnects asks for the same URL again.
		for _, start := range []string{"start", "from_time"} {
			query.Del(start)
		}
		query.Set("after_cursor", resume)
	}
	req := &pb.SubscribeRequest{}
	if err := runtime.PopulateQueryParameters(req, query, utilities.NewDoubleArray(nil)); err != nil {
		writeError(w, 0, bridge.InvalidField("query", "cannot be read"))
		return
	}
	if req.GetMaxBatchEvents() != 0 {
		writeError(w, 0, bridge.InvalidField("max_batch_events", "goes with gRPC only; leave it out, here each event is a line, or an event, of its own"))
		return
	}
	defer h.running.Add(-1)
	if h.running.Add(1) > h.maxStreams {
		writeError(w, 0, &bridge.Error{
			Reason: pb.ErrorReason_ERROR_REASON_TOO_MANY_STREAMS, Message: "too many streams over REST at this replica; retry with backoff",
		})
		return
	}
	ctx, cancel := context.WithCancel(callContext(r))
	defer cancel()
	stream, err := pb.NewSubscriptionServiceClient(h.streams).Subscribe(ctx, req)
	if err != nil {
		writeStatus(w, statusOfCall(err))
		return
	}
	f := flusher{w: w, c: http.NewResponseController(w), timeout: h.sendTimeout}
	var out streamWriter = &lines{f}
	if sse {
		out = &events{flusher: f, done: resume != "" && req.GetStopAtHead()}
	}
	for begun := false; ; begun = true {
		m, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return
		case err != nil && !begun:
			writeStatus(w, statusOfCall(err))
			return
		case err != nil:
			_ = out.failure(errorJSON(statusOfCall(err)))
			return
		}
		b, err := protojson.Marshal(m)
		if err != nil {
			h.log.Error("a message has no JSON form", "error", err)
			panic(http.ErrAbortHandler) // better a broken connection than a line left out
		}
		if err := out.message(m, b); err != nil {
			return // the client has gone, or did not read for too long, or has its answer
		}
	}
}

// callContext is the context of a call for a request.
func callContext(r *http.Request) context.Context {
	return metadata.AppendToOutgoingContext(r.Context(), restPeer, r.RemoteAddr)
}

// flusher writes pieces of an answer and flushes each.
type flusher struct {
	w       http.ResponseWriter
	c       *http.ResponseController
	timeout time.Duration
	// buf is the piece.
	buf   []byte
	begun bool
}

// header begins the answer.
func (f *flusher) header(contentType string) {
	f.begun = true
	f.w.Header().Set("Content-Type", contentType)
	f.w.Header().Set("X-Accel-Buffering", "no") // proxies: do not collect lines
}

func (f *flusher) flush() error {
	// The server's own write timeout is meant for short answers. Writers without deadlines are those of tests.
	_ = f.c.SetWriteDeadline(time.Now().Add(f.timeout))
	_, err := f.w.Write(f.buf)
	f.buf = f.buf[:0]
	if cap(f.buf) > 64<<10 {
		f.buf = nil // one large event must not stay in memory
	}
	if err != nil {
		return err
	}
	return f.c.Flush()
}

// lines writes newline-delimited JSON.
type lines struct{ flusher }

func (l *lines) message(_ *pb.SubscribeResponse, json []byte) error { return l.line("result", json) }
func (l *lines) failure(json []byte) error                          { return l.line("error", json) }

func (l *lines) line(key string, value []byte) error {
	if !l.begun {
		l.header(ndjsonType)
	}
	l.buf = append(append(append(append(l.buf, `{"`...), key...), `":`...), value...)
	l.buf = append(l.buf, "}\n"...)
	return l.flush()
}
