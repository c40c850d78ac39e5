package bridge

import (
	"context"
	"time"

	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

// Bounds say what the projection holds.
type Bounds struct {
	// Log is the identity of the log that was projected.
	Log LogID
	// Floor is the oldest sequence that is held (or the next one, when nothing is); Watermark is the newest that was
	// applied. Sequences between them that have no event were quarantined bodies.
	Floor, Watermark uint64
	// FloorTime is the append time of the oldest event that is held; zero when there is none.
	FloorTime time.Time
}

// ScanRequest asks for events after a position, in log order.
type ScanRequest struct {
	// Filter selects the events; nil = all.
	Filter *Filter
	// After is exclusive, UpTo inclusive.
	After, UpTo uint64
	// MaxEvents and MaxBytes (of envelopes and bodies) bound the answer; at least one event is returned if there is one.
	MaxEvents int
	MaxBytes  int
	// Bodies says whether the events need their bodies (every view but ENVELOPE).
	Bodies bool
}

// ScanResult is the answer to a scan.
type ScanResult struct {
	// Events match the filter, in log order.
	Events []*Encoded
	// Next is the position up to which everything was looked at: the After of the next scan. It is greater than After
	// unless After was UpTo.
	Next uint64
}

// LoadRequest asks for events whose sequences are known.
type LoadRequest struct {
	// Sequences rise.
	Sequences []uint64
	Bodies    bool
	// MaxBytes ends the answer before it would be exceeded, after one event at least; 0 = no limit.
	MaxBytes int
}

// LoadResult holds the events that were found.
type LoadResult struct {
	Events []*Encoded
	// Next is the last sequence that was looked at: those behind it were too many, or have not been applied yet.
	Next uint64
}

// ListRequest asks for a page of events.
type ListRequest struct {
	Filter          *Filter
	StartTime       time.Time // zero = none; inclusive
	EndTime         time.Time // zero = none; exclusive
	OldestFirst     bool
	LatestPerEntity bool
	PageSize        int
	MaxBytes        int
	Bodies          bool
	// Resume is the position from the previous page's Next; 0 = first page. Snapshot is the watermark of the first page:
	// events that came later are not part of the listing.
	Resume, Snapshot uint64
}

// ListResult is a page of events.
type ListResult struct {
	Events []*Encoded
	// Next is where the following page resumes; 0 = no more.
	Next uint64
	// Snapshot is the watermark that the listing sees.
	Snapshot uint64
}

// CountRequest asks for counts.
type CountRequest struct {
	Filter             *Filter
	StartTime, EndTime time.Time
	GroupBy            []pb.CountGroup
	MaxRows            int
}

// CountResult holds counts.
type CountResult struct {
	Counts    []*pb.EventCount
	Total     int64
	Truncated bool
}

// SeenType is an event type and operation that came.
type SeenType struct {
	EventType, Operation string
	Count                int64
	LastSeen             time.Time
}

// History answers questions about events that are held. What a stream has shown, History finds. Errors are *Error with
// reason HISTORY_UNAVAILABLE, or the context's, unless a method says otherwise.
type History interface {
	// Bounds returns what is held now.
	Bounds(ctx context.Context) (Bounds, error)
	// Scan reads on from a position, for catch-up. It never holds a read transaction after it returned.
	Scan(ctx context.Context, r ScanRequest) (ScanResult, error)
	// Load reads events whose sequences are known. What is not held is left out.
	Load(ctx context.Context, r LoadRequest) (LoadResult, error)
	// List returns a page.
	List(ctx context.Context, r ListRequest) (ListResult, error)
	// Count counts.
	Count(ctx context.Context, r CountRequest) (CountResult, error)
	// Get returns the event with its body, or an EVENT_NOT_FOUND error.
	Get(ctx context.Context, eventID string) (*Encoded, error)
	// SequenceAt returns the position after which come exactly the events with an append time at or after t.
	SequenceAt(ctx context.Context, t time.Time) (uint64, error)
	// EventTypes returns what came, by type and operation.
	EventTypes(ctx context.Context) ([]SeenType, error)
}

// Sink takes events that the projection has committed, in log order. watermark is the sequence up to which everything
// was applied, also where no event came of it. Publish must not block on slow readers.
type Sink interface {
	Publish(events []*Encoded, watermark uint64)
	// Lost says that entries below floor left the log before they were applied: they will not be published, and whoever is
	// before it has a gap. It comes before what follows the gap is published.
	Lost(floor uint64)
}

// IDState is what is remembered of an event id.
type IDState struct {
	// Found says that an event with this id was stored, with this body hash at this sequence.
	Found    bool
	Sequence uint64
	BodyHash [32]byte
	// Quarantined holds the sequences of quarantined bodies of this id by body hash; nil when there are none.
	Quarantined map[[32]byte]uint64
}

// IDs is the memory of webhook ids. It outlives the log's floor.
type IDs interface {
	// Lookup returns what is remembered of an event id.
	Lookup(ctx context.Context, eventID string) (IDState, error)
	// Watermark returns the sequence up to which every id of the log is remembered.
	Watermark() uint64
}

// DeliveryListRequest asks for a page of deliveries, newest first.
type DeliveryListRequest struct {
	Outcomes           []pb.DeliveryOutcome
	Causes             []pb.DeliveryCause
	Sources            []string
	WebhookID          string
	StartTime, EndTime time.Time
	PageSize           int
	// Resume is the opaque position from the previous page; empty = first page.
	Resume string
}

// QuarantinedBody is a quarantined body with what is needed to read it again.
type QuarantinedBody struct {
	Delivery *pb.Delivery
	Entry    *Entry
}

// Deliveries shows what came to the door. Errors are *Error with reason HISTORY_UNAVAILABLE, or the context's, unless a
// method says otherwise.
type Deliveries interface {
	// ListDeliveries returns a page and the position of the next one, empty at the end.
	ListDeliveries(ctx context.Context, r DeliveryListRequest) ([]*pb.Delivery, string, error)
	// GetDelivery returns one, or a DELIVERY_NOT_FOUND error.
	GetDelivery(ctx context.Context, id string) (*pb.Delivery, error)
	// DeliveryBody returns the exact body, or a DELIVERY_NOT_FOUND or BODY_NOT_KEPT error.
	DeliveryBody(ctx context.Context, id string) ([]byte, error)
	// Quarantined calls handle with the quarantined bodies that match, oldest first, conflicts left out.
	Quarantined(ctx context.Context, r *pb.ReprocessDeliveriesRequest, handle func(QuarantinedBody) error) error
}

// DeliveryRecorder remembers deliveries that left nothing in the log: refused and duplicate ones. Record never blocks and
// never fails; what it cannot keep it counts.
type DeliveryRecorder interface {
	Record(d *pb.Delivery)
}

// Converter turns a JSON payload into protobuf.
type Converter interface {
	// Convert returns the wire bytes of Event.conversion and Event.payload (fields 30 to 49) for a body. It never fails:
	// what cannot be converted is said in the conversion.
	Convert(eventType string, body []byte) []byte
}
