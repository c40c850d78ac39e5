package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protojson"

	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
	payload "github.com/spotbridge/spotbridge/gen/go/spotnana/payload/v1"
)

const (
	// maxEvent bounds one server-sent event. The bridge sends at most 4 MiB of protobuf; JSON is larger.
	maxEvent = 64 << 20
	// maxBody is the largest body that a bridge can be configured to take.
	maxBody = 64 << 20
)

// feed keeps a store up to date with a bridge.
type feed struct {
	bridge    string // base URL of REST
	heartbeat time.Duration
	store     *store
	client    *http.Client
	backoff   backoff
	notices   io.Writer
}

// backoff says how long to wait before an attempt. Half of a wait is random, so that clients of a bridge that went do not
// all come back at the same moment. The "retry" that streams begin with is for browsers, which have nothing like it.
type backoff struct{ first, last, next time.Duration }

func (b *backoff) reset() { b.next = b.first }

func (b *backoff) wait() time.Duration {
	base := max(b.next, b.first)
	b.next = min(2*base, b.last)
	return base/2 + rand.N(base/2)
}

// ended is the end of a stream after which the feed resumes. Every other error stops it.
type ended struct {
	why   string
	after time.Duration // the server wants no attempt before
}

func (e *ended) Error() string { return e.why }

func broken(err error) error { return &ended{why: err.Error()} }

var errSilence = errors.New("no message for three heartbeat intervals")

// run consumes until ctx ends, and returns nil then, or until the feed has to stop.
func (f *feed) run(ctx context.Context) error {
	for {
		err := f.stream(ctx)
		var end *ended
		if !errors.As(err, &end) {
			return err
		}
		if ctx.Err() != nil {
			return nil
		}
		wait := max(f.backoff.wait(), end.after)
		f.notice("%s; next attempt in %v", end.why, wait.Round(time.Millisecond))
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return nil
		}
	}
}

func (f *feed) notice(format string, args ...any) {
	// What the server says must stay on one line.
	fmt.Fprintln(f.notices, "expense-feed:", strings.Join(strings.Fields(fmt.Sprintf(format, args...)), " "))
}

// stream subscribes after the stored position and processes messages until the stream ends, which is always an error.
func (f *feed) stream(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	interval := f.heartbeat
	// Only messages prove that the bridge lives: comments may come from a proxy on the way. While a message is processed
	// the watchdog sleeps, since silence is then our own.
	watchdog := time.AfterFunc(3*interval, func() { cancel(errSilence) })
	defer watchdog.Stop()

	resp, err := f.subscribe(ctx)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	events := newSSEReader(resp.Body, maxEvent)
	for {
		event, err := events.next()
		switch {
		case context.Cause(ctx) != nil:
			return broken(context.Cause(ctx))
		case errors.Is(err, io.EOF):
			return &ended{why: "the stream broke off"}
		case err != nil:
			return broken(err)
		}
		watchdog.Stop()
		if event.name == "error" {
			return errorEvent(event.data)
		}
		var m pb.SubscribeResponse
		if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(event.data, &m); err != nil {
			return &ended{why: "a message is no valid JSON of its kind"} // the parser's error may show values
		}
		if c := m.GetConfirmation(); c != nil {
			if d := c.GetHeartbeatInterval().AsDuration(); d > 0 {
				interval = d
			}
			for _, w := range c.GetWarnings() {
				f.notice("warning: %s: %s", w.GetField(), w.GetMessage())
			}
		} else {
			f.backoff.reset()
		}
		if err := f.process(ctx, &m, event.id); err != nil {
			return err
		}
		if g := m.GetGoodbye(); g != nil {
			return &ended{why: "goodbye: " + g.GetReason().String(), after: max(g.GetRetryAfter().AsDuration(), event.wait)}
		}
		watchdog.Reset(3 * interval)
	}
}

// subscribe opens the stream. The URL asks for everything; the last id, when there is one, wins over that.
func (f *feed) subscribe(ctx context.Context) (*http.Response, error) {
	cursor, err := f.store.cursor()
	if err != nil {
		return nil, err
	}
	query := url.Values{
		"filter.event_types": {"PNR_V3"},
		"filter.operations":  {"BOOKING_TICKETED", "TICKET_VOIDED", "TICKET_REFUNDED"},
		"view":               {"TYPED"},
		"start":              {"EARLIEST"},
		"heartbeat_interval": {fmt.Sprintf("%gs", f.heartbeat.Seconds())},
		"client_name":        {"expense-feed-go"},
	}
	header := http.Header{"Accept": {"text/event-stream"}}
	if cursor != "" {
		header.Set("Last-Event-ID", cursor)
	}
	resp, err := f.get(ctx, "/v1/events:subscribe?"+query.Encode(), header)
	if err != nil {
		return nil, err
	}
	if t, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type")); t != "text/event-stream" {
		resp.Body.Close()
		return nil, &ended{why: fmt.Sprintf("the answer is %q and no event stream", t)}
	}
	return resp, nil
}

// process stores what a message means together with its position.
func (f *feed) process(ctx context.Context, m *pb.SubscribeResponse, cursor string) error {
	e := m.GetEvent()
	if e == nil {
		return f.store.move(cursor)
	}
	booking := e.GetPnrV3()
	if e.GetOmitted() != nil && counts(e) {
		seen, err := f.store.seen(e.GetId())
		if err != nil {
			return err
		}
		if !seen {
			if booking, err = f.readBody(ctx, e.GetId()); err != nil {
				return err
			}
		}
	}
	return f.store.process(e, booking, cursor)
}

// readBody reads an event that was too large for the stream.
func (f *feed) readBody(ctx context.Context, eventID string) (*payload.PnrData, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	resp, err := f.get(ctx, "/v1/events/"+url.PathEscape(eventID)+"/body", http.Header{})
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	if err != nil {
		return nil, broken(fmt.Errorf("the body of %s: %w", eventID, err))
	}
	booking, err := bookingOf(body)
	if err != nil {
		return nil, broken(fmt.Errorf("the body of %s: %w", eventID, err))
	}
	return booking, nil
}

// get asks for a path and returns the answer when its status is 200.
func (f *feed) get(ctx context.Context, path string, header http.Header) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, f.bridge+path, nil)
	if err != nil {
		return nil, err
	}
	req.Header = header
	resp, err := f.client.Do(req)
	switch cause := context.Cause(ctx); {
	case err == nil && resp.StatusCode == http.StatusOK:
		return resp, nil
	case err == nil:
		defer resp.Body.Close()
		return nil, statusError(resp)
	case cause != nil:
		return nil, broken(cause)
	}
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err // without the URL: every attempt has the same
	}
	return nil, broken(err)
}

// apiError is the JSON of an error, in an answer or an event.
type apiError struct {
	Code    uint32 `json:"code"` // codes.Code would refuse one that it does not know
	Message string `json:"message"`
	Details []struct {
		Reason string `json:"reason"`
	} `json:"details"`
}

func readError(text []byte) (code codes.Code, message string) {
	var e apiError
	if json.Unmarshal(text, &e) != nil {
		return codes.Unknown, "an error that is not JSON"
	}
	for _, d := range e.Details {
		if d.Reason != "" {
			return codes.Code(e.Code), d.Reason + ": " + e.Message
		}
	}
	return codes.Code(e.Code), e.Message
}

// errorEvent says whether to resume after the error that a stream ended with.
func errorEvent(data []byte) error {
	code, message := readError(data)
	switch code {
	case codes.InvalidArgument, codes.NotFound, codes.OutOfRange, codes.PermissionDenied, codes.Unauthenticated,
		codes.FailedPrecondition, codes.Unimplemented, codes.DataLoss, codes.AlreadyExists:
		return fmt.Errorf("the bridge ended the stream: %v: %s", code, message)
	}
	return &ended{why: fmt.Sprintf("the stream ended: %v: %s", code, message)}
}

// statusError says whether to ask again after an answer that is not 200.
func statusError(resp *http.Response) error {
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10)) // what came of it is better than nothing
	_, message := readError(text)
	message = resp.Status + ": " + message
	switch s := resp.StatusCode; {
	case s == http.StatusTooManyRequests:
	case s >= 400 && s < 500, s == http.StatusNotImplemented:
		return errors.New("the bridge answered " + message)
	}
	return &ended{why: message}
}
