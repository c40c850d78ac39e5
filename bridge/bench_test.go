package bridge_test

import (
	"testing"

	"github.com/spotbridge/spotbridge/bridge"
	"github.com/spotbridge/spotbridge/bridge/bridgetest/samples"
)

func BenchmarkParseEnvelope(b *testing.B) {
	for _, n := range []int{4, 6, 24, 5} {
		s := samples.Deliveries()[n-1]
		b.Run(s.File, func(b *testing.B) {
			b.SetBytes(int64(len(s.Body)))
			b.ReportAllocs()
			for b.Loop() {
				bridge.ParseEnvelope(s.Body)
			}
		})
	}
}
