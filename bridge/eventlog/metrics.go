package eventlog

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	appendSeconds  prometheus.Histogram
	appendErrors   prometheus.Counter
	followRestarts prometheus.Counter
	commitEntries  prometheus.Histogram
	backlog        prometheus.Gauge
	pumpErrors     prometheus.Counter
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
		commitEntries: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "spotbridge_eventlog_commit_entries",
			Help:    "Entries that one sync of the journal made durable.",
			Buckets: prometheus.ExponentialBuckets(1, 2, 11),
		}),
		backlog: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "spotbridge_eventlog_journal_backlog_entries",
			Help: "Entries that are durable in the journal and not in the stream yet. Consumer groups see them when they are.",
		}),
		pumpErrors: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "spotbridge_eventlog_journal_retries_total",
			Help: "Attempts to put entries of the journal into the stream that failed and are repeated.",
		}),
		freeBytes: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "spotbridge_eventlog_disk_free_bytes",
			Help: "Free space of the disk under the embedded log.",
		}),
	}
	if reg != nil {
		reg.MustRegister(m.appendSeconds, m.appendErrors, m.followRestarts, m.commitEntries, m.backlog, m.pumpErrors, m.freeBytes)
	}
	return m
}
