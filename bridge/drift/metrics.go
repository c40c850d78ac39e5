package drift

import (
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

// kinds are those that drift has.
var kinds = []pb.IssueKind{
	pb.IssueKind_ISSUE_KIND_UNKNOWN_FIELD, pb.IssueKind_ISSUE_KIND_UNKNOWN_ENUM_VALUE, pb.IssueKind_ISSUE_KIND_TYPE_MISMATCH,
	pb.IssueKind_ISSUE_KIND_OUT_OF_RANGE, pb.IssueKind_ISSUE_KIND_DEPRECATED_FIELD,
}

func kindName(k pb.IssueKind) string { return strings.TrimPrefix(k.String(), "ISSUE_KIND_") }

// metrics of the worker. With a nil registerer they count and are not shown.
type metrics struct {
	entries   *prometheus.GaugeVec   // by kind
	inspected *prometheus.CounterVec // by from: live, history
	skipped   *prometheus.CounterVec // by cause: gone, failed
	overflow  prometheus.Gauge
	errors    prometheus.Counter
	watermark prometheus.Gauge
	lag       prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer) *metrics {
	f := promauto.With(reg)
	m := &metrics{
		entries: f.NewGaugeVec(prometheus.GaugeOpts{Name: "spotbridge_drift_entries",
			Help: "Ways in which payloads differ from the published schema, by kind; ListSchemaDrift has them."}, []string{"kind"}),
		inspected: f.NewCounterVec(prometheus.CounterOpts{Name: "spotbridge_drift_inspected_events_total",
			Help: "Events that were inspected, by where they came from; live ones are not converted again for subscribers."}, []string{"from"}),
		skipped: f.NewCounterVec(prometheus.CounterOpts{Name: "spotbridge_drift_skipped_total",
			Help: "Sequences that left history before they were inspected (gone), and events whose conversion failed (failed)."}, []string{"cause"}),
		overflow: f.NewGauge(prometheus.GaugeOpts{Name: "spotbridge_drift_overflow_occurrences",
			Help: "Occurrences of drift that no entry was made for, since there were too many."}),
		errors: f.NewCounter(prometheus.CounterOpts{Name: "spotbridge_drift_errors_total",
			Help: "Times that drift could not be read or written; it is tried again."}),
		watermark: f.NewGauge(prometheus.GaugeOpts{Name: "spotbridge_drift_watermark_sequence",
			Help: "Sequence up to which every event was inspected by today's schema."}),
		lag: f.NewGauge(prometheus.GaugeOpts{Name: "spotbridge_drift_lag_entries",
			Help: "Watermark of history minus that of drift."}),
	}
	for _, k := range kinds {
		m.entries.WithLabelValues(kindName(k))
	}
	return m
}

func (m *metrics) totals(n map[pb.IssueKind]int64) {
	for _, k := range kinds {
		m.entries.WithLabelValues(kindName(k)).Set(float64(n[k]))
	}
}
