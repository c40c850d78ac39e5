package bridge

import (
	"sync"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

// Meta is what filters look at.
type Meta struct {
	Sequence   uint64
	AppendTime time.Time
	EventID    string
	Source     string
	EventType  string
	Operation  string
	// Organizations holds all of them, the first is the event's organization_id.
	Organizations []string
	EntityID      string
	PNRID         string
	TripID        string
	TravelerIDs   []string
	// Stale says that the ordering is STALE.
	Stale bool
}

// Encoded is an event in wire form. Its bytes are shared by everyone who gets the event and must not be changed. Every
// view is a concatenation of the same bytes: ENVELOPE is E, RAW is E and the body, TYPED is E and T, FULL is all three.
type Encoded struct {
	Meta
	// Envelope is E: the wire bytes of the Event's fields 1 to 29.
	Envelope []byte
	// Body is the exact body; nil when it was not asked for.
	Body []byte
	// BodySize is the length of the body, also when it was not asked for.
	BodySize int

	// head is what stands before the body in the Event: field 50's tag and the length.
	head    [8]byte
	headLen uint8

	convert Converter
	once    sync.Once
	typed   []byte
	// inspect says that drift is wanted, too.
	inspect    bool
	inspection *Inspection
}

// NewEncoded returns an event in wire form. convert makes T when a view needs it, once.
func NewEncoded(meta Meta, envelope, body []byte, bodySize int, convert Converter) *Encoded {
	e := &Encoded{}
	e.init(meta, envelope, body, bodySize, convert)
	return e
}

func (e *Encoded) init(meta Meta, envelope, body []byte, bodySize int, convert Converter) {
	e.Meta, e.Envelope, e.Body, e.BodySize, e.convert = meta, envelope, body, bodySize, convert
	head := protowire.AppendTag(e.head[:0], 50, protowire.BytesType)
	e.headLen = uint8(len(protowire.AppendVarint(head, uint64(len(body)))))
}

const (
	// blockEvents is how many events share an allocation at most. One that is in use keeps its neighbours with their bytes.
	blockEvents = 16
	// BlockBytes is the size in bytes up to which an event may share an allocation: a client that stops reading must not keep
	// the bodies of others.
	BlockBytes = 4 << 10
)

// Encoder makes the events of a page; small ones in few allocations.
type Encoder struct {
	// Expect is how many events may still come.
	Expect int

	free []Encoded
}

// New returns an event in wire form, as NewEncoded does.
func (n *Encoder) New(meta Meta, envelope, body []byte, bodySize int, convert Converter) *Encoded {
	if len(envelope)+len(body) > BlockBytes {
		n.Expect--
		return NewEncoded(meta, envelope, body, bodySize, convert)
	}
	if len(n.free) == 0 {
		n.free = make([]Encoded, max(min(n.Expect, blockEvents), 1))
	}
	e := &n.free[0]
	n.free = n.free[1:]
	n.Expect--
	e.init(meta, envelope, body, bodySize, convert)
	return e
}

// Typed returns T: the wire bytes of the Event's conversion and payload. It is made at most once.
func (e *Encoded) Typed() []byte {
	e.once.Do(e.makeTyped)
	return e.typed
}

func (e *Encoded) makeTyped() {
	// A fault of the converter must end neither a stream nor the process. Whoever finds the drift tells of it.
	defer func() {
		if recover() != nil {
			e.typed = rawOnly()
		}
	}()
	inspector, ok := e.convert.(Inspector)
	switch {
	case e.inspect && ok: // whoever asks first makes both
		r := inspector.Inspect(e.EventType, e.Body)
		e.typed = r.Wire
		r.Wire, r.Issues = nil, nil
		e.inspection = &r
	case e.convert != nil:
		e.typed = e.convert.Convert(e.EventType, e.Body)
	}
}

// Track says that Inspected will be asked for. It must be called before anybody else has the event.
func (e *Encoded) Track() { e.inspect = true }

// Inspected returns the inspection that made T, without what Typed returns and without issues. It is nil when the event is
// not tracked, when its converter is no Inspector, or when that has failed: T then is RAW_ONLY.
func (e *Encoded) Inspected() *Inspection {
	e.once.Do(e.makeTyped)
	return e.inspection
}

// rawOnly is T of an event that could not be converted.
func rawOnly() []byte {
	b, _ := proto.Marshal(&pb.Event{Conversion: &pb.Conversion{Status: pb.ConversionStatus_CONVERSION_STATUS_RAW_ONLY}})
	return b
}

// Parts appends the byte strings whose concatenation is the Event in the given view. When that would be larger than
// limit, it is the ENVELOPE view with omitted; limit <= 0 means no limit. It also returns the size.
func (e *Encoded) Parts(dst [][]byte, view pb.EventView, limit int) (parts [][]byte, size int) {
	typed, raw := viewHas(view)
	// The body is a lower bound of what RAW needs; don't convert what won't be sent.
	if !raw || limit <= 0 || len(e.Envelope)+len(e.Body) <= limit {
		var t []byte
		if typed {
			t = e.Typed()
		}
		var head []byte
		size = len(e.Envelope) + len(t)
		if raw && len(e.Body) > 0 {
			head = e.head[:e.headLen]
			size += len(head) + len(e.Body)
		}
		if limit <= 0 || size <= limit {
			dst = append(dst, e.Envelope)
			if len(t) > 0 {
				dst = append(dst, t)
			}
			if head != nil {
				dst = append(dst, head, e.Body)
			}
			return dst, size
		}
	}
	o := omitted(e.BodySize)
	return append(dst, e.Envelope, o), len(e.Envelope) + len(o)
}

func omitted(bytes int) []byte {
	var inner []byte
	inner = protowire.AppendTag(inner, 1, protowire.VarintType)
	inner = protowire.AppendVarint(inner, uint64(pb.OmittedReason_OMITTED_REASON_TOO_LARGE))
	inner = protowire.AppendTag(inner, 2, protowire.VarintType)
	inner = protowire.AppendVarint(inner, uint64(bytes))
	out := protowire.AppendTag(nil, 51, protowire.BytesType)
	return protowire.AppendBytes(out, inner)
}

// Event returns the event as a message in the given view.
func (e *Encoded) Event(view pb.EventView, limit int) (*pb.Event, error) {
	parts, size := e.Parts(nil, view, limit)
	buf := make([]byte, 0, size)
	for _, p := range parts {
		buf = append(buf, p...)
	}
	ev := &pb.Event{}
	if err := proto.Unmarshal(buf, ev); err != nil {
		return nil, err
	}
	return ev, nil
}

// ViewNeedsBody reports whether a view can only be made from the body.
func ViewNeedsBody(view pb.EventView) bool {
	typed, raw := viewHas(view)
	return typed || raw
}

func viewHas(view pb.EventView) (typed, raw bool) {
	switch view {
	case pb.EventView_EVENT_VIEW_ENVELOPE:
		return false, false
	case pb.EventView_EVENT_VIEW_RAW:
		return false, true
	case pb.EventView_EVENT_VIEW_FULL:
		return true, true
	default:
		return true, false
	}
}

// EncodeEnvelope returns E and the filter's view of an event.
func EncodeEnvelope(en *Entry, env *Envelope, appendTime time.Time, ordering pb.Ordering) ([]byte, Meta, error) {
	ev := &pb.Event{
		Id:               en.EventID,
		Source:           en.Source,
		WebhookId:        en.WebhookID,
		EventType:        env.EventType,
		Operation:        env.Operation,
		Entity:           env.Entity,
		PnrId:            env.PNRID,
		TripId:           env.TripID,
		TravelerIds:      env.TravelerIDs,
		EventTimeText:    env.EventTimeText,
		ReceiveTime:      timestamppb.New(en.ReceiveTime),
		AppendTime:       timestamppb.New(appendTime),
		Sequence:         en.Sequence,
		ApiVersion:       en.APIVersion,
		OperationSummary: env.OperationSummary,
		Ordering:         ordering,
		EnvelopeIssues:   env.Issues,
	}
	if len(env.Organizations) > 0 {
		ev.OrganizationId = env.Organizations[0]
		ev.OtherOrganizationIds = env.Organizations[1:]
	}
	if !env.EventTime.IsZero() {
		ev.EventTime = timestamppb.New(env.EventTime)
	}
	if en.TraceID != "" || en.SpanID != "" {
		ev.Trace = &pb.Trace{TraceId: en.TraceID, SpanId: en.SpanID}
	}
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(ev)
	if err != nil {
		return nil, Meta{}, err
	}
	return b, Meta{
		Sequence:      en.Sequence,
		AppendTime:    appendTime,
		EventID:       en.EventID,
		Source:        en.Source,
		EventType:     env.EventType,
		Operation:     env.Operation,
		Organizations: env.Organizations,
		EntityID:      env.Entity.GetId(),
		PNRID:         env.PNRID,
		TripID:        env.TripID,
		TravelerIDs:   env.TravelerIDs,
		Stale:         ordering == pb.Ordering_ORDERING_STALE,
	}, nil
}

// MetaOf returns the filter's view of a message.
func MetaOf(ev *pb.Event) Meta {
	m := Meta{
		Sequence:    ev.GetSequence(),
		AppendTime:  ev.GetAppendTime().AsTime(),
		EventID:     ev.GetId(),
		Source:      ev.GetSource(),
		EventType:   ev.GetEventType(),
		Operation:   ev.GetOperation(),
		EntityID:    ev.GetEntity().GetId(),
		PNRID:       ev.GetPnrId(),
		TripID:      ev.GetTripId(),
		TravelerIDs: ev.GetTravelerIds(),
		Stale:       ev.GetOrdering() == pb.Ordering_ORDERING_STALE,
	}
	if ev.GetOrganizationId() != "" {
		m.Organizations = append([]string{ev.GetOrganizationId()}, ev.GetOtherOrganizationIds()...)
	}
	return m
}
