package group

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	members                                                    *prometheus.GaugeVec
	lagEvents, lagSeconds, inFlight, dead                      *prometheus.GaugeVec
	delivered, redelivered, settled, refused, filtered, buried *prometheus.CounterVec
	lost, redriven, expired                                    *prometheus.CounterVec
}

// newMetrics returns the metrics, registered when reg is not nil. The label group has as many values as there are groups,
// which the configuration bounds.
func newMetrics(reg prometheus.Registerer) *metrics {
	gauge := func(name, help string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: "spotbridge", Subsystem: "group", Name: name, Help: help}, []string{"group"})
	}
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "spotbridge", Subsystem: "group", Name: name, Help: help}, append([]string{"group"}, labels...))
	}
	m := &metrics{
		members:     gauge("members", "Members that are connected to this replica."),
		lagEvents:   gauge("lag_events", "Events that are not settled; an upper bound where the filter is finer than the log's subjects."),
		lagSeconds:  gauge("lag_seconds", "Age of the oldest event that is not settled."),
		inFlight:    gauge("in_flight_events", "Events that members hold or that wait for another delivery."),
		dead:        gauge("dead_letters", "Dead letters."),
		delivered:   counter("deliveries_total", "Events sent to members of this replica."),
		redelivered: counter("redeliveries_total", "Of these, the ones that were not the first delivery."),
		settled:     counter("settled_total", "Deliveries that members settled, by how.", "how"),
		refused:     counter("refused_total", "Acks, nacks and extensions that were refused, by reason.", "reason"),
		filtered:    counter("filtered_total", "Events that the log's subjects let through and the filter did not."),
		buried:      counter("buried_total", "Events that became dead letters, by cause.", "cause"),
		lost:        counter("losses_total", "Times that events left the log before the group had them."),
		redriven:    counter("redriven_total", "Dead letters that were redriven."),
		expired:     counter("expired_total", "Deliveries whose deadline passed."),
	}
	if reg != nil {
		reg.MustRegister(m.members, m.lagEvents, m.lagSeconds, m.inFlight, m.dead, m.delivered, m.redelivered, m.settled, m.refused,
			m.filtered, m.buried, m.lost, m.redriven, m.expired)
	}
	return m
}

// forget removes the gauges of a group that was deleted.
func (m *metrics) forget(group string) {
	for _, g := range []*prometheus.GaugeVec{m.members, m.lagEvents, m.lagSeconds, m.inFlight, m.dead} {
		g.DeleteLabelValues(group)
	}
}

// groupMetrics are those of one group that count events: found once.
type groupMetrics struct{ delivered, redelivered, acked, filtered prometheus.Counter }

func (m *metrics) of(group string) groupMetrics {
	return groupMetrics{
		m.delivered.WithLabelValues(group), m.redelivered.WithLabelValues(group), m.settled.WithLabelValues(group, "ack"), m.filtered.WithLabelValues(group),
	}
}

// count counts a delivery.
func (m *groupMetrics) count(attempt int) {
	m.delivered.Inc()
	if attempt > 1 {
		m.redelivered.Inc()
	}
}
