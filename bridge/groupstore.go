package bridge

import (
	"context"
	"errors"
	"time"

	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

// Errors of a GroupStore that its caller decides on. They come wrapped.
var (
	// ErrNoGroup says that there is no group with this name.
	ErrNoGroup = errors.New("no such group")
	// ErrGroupExists says that there is one.
	ErrGroupExists = errors.New("the group exists")
	// ErrGroupChanged says that the record was changed by somebody else since it was read.
	ErrGroupChanged = errors.New("the group has changed")
	// ErrQueueGone says that the queue of a group is no longer the one that was opened: the group was moved or deleted.
	ErrQueueGone = errors.New("the queue is gone")
)

// GroupRecord is what is kept of a group, beside its queue.
type GroupRecord struct {
	Name string
	// Key is random, made by the store with the group: another group under the same name has another one. Delivery ids are signed with
	// it.
	Key [32]byte
	// Epoch is raised when the group is moved. Each epoch has a queue of its own, so that what was taken from an earlier one
	// cannot be settled any more.
	Epoch uint64
	// Queue is the store's name of the epoch's queue.
	Queue string
	// After is the sequence that the epoch begins after.
	After      uint64
	Settings   GroupSettings
	Paused     bool
	CreateTime time.Time
	UpdateTime time.Time
	// Revision is given by the store.
	Revision uint64
}

// GroupMark is what a group remembers of its progress, so that a loss is noticed. It is written now and then.
type GroupMark struct {
	Epoch uint64
	// Settled: everything at or before it was settled or not selected.
	Settled uint64
	// Delivered: nothing after it was given out.
	Delivered uint64
	// InFlight says that events were held or waiting for another delivery.
	InFlight bool
	// Lost is the newest loss; nil when there was none. Untold says that no member has been told.
	Lost   *pb.Lost
	Untold bool
}

// QueueState is the state of a group's queues.
type QueueState struct {
	// Settled is the sequence up to which everything is settled. It jumps over what has left the log.
	Settled uint64
	// Delivered is the newest sequence that was given out or skipped.
	Delivered uint64
	// Waiting counts entries that were never given out, InFlight those that are held or wait for another delivery.
	Waiting, InFlight int64
	// Redriven counts redriven events that are not settled.
	Redriven int64
	// DeadLetters counts dead letters.
	DeadLetters int64
}

// Taken is one entry that was taken from a queue: it is held until it is settled, released, or its deadline passes.
type Taken struct {
	// Redriven says that it comes from the queue of redriven events.
	Redriven bool
	// Sequence of the event in the log.
	Sequence uint64
	// Key identifies the entry in its queue: the log's sequence, or that of the redrive.
	Key uint64
	// Deliveries by the queue, 1 for the first; Before those before a redrive.
	Deliveries, Before int
	// Receipt is what the queue needs to settle it.
	Receipt Receipt
	// Letter is set for redriven events.
	Letter *StoredLetter
}

// Receipt names one delivery of an entry by a queue.
type Receipt struct {
	Redriven                          bool
	Deliveries, Entry, Delivery, Time uint64
}

// StoredLetter is a dead letter or a redriven event as it is kept: a copy of the log entry with what happened to it.
type StoredLetter struct {
	Entry    *Entry
	Ordering pb.Ordering
	Cause    pb.DeadLetterCause
	Attempts int
	Time     time.Time
	Reason   string
	// ClientName of the member that held it last.
	ClientName string
	// ID is the position in the store of letters.
	ID uint64
}

// GroupStore keeps groups durably: records, queues and dead letters. It decides nothing. Errors that are not named above are
// *Error with reason LOG_UNAVAILABLE, or the context's.
type GroupStore interface {
	// CreateGroup stores the record and makes the queues. ErrGroupExists.
	CreateGroup(ctx context.Context, r *GroupRecord) error
	// Group returns a record. ErrNoGroup.
	Group(ctx context.Context, name string) (*GroupRecord, error)
	// Groups returns the names of all groups, sorted.
	Groups(ctx context.Context) ([]string, error)
	// SaveGroup stores a changed record and brings the queues in line with it; an epoch that was raised gets a new queue.
	// ErrGroupChanged, ErrNoGroup.
	SaveGroup(ctx context.Context, r *GroupRecord) error
	// DeleteGroup removes everything of the group. ErrNoGroup.
	DeleteGroup(ctx context.Context, name string) error
	// WatchGroups calls changed with the name of each group whose record was changed by anyone, until ctx ends.
	WatchGroups(ctx context.Context, changed func(name string)) error

	// Mark and SaveMark keep a group's progress.
	Mark(ctx context.Context, name string) (GroupMark, error)
	SaveMark(ctx context.Context, name string, m GroupMark) error
	// QueueState returns the state of the record's queues. ErrQueueGone.
	QueueState(ctx context.Context, r *GroupRecord) (QueueState, error)

	// OpenTaker opens a reader of the record's queues. One goroutine may use it at a time.
	OpenTaker(ctx context.Context, r *GroupRecord) (Taker, error)
	// Settle says that a delivery is done. With confirm it returns once that is stored.
	Settle(ctx context.Context, r *GroupRecord, rc Receipt, confirm bool) error
	// Release gives a delivery back, to be delivered again after a delay.
	Release(ctx context.Context, r *GroupRecord, rc Receipt, delay time.Duration) error
	// Extend starts the deadline of a delivery anew.
	Extend(ctx context.Context, r *GroupRecord, rc Receipt) error

	// Bury stores a dead letter durably. id makes it happen once when it is repeated within minutes.
	Bury(ctx context.Context, group, id string, l *StoredLetter) error
	// Letters calls handle with the dead letters of a group after a position, oldest first, up to those that were there at
	// the call, until handle returns false.
	Letters(ctx context.Context, group string, after uint64, handle func(*StoredLetter) (bool, error)) error
	// Redrive puts a dead letter into the queue of redriven events and then removes it.
	Redrive(ctx context.Context, group string, l *StoredLetter) error
	// Redriven returns a redriven event by its key, nil when it is not there any more.
	Redriven(ctx context.Context, group string, key uint64) (*StoredLetter, error)
	// RemoveLetter removes a dead letter.
	RemoveLetter(ctx context.Context, group string, id uint64) error
	// Audit writes down what was done to a group or happened to it.
	Audit(ctx context.Context, group, what string, details map[string]string) error
}

// Taker takes entries from a group's queues, in log order but for those that come again.
type Taker interface {
	// Request asks for n entries more of the log's queue; requests add up and expire after a while.
	Request(n int) error
	// Requested is how many entries were asked for and not taken yet: still to come, or here.
	Requested() int
	// TakeRedriven takes at most n redriven events that are there now.
	TakeRedriven(ctx context.Context, n int) ([]Taken, error)
	// Ready is signalled when Take has something.
	Ready() <-chan struct{}
	// Take returns what has come, at most n entries, without waiting. ErrQueueGone.
	Take(n int) ([]Taken, error)
	// Close ends it and returns what had come and was not taken.
	Close() []Taken
}
