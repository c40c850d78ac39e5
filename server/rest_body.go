package server

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"time"

	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

func (h *rest) serveEventBody(w http.ResponseWriter, r *http.Request, params map[string]string) {
	id := params["event_id"]
	stream, err := pb.NewEventServiceClient(h.unary).GetEventBody(callContext(r), &pb.GetEventBodyRequest{EventId: id})
	if err != nil {
		writeStatus(w, statusOfCall(err))
		return
	}
	h.serveBody(w, id, func() ([]byte, error) {
		m, err := stream.Recv()
		return m.GetChunk(), err
	})
}

func (h *rest) serveDeliveryBody(w http.ResponseWriter, r *http.Request, params map[string]string) {
	id := params["delivery_id"]
	stream, err := pb.NewDeliveryServiceClient(h.unary).GetDeliveryBody(callContext(r), &pb.GetDeliveryBodyRequest{DeliveryId: id})
	if err != nil {
		writeStatus(w, statusOfCall(err))
		return
	}
	h.serveBody(w, "delivery-"+id, func() ([]byte, error) {
		m, err := stream.Recv()
		return m.GetChunk(), err
	})
}

// serveBody writes the exact bytes. They are a stranger's: no browser may take them for a page. An error after the first
// byte breaks the connection, since what came would look complete otherwise.
func (h *rest) serveBody(w http.ResponseWriter, id string, next func() ([]byte, error)) {
	c := http.NewResponseController(w)
	begun := false
	for {
		chunk, err := next()
		if err != nil && !errors.Is(err, io.EOF) {
			if begun {
				panic(http.ErrAbortHandler)
			}
			writeStatus(w, statusOfCall(err))
			return
		}
		if !begun {
			begun = true
			w.Header().Set("Content-Type", "application/octet-stream")
			w.Header().Set("Content-Disposition", `attachment; filename="`+fileName(id)+`"`)
		}
		if err != nil {
			return
		}
		_ = c.SetWriteDeadline(time.Now().Add(h.sendTimeout))
		if _, err := w.Write(chunk); err != nil {
			panic(http.ErrAbortHandler)
		}
	}
}

// fileName returns a file name that is safe everywhere.
func fileName(id string) string {
	safe := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_' || r == '.' {
			return r
		}
		return '_'
	}, id)
	if safe = strings.TrimLeft(safe, "."); len(safe) > 200 {
		safe = safe[:200]
	}
	return safe + ".json"
}
