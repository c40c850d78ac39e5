package eventlog

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	appendSeconds  prometheus.Histogram
	appendErrors   prometheus.Counter
	followRestarts prometheus.Counter
	tailRestarts   prometheus.Counter
	freeBytes      prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		appendSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "spotbridge_eventlog_append_seconds",
			Help:    "Time until an append was durable.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 2, 18),
		}),
		appendErrors: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "spotbridge_eventlog_append_errors_total",
			Help: "Appends that failed or took too long; the source sends those deliveries again.",
		}),
		followRestarts: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "spotbridge_eventlog_follow_restarts_total",
			Help: "Interruptions of reading the log.",
		}),
		tailRestarts: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "spotbridge_eventlog_tail_restarts_total",
			Help: "Appends that were stored without an answer, so that followers read them back from the log.",
		}),
		freeBytes: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "spotbridge_eventlog_disk_free_bytes",
			Help: "Free space of the disk under the embedded log.",
		}),
	}
	if reg != nil {
		reg.MustRegister(m.appendSeconds, m.appendErrors, m.followRestarts, m.tailRestarts, m.freeBytes)
	}
	return m
}
