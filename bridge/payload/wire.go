package payload

import (
	"encoding/binary"
	"math"
	"math/bits"

	"google.golang.org/protobuf/encoding/protowire"
)

// writer writes protobuf front to back although the length of a message stands before it. A message gets one byte for
// its length; a length that needs more is kept as a patch, and assemble writes it when it copies the bytes to where they
// stay. So nothing is moved twice, however deep the nesting.
type writer struct {
	out     []byte
	patches []patch
	// extra is how many bytes the patches so far will add.
	extra int
}

// patch is a length that stands at a position in out and needs more than one byte there.
type patch struct{ pos, size int }

// mark is a point to which the writer can go back.
type mark struct{ out, patches, extra int }

func (w *writer) mark() mark { return mark{len(w.out), len(w.patches), w.extra} }

// back forgets everything that was written after the mark.
func (w *writer) back(m mark) {
	w.out, w.patches, w.extra = w.out[:m.out], w.patches[:m.patches], m.extra
}

// open begins a length-delimited value; close ends it. They nest.
func (w *writer) open() mark {
	m := mark{len(w.out), len(w.patches), w.extra}
	w.out = append(w.out, 0)
	w.patches = append(w.patches, patch{pos: m.out})
	return m
}

func (w *writer) close(m mark) {
	n := len(w.out) - m.out - 1 + w.extra - m.extra
	if n < 0x80 {
		// It holds no longer value, so this is the newest patch.
		w.out[m.out] = byte(n)
		w.patches = w.patches[:m.patches]
		return
	}
	w.patches[m.patches].size = n
	w.extra += varintSize(n) - 1
}

// size is the length of what assemble will append.
func (w *writer) size() int { return len(w.out) + w.extra }

// assemble appends what was written, with the lengths in place.
func (w *writer) assemble(dst []byte) []byte {
	from := 0
	for _, p := range w.patches {
		dst = append(dst, w.out[from:p.pos]...)
		dst = protowire.AppendVarint(dst, uint64(p.size))
		from = p.pos + 1
	}
	return append(dst, w.out[from:]...)
}

func (w *writer) reset() { w.out, w.patches, w.extra = w.out[:0], w.patches[:0], 0 }

func (w *writer) varint(v uint64) {
	for v >= 0x80 {
		w.out = append(w.out, byte(v)|0x80)
		v >>= 7
	}
	w.out = append(w.out, byte(v))
}

func (w *writer) double(f float64) {
	w.out = binary.LittleEndian.AppendUint64(w.out, math.Float64bits(f))
}

func varintSize(n int) int { return (bits.Len64(uint64(n)|1) + 6) / 7 }
