package eventlog

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
)

const (
	// pumpEntries and pumpBytes bound what goes into the stream at once.
	pumpEntries = 256
	pumpBytes   = 8 << 20
	// pumpTogether is from how many entries on the engine is faster with one atomic batch, which it syncs once, than with a
	// sync for each. A batch is first staged in files of its own.
	pumpTogether = 16

	// pumpGap is the shortest time between two, unless there are pumpEntries: a batch costs the engine the same however small
	// it is. It grows with the last one, from about 1,000 entries a second on, up to pumpGapLoaded. An entry that comes alone
	// does not wait.
	pumpGap         = 5 * time.Millisecond
	pumpGapPerEntry = time.Millisecond
	pumpGapLoaded   = 100 * time.Millisecond

	publishTimeout = 30 * time.Second

	hdrExpectedLast  = "Nats-Expected-Last-Sequence"
	hdrBatchID       = "Nats-Batch-Id"
	hdrBatchSequence = "Nats-Batch-Sequence"
	hdrBatchCommit   = "Nats-Batch-Commit"
)

// batchSize returns how many of n entries go into the stream at once.
func batchSize(n int, size func(i int) int) int {
	k, bytes := 0, 0
	for k < min(n, pumpEntries) {
		if bytes += size(k); bytes > pumpBytes && k > 0 {
			break
		}
		k++
	}
	return k
}

// logStream is the stream of an embedded log, for its journal.
type logStream struct{ *Log }

func (l logStream) publish(ctx context.Context, first uint64, batch []*nats.Msg) error {
	// An answer that is lost must not stop the pump: it looks what has arrived, and goes on from there.
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	if len(batch) >= pumpTogether {
		return l.publishTogether(ctx, first, batch)
	}
	// All are sent before the first is answered. When one fails, the sequences that the next ones expect are wrong and they
	// fail, too.
	acks := make([]jetstream.PubAckFuture, 0, len(batch))
	for i, m := range batch {
		m.Header[hdrExpectedLast] = []string{strconv.FormatUint(first+uint64(i)-1, 10)}
		m.Reply = "" // of an earlier attempt
		ack, err := l.appJS.PublishMsgAsync(m)
		if err != nil {
			return err
		}
		acks = append(acks, ack)
	}
	for i, ack := range acks {
		select {
		case a := <-ack.Ok():
			if a.Duplicate || a.Sequence != first+uint64(i) {
				return fmt.Errorf("entry %d was taken for %d", first+uint64(i), a.Sequence)
			}
		case err := <-ack.Err():
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// publishTogether adds the messages as one atomic batch.
func (l logStream) publishTogether(ctx context.Context, first uint64, batch []*nats.Msg) error {
	id := nuid.Next()
	defer func() { // the same messages may be sent again in another way
		for _, m := range batch {
			delete(m.Header, hdrBatchID)
			delete(m.Header, hdrBatchSequence)
			delete(m.Header, hdrBatchCommit)
		}
	}()
	for i, m := range batch {
		delete(m.Header, hdrExpectedLast)
		m.Header[hdrBatchID], m.Header[hdrBatchSequence] = []string{id}, []string{strconv.Itoa(i + 1)}
		if i < len(batch)-1 {
			if i == 0 {
				m.Header[hdrExpectedLast] = []string{strconv.FormatUint(first-1, 10)}
			}
			m.Reply = "" // of an earlier attempt one by one
			if err := l.append.PublishMsg(m); err != nil {
				return err
			}
		}
	}
	last := batch[len(batch)-1]
	last.Header[hdrBatchCommit] = []string{"1"}
	answer, err := l.append.RequestMsgWithContext(ctx, last)
	if err != nil {
		return fmt.Errorf("commit a batch: %w", err)
	}
	var ack struct {
		Sequence uint64              `json:"seq"`
		Error    *jetstream.APIError `json:"error"`
	}
	if err := json.Unmarshal(answer.Data, &ack); err != nil {
		return fmt.Errorf("commit a batch: %w", err)
	}
	if ack.Error != nil {
		return fmt.Errorf("commit a batch: %w", ack.Error)
	}
	if want := first + uint64(len(batch)) - 1; ack.Sequence != want {
		return fmt.Errorf("a batch ends at %d instead of %d", ack.Sequence, want)
	}
	return nil
}

func (l logStream) head(ctx context.Context) (uint64, error) {
	info, err := l.stream.Info(ctx)
	if err != nil {
		return 0, fmt.Errorf("read the stream's head: %w", err)
	}
	return info.State.LastSeq, nil
}

func (l logStream) idAt(ctx context.Context, sequence uint64) (id string, held bool, err error) {
	m, err := l.stream.GetMsg(ctx, sequence)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return "", false, nil
	}
	if err != nil {
		return "", false, fmt.Errorf("read entry %d of the stream: %w", sequence, err)
	}
	return m.Header.Get(hdrID), true, nil
}

func (l logStream) recentIDs(ctx context.Context, since time.Time, visit func(id string, sequence uint64, hash [32]byte, at time.Time)) error {
	c, err := l.stream.CreateConsumer(ctx, jetstream.ConsumerConfig{
		DeliverPolicy: jetstream.DeliverByStartTimePolicy, OptStartTime: &since, AckPolicy: jetstream.AckNonePolicy, HeadersOnly: true, MemoryStorage: true,
	})
	if err != nil {
		return fmt.Errorf("read the newest message ids: %w", err)
	}
	defer func() { _ = l.stream.DeleteConsumer(context.WithoutCancel(ctx), c.CachedInfo().Name) }() // it ends by itself, later
	for left := int(c.CachedInfo().NumPending); left > 0; {
		batch, err := c.Fetch(min(left, 1000), jetstream.FetchMaxWait(30*time.Second))
		if err != nil {
			return fmt.Errorf("read the newest message ids: %w", err)
		}
		n := 0
		for m := range batch.Messages() {
			meta, err := m.Metadata()
			if err != nil {
				return err
			}
			e := entry(m.Subject(), m.Headers(), nil, meta.Sequence.Stream, meta.Timestamp)
			visit(m.Headers().Get(hdrID), e.Sequence, e.BodyHash, meta.Timestamp)
			n++
		}
		if err := batch.Error(); err != nil {
			return fmt.Errorf("read the newest message ids: %w", err)
		}
		if n == 0 {
			return errors.New("read the newest message ids: the log does not give them")
		}
		left -= n
	}
	return nil
}
