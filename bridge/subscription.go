package bridge

import (
	"context"
	"sync/atomic"
	"time"

	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

// SubscribeRequest asks for a live, filtered read of the log. Its fields have been checked and defaults filled in, but for
// AfterCursor, which the hub checks. At most one of Start, AfterCursor and FromTime is set.
type SubscribeRequest struct {
	// Filter selects the events; nil = all.
	Filter *Filter
	// Start is used when there is neither a cursor nor a time; UNSPECIFIED is LATEST.
	Start       pb.Start
	AfterCursor string
	FromTime    time.Time
	// StopAtHead ends the stream when everything up to the head as of the request was sent.
	StopAtHead        bool
	View              pb.EventView
	HeartbeatInterval time.Duration
	MaxMessageBytes   int
	// MaxBatchEvents is how many events may come in one message; 0 = 1.
	MaxBatchEvents int
	// ClientName and Peer are for people who look at the list of subscriptions.
	ClientName, Peer string
	// Warnings go into the confirmation.
	Warnings []*pb.Warning
}

// Sender takes the messages of one subscription in order. It blocks while the client does not read: that is the
// backpressure. It returns an error when the stream has ended. At most one call is under way at a time.
type Sender interface {
	// SendEvents sends as many of the events in one message, at least the first and at most so many, as it has room for; the
	// others come with the next call. cursor returns the position at a sequence: that of the message is that of its last
	// event. It returns how many that were, and how many bytes.
	SendEvents(events []Outgoing, most int, cursor func(sequence uint64) Cursor) (n, bytes int, err error)
	// SendMessage sends any other message.
	SendMessage(m *pb.SubscribeResponse) error
}

// Outgoing is an event on its way to a subscription.
type Outgoing struct {
	*Encoded
	// Shared is what other senders have made of an event of the live ring; nil for events that no other subscription gets.
	Shared *Shared
}

// Hub serves subscriptions.
type Hub interface {
	// Subscribe serves one subscription until it ends. It returns nil after goodbye and, with StopAtHead, after caught_up.
	// Everything goes through one ordered queue; a slow reader slows nobody else and misses nothing. Errors are *Error with
	// reason INVALID_CURSOR, CURSOR_FOREIGN, CURSOR_AHEAD, CURSOR_EXPIRED, STARTING, DRAINING, TOO_MANY_STREAMS or
	// SLOW_CONSUMER, those of history, the sender's, or the context's. After SLOW_CONSUMER and DRAINING a call of the
	// sender may still be under way: it must end when the caller ends the stream.
	Subscribe(ctx context.Context, r SubscribeRequest, to Sender) error
	// Drain refuses new subscriptions, says goodbye to all others, and waits for their end.
	Drain(ctx context.Context) error
	// Subscriptions lists the subscriptions that are served now, oldest first.
	Subscriptions() []SubscriptionInfo
}

// SubscriptionState is what a subscription is doing.
type SubscriptionState int32

// States of a subscription.
const (
	SubscriptionCatchingUp SubscriptionState = iota // served from history, or from the ring up to the head
	SubscriptionLive                                // has everything up to the head
	SubscriptionBehind                              // fell off the ring and is served from history
)

// SubscriptionInfo describes a subscription at one moment.
type SubscriptionInfo struct {
	ID               uint64
	ClientName, Peer string
	Filter           *pb.EventFilter
	View             pb.EventView
	State            SubscriptionState
	StartTime        time.Time
	// Position is the sequence up to which everything was sent; Head the newest that is ready to be streamed. Their
	// difference is an upper bound of the lag in events.
	Position, Head uint64
	// Lag is the age of the oldest event not yet looked at or, while history is read, of the last one that was sent; zero
	// when there is none or it is not known.
	Lag time.Duration
	// EventsSent and BytesSent count since the start.
	EventsSent, BytesSent uint64
}

// maxShared bounds what is kept per event: for each view one alone and one in batches, and some odd limits.
const maxShared = 12

// Shared keeps what the first sender made of an event for the others. The zero value is ready; nil keeps nothing.
type Shared struct{ first atomic.Pointer[Made] }

// Form is what all senders that can share have in common.
type Form struct {
	View pb.EventView
	// Limit is the largest size in bytes.
	Limit int
	// Batched says that it is a part of a message with several events.
	Batched bool
}

// Made holds what a sender has made of an event. It belongs to one Shared; it may be a part of the value itself.
type Made struct {
	Value any

	form  Form
	next  *Made
	depth int
}

// Get returns what was made in this form, or builds it. build may be called more than once, at the same time; one of its
// results is kept.
func (s *Shared) Get(form Form, build func() *Made) any {
	if s == nil {
		return build().Value
	}
	find := func(head *Made) *Made {
		for v := head; v != nil; v = v.next {
			if v.form == form {
				return v
			}
		}
		return nil
	}
	head := s.first.Load()
	if v := find(head); v != nil {
		return v.Value
	}
	fresh := build()
	fresh.form, fresh.depth = form, 1
	for {
		head = s.first.Load()
		if v := find(head); v != nil {
			return v.Value
		}
		if head != nil {
			if fresh.depth = head.depth + 1; fresh.depth > maxShared {
				return fresh.Value
			}
		}
		fresh.next = head
		if s.first.CompareAndSwap(head, fresh) {
			return fresh.Value
		}
	}
}
