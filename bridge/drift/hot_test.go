package drift

import (
	"math/rand/v2"
	"testing"

	"github.com/spotbridge/spotbridge/bridge"
)

func at(seq uint64, size int) *bridge.Encoded {
	return bridge.NewEncoded(bridge.Meta{Sequence: seq}, nil, make([]byte, size), size, nil)
}

// TestHotGivesEveryEventOrSaysThatItCannot: for random publishing, with gaps, and reading in batches, what after returns is
// all that was published after a sequence up to another one; and it stays within its bounds.
func TestHotGivesEveryEventOrSaysThatItCannot(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 1))
		h := hot{maxEvents: 1 + r.IntN(20), maxBytes: int64(1 + r.IntN(4000))}
		published := map[uint64]bool{}
		mark := uint64(r.IntN(5)) // of the follower
		begin, pos, misses := mark, mark, 0
		for range 100 {
			if r.IntN(2) == 0 {
				var events []*bridge.Encoded
				if mark == begin {
					events = append(events, at(mark+1, 1)) // the first thing that is published tells where it begins
				}
				for range r.IntN(6) {
					last := mark
					if n := len(events); n > 0 {
						last = events[n-1].Sequence
					}
					events = append(events, at(last+1+uint64(r.IntN(3)), r.IntN(300)))
				}
				for _, e := range events {
					published[e.Sequence] = true
					mark = e.Sequence
				}
				mark += uint64(r.IntN(2))
				h.add(events, mark)
			} else {
				n := 1 + r.IntN(4)
				events, upTo, ok := h.after(pos, n)
				if !ok {
					if misses++; h.begun {
						pos = mark // as if history had been read
					}
					continue
				}
				if len(events) > n || upTo < pos || upTo > mark {
					t.Fatalf("seed %d: %d events up to %d", seed, len(events), upTo)
				}
				got := map[uint64]bool{}
				for _, e := range events {
					got[e.Sequence] = true
				}
				for seq := pos + 1; seq <= upTo; seq++ {
					if published[seq] != got[seq] {
						t.Fatalf("seed %d: sequence %d published %v, returned %v", seed, seq, published[seq], got[seq])
					}
				}
				if r.IntN(4) > 0 { // else the batch could not be stored, and is asked for again
					pos = upTo
				}
			}
			var bytes int64
			for _, e := range h.events {
				bytes += weight(e)
			}
			if len(h.events) > h.maxEvents || bytes != h.bytes || bytes > h.maxBytes {
				t.Fatalf("seed %d: %d events with %d bytes, counted as %d", seed, len(h.events), bytes, h.bytes)
			}
		}
	}
}

func TestHotForgetsAnotherLog(t *testing.T) {
	h := hot{maxEvents: 10, maxBytes: 1000}
	h.add([]*bridge.Encoded{at(8, 1), at(9, 1)}, 9)
	h.add([]*bridge.Encoded{at(3, 1)}, 4) // the log was made anew
	if events, upTo, ok := h.after(2, 10); !ok || len(events) != 1 || events[0].Sequence != 3 || upTo != 4 {
		t.Error(events, upTo, ok)
	}
	if _, _, ok := h.after(9, 10); ok {
		t.Error("a position beyond the log is served")
	}
	h.forget()
	if _, _, ok := h.after(4, 10); ok {
		t.Error("something is left")
	}
}
