package group

import (
	"context"
	"crypto/sha256"
	"math"
	"slices"
	"sync"

	"google.golang.org/protobuf/proto"

	"github.com/spotbridge/spotbridge/bridge"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

const (
	// loadBytes bounds the bodies that are read at once.
	loadBytes  = 4 << 20
	pageEvents = 256
	// keptPages is how many pages of what the filter selects a group keeps: members get neighbouring events at about the
	// same time.
	keptPages = 16
)

// loader finds the events of sequences. Members share what it knows of the filter's selection; bodies are read for the one
// member that has the event.
type loader struct {
	g *group

	mu     sync.Mutex
	pages  []selected
	filter string
}

// selected is a page of what history holds under the group's filter, without bodies.
type selected struct {
	page
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
	// refused says that the filter does not select it; lost, that nobody holds it any more.
	refused, lost bool
}

// load finds what stands behind entries that were taken, for as many of the first ones as can be had at once. It leaves out
// what the projection has not applied yet; what it has found already stays.
func (l *loader) load(ctx context.Context, rec *bridge.GroupRecord, ws []waiting, bodies bool) error {
	if len(ws) == 0 || ws[0].known {
		return nil
	}
	f := rec.Settings.Filter
	ws = rising(ws)
	var missing []*waiting
	for i := range ws {
		w := &ws[i]
		switch {
		case w.known:
		case w.Redriven:
			e, err := bridge.RestoreEncoded(w.Letter.Entry, w.Letter.Ordering, l.g.s.cfg.Converter)
			if err != nil {
				return err
			}
			w.set(found{event: e})
		default:
			if e, _ := l.g.s.recent.find(w.Sequence); e != nil {
				w.set(found{event: e, refused: !f.Match(&e.Meta)})
			} else {
				missing = append(missing, w)
			}
		}
	}
	if !f.MatchesAll() {
		var err error
		if missing, err = l.sift(ctx, f, missing, bodies); err != nil {
			return err
		}
	}
	return l.read(ctx, f, missing, bodies)
}

// rising returns the first entries as far as their sequences rise: those that come again are read by themselves.
func rising(ws []waiting) []waiting {
	last := uint64(0)
	for i := range ws {
		if ws[i].Redriven {
			continue
		}
		if ws[i].Sequence <= last {
			return ws[:i]
		}
		last = ws[i].Sequence
	}
	return ws
}

func (w *waiting) set(f found) { w.found, w.known = f, true }

// sift finds out which entries the filter selects. It returns those whose bodies are to be read, and those that history
// does not hold.
func (l *loader) sift(ctx context.Context, f *bridge.Filter, ws []*waiting, bodies bool) (rest []*waiting, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.filter != f.Key() {
		l.pages, l.filter = nil, f.Key()
	}
	for _, w := range ws {
		p := l.lookup(w.Sequence)
		if p == nil {
			if p, err = l.scan(ctx, f, w.Sequence); err != nil {
				return nil, err
			}
			if p == nil {
				continue // not applied yet
			}
		}
		switch e := p.find(w.Sequence); {
		case e != nil && !bodies:
			w.set(found{event: e})
		case e == nil && w.Sequence >= p.floor:
			w.set(found{refused: true})
		default:
			rest = append(rest, w)
		}
	}
	return rest, nil
}

// read reads events by their sequences, which rise.
func (l *loader) read(ctx context.Context, f *bridge.Filter, ws []*waiting, bodies bool) error {
	if len(ws) == 0 {
		return nil
	}
	r := bridge.LoadRequest{Sequences: make([]uint64, len(ws)), Bodies: bodies, MaxBytes: loadBytes}
	for i, w := range ws {
		r.Sequences[i] = w.Sequence
	}
	res, err := l.g.s.cfg.History.Load(ctx, r)
	if err != nil {
		return err
	}
	events := page{events: res.Events}
	for _, w := range ws {
		if w.Sequence > res.Next {
			return nil
		}
		e := events.find(w.Sequence)
		if e == nil {
			// History does not hold it. The log does, or it would not have been given out.
			if e, err = l.fromLog(ctx, w.Sequence); err != nil {
				return err
			}
		}
		w.set(found{event: e, lost: e == nil, refused: e != nil && !f.Match(&e.Meta)})
	}
	return nil
}

func (l *loader) lookup(seq uint64) *selected {
	for i := range l.pages {
		if p := &l.pages[i]; p.after < seq && seq <= p.next {
			return p
		}
	}
	return nil
}

// scan reads the page that begins with a sequence; nil when the projection is not there yet.
func (l *loader) scan(ctx context.Context, f *bridge.Filter, seq uint64) (*selected, error) {
	h := l.g.s.cfg.History
	res, err := h.Scan(ctx, bridge.ScanRequest{Filter: f, After: seq - 1, UpTo: math.MaxInt64, MaxEvents: pageEvents, MaxBytes: loadBytes})
	if err != nil {
		return nil, err
	}
	if res.Next < seq {
		return nil, nil // not applied yet, or being rebuilt
	}
	// What was deleted before the scan is missing in it, and the floor tells. So it is looked at afterwards.
	b, err := h.Bounds(ctx)
	if err != nil {
		return nil, err
	}
	if len(l.pages) >= keptPages {
		l.pages = slices.Delete(l.pages, 0, 1)
	}
	l.pages = append(l.pages, selected{page: page{after: seq - 1, next: res.Next, events: res.Events}, floor: b.Floor})
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
	res, err := s.cfg.History.Scan(ctx, bridge.ScanRequest{After: seq - 1, UpTo: seq, MaxEvents: 1, MaxBytes: loadBytes, Bodies: true})
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
