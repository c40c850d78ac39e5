package payload

import (
	"bytes"
	"testing"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/spotbridge/spotbridge/bridge/bridgetest/samples"
)

// BenchmarkTokenScan is the baseline: reading the tokens with jsontext, and nothing else.
func BenchmarkTokenScan(b *testing.B) {
	for _, n := range []int{4, 6, 24, 5} {
		s := samples.Deliveries()[n-1]
		b.Run(s.File, func(b *testing.B) {
			b.SetBytes(int64(len(s.Body)))
			b.ReportAllocs()
			r := bytes.NewReader(nil)
			dec := jsontext.NewDecoder(r)
			for b.Loop() {
				r.Reset(s.Body)
				dec.Reset(r)
				for {
					if _, err := dec.ReadToken(); err != nil {
						break
					}
				}
			}
		})
	}
}

// BenchmarkSkip is the scanner alone.
func BenchmarkSkip(b *testing.B) {
	for _, n := range []int{4, 6, 24, 5} {
		s := samples.Deliveries()[n-1]
		b.Run(s.File, func(b *testing.B) {
			b.SetBytes(int64(len(s.Body)))
			b.ReportAllocs()
			for b.Loop() {
				skip(s.Body, 0, 0)
			}
		})
	}
}
