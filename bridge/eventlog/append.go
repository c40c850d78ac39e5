package eventlog

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/spotbridge/spotbridge/bridge"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

// Headers of a log entry. They are the log's format: readers must understand entries of any age.
const (
	hdrID          = jetstream.MsgIDHeader
	hdrEventID     = "Sb-Event-Id"
	hdrSource      = "Sb-Source"
	hdrWebhookID   = "Sb-Webhook-Id"
	hdrCause       = "Sb-Cause"
	hdrReceiveTime = "Sb-Receive-Time" // Unix nanoseconds
	hdrAppendTime  = "Sb-Append-Time"  // likewise; entries without it have the server's time
	hdrTimestamp   = "Sb-Timestamp"
	hdrTrace       = "Sb-Trace-Id"
	hdrSpan        = "Sb-Span-Id"
	hdrAPIVersion  = "Sb-Api-Version"
	hdrBodyHash    = "Sb-Body-Sha256"
	hdrSize        = "Nats-Msg-Size" // set by the server for headers-only readers
)

// Append stores the entry. See bridge.Appender.
func (l *Log) Append(ctx context.Context, e *bridge.Entry) (a bridge.Appended, err error) {
	start := time.Now()
	if l.journal != nil {
		a, err = l.journal.append(ctx, e)
	} else {
		a, err = l.publish(ctx, e, start)
	}
	if err != nil {
		l.metrics.appendErrors.Inc()
		return bridge.Appended{}, unavailable(ctx, fmt.Errorf("append %s: %w", e.EventID, err))
	}
	l.metrics.appendSeconds.Observe(time.Since(start).Seconds())
	return a, nil
}

// publish puts the entry into the stream of an external server.
func (l *Log) publish(ctx context.Context, e *bridge.Entry, now time.Time) (bridge.Appended, error) {
	m := message(e)
	setAppendTime(m.Header, now)
	ack, err := l.appJS.PublishMsg(ctx, m)
	if err != nil {
		return bridge.Appended{}, err
	}
	if !ack.Duplicate {
		return bridge.Appended{Sequence: ack.Sequence}, nil
	}
	first, err := l.Get(ctx, ack.Sequence)
	if err != nil {
		return bridge.Appended{}, err
	}
	if first == nil {
		return bridge.Appended{}, fmt.Errorf("the log calls it a duplicate of %d and no longer holds that", ack.Sequence)
	}
	return bridge.Appended{Sequence: ack.Sequence, Duplicate: true, FirstHash: first.BodyHash}, nil
}

func setAppendTime(h nats.Header, t time.Time) {
	h[hdrAppendTime] = []string{strconv.FormatInt(t.UnixNano(), 10)}
}

// message makes a log message of an entry, but for the time of appending.
func message(e *bridge.Entry) *nats.Msg {
	h := nats.Header{
		hdrEventID:     {e.EventID},
		hdrSource:      {e.Source},
		hdrWebhookID:   {e.WebhookID},
		hdrReceiveTime: {strconv.FormatInt(e.ReceiveTime.UnixNano(), 10)},
		hdrBodyHash:    {hex.EncodeToString(e.BodyHash[:])},
	}
	m := &nats.Msg{Header: h, Data: e.Body}
	if e.Kind == bridge.EntryQuarantine {
		cause := causeToken(e.Cause)
		h[hdrCause] = []string{cause}
		h[hdrID] = []string{e.EventID + "." + hex.EncodeToString(e.BodyHash[:])}
		m.Subject = bridge.QuarantineSubject(e.Source, cause)
	} else {
		h[hdrID] = []string{e.EventID}
		m.Subject = bridge.EventSubject(e.Source, e.EventType, e.Operation, e.Organizations)
	}
	for name, v := range map[string]string{hdrTimestamp: e.TimestampText, hdrTrace: e.TraceID, hdrSpan: e.SpanID, hdrAPIVersion: e.APIVersion} {
		if v != "" {
			h[name] = []string{v}
		}
	}
	return m
}

const causePrefix = "DELIVERY_CAUSE_"

// causeToken is the cause's name in a subject, for example not_json.
func causeToken(c pb.DeliveryCause) string {
	return strings.ToLower(strings.TrimPrefix(c.String(), causePrefix))
}

func parseCause(token string) pb.DeliveryCause {
	return pb.DeliveryCause(pb.DeliveryCause_value[causePrefix+strings.ToUpper(token)])
}

// entry reads a log message back.
func entry(subject string, h nats.Header, data []byte, sequence uint64, t time.Time) *bridge.Entry {
	e := &bridge.Entry{
		Sequence: sequence, AppendTime: t,
		Source: h.Get(hdrSource), EventID: h.Get(hdrEventID), WebhookID: h.Get(hdrWebhookID),
		TimestampText: h.Get(hdrTimestamp), TraceID: h.Get(hdrTrace), SpanID: h.Get(hdrSpan), APIVersion: h.Get(hdrAPIVersion),
		Body: data, BodySize: len(data),
	}
	switch {
	case strings.HasPrefix(subject, "ev."):
		e.Kind = bridge.EntryEvent
	case strings.HasPrefix(subject, "q."):
		e.Kind, e.Cause = bridge.EntryQuarantine, parseCause(h.Get(hdrCause))
	}
	if ns, err := strconv.ParseInt(h.Get(hdrReceiveTime), 10, 64); err == nil {
		e.ReceiveTime = time.Unix(0, ns).UTC()
	}
	if ns, err := strconv.ParseInt(h.Get(hdrAppendTime), 10, 64); err == nil {
		e.AppendTime = time.Unix(0, ns).UTC()
	}
	if b, err := hex.DecodeString(h.Get(hdrBodyHash)); err == nil {
		copy(e.BodyHash[:], b)
	}
	if n, err := strconv.Atoi(h.Get(hdrSize)); err == nil && len(data) == 0 {
		e.BodySize = n
	}
	return e
}

// Get returns one entry. See bridge.Reader.
func (l *Log) Get(ctx context.Context, sequence uint64) (*bridge.Entry, error) {
	if l.journal != nil {
		if e := l.journal.get(sequence); e != nil {
			return e, nil
		}
	}
	m, err := l.stream.GetMsg(ctx, sequence)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, unavailable(ctx, fmt.Errorf("read entry %d of the log: %w", sequence, err))
	}
	return entry(m.Subject, m.Header, m.Data, m.Sequence, m.Time), nil
}
