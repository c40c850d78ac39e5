package bridge

import (
	"context"
	"errors"
	"time"

	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

// Drift is a way in which one event's payload differs from the published schema. It names a place, never a value.
type Drift struct {
	// Path is the JSON path in the body; array indexes are left out: [].
	Path string
	// Kind is UNKNOWN_FIELD, UNKNOWN_ENUM_VALUE, TYPE_MISMATCH, OUT_OF_RANGE or DEPRECATED_FIELD.
	Kind pb.IssueKind
	// Count is how often the event has it.
	Count int
}

// PayloadIssue is something in a payload that did not fit, by place and kind and never by value.
type PayloadIssue struct {
	Path string
	Kind pb.IssueKind
}

// Inspection is the outcome of a conversion that also looked for drift.
type Inspection struct {
	// Wire is what Convert returns: the wire bytes of Event.conversion and Event.payload.
	Wire   []byte
	Status pb.ConversionStatus
	// Issues are those of the conversion: what did not fit.
	Issues []PayloadIssue
	// Drift is in what the payload differs from the published schema, whether it fitted or not. It is bounded; MoreDrift
	// is how many occurrences have no place in it.
	Drift     []Drift
	MoreDrift int
}

// Inspector is a Converter that can tell of drift.
type Inspector interface {
	Converter
	// Inspect converts like Convert, at about the same cost, and tells in what the payload differs from the published
	// schema.
	Inspect(eventType string, body []byte) Inspection
	// Revision is the revision of the published schema that it follows.
	Revision() string
}

// DriftEntry is a way in which payloads of an event type differ from the published schema.
type DriftEntry struct {
	EventType string
	Kind      pb.IssueKind
	Path      string
	// FirstSeen and LastSeen are append times.
	FirstSeen, LastSeen time.Time
	// Events is the number of events that have it, Occurrences that of places in them.
	Events, Occurrences int64
	// Example is the id of the newest event that has it.
	Example string
}

// DriftRun is the inspection of all events that are held by one revision of the published schema.
type DriftRun struct {
	// ID tells runs from one another; it is never used again in the life of a store.
	ID       int64
	Revision string
	// First is where the run began: the floor at that time. Watermark is up to where it has come.
	First, Watermark uint64
	// Events is the number of events inspected. Skipped counts sequences that were gone before and events that could not be
	// converted, Overflow the occurrences that there was no place for.
	Events, Skipped, Overflow int64
}

// DriftBatch is what a piece of a run has found.
type DriftBatch struct {
	// Run and After say which run goes on, and from which watermark.
	Run   int64
	After uint64
	// Watermark is up to where it has come now. Events, Skipped and Overflow are added to the run's.
	Watermark                 uint64
	Events, Skipped, Overflow int64
	// Entries are added to those of the run: counts are summed up, times widened.
	Entries []DriftEntry
	// Complete says that everything that is held was inspected: earlier runs are deleted.
	Complete bool
}

// DriftChange says what a batch has changed.
type DriftChange struct {
	// New counts the entries that were not there before, by kind; Overflow the occurrences that there was no place for.
	New      map[pb.IssueKind]int64
	Overflow int64
}

// ErrDriftMoved says that a run is not where a batch goes on from: the store was made anew. Begin again with DriftStore.Begin.
var ErrDriftMoved = errors.New("the drift that is stored is not what was expected")

// DriftStore keeps drift. It has one writer.
type DriftStore interface {
	// Begin returns the run of a revision, made when there is none. first is where a new one begins. Runs of other revisions
	// are deleted, but for the one that readers see until this one is complete.
	Begin(ctx context.Context, revision string, first uint64) (DriftRun, error)
	// Record stores what was found and the watermark, in one transaction, or fails with ErrDriftMoved.
	Record(ctx context.Context, b DriftBatch) (DriftChange, error)
	// Totals returns the number of entries that readers see, by kind.
	Totals(ctx context.Context) (map[pb.IssueKind]int64, error)
}

// DriftKey is the place of an entry in a listing.
type DriftKey struct {
	EventType string
	Kind      pb.IssueKind
	Path      string
}

// DriftListRequest asks for a page of drift, by event type, kind and path.
type DriftListRequest struct {
	EventTypes     []string
	Kinds          []pb.IssueKind
	FirstSeenSince time.Time // zero = none; inclusive
	PageSize       int
	// After is exclusive; nil = first page.
	After *DriftKey
}

// DriftListResult is a page of drift.
type DriftListResult struct {
	Entries []DriftEntry
	// More says that there are entries behind the last one.
	More bool
	// Run is the one that the entries belong to; zero when nothing was inspected yet. Next is the one that takes its place
	// when it is complete, nil when there is none.
	Run  DriftRun
	Next *DriftRun
	// Head is the newest sequence that history holds.
	Head uint64
}

// DriftReader shows drift. Errors are *Error with reason HISTORY_UNAVAILABLE, or the context's.
type DriftReader interface {
	ListDrift(ctx context.Context, r DriftListRequest) (DriftListResult, error)
}
