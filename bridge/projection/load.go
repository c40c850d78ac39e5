package projection

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strings"

	"github.com/spotbridge/spotbridge/bridge"
)

// loadFrom is SELECT and FROM of what events are made of. Without bodies the table of bodies is not touched. A join reads on
// in both tables, where a subquery would look up each body anew; LEFT, so that a missing body is noticed.
func loadFrom(bodies bool) string {
	if bodies {
		return "SELECT w.seq, w.size, w.e, b.z FROM wide w LEFT JOIN body b ON b.seq = w.seq"
	}
	return "SELECT w.seq, w.size, w.e FROM wide w"
}

func direction(desc bool) string {
	if desc {
		return "DESC"
	}
	return "ASC"
}

// loadRange reads the events of a range of sequences, at most limit, until maxBytes are reached (0 = no limit; at least
// one). more says that there are others behind them.
func (p *Projection) loadRange(ctx context.Context, st *store, lo, hi uint64, desc, bodies bool, limit, maxBytes int) (events []*bridge.Encoded, more bool, err error) {
	rows, err := st.rows(ctx, loadFrom(bodies)+" WHERE w.seq BETWEEN ? AND ? ORDER BY w.seq "+direction(desc)+" LIMIT ?",
		lo, hi, limit+1)
	if err != nil {
		return nil, false, err
	}
	events, _, more, err = p.collect(rows, bodies, true, limit, maxBytes)
	return events, more, err
}

// loadSteps are the numbers of parameters of loadSeqs: few texts, so that they stay prepared.
var loadSteps = []int{1, 8, 64, 256, 1024}

// loadSeqs reads the events with the given sequences, which are in the order that is asked for. Those that are gone are
// left out. It stops before maxBytes would be exceeded (0 = no limit; first says that one event is read even so), and says
// so by full.
func (p *Projection) loadSeqs(ctx context.Context, st *store, seqs []uint64, desc, bodies, first bool, maxBytes int) (out []*bridge.Encoded, bytes int, full bool, err error) {
	for part := range slices.Chunk(seqs, loadSteps[len(loadSteps)-1]) {
		n := 0
		for _, n = range loadSteps {
			if n >= len(part) {
				break
			}
		}
		args := make([]any, n)
		for i := range args {
			args[i] = part[min(i, len(part)-1)] // repeats do no harm
		}
		rows, err := st.rows(ctx, loadFrom(bodies)+" WHERE w.seq IN (?"+strings.Repeat(",?", n-1)+") ORDER BY w.seq "+direction(desc), args...)
		if err != nil {
			return nil, 0, false, err
		}
		events, b, full, err := p.collect(rows, bodies, first && len(out) == 0, len(part), maxBytes)
		if err != nil {
			return nil, 0, false, err
		}
		out, bytes = append(out, events...), bytes+b
		if full {
			return out, bytes, true, nil
		}
		if maxBytes > 0 {
			if maxBytes -= b; maxBytes <= 0 {
				return out, bytes, len(out) < len(seqs), nil
			}
		}
	}
	return out, bytes, false, nil
}

// collect makes events of rows and closes them. It ends before maxBytes would be exceeded (0 = no limit); first says that
// an event is returned even so.
func (p *Projection) collect(rows *sql.Rows, bodies, first bool, limit, maxBytes int) (events []*bridge.Encoded, bytes int, more bool, err error) {
	defer rows.Close()
	var seq uint64
	var size int
	var e, z sql.RawBytes
	dst := []any{&seq, &size, &e}
	if bodies {
		dst = append(dst, &z)
	}
	a, encoder := arena{events: limit}, bridge.Encoder{Expect: limit}
	for rows.Next() {
		if len(events) == limit {
			return events, bytes, true, nil
		}
		if err := rows.Scan(dst...); err != nil {
			return nil, 0, false, err
		}
		need := len(e)
		if bodies {
			need += size
		}
		if maxBytes > 0 && bytes+need > maxBytes && (len(events) > 0 || !first) {
			return events, bytes, true, nil
		}
		bytes += need
		if len(e) == 0 {
			return nil, 0, false, fmt.Errorf("%w: event %d has no envelope", errCorrupt, seq)
		}
		envelope := append(a.take(len(e)), e...)
		meta, err := metaOf(envelope)
		if err != nil {
			return nil, 0, false, err
		}
		var body []byte
		if bodies {
			if body, err = p.codec.unpack(&a, z, size); err != nil {
				return nil, 0, false, fmt.Errorf("event %d: %w", seq, err)
			}
		}
		a.events--
		events = append(events, encoder.New(meta, envelope, body, size, p.cfg.Converter))
	}
	return events, bytes, false, rows.Err()
}

// arenaChunk is how many bytes of events share an allocation at most. An event that is in use keeps its neighbours.
const arenaChunk = 128 << 10

// arena makes the byte strings of the events of a page.
type arena struct {
	free   []byte
	events int // that may still come
}

// take returns an empty slice, not nil, with the capacity n.
func (a *arena) take(n int) []byte {
	if a.free == nil || n > len(a.free) {
		a.free = make([]byte, max(n, min(n*a.events, arenaChunk)))
	}
	b := a.free[:0:n]
	a.free = a.free[n:]
	return b
}
