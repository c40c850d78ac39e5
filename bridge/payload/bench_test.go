package payload

import (
	"bytes"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"google.golang.org/protobuf/proto"

	"github.com/spotbridge/spotbridge/bridge/bridgetest/samples"
	"github.com/spotbridge/spotbridge/bridge/internal/scan"
)

var benchSamples = []int{4, 6, 24, 5} // an approval, two PNRs, a trip

// tokenScan reads the tokens with jsontext, and nothing else: a baseline.
func tokenScan(body []byte, options ...jsontext.Options) func() {
	r := bytes.NewReader(nil)
	dec := jsontext.NewDecoder(r, options...)
	return func() {
		r.Reset(body)
		dec.Reset(r, options...)
		for {
			if _, err := dec.ReadToken(); err != nil {
				return
			}
		}
	}
}

// viaProtojsonToWire is the other baseline: protojson into the same messages, and marshalling them.
func viaProtojsonToWire(eventType string, payload []byte) {
	m, err := viaProtojson(eventType, payload)
	if err != nil {
		panic(err)
	}
	if _, err := proto.Marshal(m); err != nil {
		panic(err)
	}
}

func BenchmarkConvert(b *testing.B) {
	v := newTyped()
	for _, n := range benchSamples {
		s := samples.Deliveries()[n-1]
		payload := unwrapped(b, s)
		for name, op := range map[string]func(){
			"typed":     func() { v.Convert(s.EventType, s.Body) },
			"inspect":   func() { v.Inspect(s.EventType, s.Body) },
			"other":     func() { v.Convert(unknownType, s.Body) },
			"skip":      func() { scan.Skip(s.Body, 0, 0) },
			"protojson": func() { viaProtojsonToWire(s.EventType, payload) },
			"tokens":    tokenScan(s.Body),
			"lenient":   tokenScan(s.Body, lenient...), // does not look for repeated names
		} {
			b.Run(s.File+"/"+name, func(b *testing.B) {
				b.SetBytes(int64(len(s.Body)))
				b.ReportAllocs()
				for b.Loop() {
					op()
				}
			})
		}
	}
}

var lenient = []jsontext.Options{jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true)}

// BenchmarkCompare measures the conversion and its baselines in turn and takes the best of each, so that the ratios
// hold on a busy machine too.
func BenchmarkCompare(b *testing.B) {
	v := newTyped()
	for _, n := range benchSamples {
		s := samples.Deliveries()[n-1]
		payload := unwrapped(b, s)
		b.Run(s.File, func(b *testing.B) {
			ops := []struct {
				name string
				op   func()
				best time.Duration
			}{
				{name: "typed", op: func() { v.Convert(s.EventType, s.Body) }},
				{name: "inspect", op: func() { v.Inspect(s.EventType, s.Body) }},
				{name: "other", op: func() { v.Convert(unknownType, s.Body) }},
				{name: "skip", op: func() { scan.Skip(s.Body, 0, 0) }},
				{name: "protojson", op: func() { viaProtojsonToWire(s.EventType, payload) }},
				{name: "tokens", op: tokenScan(s.Body)},
				{name: "lenient", op: tokenScan(s.Body, lenient...)},
			}
			rounds := 0
			for b.Loop() {
				rounds++
				for i := range ops {
					o := &ops[i]
					const times = 5
					start := time.Now()
					for range times {
						o.op()
					}
					if d := time.Since(start) / times; o.best == 0 || d < o.best {
						o.best = d
					}
				}
			}
			speed := map[string]float64{}
			for _, o := range ops {
				speed[o.name] = float64(len(s.Body)) / 1e6 / o.best.Seconds()
				b.ReportMetric(speed[o.name], o.name+"-MB/s")
			}
			b.ReportMetric(speed["typed"]/speed["protojson"], "x-protojson")
			b.ReportMetric(speed["typed"]/speed["tokens"], "x-tokens")
			b.ReportMetric(speed["typed"]/speed["lenient"], "x-lenient")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// BenchmarkTables is what the tables cost at start.
func BenchmarkTables(b *testing.B) {
	for b.Loop() {
		compileRoots(payloadFiles, rootField)
	}
}
