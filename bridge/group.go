package bridge

import (
	"context"
	"time"

	"google.golang.org/protobuf/proto"

	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

// MaxGroupName is the largest length of a group's name.
const MaxGroupName = 64

// ValidGroup reports whether name is a usable name of a consumer group: 1 to 64 characters of A-Z a-z 0-9 _ and -.
func ValidGroup(name string) bool { return plain(name, MaxGroupName) }

// GroupSettings are what can be changed of a group.
type GroupSettings struct {
	Description string
	// Filter selects the events; nil = all.
	Filter        *Filter
	View          pb.EventView
	AckDeadline   time.Duration
	MaxDeliveries int
}

// GroupPosition says where a group begins. At most one field is set; none is LATEST.
type GroupPosition struct {
	Start       pb.Start
	AfterCursor string
	FromTime    time.Time
}

// GroupUpdate changes settings; nil leaves a field as it is.
type GroupUpdate struct {
	Description   *string
	Filter        *Filter
	View          *pb.EventView
	AckDeadline   *time.Duration
	MaxDeliveries *int
}

// JoinRequest makes a stream a member of a group. Its fields have been checked and defaults filled in; View UNSPECIFIED is
// the group's.
type JoinRequest struct {
	Group             string
	ClientName, Peer  string
	Events, Bytes     int64
	AutoCredit        bool
	View              pb.EventView
	MaxMessageBytes   int
	HeartbeatInterval time.Duration
	// MaxBatchEvents is how many events may come in one message; 0 = 1.
	MaxBatchEvents int
}

// MemberStream is a member's connection. All but Receive are called by one goroutine at a time and block while the client
// does not read; Receive is called by another one and returns io.EOF when the client has half-closed. All of them return an
// error when the stream has ended.
type MemberStream interface {
	// Add makes an event part of the next message, in the view, and returns how many bytes it takes. When the message has no
	// room for it within the limit, what was added before is sent first.
	Add(d *GroupDelivery, view pb.EventView, limit int) (int, error)
	// Flush sends what was added as one message; nothing when that is nothing.
	Flush() error
	// Send sends a message that is no event; nothing may wait for Flush.
	Send(m *pb.ConsumeResponse) error
	Receive() (*pb.ConsumeRequest, error)
}

// GroupDelivery is an event on its way to a member.
type GroupDelivery struct {
	ID       string
	Attempt  int
	Redriven bool
	Deadline time.Time
	Event    *Encoded
}

// PullGroupRequest asks for events without a stream.
type PullGroupRequest struct {
	Group            string
	ClientName, Peer string
	MaxEvents        int
	MaxBytes         int
	Wait             time.Duration
	View             pb.EventView
}

// PullGroupResult holds what was taken.
type PullGroupResult struct {
	Deliveries []*GroupDelivery
	View       pb.EventView
	Lost       []*pb.Lost
	Paused     bool
}

// DeadLetterQuery selects dead letters. Empty fields do not restrict.
type DeadLetterQuery struct {
	Group  string
	Filter *Filter
	Causes []pb.DeadLetterCause
	IDs    []string
	// Before leaves out letters that died at this time or later; zero = none.
	Before time.Time
	DryRun bool
}

// DeadLetter is an event that was not handled.
type DeadLetter struct {
	ID         string
	Cause      pb.DeadLetterCause
	Attempts   int
	Time       time.Time
	Reason     string
	ClientName string
	Event      *Encoded
}

// DeadLetterPage asks for a page of dead letters, oldest first.
type DeadLetterPage struct {
	DeadLetterQuery
	// After is where the previous page ended; 0 = first page.
	After    uint64
	PageSize int
	MaxBytes int
}

// DeadLetterCounts says what was done, or would have been.
type DeadLetterCounts struct {
	Matched, Handled, Bytes int64
	Done                    bool
}

// Groups keeps consumer groups and delivers their events. Errors are *Error with the reasons that group.proto names, or the
// context's.
type Groups interface {
	Create(ctx context.Context, name string, s GroupSettings, at GroupPosition, paused bool) (*pb.ConsumerGroup, error)
	// Get and List give the state, too. List returns groups after a name, by name.
	Get(ctx context.Context, name string) (*pb.ConsumerGroup, error)
	List(ctx context.Context, after string, limit int) (groups []*pb.ConsumerGroup, more bool, err error)
	Update(ctx context.Context, name string, u GroupUpdate) (*pb.ConsumerGroup, error)
	Delete(ctx context.Context, name string, force bool) error
	SetPaused(ctx context.Context, name string, paused bool) (*pb.ConsumerGroup, error)
	// Seek moves the group and returns the sequence after which it goes on.
	Seek(ctx context.Context, name string, at GroupPosition) (*pb.ConsumerGroup, uint64, error)

	// Consume serves a member until its stream ends. It returns nil after goodbye and after an orderly half-close. After
	// SLOW_CONSUMER and DRAINING a call of the stream may still be under way: it must end when the caller ends the stream.
	Consume(ctx context.Context, r JoinRequest, stream MemberStream) error
	Pull(ctx context.Context, r PullGroupRequest) (*PullGroupResult, error)
	Acknowledge(ctx context.Context, r *pb.AcknowledgeRequest) (*pb.AcknowledgeResponse, error)

	// DeadLetters returns a page and the position of the next one, 0 at the end.
	DeadLetters(ctx context.Context, p DeadLetterPage) ([]*DeadLetter, uint64, error)
	Redrive(ctx context.Context, q DeadLetterQuery) (DeadLetterCounts, error)
	DeleteDeadLetters(ctx context.Context, q DeadLetterQuery) (DeadLetterCounts, error)

	// Drain refuses new members, says goodbye to all others, gives back what they hold, and waits for their end.
	Drain(ctx context.Context) error
}

// Subjects returns log subjects that together cover every event that the filter matches, and as few others as a subject can
// tell apart. They do not overlap. At most limit of them: a filter with more combinations is covered more coarsely.
func (f *Filter) Subjects(limit int) []string {
	if f.MatchesAll() {
		return []string{"ev.>"}
	}
	tokens := func(values []string, more ...string) []string {
		if len(values) == 0 {
			return []string{"*"}
		}
		seen := map[string]bool{}
		var out []string
		for _, v := range values {
			if t := SubjectToken(v); !seen[t] {
				seen[t] = true
				out = append(out, t)
			}
		}
		for _, t := range more {
			if !seen[t] {
				out = append(out, t)
			}
		}
		return out
	}
	m := f.Message
	dims := [][]string{
		tokens(m.GetSources()), tokens(m.GetEventTypes()), tokens(m.GetOperations()), tokens(m.GetOrganizationIds(), "~many"),
	}
	// The widest dimension is given up first.
	for {
		n, widest := 1, 0
		for i, d := range dims {
			n *= len(d)
			if len(d) > len(dims[widest]) {
				widest = i
			}
		}
		if n <= max(limit, 1) {
			break
		}
		dims[widest] = []string{"*"}
	}
	out := []string{"ev"}
	for _, d := range dims {
		var next []string
		for _, prefix := range out {
			for _, t := range d {
				next = append(next, prefix+"."+t)
			}
		}
		out = next
	}
	return out
}

// RestoreEncoded makes an event from what was kept of it elsewhere than in the projection.
func RestoreEncoded(en *Entry, ordering pb.Ordering, convert Converter) (*Encoded, error) {
	env, cause := ParseEnvelope(en.Body)
	if cause != pb.DeliveryCause_DELIVERY_CAUSE_UNSPECIFIED {
		return nil, &Error{Reason: pb.ErrorReason_ERROR_REASON_INTERNAL, Message: "the stored body is not a readable event: " + cause.String()}
	}
	e, meta, err := EncodeEnvelope(en, env, en.AppendTime, ordering)
	if err != nil {
		return nil, err
	}
	return NewEncoded(meta, e, en.Body, len(en.Body), convert), nil
}

// OrderingOf reads the ordering mark of an event in wire form.
func OrderingOf(e *Encoded) pb.Ordering {
	var ev pb.Event
	if proto.Unmarshal(e.Envelope, &ev) != nil {
		return pb.Ordering_ORDERING_UNKNOWN
	}
	return ev.GetOrdering()
}
