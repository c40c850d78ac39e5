package webhook

import (
	"errors"
	"io"
	"net/http"

	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

// firstChunk is what a body gets at once: most bodies fit. A larger one gets more as its bytes come, so that nobody takes
// the budget by announcing what they don't send.
const firstChunk = 64 << 10

// readBody reads the body into one buffer of at most limit bytes. It returns what was read and why it is not all.
func readBody(r *http.Request, limit int64, l *lease) ([]byte, pb.DeliveryCause) {
	// A body of unknown length may take one byte more, which tells that it is too large.
	most := limit + 1
	if r.ContentLength >= 0 {
		most = r.ContentLength
	}
	var buf []byte
	for {
		if len(buf) == cap(buf) {
			if r.ContentLength >= 0 && int64(len(buf)) == most {
				return buf, pb.DeliveryCause_DELIVERY_CAUSE_UNSPECIFIED
			}
			// The old buffer lives on until the copy is done; that is not counted.
			size := min(max(2*int64(cap(buf)), firstChunk), most)
			if !l.grow(r.Context(), size) {
				return buf, pb.DeliveryCause_DELIVERY_CAUSE_OVERLOADED
			}
			grown := make([]byte, len(buf), size)
			copy(grown, buf)
			buf = grown
		}
		n, err := r.Body.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		switch {
		case int64(len(buf)) > limit:
			return buf, pb.DeliveryCause_DELIVERY_CAUSE_TOO_LARGE
		case err == nil:
		case errors.Is(err, io.EOF) && (r.ContentLength < 0 || int64(len(buf)) == most):
			return buf, pb.DeliveryCause_DELIVERY_CAUSE_UNSPECIFIED
		default:
			return buf, pb.DeliveryCause_DELIVERY_CAUSE_INCOMPLETE_BODY
		}
	}
}
