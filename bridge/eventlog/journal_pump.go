package eventlog

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
)

// pumpLoop puts what is confirmed into the stream.
func (j *journal) pumpLoop(ctx context.Context) {
	var last time.Time
	gap := pumpGap
	for {
		j.mu.Lock()
		for len(j.backlog) == 0 && !j.sealed && ctx.Err() == nil && j.broken == nil {
			j.changed.Wait()
		}
		if len(j.backlog) == 0 || ctx.Err() != nil || j.broken != nil {
			j.mu.Unlock()
			return
		}
		if wait := time.Until(last.Add(gap)); wait > 0 && len(j.backlog) < pumpEntries && !j.closing {
			j.gather(wait)
			continue
		}
		last = time.Now()
		n := batchSize(len(j.backlog), func(i int) int { return len(j.backlog[i].msg.Data) })
		gap = min(max(pumpGap, time.Duration(n)*pumpGapPerEntry), pumpGapLoaded)
		batch, first := j.backlog[:n:n], j.pumped+1
		j.mu.Unlock()
		done := j.pump(ctx, first, batch)
		j.mu.Lock()
		j.advance(done)
		j.mu.Unlock()
	}
}

// gather waits until there is enough for one batch, for some time at most. The caller holds mu, and does not afterwards.
func (j *journal) gather(wait time.Duration) {
	late := false
	timer := time.AfterFunc(wait, func() {
		j.mu.Lock()
		defer j.mu.Unlock()
		late = true
		j.changed.Broadcast()
	})
	for !late && len(j.backlog) < pumpEntries && !j.closing {
		j.changed.Wait()
	}
	timer.Stop()
	j.mu.Unlock()
}

// advance notes that the stream has n entries more. The caller holds mu.
func (j *journal) advance(n int) {
	now := time.Now()
	for _, p := range j.backlog[:n] {
		j.backlogBytes -= len(p.msg.Data)
		j.seen = append(j.seen, seen{now, p.id})
	}
	if j.backlog = j.backlog[n:]; len(j.backlog) == 0 {
		j.backlog = nil
	}
	j.pumped += uint64(n)
	j.metrics.backlog.Set(float64(len(j.backlog)))
	i := 0
	for ; i < len(j.seen) && now.Sub(j.seen[i].at) > idsWindows*j.dedup; i++ {
		delete(j.ids, j.seen[i].id)
	}
	j.seen = j.seen[i:]
	j.changed.Broadcast()
}

// pump puts a batch into the stream, however long it takes, and returns how many of its entries are there when it ends:
// all, unless ctx ended or somebody else writes to the stream.
func (j *journal) pump(ctx context.Context, first uint64, batch []*pending) int {
	msgs := make([]*nats.Msg, len(batch))
	for i, p := range batch {
		msgs[i] = p.msg
	}
	done := 0
	for retry := followRetryMin; ; retry = min(2*retry, followRetryMax) {
		err := j.stream.publish(ctx, first+uint64(done), msgs[done:])
		if err == nil {
			return len(batch)
		}
		if ctx.Err() != nil {
			return done
		}
		j.metrics.pumpErrors.Inc()
		n, lookErr := j.arrived(ctx, first, batch)
		if errors.Is(lookErr, errForeignWriter) {
			j.fail(lookErr)
			return done
		}
		if done = max(done, n); done == len(batch) {
			return done
		}
		j.logger.Warn("an entry is in the journal and not in the stream yet, trying again", "sequence", first+uint64(done), "wait", retry, "error", errors.Join(err, lookErr))
		select {
		case <-time.After(retry):
		case <-ctx.Done():
			return done
		}
	}
}

// arrived looks how many entries of a batch the stream has.
func (j *journal) arrived(ctx context.Context, first uint64, batch []*pending) (int, error) {
	head, err := j.stream.head(ctx)
	if err != nil || head < first {
		return 0, err
	}
	n := int(min(head-first+1, uint64(len(batch))))
	id, held, err := j.stream.idAt(ctx, first+uint64(n)-1)
	if err != nil {
		return 0, err
	}
	if head >= first+uint64(len(batch)) || held && id != batch[n-1].id {
		return 0, fmt.Errorf("%w: it is at %d and has another entry than the journal; data_dir/log may be used by another program", errForeignWriter, head)
	}
	return n, nil
}

// fail takes nothing more. Only a person can help.
func (j *journal) fail(err error) {
	j.logger.Error("the log takes nothing more", "error", err)
	j.mu.Lock()
	defer j.mu.Unlock()
	j.broken = err
	j.changed.Broadcast()
}
