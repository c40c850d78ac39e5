package server

import (
	"net/http"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
)

// statusOfCall returns the status of a call over the in-memory connection.
func statusOfCall(err error) *status.Status {
	s := status.Convert(err)
	if s.Code() == codes.Unavailable && reasonOf(s) == "" {
		// The connection within the process ends only when the server does.
		return statusOf(draining(), "")
	}
	return s
}

// errorJSON is the one shape of errors: {"code", "message", "details"}.
func errorJSON(s *status.Status) []byte {
	b, err := protojson.Marshal(s.Proto())
	if err != nil {
		return []byte(`{"code":13,"message":"internal error"}`)
	}
	return b
}

// writeError answers with an error of the domain; code 0 = the one that fits.
func writeError(w http.ResponseWriter, code int, err error) {
	s := statusOf(err, "")
	if code == 0 {
		code = httpStatusOf(s)
	}
	writeErrorStatus(w, code, s)
}

// writeStatus answers with the status of a call.
func writeStatus(w http.ResponseWriter, s *status.Status) { writeErrorStatus(w, httpStatusOf(s), s) }

func writeErrorStatus(w http.ResponseWriter, code int, s *status.Status) {
	w.Header().Set("Content-Type", "application/json")
	if code == http.StatusServiceUnavailable || code == http.StatusTooManyRequests {
		w.Header().Set("Retry-After", "2")
	}
	w.WriteHeader(code)
	_, _ = w.Write(append(errorJSON(s), '\n'))
}
