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
	x, err := d.ofLog(ctx, n)
	return x, d.p.readError(ctx, "get delivery", err)
}

// ofLog returns the delivery with a sequence.
func (d *Deliveries) ofLog(ctx context.Context, seq uint64) (*pb.Delivery, error) {
	st, pos, done := d.p.view()
	defer done()
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
	st, _, done := d.p.view()
	defer done()
	body, err := d.p.bodyAt(ctx, st, x.GetSequence(), int(x.GetBodyBytes()))
	if errors.Is(err, sql.ErrNoRows) { // retention took it meanwhile
		err = deliveryNotFound()
	}
	if err != nil {
		return nil, d.p.readError(ctx, "get delivery body", err)
	}
	return body, nil
}

func (p *Projection) bodyAt(ctx context.Context, st *store, seq uint64, size int) ([]byte, error) {
	var z []byte
	if err := st.row(ctx, "SELECT z FROM body WHERE seq = ?", []any{seq}, &z); err != nil {
		return nil, err
	}
	return p.codec.unpack(z, size)
}

// reprocessPage is how many quarantined bodies are looked up at once; one body is in memory at a time.
const reprocessPage = 100

// Quarantined implements bridge.Deliveries. Bodies that are quarantined after it began are left out. Errors of handle are
// returned as they are.
func (d *Deliveries) Quarantined(ctx context.Context, r *pb.ReprocessDeliveriesRequest, handle func(bridge.QuarantinedBody) error) error {
	list := bridge.DeliveryListRequest{}
	if r.GetStartTime() != nil {
		list.StartTime = r.GetStartTime().AsTime()
	}
	if r.GetEndTime() != nil {
		list.EndTime = r.GetEndTime().AsTime()
	}
	st, pos, done := d.p.view()
	lo, hi, err := logRange(ctx, st, pos, "quarantine", list, nil)
	done()
	for err == nil && lo <= hi {
		var page []bridge.QuarantinedBody
		if page, err = d.quarantinePage(ctx, r, lo, hi); err != nil {
			break
		}
		for _, q := range page {
			lo = q.Entry.Sequence + 1
			st, _, done := d.p.view()
			q.Entry.Body, err = d.p.bodyAt(ctx, st, q.Entry.Sequence, q.Entry.BodySize)
			done()
			if errors.Is(err, sql.ErrNoRows) {
				err = nil
				continue // retention took it meanwhile
			}
			if err != nil {
				return d.p.readError(ctx, "read quarantined body", err)
			}
			if err := handle(q); err != nil {
				return err
			}
		}
		if len(page) < reprocessPage {
			return nil
		}
	}
	return d.p.readError(ctx, "list quarantined bodies", err)
}

func (d *Deliveries) quarantinePage(ctx context.Context, r *pb.ReprocessDeliveriesRequest, lo, hi uint64) ([]bridge.QuarantinedBody, error) {
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
	st, _, done := d.p.view()
	defer done()
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
