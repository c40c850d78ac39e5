package server

import (
	"context"
	"fmt"

	"github.com/spotbridge/spotbridge/bridge"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

const (
	maxListValues = 1000
	maxWebhookID  = 64 << 10
)

// ListDeliveries implements DeliveryService.
func (s *service) ListDeliveries(ctx context.Context, req *pb.ListDeliveriesRequest) (*pb.ListDeliveriesResponse, error) {
	r := bridge.DeliveryListRequest{Outcomes: req.GetOutcomes(), Causes: req.GetCauses(), Sources: req.GetSources(), WebhookID: req.GetWebhookId()}
	for i, o := range r.Outcomes {
		if o == pb.DeliveryOutcome_DELIVERY_OUTCOME_UNSPECIFIED || !known(pb.DeliveryOutcome_name, o) {
			return nil, bridge.InvalidField(fmt.Sprintf("outcomes[%d]", i), "is not an outcome; use ACCEPTED, DUPLICATE, CONFLICT, QUARANTINED or REFUSED")
		}
	}
	if err := checkCauses(r.Causes); err != nil {
		return nil, err
	}
	if err := checkSources(r.Sources); err != nil {
		return nil, err
	}
	if len(r.WebhookID) > maxWebhookID {
		return nil, bridge.InvalidField("webhook_id", "is longer than any header")
	}
	if n := len(r.Outcomes) + len(r.Causes) + len(r.Sources); n > maxListValues {
		return nil, bridge.InvalidField("outcomes", fmt.Sprintf("the request has more than %d values", maxListValues))
	}
	var err error
	if r.StartTime, r.EndTime, err = checkTimes(req.GetStartTime(), req.GetEndTime()); err != nil {
		return nil, err
	}
	if r.PageSize, err = checkPageSize(req.GetPageSize()); err != nil {
		return nil, err
	}
	log, err := s.logID(ctx)
	if err != nil {
		return nil, err
	}
	bound := newBinding(log)
	bound.number(uint64(len(r.Outcomes)))
	for _, o := range r.Outcomes {
		bound.number(uint64(o))
	}
	bound.number(uint64(len(r.Causes)))
	for _, c := range r.Causes {
		bound.number(uint64(c))
	}
	bound.number(uint64(len(r.Sources)))
	for _, source := range r.Sources {
		bound.text(source)
	}
	bound.text(r.WebhookID)
	bound.time(r.StartTime)
	bound.time(r.EndTime)
	if token := req.GetPageToken(); token != "" {
		p, err := bound.position(tokenDeliveries, token)
		if err != nil {
			return nil, err
		}
		r.Resume = string(p)
	}
	deliveries, next, err := s.cfg.Deliveries.ListDeliveries(ctx, r)
	if err != nil {
		return nil, err
	}
	out := &pb.ListDeliveriesResponse{Deliveries: deliveries}
	if next != "" {
		out.NextPageToken = bound.token(tokenDeliveries, []byte(next))
	}
	return out, nil
}

func checkCauses(causes []pb.DeliveryCause) error {
	for i, c := range causes {
		if c == pb.DeliveryCause_DELIVERY_CAUSE_UNSPECIFIED || !known(pb.DeliveryCause_name, c) {
			return bridge.InvalidField(fmt.Sprintf("causes[%d]", i), "is not a cause; see DeliveryCause")
		}
	}
	return nil
}

func checkSources(sources []string) error {
	for i, name := range sources {
		if !bridge.ValidSource(name) {
			return bridge.InvalidField(fmt.Sprintf("sources[%d]", i), "is a name that no source can have; names are 1 to 32 characters of a-z, 0-9 and -")
		}
	}
	return nil
}
