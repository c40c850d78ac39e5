package projection

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"

	"github.com/spotbridge/spotbridge/bridge"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

// position is how far projection.db has come, as committed.
type position struct {
	log bridge.LogID
	// begun is the first sequence that the ordering marks can rely on: what came before is not known.
	begun, floor, watermark uint64
	lastTS                  int64
}

// span is about how many events there are.
func (p *position) span() int64 { return int64(p.watermark+1) - int64(p.floor) }

type entityKey struct {
	kind pb.EntityKind
	id   string
}

type entityRow struct {
	eid         int64
	state       entityState
	seen, fresh bool
}

// batch is one write transaction that applies log entries. What it learns becomes part of the projection when the
// transaction has been committed, and is forgotten when it has not.
type batch struct {
	p        *Projection
	w        *writer
	pos      position
	sums     *sums
	entities map[entityKey]*entityRow
	nextEID  int64
	events   []*bridge.Encoded
	encoder  bridge.Encoder
	count    map[string]int
}

// apply writes entries and moves the watermark, in one transaction. Entries that were applied before are left out. It
// returns the events in wire form.
func (p *Projection) apply(ctx context.Context, recs []record) ([]*bridge.Encoded, error) {
	p.wmu.Lock()
	defer p.wmu.Unlock()
	// A transaction that has begun is brought to its end: it is short, and what a context costs per statement is not.
	ctx = context.WithoutCancel(ctx)
	b := &batch{
		p: p, w: p.w, pos: *p.pos.Load(), sums: newSums(p.dict), entities: map[entityKey]*entityRow{}, nextEID: p.nextEID,
		count: map[string]int{}, encoder: bridge.Encoder{Expect: len(recs)},
	}
	err := p.st.tx(ctx, func() error {
		for i := range recs {
			if err := b.add(ctx, &recs[i]); err != nil {
				return fmt.Errorf("entry %d: %w", recs[i].Sequence, err)
			}
		}
		return b.finish(ctx)
	})
	if err != nil {
		return nil, err
	}
	b.sums.dict.committed()
	p.nextEID = b.nextEID
	p.pos.Store(&b.pos)
	for kind, n := range b.count {
		p.m.applied.WithLabelValues(kind).Add(float64(n))
	}
	p.m.watermark.Set(float64(b.pos.watermark))
	return b.events, nil
}

func (b *batch) add(ctx context.Context, r *record) error {
	if r.Sequence <= b.pos.watermark {
		return nil
	}
	b.pos.watermark = r.Sequence
	b.pos.lastTS = max(b.pos.lastTS, nanos(r.AppendTime))
	switch r.Kind {
	case bridge.EntryEvent:
		b.count["event"]++
		return b.addEvent(ctx, r)
	case bridge.EntryQuarantine:
		b.count["quarantine"]++
		return b.addQuarantine(ctx, r)
	default:
		b.count["other"]++
		return nil
	}
}

func (b *batch) addEvent(ctx context.Context, r *record) error {
	if r.unreadable {
		b.p.m.unreadable.Inc()
		b.p.log.Warn("event is not readable with today's rules; kept with a minimal envelope", "sequence", r.Sequence, "event_id", r.EventID)
	}
	ordering, eid, version, eventTime, err := b.order(ctx, r.env)
	if err != nil {
		return err
	}
	e, meta, err := bridge.EncodeEnvelope(r.Entry, r.env, fromNanos(b.pos.lastTS), ordering)
	if err != nil {
		r.sanitize()
		if e, meta, err = bridge.EncodeEnvelope(r.Entry, r.env, fromNanos(b.pos.lastTS), ordering); err != nil {
			return fmt.Errorf("encode: %w", err)
		}
	}
	row := rowKey{seenKey: seenKey{
		typ: b.sums.dict.add(dictType, meta.EventType, 1, 0), op: b.sums.dict.add(dictOperation, meta.Operation, 1, 0),
	}, hour: floorHour(b.pos.lastTS), src: b.sums.dict.add(dictSource, meta.Source, 1, 0)}
	var flags int64
	if meta.Stale {
		flags, row.stale = flags|flagStale, 1
	}
	var org int64
	for i, o := range meta.Organizations {
		if i == 0 {
			org = b.sums.dict.add(dictOrganization, o, 1, 0)
			row.org = org
			continue
		}
		flags |= flagMulti
		row.org = orgMany
		if _, err := b.w.otherOrg.ExecContext(ctx, b.sums.dict.add(dictOrganization, o, 0, 1), r.Sequence); err != nil {
			return err
		}
	}
	b.sums.add(row, 1, b.pos.lastTS)
	if _, err := b.w.event.ExecContext(ctx, r.Sequence, b.pos.lastTS, row.typ, row.op, org, row.src, flags,
		idHash(meta.EventID), eid, version, eventTime); err != nil {
		return err
	}
	if _, err := b.w.wide.ExecContext(ctx, r.Sequence, len(r.Body), r.BodyHash[:], r.TimestampText, e); err != nil {
		return err
	}
	if _, err := b.w.body.ExecContext(ctx, r.Sequence, r.z); err != nil {
		return err
	}
	for _, x := range entRows(&meta) {
		if _, err := b.w.ent.ExecContext(ctx, x.kind, x.id, r.Sequence); err != nil {
			return err
		}
	}
	b.events = append(b.events, b.encoder.New(meta, e, r.Body, len(r.Body), b.p.cfg.Converter))
	return nil
}

type entRow struct {
	kind int64
	id   []byte
}

// entRows returns what table ent has of an event.
func entRows(m *bridge.Meta) []entRow {
	out := make([]entRow, 0, 2+len(m.TravelerIDs))
	if m.PNRID != "" {
		out = append(out, entRow{entPNR, entKey(m.PNRID)})
	}
	if m.TripID != "" {
		out = append(out, entRow{entTrip, entKey(m.TripID)})
	}
	for _, t := range m.TravelerIDs {
		if t != "" {
			out = append(out, entRow{entTraveler, entKey(t)})
		}
	}
	return out
}

// order folds the event into its entity. eid is nil when it has none.
func (b *batch) order(ctx context.Context, env *bridge.Envelope) (o pb.Ordering, eid, version, eventTime *int64, err error) {
	if env.Entity.GetId() == "" {
		return pb.Ordering_ORDERING_UNKNOWN, nil, nil, nil, nil
	}
	if env.Entity.Version != nil {
		v := int64(env.Entity.GetVersion())
		version = &v
	}
	if !env.EventTime.IsZero() {
		t := nanos(env.EventTime)
		eventTime = &t
	}
	key := entityKey{env.Entity.GetKind(), string(entKey(env.Entity.GetId()))}
	row := b.entities[key]
	if row == nil {
		row = &entityRow{}
		switch err := b.w.entityGet.QueryRowContext(ctx, []byte(key.id), int64(key.kind)).
			Scan(&row.eid, &row.state.version, &row.state.time, &row.state.proven); {
		case errors.Is(err, sql.ErrNoRows):
			row.eid, row.fresh = b.nextEID, true
			b.nextEID++
		case err != nil:
			return 0, nil, nil, nil, err
		default:
			row.seen = true
		}
		b.entities[key] = row
	}
	o, row.state = fold(row.state, row.seen, b.pos.begun <= 1, version, eventTime)
	row.seen = true
	return o, &row.eid, version, eventTime, nil
}

func (b *batch) addQuarantine(ctx context.Context, r *record) error {
	var typ, op, org string
	if r.env != nil {
		typ, op = r.env.EventType, r.env.Operation
		org = slices.Concat(r.env.Organizations, []string{""})[0]
	}
	if _, err := b.w.body.ExecContext(ctx, r.Sequence, r.z); err != nil {
		return err
	}
	_, err := b.w.quarantine.ExecContext(ctx, r.Sequence, b.pos.lastTS, r.Source, r.EventID, r.WebhookID, int64(r.Cause),
		nanos(r.ReceiveTime), r.TimestampText, r.TraceID, r.SpanID, r.APIVersion, typ, op, org, r.BodyHash[:], len(r.Body))
	return err
}

// finish writes what is written once per transaction.
func (b *batch) finish(ctx context.Context) error {
	for key, row := range b.entities {
		var err error
		s := row.state
		if row.fresh {
			_, err = b.w.entityInsert.ExecContext(ctx, row.eid, int64(key.kind), []byte(key.id), s.version, s.time, s.proven)
		} else {
			_, err = b.w.entityUpdate.ExecContext(ctx, s.version, s.time, s.proven, row.eid)
		}
		if err != nil {
			return err
		}
	}
	if err := b.sums.write(ctx, b.w); err != nil {
		return err
	}
	_, err := b.w.state.ExecContext(ctx, b.pos.begun, b.pos.floor, b.pos.watermark, b.pos.lastTS)
	return err
}
