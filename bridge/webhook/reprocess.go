package webhook

import (
	"context"
	"fmt"
	"log/slog"
	"slices"

	"github.com/spotbridge/spotbridge/bridge"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

// Reprocess reads quarantined bodies again, with today's rules and today's allow-lists: one that is a readable event now
// is appended with its original id, once. It may run beside deliveries and be repeated. Errors are *bridge.Error with
// reason INVALID_FIELD or LOG_UNAVAILABLE, those of deliveries, or the context's; what was appended before stays.
func (h *Handler) Reprocess(ctx context.Context, deliveries bridge.Deliveries, req *pb.ReprocessDeliveriesRequest) (*pb.ReprocessDeliveriesResponse, error) {
	if i := slices.Index(req.GetCauses(), pb.DeliveryCause_DELIVERY_CAUSE_CONFLICT); i >= 0 {
		return nil, bridge.InvalidField(fmt.Sprintf("causes[%d]", i), "conflicting bodies stay where they are: their webhook id is an event already")
	}
	out := &pb.ReprocessDeliveriesResponse{}
	counted := map[string]bool{} // ids that a dry run has counted as appended
	err := deliveries.Quarantined(ctx, req, func(q bridge.QuarantinedBody) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		out.Matched++
		e := *q.Entry
		d := h.names[e.Source]
		if d == nil { // without its source there is no allow-list to check
			out.StillUnreadable++
			return nil
		}
		if read(&e, d); e.Kind != bridge.EntryEvent {
			out.StillUnreadable++
			return nil
		}
		appended, err := h.reprocess(ctx, &e, req.GetDryRun())
		switch {
		case err != nil:
			return err
		case !appended || counted[e.EventID]:
			out.AlreadyEvents++
		default:
			out.Appended++
			if req.GetDryRun() {
				counted[e.EventID] = true
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// reprocess appends one body and reports whether it is (or would be) a new event.
func (h *Handler) reprocess(ctx context.Context, e *bridge.Entry, dryRun bool) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, h.appendTimeout)
	defer cancel()
	if a, open := h.open(); !open {
		return false, bridge.LogUnavailable(fmt.Errorf("the front door is closed: %s", causeLabel(a.cause)))
	}
	unlock, err := h.ids.lock(ctx, e.EventID)
	if err != nil {
		return false, bridge.LogUnavailable(err)
	}
	defer unlock()
	known, err := h.ids.known(ctx, e)
	if err != nil {
		return false, err
	}
	if known.Found {
		return false, nil
	}
	if dryRun {
		return true, nil
	}
	// The cause and the place in the log were those of the quarantined copy.
	e.Sequence, e.BodySize = 0, len(e.Body)
	a, err := h.append(ctx, e)
	if err != nil {
		return false, err
	}
	if a.Duplicate {
		return false, nil
	}
	h.metrics.reprocessed.WithLabelValues(e.Source).Inc()
	h.logger.LogAttrs(ctx, slog.LevelInfo, "quarantined body became an event", slog.String("source", e.Source),
		slog.String("webhook_id", text(e.WebhookID, maxForeignText)), slog.String("event_type", text(e.EventType, maxForeignText)),
		slog.String("operation", text(e.Operation, maxForeignText)), slog.Uint64("sequence", a.Sequence))
	return true, nil
}
