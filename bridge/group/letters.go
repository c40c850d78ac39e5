package group

import (
	"context"
	"slices"
	"strconv"
	"time"

	"github.com/spotbridge/spotbridge/bridge"
)

const (
	// lettersFor is how long one call redrives or deletes; then it says that it is not done.
	lettersFor = 5 * time.Second
	// lettersLooked is how many letters one page looks at.
	lettersLooked = 10_000
)

// matches reports whether a letter is selected.
func matches(q *bridge.DeadLetterQuery, l *bridge.StoredLetter, e *bridge.Encoded) bool {
	switch {
	case !q.Before.IsZero() && !l.Time.Before(q.Before),
		len(q.Causes) > 0 && !slices.Contains(q.Causes, l.Cause),
		len(q.IDs) > 0 && !slices.Contains(q.IDs, strconv.FormatUint(l.ID, 10)):
		return false
	}
	return q.Filter.Match(&e.Meta)
}

// restore makes the event of a letter.
func (s *Groups) restore(l *bridge.StoredLetter) (*bridge.Encoded, error) {
	return bridge.RestoreEncoded(l.Entry, l.Ordering, s.cfg.Converter)
}

// DeadLetters implements bridge.Groups.
func (s *Groups) DeadLetters(ctx context.Context, p bridge.DeadLetterPage) (out []*bridge.DeadLetter, next uint64, err error) {
	if _, err := s.open(ctx, p.Group); err != nil {
		return nil, 0, err
	}
	looked, bytes := 0, 0
	err = s.cfg.Store.Letters(ctx, p.Group, p.After, func(l *bridge.StoredLetter) (bool, error) {
		e, err := s.restore(l)
		if err != nil {
			return false, err
		}
		if matches(&p.DeadLetterQuery, l, e) {
			size := len(e.Envelope) + e.BodySize
			if len(out) == p.PageSize || len(out) > 0 && bytes+size > p.MaxBytes {
				return false, nil
			}
			bytes += size
			out = append(out, &bridge.DeadLetter{
				ID: strconv.FormatUint(l.ID, 10), Cause: l.Cause, Attempts: l.Attempts, Time: l.Time, Reason: l.Reason, ClientName: l.ClientName, Event: e,
			})
		}
		next = l.ID
		looked++
		return looked < lettersLooked, nil
	})
	if err != nil {
		return nil, 0, err
	}
	// At the end there is nothing behind the last one that was looked at.
	more := false
	if next != 0 {
		err = s.cfg.Store.Letters(ctx, p.Group, next, func(*bridge.StoredLetter) (bool, error) {
			more = true
			return false, nil
		})
	}
	if !more {
		next = 0
	}
	return out, next, err
}

// each handles the letters that a query selects, for a while.
func (s *Groups) each(ctx context.Context, q *bridge.DeadLetterQuery, handle func(*bridge.StoredLetter) error) (bridge.DeadLetterCounts, error) {
	var c bridge.DeadLetterCounts
	if _, err := s.open(ctx, q.Group); err != nil {
		return c, err
	}
	if q.Before.IsZero() {
		q.Before = time.Now()
	}
	until := time.Now().Add(lettersFor)
	c.Done = true
	err := s.cfg.Store.Letters(ctx, q.Group, 0, func(l *bridge.StoredLetter) (bool, error) {
		e, err := s.restore(l)
		if err != nil {
			return false, err
		}
		if !matches(q, l, e) {
			return true, nil
		}
		c.Matched++
		if q.DryRun {
			c.Handled++
			c.Bytes += int64(e.BodySize)
			return true, nil
		}
		if time.Now().After(until) { // the others are counted only
			c.Done = false
			return true, nil
		}
		if err := handle(l); err != nil {
			return false, err
		}
		c.Handled++
		c.Bytes += int64(e.BodySize)
		return true, nil
	})
	return c, err
}

// Redrive implements bridge.Groups.
func (s *Groups) Redrive(ctx context.Context, q bridge.DeadLetterQuery) (bridge.DeadLetterCounts, error) {
	c, err := s.each(ctx, &q, func(l *bridge.StoredLetter) error { return s.cfg.Store.Redrive(ctx, q.Group, l) })
	if c.Handled > 0 && !q.DryRun {
		s.m.redriven.WithLabelValues(q.Group).Add(float64(c.Handled))
		s.audit(ctx, q.Group, "redriven", map[string]string{"letters": strconv.FormatInt(c.Handled, 10)})
		if g, err := s.open(ctx, q.Group); err == nil {
			g.mu.Lock()
			g.redrive++
			g.broadcast()
			g.mu.Unlock()
		}
	}
	return c, err
}

// DeleteDeadLetters implements bridge.Groups.
func (s *Groups) DeleteDeadLetters(ctx context.Context, q bridge.DeadLetterQuery) (bridge.DeadLetterCounts, error) {
	c, err := s.each(ctx, &q, func(l *bridge.StoredLetter) error { return s.cfg.Store.RemoveLetter(ctx, q.Group, l.ID) })
	if c.Handled > 0 && !q.DryRun {
		s.audit(ctx, q.Group, "dead letters deleted", map[string]string{"letters": strconv.FormatInt(c.Handled, 10)})
	}
	return c, err
}
