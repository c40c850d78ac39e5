package webhook

import (
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

type metrics struct {
	deliveries  *prometheus.CounterVec
	seconds     *prometheus.HistogramVec
	bodyBytes   *prometheus.CounterVec
	reprocessed *prometheus.CounterVec
	inFlight    prometheus.Gauge
	flightBytes prometheus.Gauge
}

// Causes of requests that are no deliveries of a source: only counted.
const (
	causeUnknownPath = "unknown_path"
	causeWrongMethod = "wrong_method"
)

func newMetrics(reg prometheus.Registerer, sources []string, remembered func() float64) *metrics {
	m := &metrics{
		deliveries: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "spotbridge_webhook_deliveries_total",
			Help: "HTTP attempts at the front door, by outcome and cause; source is empty for unknown paths.",
		}, []string{"source", "outcome", "cause"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "spotbridge_webhook_delivery_seconds",
			Help:    "Time from a delivery's headers to its answer.",
			Buckets: prometheus.ExponentialBuckets(0.0002, 2, 18),
		}, []string{"source", "outcome"}),
		bodyBytes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "spotbridge_webhook_body_bytes_total",
			Help: "Bytes of bodies that were read, authentic or not.",
		}, []string{"source"}),
		reprocessed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "spotbridge_webhook_reprocessed_total",
			Help: "Quarantined bodies that became events when they were read again.",
		}, []string{"source"}),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "spotbridge_webhook_in_flight_deliveries",
			Help: "Deliveries that are being handled.",
		}),
		flightBytes: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "spotbridge_webhook_in_flight_bytes",
			Help: "Memory of the bodies that are being handled.",
		}),
	}
	// Every series from the start, so that the first refusal is an increase and not a new series.
	m.deliveries.WithLabelValues("", outcomeLabel(refused), causeUnknownPath)
	for _, s := range sources {
		m.deliveries.WithLabelValues(s, outcomeLabel(refused), causeWrongMethod)
		m.bodyBytes.WithLabelValues(s)
		m.reprocessed.WithLabelValues(s)
		for n := range pb.DeliveryCause_name {
			switch cause := pb.DeliveryCause(n); {
			case cause == pb.DeliveryCause_DELIVERY_CAUSE_UNSPECIFIED:
				m.deliveries.WithLabelValues(s, outcomeLabel(accepted), causeLabel(cause))
				m.deliveries.WithLabelValues(s, outcomeLabel(duplicate), causeLabel(cause))
			case cause == pb.DeliveryCause_DELIVERY_CAUSE_CONFLICT:
				m.deliveries.WithLabelValues(s, outcomeLabel(conflict), causeLabel(cause))
			case statusOf(refused, cause) == 0:
				m.deliveries.WithLabelValues(s, outcomeLabel(quarantined), causeLabel(cause))
			default:
				m.deliveries.WithLabelValues(s, outcomeLabel(refused), causeLabel(cause))
			}
		}
		for _, o := range []pb.DeliveryOutcome{accepted, duplicate, conflict, quarantined, refused} {
			m.seconds.WithLabelValues(s, outcomeLabel(o))
		}
	}
	if reg != nil {
		reg.MustRegister(m.deliveries, m.seconds, m.bodyBytes, m.reprocessed, m.inFlight, m.flightBytes,
			prometheus.NewGaugeFunc(prometheus.GaugeOpts{
				Name: "spotbridge_webhook_remembered_entries",
				Help: "Entries of the log that are remembered in memory until the table of ids has them.",
			}, remembered))
	}
	return m
}

var (
	outcomeLabels = labels(pb.DeliveryOutcome_name, "DELIVERY_OUTCOME_")
	causeLabels   = labels(pb.DeliveryCause_name, "DELIVERY_CAUSE_")
)

func labels(names map[int32]string, prefix string) map[int32]string {
	out := make(map[int32]string, len(names))
	for n, name := range names {
		out[n] = strings.ToLower(strings.TrimPrefix(name, prefix))
	}
	out[0] = "" // unspecified
	return out
}

func outcomeLabel(o pb.DeliveryOutcome) string { return outcomeLabels[int32(o)] }

// causeLabel returns the cause for people and metrics, for example wrong_signature; empty when there is none.
func causeLabel(c pb.DeliveryCause) string { return causeLabels[int32(c)] }
