package bridge

import (
	"context"
	"time"

	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

// EntryKind says what a log entry is.
type EntryKind uint8

// Kinds of log entries. A reader skips kinds that it does not know.
const (
	EntryUnknown    EntryKind = iota
	EntryEvent                // a readable event
	EntryQuarantine           // an authentic body that is not a readable event, or conflicts with one
)

// Entry is one entry of the log: the exact body and what the delivery's headers said. Everything else about an event is
// derived from it and can be derived again.
type Entry struct {
	Kind EntryKind
	// Source, EventID and WebhookID (as text, see WebhookIDText) name the delivery.
	Source    string
	EventID   string
	WebhookID string
	// EventType, Operation and Organizations route the entry; they are written into the subject and not read back.
	EventType     string
	Operation     string
	Organizations []string
	// Cause is set for quarantined bodies.
	Cause pb.DeliveryCause
	// ReceiveTime is when the delivery's headers were read.
	ReceiveTime time.Time
	// TimestampText, TraceID, SpanID and APIVersion are header values, as sent.
	TimestampText string
	TraceID       string
	SpanID        string
	APIVersion    string
	// BodyHash is the SHA-256 of Body.
	BodyHash [32]byte
	// Body is the exact request body. Nil when the entry was read with HeadersOnly.
	Body []byte
	// BodySize is the length of the body, also with HeadersOnly.
	BodySize int

	// Envelope is what ParseEnvelope reads from Body without a cause, when whoever appended has it at hand; nil = read it.
	Envelope *Envelope

	// Sequence and AppendTime are given by the log. AppendTime is when the bridge handed the entry to it.
	Sequence   uint64
	AppendTime time.Time
}

// Appended is the answer to an append.
type Appended struct {
	// Sequence of the entry, or of the first one when it is a duplicate.
	Sequence uint64
	// Duplicate says that the log held an entry with the same message id already; nothing was stored.
	Duplicate bool
	// FirstHash is the body hash of the first entry, set when Duplicate.
	FirstHash [32]byte
}

// Appender puts entries on the log.
type Appender interface {
	// Append stores the entry and returns when it is durable: on disk, or on a quorum's disks. It never returns success
	// before that. The message id is the event id for events and "<event id>.<body hash>" for quarantined bodies; one
	// that the log has seen within its window is a duplicate. After an error it is not known whether the entry is
	// stored. The entry must not be changed afterwards: followers may be given its body. Errors are *Error with reason
	// LOG_UNAVAILABLE, or the context's.
	Append(ctx context.Context, e *Entry) (Appended, error)
}

// LogState is the state of the log at one moment.
type LogState struct {
	// ID is the log's identity.
	ID LogID
	// Floor is the oldest sequence still held, Head the newest ever given. An empty log has Floor = Head+1.
	Floor, Head uint64
	// FloorTime and HeadTime are the log's times of those entries; zero when there is none.
	FloorTime, HeadTime time.Time
	// Entries and Bytes are what is held.
	Entries, Bytes uint64
	// MaxBytes and MaxAge are the log's limits; 0 = none.
	MaxBytes uint64
	MaxAge   time.Duration
}

// FollowOptions choose what a follower gets.
type FollowOptions struct {
	// HeadersOnly leaves bodies out.
	HeadersOnly bool
	// MaxBatch is the largest number of entries handed over at once; 0 = 256.
	MaxBatch int
	// Linger is the shortest time between two batches that are not full: under load entries gather, so that what a batch
	// costs is shared. An entry that comes later than that after the last batch does not wait.
	Linger time.Duration
	// LoadedLinger is what it grows to under load, by a millisecond for each entry of the last batch but two; 0 = it does not grow.
	LoadedLinger time.Duration
}

// Reader reads the log.
type Reader interface {
	// State returns the present state. Errors are *Error with reason LOG_UNAVAILABLE, or the context's.
	State(ctx context.Context) (LogState, error)
	// Follow calls handle with entries after the given sequence, in order, without gap or repeat, and waits for new ones
	// until ctx ends or handle returns an error, which Follow returns. A batch holds what is there, at most MaxBatch
	// entries; it belongs to handle, the entries themselves are shared and not changed. Entries below the floor are gone: the first one may have a higher sequence than
	// asked for. Follow survives interruptions of the log's connection; handle is not called meanwhile.
	Follow(ctx context.Context, after uint64, opts FollowOptions, handle func([]*Entry) error) error
	// Get returns one entry, or nil when it is no longer held. For single look-ups only: a cold read is slow and delays
	// appends.
	Get(ctx context.Context, sequence uint64) (*Entry, error)
}

// Log is the durable, ordered truth.
type Log interface {
	Appender
	Reader
}
