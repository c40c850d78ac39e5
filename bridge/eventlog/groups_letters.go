package eventlog

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/spotbridge/spotbridge/bridge"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

// Headers of a dead letter and of a redriven event, beside those of the log entry that it copies.
const (
	hdrSequence  = "Sb-Sequence"
	hdrSubject   = "Sb-Subject"
	hdrOrdering  = "Sb-Ordering"
	hdrDeadCause = "Sb-Dead-Cause"
	hdrDeadTime  = "Sb-Dead-Time" // Unix nanoseconds
	hdrReason    = "Sb-Dead-Reason"
	hdrMember    = "Sb-Dead-Member"
	hdrAttempts  = "Sb-Attempts"
)

func letterMessage(subject, id string, l *bridge.StoredLetter) *nats.Msg {
	m := message(l.Entry)
	h := m.Header
	setAppendTime(h, l.Entry.AppendTime)
	h.Set(hdrSubject, m.Subject)
	h.Set(hdrID, id)
	h.Set(hdrSequence, strconv.FormatUint(l.Entry.Sequence, 10))
	h.Set(hdrOrdering, l.Ordering.String())
	h.Set(hdrDeadCause, l.Cause.String())
	h.Set(hdrDeadTime, strconv.FormatInt(l.Time.UnixNano(), 10))
	h.Set(hdrAttempts, strconv.Itoa(l.Attempts))
	for name, v := range map[string]string{hdrReason: l.Reason, hdrMember: l.ClientName} {
		if v != "" {
			h.Set(name, headerText(v))
		}
	}
	m.Subject = subject
	return m
}

// headerText makes one line of a text: a header cannot hold more.
func headerText(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
	if !utf8.ValidString(s) {
		s = strings.ToValidUTF8(s, "\ufffd")
	}
	return strings.TrimSpace(s)
}

func readLetter(h nats.Header, data []byte, id uint64) *bridge.StoredLetter {
	number := func(name string) int64 {
		n, _ := strconv.ParseInt(h.Get(name), 10, 64) // 0 when it is missing
		return n
	}
	e := entry(h.Get(hdrSubject), h, data, uint64(number(hdrSequence)), time.Time{})
	return &bridge.StoredLetter{
		Entry: e, Ordering: pb.Ordering(pb.Ordering_value[h.Get(hdrOrdering)]), Cause: pb.DeadLetterCause(pb.DeadLetterCause_value[h.Get(hdrDeadCause)]),
		Attempts: int(number(hdrAttempts)), Time: time.Unix(0, number(hdrDeadTime)).UTC(), Reason: h.Get(hdrReason), ClientName: h.Get(hdrMember), ID: id,
	}
}

// publish stores a message of the groups' stream durably.
func (s *GroupStore) publish(ctx context.Context, m *nats.Msg) error {
	_, err := s.js.PublishMsg(ctx, m)
	if e, ok := errors.AsType[*jetstream.APIError](err); ok && strings.Contains(e.Description, "maximum bytes") {
		return bridge.LogUnavailable(fmt.Errorf("the stream %s is full: redrive or delete dead letters, or raise groups.dead_letter_bytes: %w", groupStreamName, err))
	}
	if err != nil {
		return unavailable(ctx, err)
	}
	return nil
}

// Bury implements bridge.GroupStore.
func (s *GroupStore) Bury(ctx context.Context, group, id string, l *bridge.StoredLetter) error {
	return s.publish(ctx, letterMessage("dead."+group, "dead."+group+"."+id, l))
}

// Redrive implements bridge.GroupStore.
func (s *GroupStore) Redrive(ctx context.Context, group string, l *bridge.StoredLetter) error {
	// The letter's position makes it happen once, when a crash comes before the removal.
	if err := s.publish(ctx, letterMessage("redrive."+group, fmt.Sprintf("redrive.%s.%d", group, l.ID), l)); err != nil {
		return err
	}
	return s.RemoveLetter(ctx, group, l.ID)
}

// Redriven implements bridge.GroupStore.
func (s *GroupStore) Redriven(ctx context.Context, group string, key uint64) (*bridge.StoredLetter, error) {
	m, err := s.letters.GetMsg(ctx, key)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, unavailable(ctx, fmt.Errorf("read a redriven event of group %s: %w", group, err))
	}
	if m.Subject != "redrive."+group {
		return nil, nil
	}
	return readLetter(m.Header, m.Data, m.Sequence), nil
}

// RemoveLetter implements bridge.GroupStore.
func (s *GroupStore) RemoveLetter(ctx context.Context, group string, id uint64) error {
	err := s.letters.DeleteMsg(ctx, id)
	if err != nil && !gone(err) {
		return unavailable(ctx, fmt.Errorf("remove a dead letter of group %s: %w", group, err))
	}
	return nil
}

// gone reports whether a message to be removed is not there any more.
func gone(err error) bool {
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return true
	}
	e, ok := errors.AsType[*jetstream.APIError](err)
	return ok && (e.ErrorCode == jetstream.JSErrCodeMessageNotFound || strings.Contains(e.Description, "no message found") || strings.Contains(e.Description, "message not found"))
}

func (s *GroupStore) count(ctx context.Context, subject string) (int64, error) {
	info, err := s.letters.Info(ctx, jetstream.WithSubjectFilter(subject))
	if err != nil {
		return 0, unavailable(ctx, fmt.Errorf("count dead letters: %w", err))
	}
	return int64(info.State.Subjects[subject]), nil
}

// Letters implements bridge.GroupStore.
func (s *GroupStore) Letters(ctx context.Context, group string, after uint64, handle func(*bridge.StoredLetter) (bool, error)) error {
	subject := "dead." + group
	last, err := s.letters.GetLastMsgForSubject(ctx, subject)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil
	}
	if err != nil {
		return unavailable(ctx, fmt.Errorf("read the dead letters of group %s: %w", group, err))
	}
	if last.Sequence <= after {
		return nil
	}
	c, err := s.js.OrderedConsumer(ctx, groupStreamName, jetstream.OrderedConsumerConfig{
		FilterSubjects: []string{subject}, DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: after + 1,
	})
	if err != nil {
		return unavailable(ctx, fmt.Errorf("read the dead letters of group %s: %w", group, err))
	}
	it, err := c.Messages(jetstream.PullMaxMessagesWithBytesLimit(64, 16<<20))
	if err != nil {
		return unavailable(ctx, fmt.Errorf("read the dead letters of group %s: %w", group, err))
	}
	defer it.Stop()
	for {
		m, err := it.Next(jetstream.NextContext(ctx))
		if err != nil {
			return unavailable(ctx, fmt.Errorf("read the dead letters of group %s: %w", group, err))
		}
		meta, err := m.Metadata()
		if err != nil {
			return unavailable(ctx, err)
		}
		if meta.Sequence.Stream > last.Sequence {
			return nil
		}
		more, err := handle(readLetter(m.Headers(), m.Data(), meta.Sequence.Stream))
		if err != nil || !more || meta.Sequence.Stream == last.Sequence || meta.NumPending == 0 {
			return err
		}
	}
}

// Audit implements bridge.GroupStore.
func (s *GroupStore) Audit(ctx context.Context, group, what string, details map[string]string) error {
	row := map[string]string{"time": time.Now().UTC().Format(time.RFC3339Nano), "group": group, "what": what}
	maps.Copy(row, details)
	b, err := json.Marshal(row)
	if err != nil {
		return err
	}
	return s.publish(ctx, &nats.Msg{Subject: "audit." + group, Data: b})
}
