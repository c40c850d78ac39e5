package server

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	calls    *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	inFlight *prometheus.GaugeVec
}

// newMetrics returns the metrics, registered when reg is not nil. Labels are the methods and codes of gRPC.
func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "spotbridge", Subsystem: "server", Name: "calls_total", Help: "Calls that ended, by method and code; REST included.",
		}, []string{"method", "code"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: "spotbridge", Subsystem: "server", Name: "call_seconds", Help: "Duration of unary calls.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}, []string{"method"}),
		inFlight: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Namespace: "spotbridge", Subsystem: "server", Name: "calls_in_flight", Help: "Calls under way, streams included.",
		}, []string{"method"}),
	}
	if reg != nil {
		reg.MustRegister(m.calls, m.seconds, m.inFlight)
	}
	return m
}
