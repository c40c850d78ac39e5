package bridge

import (
	"runtime"
	"testing"
	"weak"
)

// TestAnEventInUseKeepsNoLargeNeighbours: what a client that has stopped reading holds must not grow with what came beside it.
func TestAnEventInUseKeepsNoLargeNeighbours(t *testing.T) {
	const events = 2 * blockEvents
	encoder := Encoder{Expect: events}
	var kept *Encoded
	var bodies []weak.Pointer[byte]
	for i := range events {
		e := encoder.New(Meta{Sequence: uint64(i)}, make([]byte, 100), make([]byte, BlockBytes), BlockBytes, nil)
		if i == blockEvents/2 {
			kept = e
		} else {
			bodies = append(bodies, weak.Make(&e.Body[0]))
		}
	}
	runtime.GC()
	for i, b := range bodies {
		if b.Value() != nil {
			t.Fatalf("body %d is still there", i)
		}
	}
	runtime.KeepAlive(kept)
	runtime.KeepAlive(&encoder)
}
