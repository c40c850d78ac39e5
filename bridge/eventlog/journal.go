package eventlog

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/spotbridge/spotbridge/bridge"
)

const (
	// journalBacklog and journalBacklogBytes bound what is confirmed and not in the stream yet. Beyond them appends wait.
	journalBacklog      = 8192
	journalBacklogBytes = 32 << 20
	// commitEntries and commitBytes bound what one sync confirms.
	commitEntries = 1024
	commitBytes   = 8 << 20
	// idsWindows is for how many of the stream's windows message ids are known here. The stream has a sequence for an entry
	// already when it sees it, so a duplicate must never get that far, and the stream forgets ids a little late.
	idsWindows = 2
	// journalDrain is how long closing waits for the stream to have everything. What it lacks then is added at the next start.
	journalDrain = 5 * time.Second
)

// errForeignWriter says that the stream holds something else than what the journal put at a sequence.
var errForeignWriter = errors.New("somebody else writes to the log's stream")

// journal is the group commit in front of the embedded log. The engine syncs each message by itself; the journal writes all
// entries that wait with one sync and gives them their sequences. What it has confirmed is durable and in order, and goes
// to followers at once. A pump puts it into the stream, where each entry gets the sequence that it has already, because
// this process is the stream's only writer and says with every message which sequence comes before it. At a start the
// journal's records that the stream lacks are added first: a crash at any moment changes no sequence.
type journal struct {
	id       bridge.LogID
	dedup    time.Duration
	logger   *slog.Logger
	metrics  *metrics
	stream   streamWriter
	confirm  func(*bridge.Entry) // called in order for what is durable, before whoever appended it is told
	segments [2]*segment
	fileSize int64 // a larger file makes room for the other one, as soon as that is free

	mu      sync.Mutex
	changed sync.Cond
	queue   []*pending // waits for the next commit
	ids     map[string]*slot
	// backlog is what is confirmed and not in the stream yet, in order.
	backlog      []*pending
	backlogBytes int
	seen         []seen    // for forgetting ids, oldest first
	next         uint64    // sequence of the next entry
	pumped       uint64    // sequence up to which the stream has everything
	headTime     time.Time // append time of the entry before next
	lastTime     time.Time // likewise; the commit loop's
	broken       error     // nothing is taken any more
	closing      bool
	sealed       bool   // the commit loop has ended
	current      int    // index of the segment with the newest generation that holds confirmed entries
	generation   uint64 // newest

	stop    context.CancelFunc
	working sync.WaitGroup
	buf     []byte // the commit loop's
}

// streamWriter is what the pump needs of the stream.
type streamWriter interface {
	// publish adds the messages, the first of which gets the sequence first, and returns when all are in the stream. After
	// an error any number of the first ones may be.
	publish(ctx context.Context, first uint64, batch []*nats.Msg) error
	// head returns the stream's newest sequence.
	head(ctx context.Context) (uint64, error)
	// idAt returns the message id at a sequence, and whether the stream still holds it.
	idAt(ctx context.Context, sequence uint64) (id string, held bool, err error)
	// recentIDs returns the message ids since a time, with sequence and body hash.
	recentIDs(ctx context.Context, since time.Time, visit func(id string, sequence uint64, hash [32]byte, at time.Time)) error
}

// slot is what is known of a message id: an append that is under way, or one that was confirmed.
type slot struct {
	done     chan struct{} // closed when it is decided
	err      error
	sequence uint64
	hash     [32]byte
}

// pending is an entry on its way.
type pending struct {
	slot  *slot
	id    string
	entry *bridge.Entry
	msg   *nats.Msg
}

type seen struct {
	at time.Time
	id string
}

type journalConfig struct {
	dir     string
	id      bridge.LogID
	dedup   time.Duration
	logger  *slog.Logger
	metrics *metrics
	stream  streamWriter
	confirm func(*bridge.Entry)
	open    func(path string) (journalFile, error)
}

// openJournal adds what the stream lacks, and starts. Until it returns, nothing reads the log.
func openJournal(ctx context.Context, cfg journalConfig) (*journal, error) {
	segments, records, err := journalFiles(cfg.dir, cfg.id, cfg.open)
	if errors.Is(err, errForeignJournal) {
		return nil, fmt.Errorf("the journal %w: its entries may be missing from this one; move the folder %s away if they are not needed", err, cfg.dir)
	}
	if err != nil {
		return nil, fmt.Errorf("open the journal: %w", err)
	}
	j := &journal{
		id: cfg.id, dedup: cfg.dedup, logger: cfg.logger, metrics: cfg.metrics, stream: cfg.stream, confirm: cfg.confirm,
		segments: segments, fileSize: journalFileSize, ids: map[string]*slot{},
	}
	j.changed.L = &j.mu
	if segments[1].generation > segments[0].generation {
		j.current = 1
	}
	// A write that failed may have left records of a generation whose header cannot be read: its number is not used again.
	j.generation = segments[j.current].generation + uint64(rand.Uint32())
	if err := j.recover(ctx, records); err != nil {
		closeSegments(segments)
		return nil, err
	}
	ctx, j.stop = context.WithCancel(context.Background())
	j.working.Go(j.commitLoop)
	j.working.Go(func() { j.pumpLoop(ctx) })
	return j, nil
}

// recover adds the records that the stream lacks, and reads the message ids of the window.
func (j *journal) recover(ctx context.Context, records []record) error {
	head, err := j.stream.head(ctx)
	if err != nil {
		return err
	}
	var missing []*nats.Msg
	for i, r := range records {
		if r.sequence == head || r.sequence < head && i == len(records)-1 {
			if err := j.same(ctx, r); err != nil {
				return err
			}
		}
		if r.sequence <= head {
			continue
		}
		if want := head + uint64(len(missing)) + 1; r.sequence != want {
			return fmt.Errorf("the log ends at %d, and the journal has %d and not %d: files of the log or the journal were replaced by older ones; restore newer ones, or accept the loss by moving the folder of the journal away", head, r.sequence, want)
		}
		missing = append(missing, r.msg)
	}
	if len(missing) > 0 {
		for len(missing) > 0 {
			n := batchSize(len(missing), func(i int) int { return len(missing[i].Data) })
			if err := j.stream.publish(ctx, head+1, missing[:n]); err != nil {
				if errors.Is(err, nats.ErrMaxPayload) {
					err = fmt.Errorf("%w; it was accepted with a larger max_body: start once with that", err)
				}
				return fmt.Errorf("add what the journal has to the log: %w", err)
			}
			head, missing = head+uint64(n), missing[n:]
		}
		j.logger.Info("what was accepted before the last end was added to the log", "head", head)
	}
	j.next, j.pumped = head+1, head
	return j.stream.recentIDs(ctx, time.Now().Add(-idsWindows*j.dedup), func(id string, sequence uint64, hash [32]byte, at time.Time) {
		done := make(chan struct{})
		close(done)
		j.ids[id] = &slot{done: done, sequence: sequence, hash: hash}
		j.seen = append(j.seen, seen{at, id})
	})
}

// same holds a record that the stream has already against it. Entries that retention has deleted are not compared.
func (j *journal) same(ctx context.Context, r record) error {
	id, held, err := j.stream.idAt(ctx, r.sequence)
	if err != nil {
		return err
	}
	if held && id != r.msg.Header.Get(hdrID) {
		return fmt.Errorf("entry %d is not the one of the journal: %w, or its files and the journal's are of different times; restore files of one time, or accept that entries of the journal may be missing by moving its folder away", r.sequence, errForeignWriter)
	}
	return nil
}

// append stores an entry: see bridge.Appender.
func (j *journal) append(ctx context.Context, e *bridge.Entry) (bridge.Appended, error) {
	if err := ctx.Err(); err != nil {
		return bridge.Appended{}, err
	}
	m := message(e)
	p := &pending{slot: &slot{done: make(chan struct{}), hash: e.BodyHash}, id: m.Header.Get(hdrID), entry: e, msg: m}
	for {
		j.mu.Lock()
		if err := j.refusal(); err != nil {
			j.mu.Unlock()
			return bridge.Appended{}, err
		}
		first := j.ids[p.id]
		if first == nil {
			j.ids[p.id] = p.slot
			j.queue = append(j.queue, p)
			j.changed.Broadcast()
			j.mu.Unlock()
			break
		}
		j.mu.Unlock()
		select {
		case <-first.done:
		case <-ctx.Done():
			return bridge.Appended{}, ctx.Err()
		}
		if first.err == nil {
			return bridge.Appended{Sequence: first.sequence, Duplicate: true, FirstHash: first.hash}, nil
		}
	}
	select {
	case <-p.slot.done:
		return bridge.Appended{Sequence: p.slot.sequence}, p.slot.err
	case <-ctx.Done():
		return bridge.Appended{}, ctx.Err()
	}
}

// refusal says why nothing is taken. The caller holds mu.
func (j *journal) refusal() error {
	if j.closing {
		return errors.New("the log is closing")
	}
	return j.broken
}

// health returns why nothing is taken.
func (j *journal) health() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.broken
}

// head is the sequence up to which entries are confirmed.
func (j *journal) head() uint64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.next - 1
}

// addTo adds what came after the stream's state, which is some time old.
func (j *journal) addTo(st *bridge.LogState) {
	j.mu.Lock()
	defer j.mu.Unlock()
	more := j.next - 1 - st.Head
	if more == 0 {
		return
	}
	if st.Entries == 0 {
		st.Floor, st.FloorTime = st.Head+1, j.headTime
		if len(j.backlog) > 0 {
			st.FloorTime = j.backlog[0].entry.AppendTime
		}
	}
	st.Head, st.HeadTime, st.Entries, st.Bytes = j.next-1, j.headTime, st.Entries+more, st.Bytes+uint64(j.backlogBytes)
}

// notInStream counts what is confirmed, has such a subject, and is not in the stream yet.
func (j *journal) notInStream(ctx context.Context, match func(subject string) bool) (int64, error) {
	j.mu.Lock()
	backlog, first, stream := j.backlog, j.pumped+1, j.stream // a backlog grows at its end and is never written to
	j.mu.Unlock()
	if len(backlog) == 0 {
		return 0, nil
	}
	head, err := stream.head(ctx) // a batch that is under way may be there, and still in the backlog
	if err != nil {
		return 0, err
	}
	var n int64
	for i, p := range backlog {
		if first+uint64(i) > head && match(p.msg.Subject) {
			n++
		}
	}
	return n, nil
}

// get returns an entry that is not in the stream yet.
func (j *journal) get(sequence uint64) *bridge.Entry {
	j.mu.Lock()
	defer j.mu.Unlock()
	if n := len(j.backlog); n > 0 && sequence > j.pumped && sequence <= j.pumped+uint64(n) {
		return j.backlog[sequence-j.pumped-1].entry
	}
	return nil
}

// commitLoop writes whatever waits, as one batch after another: while one is written, the next gathers.
func (j *journal) commitLoop() {
	for {
		j.mu.Lock()
		for !j.closing && (len(j.queue) == 0 || j.broken == nil && j.full()) {
			j.changed.Wait()
		}
		if len(j.queue) == 0 {
			j.sealed = true
			j.changed.Broadcast()
			j.mu.Unlock()
			return
		}
		n, bytes := 0, 0
		for n < len(j.queue) && n < commitEntries && (n == 0 || bytes+len(j.queue[n].msg.Data) <= commitBytes) {
			bytes += len(j.queue[n].msg.Data)
			n++
		}
		batch := j.queue[:n:n]
		if j.queue = j.queue[n:]; len(j.queue) == 0 {
			j.queue = nil
		}
		index, begin, err := j.choose()
		first := j.next
		j.mu.Unlock()
		if err == nil {
			err = j.write(j.segments[index], begin, first, batch)
		}
		j.settle(index, batch, bytes, first, err)
	}
}

// full reports whether the stream is too far behind. The caller holds mu.
func (j *journal) full() bool {
	return len(j.backlog) >= journalBacklog || j.backlogBytes >= journalBacklogBytes
}

// choose returns the index of the segment to write to, and whether a generation begins there. The caller holds mu.
//
// A generation never begins in the segment with the newest confirmed entries, and nothing is added to that one any more
// once another generation was tried: a write that failed may have left records, and where the newest generation begins
// tells a start that they do not count. Such a header is never overwritten before a newer one is durable.
func (j *journal) choose() (index int, begin bool, err error) {
	s, other := j.segments[j.current], j.segments[1-j.current]
	free := other.last < other.first || other.last <= j.pumped
	switch {
	case j.broken != nil:
		return 0, false, j.broken
	case !s.closed && (s.end < j.fileSize || !free):
		return j.current, false, nil
	case free:
		s.closed = true
		return 1 - j.current, true, nil
	default:
		return 0, false, errors.New("a file of the journal cannot be written, and the other one is still needed")
	}
}

// write makes a batch durable. Only the commit loop calls it; nobody else touches an open segment's end.
func (j *journal) write(s *segment, begin bool, first uint64, batch []*pending) error {
	b, at := j.buf[:0], s.end
	if begin {
		j.generation++
		s.begin(j.generation, first)
		b, at = append(b, encodeHeader(j.id, j.generation, first)...), 0
	}
	if now := time.Now().UTC(); now.After(j.lastTime) {
		j.lastTime = now
	}
	for i, p := range batch {
		setAppendTime(p.msg.Header, j.lastTime)
		b = appendRecord(b, s.generation, first+uint64(i), p.msg.Subject, p.msg.Header, p.msg.Data)
	}
	if j.buf = b; cap(b) > 2*commitBytes {
		j.buf = nil
	}
	if err := s.write(b, at); err != nil {
		return fmt.Errorf("write the journal: %w", err)
	}
	return nil
}

// settle tells everybody what became of a batch: followers first, then those who wait for their append.
func (j *journal) settle(index int, batch []*pending, bytes int, first uint64, err error) {
	if err != nil {
		j.logger.Error("the journal of the log could not be written; deliveries are answered 503", "error", err)
		j.mu.Lock()
		defer j.mu.Unlock()
		for _, p := range batch {
			p.slot.err = err
			delete(j.ids, p.id)
			close(p.slot.done)
		}
		return
	}
	for i, p := range batch {
		p.entry = asRead(p.entry, first+uint64(i), j.lastTime)
		p.slot.sequence = p.entry.Sequence
	}
	j.mu.Lock()
	j.current = index
	j.segments[index].last = first + uint64(len(batch)) - 1
	j.next, j.headTime = first+uint64(len(batch)), j.lastTime
	j.backlog, j.backlogBytes = append(j.backlog, batch...), j.backlogBytes+bytes
	j.metrics.backlog.Set(float64(len(j.backlog)))
	j.changed.Broadcast()
	j.mu.Unlock()
	j.metrics.commitEntries.Observe(float64(len(batch)))
	for _, p := range batch {
		j.confirm(p.entry)
		close(p.slot.done)
	}
}

// close writes what is queued, and gives the pump some time to bring the stream up to date.
func (j *journal) close() {
	j.mu.Lock()
	j.closing = true
	j.changed.Broadcast()
	j.mu.Unlock()
	late := time.AfterFunc(journalDrain, func() {
		j.stop()
		j.mu.Lock()
		defer j.mu.Unlock()
		j.changed.Broadcast()
	})
	j.working.Wait()
	late.Stop()
	j.stop()
	closeSegments(j.segments)
}
