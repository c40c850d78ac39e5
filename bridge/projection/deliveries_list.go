package projection

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/binary"
	"slices"
	"strings"

	"github.com/spotbridge/spotbridge/bridge"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

// place is where a delivery stands in the listing of all deliveries, newest first: by time, at equal times those of the
// log first, then by number. Those of the log have their sequence as number.
type place struct {
	ts    int64
	local bool
	n     uint64
}

// compare orders places as they are listed.
func (a place) compare(b place) int {
	if c := cmp.Compare(b.ts, a.ts); c != 0 {
		return c
	}
	if a.local != b.local {
		if b.local {
			return -1
		}
		return 1
	}
	return cmp.Compare(b.n, a.n)
}

const placeVersion = 1

func (a place) String() string {
	var b [18]byte
	b[0] = placeVersion
	binary.BigEndian.PutUint64(b[1:], uint64(a.ts))
	if a.local {
		b[9] = 1
	}
	binary.BigEndian.PutUint64(b[10:], a.n)
	return base64.RawURLEncoding.EncodeToString(b[:])
}

func parsePlace(text string) (place, error) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(b) != 18 || b[0] != placeVersion || b[9] > 1 {
		return place{}, &bridge.Error{
			Reason: pb.ErrorReason_ERROR_REASON_INVALID_PAGE_TOKEN, Field: "page_token", Message: "not a token of this listing; pass it exactly as it was received",
		}
	}
	return place{int64(binary.BigEndian.Uint64(b[1:])), b[9] == 1, binary.BigEndian.Uint64(b[10:])}, nil
}

// listed is a delivery and its place.
type listed struct {
	place
	d *pb.Delivery
}

// part is what one of the three places where deliveries are kept has for a page.
type part struct {
	items []listed
	// edge is the place up to which everything was looked at, when there may be more behind it.
	edge *place
}

// add adds an item, unless there are limit already: then there is more.
func (p *part) add(x listed, limit int) (full bool) {
	if len(p.items) == limit {
		edge := p.items[limit-1].place
		p.edge = &edge
		return true
	}
	p.items = append(p.items, x)
	return false
}

// ListDeliveries implements bridge.Deliveries. A page may be short and have a next one: one call looks at no more than
// 50,000 rows of each kind.
func (d *Deliveries) ListDeliveries(ctx context.Context, r bridge.DeliveryListRequest) ([]*pb.Delivery, string, error) {
	var after *place
	if r.Resume != "" {
		a, err := parsePlace(r.Resume)
		if err != nil {
			return nil, "", err
		}
		after = &a
	}
	r.PageSize = max(r.PageSize, 1)
	parts := make([]part, 2)
	err := d.p.read(ctx, "deliveries", func(st *store, pos *position) (err error) {
		if parts[0], err = d.accepted(ctx, st, pos, r, after); err == nil {
			parts[1], err = d.quarantined(ctx, st, pos, r, after)
		}
		return err
	})
	if err != nil {
		return nil, "", err
	}
	if wants(r, pb.DeliveryOutcome_DELIVERY_OUTCOME_DUPLICATE, pb.DeliveryOutcome_DELIVERY_OUTCOME_REFUSED) {
		p, err := d.local(ctx, r, after)
		if err != nil {
			return nil, "", unavailable(ctx, "list local deliveries", err)
		}
		parts = append(parts, p)
	}
	page, next := merge(parts, r.PageSize)
	return page, next, nil
}

// merge returns the first deliveries of several parts. What lies behind the nearest edge of any part is not known yet.
func merge(parts []part, limit int) ([]*pb.Delivery, string) {
	var all []listed
	var edge *place
	for _, p := range parts {
		all = append(all, p.items...)
		if p.edge != nil && (edge == nil || p.edge.compare(*edge) < 0) {
			edge = p.edge
		}
	}
	slices.SortFunc(all, func(a, b listed) int { return a.compare(b.place) })
	if edge != nil {
		all = slices.DeleteFunc(all, func(x listed) bool { return x.compare(*edge) > 0 })
	}
	if len(all) > limit {
		all = all[:limit]
		edge = &all[limit-1].place
	}
	page := make([]*pb.Delivery, len(all))
	for i, x := range all {
		page[i] = x.d
	}
	if edge == nil {
		return page, ""
	}
	return page, edge.String()
}

// local lists what deliveries.db has.
func (d *Deliveries) local(ctx context.Context, r bridge.DeliveryListRequest, after *place) (part, error) {
	var p part
	text, args := "SELECT n, ts, count, d FROM deliveries WHERE 1", []any{}
	and := func(cond string, a ...any) { text, args = text+" AND "+cond, append(args, a...) }
	if !r.StartTime.IsZero() {
		and("ts >= ?", nanos(r.StartTime))
	}
	if !r.EndTime.IsZero() {
		and("ts < ?", nanos(r.EndTime))
	}
	switch {
	case after == nil:
	case after.local:
		and("(ts, n) < (?, ?)", after.ts, after.n)
	default:
		and("ts <= ?", after.ts) // at equal times those of the log come first
	}
	for column, values := range map[string][]any{"outcome": anys(r.Outcomes), "cause": anys(r.Causes), "src": anys(r.Sources)} {
		if len(values) > 0 {
			in, a := list(values)
			and(column+" IN "+in, a...)
		}
	}
	if r.WebhookID != "" {
		and("webhook_id = ?", r.WebhookID)
	}
	rows, err := d.st.rows(ctx, text+" ORDER BY ts DESC, n DESC LIMIT ?", append(args, r.PageSize+1)...)
	if err != nil {
		return p, err
	}
	defer rows.Close()
	for rows.Next() {
		x, err := scanLocal(rows.Scan)
		if err != nil {
			return p, err
		}
		if p.add(x, r.PageSize) {
			break
		}
	}
	return p, rows.Err()
}

// anys returns values as arguments: enums as numbers, texts as they are.
func anys[T any](values []T) []any {
	out := make([]any, len(values))
	for i, v := range values {
		switch v := any(v).(type) {
		case pb.DeliveryOutcome:
			out[i] = int64(v)
		case pb.DeliveryCause:
			out[i] = int64(v)
		default:
			out[i] = v
		}
	}
	return out
}

// wants reports whether the outcomes that are asked for include one of those given.
func wants(r bridge.DeliveryListRequest, outcomes ...pb.DeliveryOutcome) bool {
	return len(r.Outcomes) == 0 || slices.ContainsFunc(r.Outcomes, func(o pb.DeliveryOutcome) bool { return slices.Contains(outcomes, o) })
}

// webhookIDs returns what a webhook id may have been before it was made UTF-8.
func webhookIDs(text string) []string {
	out := []string{text}
	if i := strings.IndexByte(text, '%'); i >= 0 {
		var b strings.Builder
		for i := 0; i < len(text); i++ {
			if text[i] == '%' && i+2 < len(text) {
				if hi, lo := unhex(text[i+1]), unhex(text[i+2]); hi >= 8 && lo >= 0 {
					b.WriteByte(byte(hi<<4 | lo))
					i += 2
					continue
				}
			}
			b.WriteByte(text[i])
		}
		if b.String() != text {
			out = append(out, b.String())
		}
	}
	return out
}

func unhex(c byte) int {
	return strings.IndexByte("0123456789ABCDEF", c)
}
