package projection

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// metrics of projection.db. With a nil registerer they count and are not shown.
type metrics struct {
	applied     *prometheus.CounterVec // by kind: event, quarantine, other
	unreadable  prometheus.Counter
	lost        prometheus.Counter
	rebuilds    *prometheus.CounterVec // by cause: foreign_log, rewound_log, corrupt, version
	writeErrors prometheus.Counter
	apply       prometheus.Histogram
	query       *prometheus.HistogramVec // by query: scan, list, count, get, bounds, sequence, types, deliveries, delivery, quarantined, body
	retained    prometheus.Counter
	size        prometheus.Gauge
	watermark   prometheus.Gauge
	lag         prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer) *metrics {
	f := promauto.With(reg)
	return &metrics{
		applied: f.NewCounterVec(prometheus.CounterOpts{Name: "spotbridge_projection_applied_entries_total",
			Help: "Log entries that were applied, by kind."}, []string{"kind"}),
		unreadable: f.NewCounter(prometheus.CounterOpts{Name: "spotbridge_projection_unreadable_events_total",
			Help: "Events of the log that today's rules cannot read; they were applied with a minimal envelope."}),
		lost: f.NewCounter(prometheus.CounterOpts{Name: "spotbridge_projection_lost_sequences_total",
			Help: "Sequences that left the log before they were applied."}),
		rebuilds: f.NewCounterVec(prometheus.CounterOpts{Name: "spotbridge_projection_rebuilds_total",
			Help: "Times that projection.db was made anew from the log, by cause."}, []string{"cause"}),
		writeErrors: f.NewCounter(prometheus.CounterOpts{Name: "spotbridge_projection_write_errors_total",
			Help: "Write transactions of projection.db that did not succeed; they are tried again."}),
		apply: f.NewHistogram(prometheus.HistogramOpts{Name: "spotbridge_projection_apply_seconds",
			Help: "Time to prepare, write and commit a batch.", Buckets: prometheus.ExponentialBuckets(0.0001, 3, 10)}),
		query: f.NewHistogramVec(prometheus.HistogramOpts{Name: "spotbridge_projection_query_seconds",
			Help: "Time of a query, by kind.", Buckets: prometheus.ExponentialBuckets(0.00005, 3, 11)}, []string{"query"}),
		retained: f.NewCounter(prometheus.CounterOpts{Name: "spotbridge_projection_expired_entries_total",
			Help: "Events and quarantined bodies that retention deleted."}),
		size: f.NewGauge(prometheus.GaugeOpts{Name: "spotbridge_projection_size_bytes",
			Help: "Bytes in use in projection.db."}),
		watermark: f.NewGauge(prometheus.GaugeOpts{Name: "spotbridge_projection_watermark_sequence",
			Help: "Highest sequence that was applied."}),
		lag: f.NewGauge(prometheus.GaugeOpts{Name: "spotbridge_projection_lag_entries",
			Help: "Head of the log, as far as known, minus the watermark."}),
	}
}

// idMetrics of ids.db.
type idMetrics struct {
	watermark   prometheus.Gauge
	writeErrors prometheus.Counter
	lost        prometheus.Counter
	lookup      prometheus.Histogram
}

func newIDMetrics(reg prometheus.Registerer) *idMetrics {
	f := promauto.With(reg)
	return &idMetrics{
		watermark: f.NewGauge(prometheus.GaugeOpts{Name: "spotbridge_projection_ids_watermark_sequence",
			Help: "Sequence up to which every webhook id is remembered."}),
		writeErrors: f.NewCounter(prometheus.CounterOpts{Name: "spotbridge_projection_ids_write_errors_total",
			Help: "Write transactions of ids.db that did not succeed; they are tried again."}),
		lost: f.NewCounter(prometheus.CounterOpts{Name: "spotbridge_projection_ids_lost_sequences_total",
			Help: "Sequences that left the log before their ids were remembered."}),
		lookup: f.NewHistogram(prometheus.HistogramOpts{Name: "spotbridge_projection_ids_lookup_seconds",
			Help: "Time of a look-up of a webhook id.", Buckets: prometheus.ExponentialBuckets(0.000005, 3, 10)}),
	}
}

// deliveryMetrics of deliveries.db.
type deliveryMetrics struct {
	dropped     *prometheus.CounterVec // by cause: full, disk
	writeErrors prometheus.Counter
}

func newDeliveryMetrics(reg prometheus.Registerer) *deliveryMetrics {
	f := promauto.With(reg)
	return &deliveryMetrics{
		dropped: f.NewCounterVec(prometheus.CounterOpts{Name: "spotbridge_projection_deliveries_dropped_total",
			Help: "Refused and duplicate deliveries that could not be kept, by cause."}, []string{"cause"}),
		writeErrors: f.NewCounter(prometheus.CounterOpts{Name: "spotbridge_projection_deliveries_write_errors_total",
			Help: "Write transactions of deliveries.db that did not succeed."}),
	}
}
