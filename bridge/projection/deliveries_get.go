package projection

import (
	"context"
	"database/sql"
	"errors"

	"github.com/spotbridge/spotbridge/bridge"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

func deliveryNotFound() error {
	return &bridge.Error{Reason: pb.ErrorReason_ERROR_REASON_DELIVERY_NOT_FOUND, Message: "no delivery with this id is held by this replica"}
}

// GetDelivery implements bridge.Deliveries.
func (d *Deliveries) GetDelivery(ctx context.Context, id string) (*pb.Delivery, error) {
	n, local, ok := parseDeliveryID(id)
	if !ok {
		return nil, deliveryNotFound()
	}
	if local {
		x, err := scanLocal(func(dst ...any) error {
			return d.st.row(ctx, "SELECT n, ts, count, d FROM deliveries WHERE n = ?", []any{n}, dst...)
		})
		if errors.Is(err, sql.ErrNoRows) {
			return nil, deliveryNotFound()
		}
		return x.d, unavailable(ctx, "get local delivery", err)
	}
	var x *pb.Delivery
	err := d.p.read(ctx, "delivery", func(st *store, pos *position) (err error) {
		x, err = d.ofLog(ctx, st, pos, n)
		return err
	})
	return x, err
}

// ofLog returns the delivery with a sequence.
func (d *Deliveries) ofLog(ctx context.Context, st *store, pos *position, seq uint64) (*pb.Delivery, error) {
	if seq > pos.watermark {
		return nil, deliveryNotFound()
	}
	found, err := d.p.acceptedRows(ctx, st, []uint64{seq})
	if err != nil {
		return nil, err
	}
	if len(found) == 1 {
		return found[0].d, nil
	}
	q, err := scanQuarantined(func(dst ...any) error {
		return st.row(ctx, "SELECT "+quarantineColumns+" FROM quarantine WHERE seq = ?", []any{seq}, dst...)
	})
	if errors.Is(err, sql.ErrNoRows) {
		err = deliveryNotFound()
	}
	return q.Delivery, err
}

// DeliveryBody implements bridge.Deliveries.
func (d *Deliveries) DeliveryBody(ctx context.Context, id string) ([]byte, error) {
	x, err := d.GetDelivery(ctx, id)
	if err != nil {
		return nil, err
	}
	if x.GetSequence() == 0 || x.GetId() != logID(x.GetSequence()) {
		return nil, &bridge.Error{Reason: pb.ErrorReason_ERROR_REASON_BODY_NOT_KEPT, Message: "the body of a refused or duplicate delivery is not kept"}
	}
	body, err := d.p.bodyAt(ctx, x.GetSequence(), int(x.GetBodyBytes()))
	if err == nil && body == nil { // retention took it meanwhile
		err = deliveryNotFound()
	}
	return body, err
}

// bodyAt returns the body with a sequence, or nil when it is not held any more.
func (p *Projection) bodyAt(ctx context.Context, seq uint64, size int) (body []byte, err error) {
	err = p.read(ctx, "body", func(st *store, _ *position) error {
		var z []byte
		err := st.row(ctx, "SELECT z FROM body WHERE seq = ?", []any{seq}, &z)
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		if err == nil {
			body, err = p.codec.unpack(&arena{}, z, size)
		}
		return err
	})
	return body, err
}

// reprocessPage is how many quarantined bodies are looked up at once; one body is in memory at a time.
const reprocessPage = 100

// Quarantined implements bridge.Deliveries. Bodies that are quarantined after it began are left out. Errors of handle are
// returned as they are.
func (d *Deliveries) Quarantined(ctx context.Context, r *pb.ReprocessDeliveriesRequest, handle func(bridge.QuarantinedBody) error) error {
	times := bridge.DeliveryListRequest{}
	if r.GetStartTime() != nil {
		times.StartTime = r.GetStartTime().AsTime()
	}
	if r.GetEndTime() != nil {
		times.EndTime = r.GetEndTime().AsTime()
	}
	var lo, hi uint64
	if err := d.p.read(ctx, "quarantined", func(st *store, pos *position) (err error) {
		lo, hi, err = logRange(ctx, st, pos, "quarantine", times, nil)
		return err
	}); err != nil {
		return err
	}
	for lo <= hi {
		var page []bridge.QuarantinedBody
		if err := d.p.read(ctx, "quarantined", func(st *store, _ *position) (err error) {
			page, err = quarantinePage(ctx, st, r, lo, hi)
			return err
		}); err != nil {
			return err
		}
		for _, q := range page {
			lo = q.Entry.Sequence + 1
			body, err := d.p.bodyAt(ctx, q.Entry.Sequence, q.Entry.BodySize)
			if err != nil {
				return err
			}
			if body == nil {
				continue // retention took it meanwhile
			}
			q.Entry.Body = body
			if err := handle(q); err != nil {
				return err
			}
		}
		if len(page) < reprocessPage {
			return nil
		}
	}
	return nil
}

func quarantinePage(ctx context.Context, st *store, r *pb.ReprocessDeliveriesRequest, lo, hi uint64) ([]bridge.QuarantinedBody, error) {
	text := "SELECT " + quarantineColumns + " FROM quarantine WHERE seq BETWEEN ? AND ? AND cause <> ?"
	args := []any{lo, hi, int64(pb.DeliveryCause_DELIVERY_CAUSE_CONFLICT)}
	and := func(column string, values []any) {
		if len(values) > 0 {
			in, a := list(values)
			text, args = text+" AND "+column+" IN "+in, append(args, a...)
		}
	}
	and("cause", anys(r.GetCauses()))
	and("src", anys(r.GetSources()))
	if len(r.GetDeliveryIds()) > 0 {
		seqs := []any{int64(-1)} // other ids name nothing that is quarantined
		for _, id := range r.GetDeliveryIds() {
			if n, local, ok := parseDeliveryID(id); ok && !local {
				seqs = append(seqs, n)
			}
		}
		and("seq", seqs)
	}
	rows, err := st.rows(ctx, text+" ORDER BY seq LIMIT ?", append(args, reprocessPage)...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []bridge.QuarantinedBody
	for rows.Next() {
		q, err := scanQuarantined(rows.Scan)
		if err != nil {
			return nil, err
		}
		out = append(out, q)
	}
	return out, rows.Err()
}
