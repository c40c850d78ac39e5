package projection

import (
	"context"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/spotbridge/spotbridge/bridge"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

// logID is the id of a delivery that is in the log, localID that of one in deliveries.db.
func logID(seq uint64) string { return "l-" + strconv.FormatUint(seq, 10) }
func localID(n uint64) string { return "d-" + strconv.FormatUint(n, 10) }

// logRange translates the bounds of a listing to the sequences lo to hi of a table.
func logRange(ctx context.Context, st *store, pos *position, table string, r bridge.DeliveryListRequest, after *place) (lo, hi uint64, err error) {
	lo, hi = pos.floor, pos.watermark
	// since returns the first sequence at or after a time.
	since := func(ts int64) (seq uint64, err error) {
		err = st.row(ctx, "SELECT seq FROM "+table+" WHERE ts >= ? ORDER BY ts, seq LIMIT 1", []any{ts}, &seq)
		if errors.Is(err, sql.ErrNoRows) {
			return pos.watermark + 1, nil
		}
		return seq, err
	}
	if !r.StartTime.IsZero() {
		first, err := since(nanos(r.StartTime))
		if err != nil {
			return 0, 0, err
		}
		lo = max(lo, first)
	}
	if !r.EndTime.IsZero() {
		first, err := since(nanos(r.EndTime))
		if err != nil {
			return 0, 0, err
		}
		hi = min(hi, first-1)
	}
	switch {
	case after == nil:
	case after.local:
		first, err := since(after.ts)
		if err != nil {
			return 0, 0, err
		}
		hi = min(hi, first-1)
	case after.n == 0:
		hi = 0
	default:
		hi = min(hi, after.n-1)
	}
	return lo, hi, nil
}

// accepted lists events as deliveries.
func (d *Deliveries) accepted(ctx context.Context, st *store, pos *position, r bridge.DeliveryListRequest, after *place) (part, error) {
	var p part
	if !wants(r, pb.DeliveryOutcome_DELIVERY_OUTCOME_ACCEPTED) || !wantsCause(r, pb.DeliveryCause_DELIVERY_CAUSE_UNSPECIFIED) {
		return p, nil
	}
	lo, hi, err := logRange(ctx, st, pos, "events", r, after)
	if err != nil || lo > hi {
		return p, err
	}
	var f found
	if r.WebhookID != "" {
		f, err = d.byWebhook(ctx, st, r, lo, hi)
	} else {
		var filter *bridge.Filter
		if filter, err = bridge.CompileFilter(&pb.EventFilter{Sources: r.Sources}, "sources"); err != nil {
			return p, nil // no source can have such a name
		}
		var pl plan
		if pl, err = d.p.plan(ctx, st, filter, pos.span()); err == nil {
			f, err = pl.find(ctx, st, lo, hi, true, r.PageSize)
		}
	}
	if err != nil {
		return p, err
	}
	if p.items, err = d.p.acceptedRows(ctx, st, f.seqs); err != nil {
		return p, err
	}
	if f.edge != 0 {
		edge := place{n: f.edge}
		switch err := st.row(ctx, "SELECT ts FROM events WHERE seq = ?", []any{f.edge}, &edge.ts); {
		case err == nil:
			p.edge = &edge
		case !errors.Is(err, sql.ErrNoRows): // retention took it, and everything behind it
			return p, err
		}
	}
	return p, nil
}

func wantsCause(r bridge.DeliveryListRequest, cause pb.DeliveryCause) bool {
	if len(r.Causes) == 0 {
		return true
	}
	for _, c := range r.Causes {
		if c == cause {
			return true
		}
	}
	return false
}

// byWebhook finds the events with a webhook id, of all sources or those that are asked for.
func (d *Deliveries) byWebhook(ctx context.Context, st *store, r bridge.DeliveryListRequest, lo, hi uint64) (found, error) {
	sources := r.Sources
	if len(sources) == 0 {
		sources = d.p.dict.values(dictSource)
	}
	var hashes []any
	for _, source := range sources {
		for _, id := range webhookIDs(r.WebhookID) {
			hashes = append(hashes, idHash(bridge.EventID(source, id)))
		}
	}
	if len(hashes) == 0 {
		return found{}, nil
	}
	in, args := list(hashes)
	rows, err := st.rows(ctx, "SELECT seq FROM events WHERE idh IN "+in+" AND seq BETWEEN ? AND ? ORDER BY seq DESC LIMIT ?", append(args, lo, hi, r.PageSize+1)...)
	if err != nil {
		return found{}, err
	}
	var f found
	if f.seqs, err = scanSeqs(rows, nil); err == nil && len(f.seqs) > r.PageSize {
		f.seqs = f.seqs[:r.PageSize]
		f.edge = f.seqs[r.PageSize-1]
	}
	return f, err
}

// acceptedRows reads events as deliveries, newest first.
func (p *Projection) acceptedRows(ctx context.Context, st *store, seqs []uint64) ([]listed, error) {
	if len(seqs) == 0 {
		return nil, nil
	}
	values := make([]any, len(seqs))
	for i, s := range seqs {
		values[i] = s
	}
	in, args := list(values)
	rows, err := st.rows(ctx, "SELECT n.seq, n.ts, w.size, w.e, w.sha, w.stamp FROM events n CROSS JOIN wide w ON w.seq = n.seq WHERE n.seq IN "+in+" ORDER BY n.seq DESC", args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []listed
	for rows.Next() {
		x := listed{d: &pb.Delivery{Outcome: pb.DeliveryOutcome_DELIVERY_OUTCOME_ACCEPTED, HttpStatus: 200, Count: 1}}
		var e, sha []byte
		if err := rows.Scan(&x.n, &x.ts, &x.d.BodyBytes, &e, &sha, &x.d.TimestampText); err != nil {
			return nil, err
		}
		var ev pb.Event
		if err := proto.Unmarshal(e, &ev); err != nil {
			return nil, fmt.Errorf("%w: the envelope of event %d: %w", errCorrupt, x.n, err)
		}
		x.d.Id, x.d.Sequence, x.d.BodySha256 = logID(x.n), x.n, hex.EncodeToString(sha)
		x.d.Source, x.d.WebhookId, x.d.EventId, x.d.ReceiveTime, x.d.Trace = ev.Source, ev.WebhookId, ev.Id, ev.ReceiveTime, ev.Trace
		x.d.EventType, x.d.Operation, x.d.OrganizationId = ev.EventType, ev.Operation, ev.OrganizationId
		out = append(out, x)
	}
	return out, rows.Err()
}

const quarantineColumns = "seq, ts, src, event_id, webhook_id, cause, receive, stamp, trace, span, api, typ, op, org, sha, size"

// quarantined lists quarantined and conflicting bodies as deliveries.
func (d *Deliveries) quarantined(ctx context.Context, st *store, pos *position, r bridge.DeliveryListRequest, after *place) (part, error) {
	var p part
	conflict, other := wants(r, pb.DeliveryOutcome_DELIVERY_OUTCOME_CONFLICT), wants(r, pb.DeliveryOutcome_DELIVERY_OUTCOME_QUARANTINED)
	if !conflict && !other {
		return p, nil
	}
	lo, hi, err := logRange(ctx, st, pos, "quarantine", r, after)
	if err != nil || lo > hi {
		return p, err
	}
	text := "SELECT " + quarantineColumns + " FROM (SELECT * FROM quarantine WHERE seq BETWEEN ? AND ? ORDER BY seq DESC LIMIT ?) WHERE 1"
	args := []any{lo, hi, d.p.looked}
	if r.WebhookID != "" { // few rows: an index finds them
		text = "SELECT " + quarantineColumns + " FROM quarantine INDEXED BY quarantine_webhook WHERE seq BETWEEN ? AND ? AND webhook_id = ?"
		args = []any{lo, hi, r.WebhookID}
	}
	and := func(cond string, a ...any) { text, args = text+" AND "+cond, append(args, a...) }
	switch {
	case !conflict:
		and("cause <> ?", int64(pb.DeliveryCause_DELIVERY_CAUSE_CONFLICT))
	case !other:
		and("cause = ?", int64(pb.DeliveryCause_DELIVERY_CAUSE_CONFLICT))
	}
	if len(r.Causes) > 0 {
		in, a := list(anys(r.Causes))
		and("cause IN "+in, a...)
	}
	if len(r.Sources) > 0 {
		in, a := list(anys(r.Sources))
		and("src IN "+in, a...)
	}
	rows, err := st.rows(ctx, text+" ORDER BY seq DESC LIMIT ?", append(args, r.PageSize+1)...)
	if err != nil {
		return p, err
	}
	defer rows.Close()
	for rows.Next() {
		q, err := scanQuarantined(rows.Scan)
		if err != nil {
			return p, err
		}
		if p.add(listed{place{ts: nanos(q.Entry.AppendTime), n: q.Entry.Sequence}, q.Delivery}, r.PageSize) {
			return p, nil
		}
	}
	if err := rows.Err(); err != nil || r.WebhookID != "" {
		return p, err
	}
	rows.Close()
	// Was the budget spent?
	var edge place
	switch err := st.row(ctx, "SELECT seq, ts FROM quarantine WHERE seq BETWEEN ? AND ? ORDER BY seq DESC LIMIT 1 OFFSET ?", []any{lo, hi, d.p.looked - 1}, &edge.n, &edge.ts); {
	case err == nil && edge.n > lo:
		p.edge = &edge
	case err != nil && !errors.Is(err, sql.ErrNoRows):
		return p, err
	}
	return p, nil
}

// scanQuarantined reads a row of quarantineColumns. The entry has no body yet.
func scanQuarantined(scan func(...any) error) (bridge.QuarantinedBody, error) {
	e := &bridge.Entry{Kind: bridge.EntryQuarantine}
	x := &pb.Delivery{Outcome: pb.DeliveryOutcome_DELIVERY_OUTCOME_QUARANTINED, HttpStatus: 200, Count: 1}
	var ts, receive int64
	var sha []byte
	if err := scan(&e.Sequence, &ts, &e.Source, &e.EventID, &e.WebhookID, &e.Cause, &receive, &e.TimestampText, &e.TraceID, &e.SpanID,
		&e.APIVersion, &x.EventType, &x.Operation, &x.OrganizationId, &sha, &e.BodySize); err != nil {
		return bridge.QuarantinedBody{}, err
	}
	copy(e.BodyHash[:], sha)
	e.AppendTime, e.ReceiveTime = fromNanos(ts), fromNanos(receive)
	x.Id, x.Source, x.WebhookId, x.Cause, x.Sequence = logID(e.Sequence), e.Source, e.WebhookID, e.Cause, e.Sequence
	x.ReceiveTime, x.TimestampText = timestamppb.New(e.ReceiveTime), e.TimestampText
	x.BodyBytes, x.BodySha256 = int64(e.BodySize), hex.EncodeToString(sha)
	if e.TraceID != "" || e.SpanID != "" {
		x.Trace = &pb.Trace{TraceId: e.TraceID, SpanId: e.SpanID}
	}
	if e.Cause == pb.DeliveryCause_DELIVERY_CAUSE_CONFLICT {
		x.Outcome, x.EventId = pb.DeliveryOutcome_DELIVERY_OUTCOME_CONFLICT, e.EventID
	}
	return bridge.QuarantinedBody{Delivery: x, Entry: e}, nil
}

// scanLocal reads n, ts, count and d of a row of deliveries.db.
func scanLocal(scan func(...any) error) (listed, error) {
	x := listed{place: place{local: true}, d: &pb.Delivery{}}
	var count int32
	var b []byte
	if err := scan(&x.n, &x.ts, &count, &b); err != nil {
		return x, err
	}
	if err := proto.Unmarshal(b, x.d); err != nil {
		return x, fmt.Errorf("delivery %d: %w", x.n, err)
	}
	x.d.Id, x.d.Count = localID(x.n), count
	return x, nil
}

// parseDeliveryID returns the number of a delivery and whether it is one of deliveries.db.
func parseDeliveryID(id string) (n uint64, local, ok bool) {
	digits, isLog := strings.CutPrefix(id, "l-")
	if !isLog {
		if digits, local = strings.CutPrefix(id, "d-"); !local {
			return 0, false, false
		}
	}
	n, err := strconv.ParseUint(digits, 10, 63)
	return n, local, err == nil && strconv.FormatUint(n, 10) == digits
}
