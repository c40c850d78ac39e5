package live

import (
	"context"
	"errors"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/spotbridge/spotbridge/bridge"
)

type metrics struct {
	ended      *prometheus.CounterVec
	fellBehind prometheus.Counter
	pages      prometheus.Counter
	events     prometheus.Counter
}

// newMetrics returns the metrics, registered when reg is not nil.
func newMetrics(reg prometheus.Registerer, h *Hub) *metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: "spotbridge", Subsystem: "live", Name: name, Help: help})
	}
	m := &metrics{
		ended: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "spotbridge", Subsystem: "live", Name: "ended_total", Help: "Subscriptions that ended, by reason.",
		}, []string{"reason"}),
		fellBehind: counter("fell_behind_total", "Times that a subscription was overtaken by the ring."),
		pages:      counter("history_pages_total", "Pages of history that were read for subscriptions."),
		events:     counter("sent_events_total", "Events that were sent to subscriptions."),
	}
	if reg == nil {
		return m
	}
	gauge := func(name, help string, value func() int) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "spotbridge", Subsystem: "live", Name: name, Help: help}, func() float64 {
			h.mu.RLock()
			defer h.mu.RUnlock()
			return float64(value())
		})
	}
	reg.MustRegister(
		m.ended, m.fellBehind, m.pages, m.events,
		gauge("subscriptions", "Subscriptions that are served now.", func() int { return len(h.subs) }),
		gauge("filters", "Distinct filters of the subscriptions.", func() int { return len(h.groups.byKey) }),
		gauge("ring_events", "Events in the ring.", func() int { return int(h.ring.end - h.ring.base) }),
		gauge("ring_bytes", "Bytes of the events in the ring.", func() int { return int(h.ring.bytes) }),
		gauge("watermark_sequence", "Sequence up to which everything was published.", func() int { return int(h.ring.watermark) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Namespace: "spotbridge", Subsystem: "live", Name: "catching_up", Help: "Subscriptions that read history or wait for their turn.",
		}, func() float64 { return float64(h.catchingUp.Load()) }),
	)
	return m
}

// endLabel says why a subscription ended: a reason of the contract in lower case, or one of three others.
func endLabel(err error) string {
	e, known := errors.AsType[*bridge.Error](err)
	switch {
	case err == nil:
		return "ok"
	case known:
		return strings.ToLower(strings.TrimPrefix(e.Reason.String(), "ERROR_REASON_"))
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return "canceled"
	default:
		return "sender" // as a rule the client has gone
	}
}
