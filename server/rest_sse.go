package server

import (
	"fmt"
	"math/rand/v2"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

const (
	eventStreamType = "text/event-stream"
	lastEventID     = "Last-Event-ID"
	// sseRetry is how long a browser waits before it reconnects, jittered by half so that thousands do not come together.
	sseRetry = 2 * time.Second
)

// wantsSSE reports whether the Accept header asks for server-sent events. It must name them: */* gets lines.
func wantsSSE(h http.Header) bool {
	sse, lines := 0.0, 0.0
	for _, header := range h.Values("Accept") {
		for part := range strings.SplitSeq(header, ",") {
			t, params, err := mime.ParseMediaType(part)
			if err != nil {
				continue
			}
			q := 1.0
			if text, ok := params["q"]; ok {
				if q, err = strconv.ParseFloat(text, 64); err != nil {
					continue
				}
			}
			switch t {
			case eventStreamType:
				sse = max(sse, q)
			case ndjsonType:
				lines = max(lines, q)
			}
		}
	}
	return sse > 0 && sse >= lines
}

// events writes server-sent events and flushes each: the kind of the message as the event's name, its cursor as the id,
// the message itself as the data.
type events struct {
	flusher
	// done says that an answer without events, 204, tells the client that there is nothing more to come: a browser
	// reconnects after every other end.
	done bool
}

func (s *events) begin() {
	s.header(eventStreamType)
	wait := sseRetry/2 + rand.N(sseRetry)
	s.buf = fmt.Appendf(s.buf[:0], "retry: %d\n\n", wait.Milliseconds())
}

func (s *events) message(m *pb.SubscribeResponse, json []byte) error {
	if !s.begun {
		if c := m.GetConfirmation(); s.done && c != nil && c.SnapshotSequence == nil && c.GetStartSequence() >= c.GetHeadSequence() {
			s.w.WriteHeader(http.StatusNoContent)
			return errNothingMore
		}
		s.begin()
	}
	x := m.ProtoReflect()
	name := "message"
	if fd := x.WhichOneof(x.Descriptor().Oneofs().ByName("content")); fd != nil {
		name = string(fd.Name())
	}
	s.buf = append(append(append(s.buf, "event: "...), name...), '\n')
	if c := m.GetCursor(); c != "" {
		s.buf = append(append(append(s.buf, "id: "...), c...), '\n')
	}
	if d := m.GetGoodbye().GetRetryAfter(); d != nil {
		s.buf = fmt.Appendf(s.buf, "retry: %d\n", d.AsDuration().Milliseconds())
	}
	return s.data(json)
}

// failure leaves the id as it is: the client resumes after what it got.
func (s *events) failure(json []byte) error {
	s.buf = append(s.buf, "event: error\n"...)
	return s.data(json)
}

// data ends an event. JSON of protobuf is one line.
func (s *events) data(json []byte) error {
	s.buf = append(append(append(s.buf, "data: "...), json...), "\n\n"...)
	return s.flush()
}
