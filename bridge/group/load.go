package group

import (
	"context"
	"crypto/sha256"
	"slices"
	"sync"

	"google.golang.org/protobuf/proto"

	"github.com/spotbridge/spotbridge/bridge"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

const (
	pageEvents = 256
	pageBytes  = 4 << 20
	// keptPages is how many pages of history a group keeps: members get neighbouring events at about the same time.
	keptPages = 6
)

// loader finds the events of sequences. A group's members share the pages that it reads.
type loader struct {
	g *group

	mu     sync.Mutex
	pages  []scanned
	filter string
}

// scanned is a page of history under the group's filter.
type scanned struct {
	page
	bodies bool
	// floor is the oldest sequence that history held after the scan.
	floor uint64
}

func (l *loader) reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pages = nil
}

// found says what stands at a sequence.
type found struct {
	event *bridge.Encoded
	// refused says that the filter does not select it; later, that the projection is not there yet; lost, that nobody holds
	// it any more.
	refused, later, lost bool
}

// find returns what stands at a sequence, with its body when the view needs it.
func (l *loader) find(ctx context.Context, rec *bridge.GroupRecord, seq uint64, bodies bool) (found, error) {
	s := l.g.s
	f := rec.Settings.Filter
	if e, known := s.recent.find(seq); known && e != nil {
		return found{event: e, refused: !f.Match(&e.Meta)}, nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.filter != f.Key() {
		l.pages, l.filter = nil, f.Key()
	}
	p := l.lookup(seq, bodies)
	if p == nil {
		var err error
		if p, err = l.scan(ctx, f, seq, bodies); err != nil {
			return found{}, err
		}
		if p == nil {
			return found{later: true}, nil
		}
	}
	if e := p.find(seq); e != nil {
		return found{event: e}, nil
	}
	if seq >= p.floor && !f.MatchesAll() {
		return found{refused: true}, nil
	}
	// History does not hold it. The log does, or it would not have been given out.
	e, err := l.fromLog(ctx, seq)
	switch {
	case err != nil:
		return found{}, err
	case e == nil:
		return found{lost: true}, nil
	}
	return found{event: e, refused: !f.Match(&e.Meta)}, nil
}

func (l *loader) lookup(seq uint64, bodies bool) *scanned {
	for i := range l.pages {
		if p := &l.pages[i]; p.after < seq && seq <= p.next && (p.bodies || !bodies) {
			return p
		}
	}
	return nil
}

// scan reads the page that begins with a sequence; nil when the projection is not there yet.
func (l *loader) scan(ctx context.Context, f *bridge.Filter, seq uint64, bodies bool) (*scanned, error) {
	h := l.g.s.cfg.History
	b, err := h.Bounds(ctx)
	if err != nil {
		return nil, err
	}
	if b.Watermark < seq {
		return nil, nil
	}
	res, err := h.Scan(ctx, bridge.ScanRequest{
		Filter: f, After: seq - 1, UpTo: b.Watermark, MaxEvents: pageEvents, MaxBytes: pageBytes, Bodies: bodies,
	})
	if err != nil {
		return nil, err
	}
	// What was deleted before the scan is missing in it, and the floor tells. So it is looked at afterwards.
	if b, err = h.Bounds(ctx); err != nil {
		return nil, err
	}
	if res.Next < seq {
		return nil, nil // rebuilt meanwhile
	}
	if len(l.pages) >= keptPages {
		l.pages = slices.Delete(l.pages, 0, 1)
	}
	l.pages = append(l.pages, scanned{page: page{after: seq - 1, next: res.Next, events: res.Events}, bodies: bodies, floor: b.Floor})
	return &l.pages[len(l.pages)-1], nil
}

// fromLog makes an event from the log alone. Where it stands among those of its entity is not known.
func (l *loader) fromLog(ctx context.Context, seq uint64) (*bridge.Encoded, error) {
	en, err := l.g.s.cfg.Log.Get(ctx, seq)
	if err != nil || en == nil || en.Kind != bridge.EntryEvent {
		return nil, err
	}
	return bridge.RestoreEncoded(en, pb.Ordering_ORDERING_UNKNOWN, l.g.s.cfg.Converter)
}

// letter returns what a dead letter keeps of an event: from history, else from the log; nil when nobody holds it.
func (l *loader) letter(ctx context.Context, seq uint64) (*bridge.StoredLetter, error) {
	s := l.g.s
	res, err := s.cfg.History.Scan(ctx, bridge.ScanRequest{After: seq - 1, UpTo: seq, MaxEvents: 1, MaxBytes: pageBytes, Bodies: true})
	if err == nil && len(res.Events) == 1 && res.Events[0].Sequence == seq {
		if en, err := entryOf(res.Events[0]); err == nil {
			return &bridge.StoredLetter{Entry: en, Ordering: bridge.OrderingOf(res.Events[0])}, nil
		}
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	en, err := s.cfg.Log.Get(ctx, seq)
	if err != nil || en == nil {
		return nil, err
	}
	return &bridge.StoredLetter{Entry: en, Ordering: pb.Ordering_ORDERING_UNKNOWN}, nil
}

// entryOf makes the log's entry of an event with its body.
func entryOf(e *bridge.Encoded) (*bridge.Entry, error) {
	var ev pb.Event
	if err := proto.Unmarshal(e.Envelope, &ev); err != nil {
		return nil, err
	}
	return &bridge.Entry{
		Kind: bridge.EntryEvent, Source: ev.GetSource(), EventID: ev.GetId(), WebhookID: ev.GetWebhookId(), EventType: ev.GetEventType(),
		Operation: ev.GetOperation(), Organizations: e.Organizations, ReceiveTime: ev.GetReceiveTime().AsTime(),
		TraceID: ev.GetTrace().GetTraceId(), SpanID: ev.GetTrace().GetSpanId(), APIVersion: ev.GetApiVersion(),
		BodyHash: sha256.Sum256(e.Body), Body: e.Body, BodySize: len(e.Body), Sequence: e.Sequence, AppendTime: e.AppendTime,
	}, nil
}
