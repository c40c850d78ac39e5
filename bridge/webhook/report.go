package webhook

import (
	"encoding/hex"
	"log/slog"
	"net"
	"net/http"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/spotbridge/spotbridge/bridge"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

// report counts and logs a delivery, and has it recorded when nothing of it is in the log.
func (h *Handler) report(r *http.Request, v *delivery, status int) {
	a, e := &v.answer, &v.entry
	latency := time.Since(v.started)
	outcome, cause := outcomeLabel(a.outcome), causeLabel(a.cause)
	h.metrics.deliveries.WithLabelValues(e.Source, outcome, cause).Inc()
	h.metrics.seconds.WithLabelValues(e.Source, outcome).Observe(latency.Seconds())
	h.metrics.bodyBytes.WithLabelValues(e.Source).Add(float64(e.BodySize))

	level := slog.LevelInfo
	if a.outcome == refused {
		level = slog.LevelWarn
	}
	ctx := r.Context()
	if h.logger.Enabled(ctx, level) {
		attrs := make([]slog.Attr, 0, 16)
		attrs = append(attrs, slog.String("outcome", outcome), slog.Int("status", status), slog.String("source", e.Source))
		add := func(name, value string) {
			if value != "" {
				attrs = append(attrs, slog.String(name, text(value, maxForeignText)))
			}
		}
		add("cause", cause)
		add("webhook_id", v.webhookID)
		add("event_type", e.EventType)
		add("operation", e.Operation)
		if len(e.Organizations) > 0 {
			add("organization", e.Organizations[0])
		}
		if a.sequence != 0 {
			attrs = append(attrs, slog.Uint64("sequence", a.sequence))
		}
		add("trace_id", e.TraceID)
		add("span_id", e.SpanID)
		if a.outcome == refused {
			add("timestamp", v.timestamp)
			add("peer", peer(r))
		}
		attrs = append(attrs, slog.Int("bytes", e.BodySize), slog.Float64("latency_ms", float64(latency.Microseconds())/1000))
		if a.err != nil {
			attrs = append(attrs, slog.String("error", a.err.Error()))
		}
		h.logger.LogAttrs(ctx, level, "delivery", attrs...)
	}
	if h.recorder != nil && (a.outcome == refused || a.outcome == duplicate) {
		h.recorder.Record(v.row(r, status))
	}
}

// row returns the delivery as it is kept. Its id is given by whoever keeps it.
func (v *delivery) row(r *http.Request, status int) *pb.Delivery {
	a, e := &v.answer, &v.entry
	row := &pb.Delivery{
		Source: e.Source, Outcome: a.outcome, Cause: a.cause, HttpStatus: int32(status),
		ReceiveTime: timestamppb.New(e.ReceiveTime), BodyBytes: int64(e.BodySize),
		TimestampText: text(v.timestamp, maxForeignText), Count: 1, Peer: peer(r),
	}
	if e.TraceID != "" || e.SpanID != "" {
		row.Trace = &pb.Trace{TraceId: e.TraceID, SpanId: e.SpanID}
	}
	if !v.authentic {
		row.WebhookId = text(v.webhookID, maxForeignText)
		return row
	}
	row.WebhookId = bridge.WebhookIDText(v.webhookID)
	if e.Kind == bridge.EntryUnknown { // refused before its body was looked at
		return row
	}
	row.BodySha256 = hex.EncodeToString(e.BodyHash[:])
	row.EventType, row.Operation = e.EventType, e.Operation
	if len(e.Organizations) > 0 {
		row.OrganizationId = e.Organizations[0]
	}
	row.Sequence = a.sequence
	if a.event {
		row.EventId = e.EventID
	}
	return row
}

// text returns a header value as UTF-8 and at most limit bytes.
func text(value string, limit int) string {
	// Percent-encoding makes it longer: cut before, so that the work is bounded, and after.
	if len(value) > limit {
		value = cut(value, limit)
	}
	return cut(bridge.WebhookIDText(value), limit)
}

func cut(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	for end := limit; end > max(0, limit-utf8.UTFMax); end-- {
		if utf8.RuneStart(s[end]) {
			return s[:end]
		}
	}
	return s[:limit] // no UTF-8
}

func peer(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return ""
	}
	return host
}
