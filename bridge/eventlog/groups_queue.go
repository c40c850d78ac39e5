package eventlog

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/spotbridge/spotbridge/bridge"
)

const (
	mainPrefix    = "sb-group-"
	redrivePrefix = "sb-redrive-"

	// deadlineMargin is how much later than the bridge the engine takes a delivery back. The bridge does it first, so that
	// it never accepts an ack of an event that the engine has given to somebody else; the engine's own deadline serves the
	// members of a bridge that died.
	deadlineMargin = 2 * time.Second
	// maxAckPending bounds what a group has out: held by members, or waiting for another delivery. At the bound nothing new
	// is given out until some of it is settled.
	maxAckPending = 50_000
	maxWaiting    = 8192
	// maxSubjects bounds the subjects of a queue; filters with more combinations are matched more coarsely by the engine.
	maxSubjects = 64

	// redriveInbox sets the answers to requests for redriven events apart.
	redriveInbox = "r."

	requestExpires = 5 * time.Second
	requestGrace   = 3 * time.Second
	redriveWait    = time.Second
	closeWait      = 2 * time.Second
)

// paused is until when a paused queue sleeps: the engine knows only an end.
var pausedUntil = time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC)

func mainQueue(r *bridge.GroupRecord) string { return mainPrefix + r.Name + "-" + r.Queue }

func redriveQueue(r *bridge.GroupRecord) string {
	return fmt.Sprintf("%s%s-%x", redrivePrefix, r.Name, r.Key[:8])
}

func queueConfig(r *bridge.GroupRecord) jetstream.ConsumerConfig {
	c := jetstream.ConsumerConfig{
		Description: "spotbridge: consumer group " + r.Name, AckPolicy: jetstream.AckExplicitPolicy,
		AckWait: r.Settings.AckDeadline + deadlineMargin, MaxDeliver: -1, MaxAckPending: maxAckPending, MaxWaiting: maxWaiting,
	}
	if r.Paused {
		c.PauseUntil = &pausedUntil
	}
	return c
}

// ensureQueues makes the queues of a group, or brings them in line with the record.
func (s *GroupStore) ensureQueues(ctx context.Context, r *bridge.GroupRecord) error {
	c := queueConfig(r)
	c.Name, c.Durable = mainQueue(r), mainQueue(r)
	c.HeadersOnly = true
	c.DeliverPolicy, c.OptStartSeq = jetstream.DeliverByStartSequencePolicy, r.After+1
	c.FilterSubjects = r.Settings.Filter.Subjects(maxSubjects)
	if err := s.ensureQueue(ctx, r, streamName, c); err != nil {
		return err
	}
	c = queueConfig(r)
	c.Name, c.Durable = redriveQueue(r), redriveQueue(r)
	c.DeliverPolicy = jetstream.DeliverAllPolicy
	c.FilterSubject = "redrive." + r.Name
	return s.ensureQueue(ctx, r, groupStreamName, c)
}

func (s *GroupStore) ensureQueue(ctx context.Context, r *bridge.GroupRecord, stream string, c jetstream.ConsumerConfig) error {
	q, err := s.js.CreateOrUpdateConsumer(ctx, stream, c)
	if err != nil {
		return unavailable(ctx, fmt.Errorf("set up a queue of group %s: %w", r.Name, err))
	}
	// An update does not touch the pause.
	switch paused := q.CachedInfo().Paused; {
	case r.Paused && !paused:
		_, err = s.js.PauseConsumer(ctx, stream, c.Name, pausedUntil)
	case !r.Paused && paused:
		_, err = s.js.ResumeConsumer(ctx, stream, c.Name)
	}
	if err != nil {
		return unavailable(ctx, fmt.Errorf("pause or resume a queue of group %s: %w", r.Name, err))
	}
	return nil
}

// dropMain and dropQueues remove queues. What stays behind after an error is removed at a later start.
func (s *GroupStore) dropMain(ctx context.Context, r *bridge.GroupRecord) {
	if err := s.js.DeleteConsumer(ctx, streamName, mainQueue(r)); err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) {
		s.log.cfg.Logger.Warn("a queue of a consumer group was not removed", "queue", mainQueue(r), "error", err)
	}
}

func (s *GroupStore) dropQueues(ctx context.Context, r *bridge.GroupRecord) {
	s.dropMain(ctx, r)
	if err := s.js.DeleteConsumer(ctx, groupStreamName, redriveQueue(r)); err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) {
		s.log.cfg.Logger.Warn("a queue of a consumer group was not removed", "queue", redriveQueue(r), "error", err)
	}
}

// QueueState implements bridge.GroupStore.
func (s *GroupStore) QueueState(ctx context.Context, r *bridge.GroupRecord) (bridge.QueueState, error) {
	var st bridge.QueueState
	// First what the queue cannot know of yet: an entry that moves meanwhile counts twice, and not never.
	coming, err := s.coming(ctx, r)
	if err != nil {
		return st, err
	}
	info, err := s.consumerInfo(ctx, streamName, mainQueue(r))
	if err != nil {
		return st, err
	}
	st.Settled, st.Delivered = max(info.AckFloor.Stream, r.After), max(info.Delivered.Stream, r.After)
	st.Waiting, st.InFlight = int64(info.NumPending)+coming, int64(info.NumAckPending)
	if info, err = s.consumerInfo(ctx, groupStreamName, redriveQueue(r)); err != nil {
		return st, err
	}
	st.Redriven = int64(info.NumPending) + int64(info.NumAckPending)
	if st.DeadLetters, err = s.count(ctx, "dead."+r.Name); err != nil {
		return st, err
	}
	return st, nil
}

// coming counts the entries for a group that are in the journal only.
func (s *GroupStore) coming(ctx context.Context, r *bridge.GroupRecord) (int64, error) {
	if s.log.journal == nil {
		return 0, nil
	}
	subjects := r.Settings.Filter.Subjects(maxSubjects)
	n, err := s.log.journal.notInStream(ctx, func(subject string) bool {
		return slices.ContainsFunc(subjects, func(s string) bool { return server.SubjectMatchesFilter(subject, s) })
	})
	if err != nil {
		return 0, unavailable(ctx, fmt.Errorf("count what waits for group %s: %w", r.Name, err))
	}
	return n, nil
}

func (s *GroupStore) consumerInfo(ctx context.Context, stream, name string) (*jetstream.ConsumerInfo, error) {
	c, err := s.js.Consumer(ctx, stream, name)
	if errors.Is(err, jetstream.ErrConsumerNotFound) {
		return nil, fmt.Errorf("queue %s: %w", name, bridge.ErrQueueGone)
	}
	if err != nil {
		return nil, unavailable(ctx, fmt.Errorf("ask for the state of queue %s: %w", name, err))
	}
	return c.CachedInfo(), nil
}

// The engine's words on an ack subject.
const (
	wordAck    = "+ACK"
	wordExtend = "+WPI"
)

func ackSubject(r *bridge.GroupRecord, rc bridge.Receipt) string {
	var array [256]byte
	b := append(array[:0], "$JS.ACK."...)
	if rc.Redriven {
		b = append(append(append(b, groupStreamName...), '.'), redriveQueue(r)...)
	} else {
		b = append(append(append(append(append(append(b, streamName...), '.'), mainPrefix...), r.Name...), '-'), r.Queue...)
	}
	for _, n := range [...]uint64{rc.Deliveries, rc.Entry, rc.Delivery, rc.Time, 0} { // the last one, how many were waiting, nobody reads
		b = strconv.AppendUint(append(b, '.'), n, 10)
	}
	return string(b)
}

// readReceipt reads what the engine calls a delivery.
func readReceipt(reply string) (rc bridge.Receipt, ok bool) {
	var tokens [12]string
	n := 0
	for rest, more := reply, true; more; n++ {
		if n == len(tokens) {
			return rc, false
		}
		tokens[n], rest, more = strings.Cut(rest, ".")
	}
	at := 4 // $JS.ACK.<stream>.<consumer>, and with the second format a domain and an account before them
	if n >= 11 {
		at = 6
	} else if n != 9 {
		return rc, false
	}
	rc.Redriven = tokens[at-2] == groupStreamName
	for i, into := range [...]*uint64{&rc.Deliveries, &rc.Entry, &rc.Delivery, &rc.Time} {
		var err error
		if *into, err = strconv.ParseUint(tokens[at+i], 10, 64); err != nil {
			return rc, false
		}
	}
	return rc, true
}

func (s *GroupStore) say(r *bridge.GroupRecord, rc bridge.Receipt, word string) error {
	if err := s.nc.Publish(ackSubject(r, rc), []byte(word)); err != nil {
		return bridge.LogUnavailable(fmt.Errorf("settle an event of group %s: %w", r.Name, err))
	}
	return nil
}

// Settle implements bridge.GroupStore.
func (s *GroupStore) Settle(ctx context.Context, r *bridge.GroupRecord, rc bridge.Receipt, confirm bool) error {
	if !confirm && !rc.Redriven {
		return s.say(r, rc, wordAck)
	}
	if _, err := s.nc.RequestWithContext(ctx, ackSubject(r, rc), []byte(wordAck)); err != nil {
		return unavailable(ctx, fmt.Errorf("settle an event of group %s: %w", r.Name, err))
	}
	if rc.Redriven {
		// It is done; what a crash leaves here is swept at a later start.
		if err := s.letters.DeleteMsg(ctx, rc.Entry); err != nil && !errors.Is(err, jetstream.ErrMsgNotFound) && ctx.Err() == nil {
			s.log.cfg.Logger.Debug("a redriven event that was settled was not removed", "group", r.Name, "error", err)
		}
	}
	return nil
}

// sweepRedriven removes redriven events that were settled.
func (s *GroupStore) sweepRedriven(ctx context.Context, r *bridge.GroupRecord) {
	info, err := s.consumerInfo(ctx, groupStreamName, redriveQueue(r))
	if err != nil || info.AckFloor.Stream == 0 {
		return
	}
	if err := s.letters.Purge(ctx, jetstream.WithPurgeSubject("redrive."+r.Name), jetstream.WithPurgeSequence(info.AckFloor.Stream+1)); err != nil {
		s.log.cfg.Logger.Warn("redriven events that were settled were not removed", "group", r.Name, "error", err)
	}
}

// Release implements bridge.GroupStore.
func (s *GroupStore) Release(_ context.Context, r *bridge.GroupRecord, rc bridge.Receipt, delay time.Duration) error {
	// Without a delay the engine remembers it in memory only: after a restart the event would wait for its deadline.
	return s.say(r, rc, fmt.Sprintf(`-NAK {"delay": %d}`, max(delay.Nanoseconds(), 1)))
}

// Extend implements bridge.GroupStore.
func (s *GroupStore) Extend(_ context.Context, r *bridge.GroupRecord, rc bridge.Receipt) error {
	return s.say(r, rc, wordExtend)
}

// taker pulls from the queues of a group. Requests have an inbox each, so that a word about one can be told from others.
type taker struct {
	s     *GroupStore
	r     *bridge.GroupRecord
	inbox string
	// main is for the log's queue, which comes without headers when the log is embedded; redrives for the redriven events.
	main, redrives *nats.Subscription
	ready          chan struct{}
	drained        sync.WaitGroup

	mu       sync.Mutex
	next     uint64
	requests map[uint64]*request
	queue    []bridge.Taken
	redriven []bridge.Taken
	err      error
}

type request struct {
	redriven bool
	left     int
	until    time.Time
	done     chan struct{} // of redriven ones
}

// OpenTaker implements bridge.GroupStore.
func (s *GroupStore) OpenTaker(_ context.Context, r *bridge.GroupRecord) (bridge.Taker, error) {
	t := &taker{s: s, r: r, inbox: s.nc.NewInbox() + ".", ready: make(chan struct{}, 1), requests: map[uint64]*request{}}
	subscribe := func(nc *nats.Conn, inbox string) (*nats.Subscription, error) {
		sub, err := nc.Subscribe(inbox+"*", t.receive)
		if err == nil {
			err = sub.SetPendingLimits(-1, -1) // bounded by what is requested
		}
		if err != nil {
			return nil, bridge.LogUnavailable(fmt.Errorf("open the queue of group %s: %w", r.Name, err))
		}
		t.drained.Add(1)
		sub.SetClosedHandler(func(string) { t.drained.Done() })
		return sub, nil
	}
	var err error
	if t.main, err = subscribe(s.pull, t.inbox); err != nil {
		return nil, err
	}
	if t.redrives, err = subscribe(s.nc, t.inbox+redriveInbox); err != nil {
		_ = t.main.Unsubscribe()
		return nil, err
	}
	return t, nil
}

// ask sends a pull request.
func (t *taker) ask(n int, redriven bool) (*request, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.next++
	rq := &request{redriven: redriven, left: n, until: time.Now().Add(requestExpires + requestGrace), done: make(chan struct{})}
	t.requests[t.next] = rq
	nc, inbox, stream, queue := t.s.pull, t.inbox, streamName, mainQueue(t.r)
	body := fmt.Sprintf(`{"batch":%d,"expires":%d}`, n, requestExpires.Nanoseconds())
	if redriven {
		nc, inbox, stream, queue = t.s.nc, t.inbox+redriveInbox, groupStreamName, redriveQueue(t.r)
		body = fmt.Sprintf(`{"batch":%d,"no_wait":true}`, n)
	}
	if err := nc.PublishRequest("$JS.API.CONSUMER.MSG.NEXT."+stream+"."+queue, inbox+strconv.FormatUint(t.next, 10), []byte(body)); err != nil {
		delete(t.requests, t.next)
		return nil, bridge.LogUnavailable(fmt.Errorf("ask for events of group %s: %w", t.r.Name, err))
	}
	return rq, nil
}

// Request implements bridge.Taker.
func (t *taker) Request(n int) error {
	_, err := t.ask(n, false)
	return err
}

// Requested implements bridge.Taker.
func (t *taker) Requested() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := len(t.queue)
	for id, rq := range t.requests {
		if !rq.redriven && time.Now().After(rq.until) {
			delete(t.requests, id) // the engine's answer was lost with a connection, or the queue is gone
			go t.look()
		} else if !rq.redriven {
			n += rq.left
		}
	}
	return n
}

// Ready implements bridge.Taker.
func (t *taker) Ready() <-chan struct{} { return t.ready }

func (t *taker) signal() {
	select {
	case t.ready <- struct{}{}:
	default:
	}
}

// receive takes a message of the engine: an entry, or a word about a request.
func (t *taker) receive(m *nats.Msg) {
	t.mu.Lock()
	defer t.mu.Unlock()
	rc, ok := readReceipt(m.Reply)
	if !ok {
		if text, ok := strings.CutPrefix(m.Subject, t.inbox); ok {
			text = strings.TrimPrefix(text, redriveInbox)
			if id, err := strconv.ParseUint(text, 10, 64); err == nil {
				t.status(id, t.requests[id], m.Header.Get("Status"), m.Header.Get("Description"))
			}
		}
		return
	}
	if rc.Redriven {
		l := readLetter(m.Header, m.Data, rc.Entry)
		t.redriven = append(t.redriven, bridge.Taken{
			Redriven: true, Sequence: l.Entry.Sequence, Key: rc.Entry, Deliveries: int(rc.Deliveries), Before: l.Attempts, Receipt: rc,
			Letter: l,
		})
	} else {
		t.queue = append(t.queue, bridge.Taken{Sequence: rc.Entry, Key: rc.Entry, Deliveries: int(rc.Deliveries), Receipt: rc})
	}
	// Entries come under the log's subject and do not name the request. The engine serves requests in their order.
	oldest := uint64(0)
	for id, rq := range t.requests {
		if rq.redriven == rc.Redriven && (oldest == 0 || id < oldest) {
			oldest = id
		}
	}
	if rq := t.requests[oldest]; rq != nil {
		if rq.left--; rq.left <= 0 {
			t.end(oldest, rq)
		}
	}
	t.signal()
}

func (t *taker) end(id uint64, rq *request) {
	delete(t.requests, id)
	close(rq.done)
}

// status handles a word of the engine about a request, which ends with it.
func (t *taker) status(id uint64, rq *request, code, text string) {
	if rq == nil || code == "100" {
		return
	}
	t.end(id, rq)
	switch {
	case code == "":
		// It came without headers, and so without its meaning: its time is over, or something happened.
		if time.Now().Before(rq.until.Add(-requestGrace)) {
			go t.look()
		}
	case code == "503", code == "409" && strings.Contains(strings.ToLower(text), "consumer deleted"):
		t.err = fmt.Errorf("queue of group %s: %w", t.r.Name, bridge.ErrQueueGone)
	case code == "404", code == "408", code == "409":
	default:
		t.err = bridge.LogUnavailable(fmt.Errorf("queue of group %s: the engine says %s %s", t.r.Name, code, text))
	}
	t.signal()
}

// look finds out whether the log's queue is still there.
func (t *taker) look() {
	ctx, cancel := context.WithTimeout(context.Background(), requestExpires)
	defer cancel()
	_, err := t.s.consumerInfo(ctx, streamName, mainQueue(t.r))
	if !errors.Is(err, bridge.ErrQueueGone) {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.err = err
	t.signal()
}

// Take implements bridge.Taker.
func (t *taker) Take(n int) ([]bridge.Taken, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.queue) == 0 {
		err := t.err
		t.err = nil
		return nil, err
	}
	n = min(n, len(t.queue))
	out := t.queue[:n:n]
	if t.queue = t.queue[n:]; len(t.queue) == 0 {
		t.queue = nil
	} else {
		t.signal()
	}
	return out, nil
}

// TakeRedriven implements bridge.Taker.
func (t *taker) TakeRedriven(ctx context.Context, n int) ([]bridge.Taken, error) {
	rq, err := t.ask(n, true)
	if err != nil {
		return nil, err
	}
	timeout := time.NewTimer(redriveWait)
	defer timeout.Stop()
	select {
	case <-rq.done:
	case <-timeout.C: // it may come later, and is then taken by the next call
	case <-ctx.Done():
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	out := t.redriven
	t.redriven = nil
	err = t.err
	t.err = nil
	if len(out) > 0 {
		err = nil
	}
	return out, err
}

// Close implements bridge.Taker. What is on its way still comes: otherwise it would come back only after its deadline.
func (t *taker) Close() []bridge.Taken {
	if err := errors.Join(t.main.Drain(), t.redrives.Drain()); err == nil {
		drained := make(chan struct{})
		go func() {
			t.drained.Wait()
			close(drained)
		}()
		select {
		case <-drained:
		case <-time.After(closeWait):
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	out := append(t.queue, t.redriven...)
	t.queue, t.redriven = nil, nil
	return out
}
