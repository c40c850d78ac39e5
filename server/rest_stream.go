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

// serveStream serves a subscription as lines of JSON: {"result": message} each. An error before the first message is an
// answer like any other; afterwards it is a last line {"error": ...}. The gateway's own handler wraps both alike and calls
// the lines application/json.
func (h *rest) serveStream(w http.ResponseWriter, r *http.Request, query url.Values) {
	req := &pb.SubscribeRequest{}
	if err := runtime.PopulateQueryParameters(req, query, utilities.NewDoubleArray(nil)); err != nil {
		writeError(w, 0, bridge.InvalidField("query", "cannot be read"))
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
	out := newLines(w, h.sendTimeout)
	for {
		m, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return
		case err != nil && !out.begun:
			writeStatus(w, statusOfCall(err))
			return
		case err != nil:
			_ = out.line("error", errorJSON(statusOfCall(err)))
			return
		}
		b, err := protojson.Marshal(m)
		if err != nil {
			h.log.Error("a message has no JSON form", "error", err)
			panic(http.ErrAbortHandler) // better a broken connection than a line left out
		}
		if err := out.line("result", b); err != nil {
			return // the client has gone, or did not read for too long
		}
	}
}

// callContext is the context of a call for a request.
func callContext(r *http.Request) context.Context {
	return metadata.AppendToOutgoingContext(r.Context(), restPeer, r.RemoteAddr)
}

// lines writes newline-delimited JSON and flushes each line.
type lines struct {
	w       http.ResponseWriter
	c       *http.ResponseController
	timeout time.Duration
	buf     []byte
	begun   bool
}

func newLines(w http.ResponseWriter, timeout time.Duration) *lines {
	return &lines{w: w, c: http.NewResponseController(w), timeout: timeout}
}

func (l *lines) line(key string, value []byte) error {
	if !l.begun {
		l.begun = true
		l.w.Header().Set("Content-Type", "application/x-ndjson")
		l.w.Header().Set("X-Accel-Buffering", "no") // proxies: do not collect lines
	}
	// The server's own write timeout is meant for short answers. Writers without deadlines are those of tests.
	_ = l.c.SetWriteDeadline(time.Now().Add(l.timeout))
	l.buf = append(append(append(append(l.buf[:0], `{"`...), key...), `":`...), value...)
	l.buf = append(l.buf, "}\n"...)
	_, err := l.w.Write(l.buf)
	if cap(l.buf) > 64<<10 {
		l.buf = nil // one large event must not stay in memory
	}
	if err != nil {
		return err
	}
	return l.c.Flush()
}
