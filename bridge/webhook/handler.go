package webhook

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/spotbridge/spotbridge/bridge"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

// Headers of a delivery, in canonical form.
const (
	HeaderID         = "X-Spotnana-Webhook-Id"
	HeaderTimestamp  = "X-Spotnana-Webhook-Timestamp"
	HeaderSignature  = "X-Spotnana-Webhook-Signature"
	HeaderTraceID    = "X-B3-Traceid"
	HeaderSpanID     = "X-B3-Spanid"
	HeaderAPIVersion = "Api-Version"
)

const (
	accepted    = pb.DeliveryOutcome_DELIVERY_OUTCOME_ACCEPTED
	duplicate   = pb.DeliveryOutcome_DELIVERY_OUTCOME_DUPLICATE
	conflict    = pb.DeliveryOutcome_DELIVERY_OUTCOME_CONFLICT
	quarantined = pb.DeliveryOutcome_DELIVERY_OUTCOME_QUARANTINED
	refused     = pb.DeliveryOutcome_DELIVERY_OUTCOME_REFUSED

	none = pb.DeliveryCause_DELIVERY_CAUSE_UNSPECIFIED

	// maxTraceText is the longest trace id, span id and API version that is kept.
	maxTraceText = 64
	// maxForeignText is the longest header value that is kept of a delivery that is not authentic.
	maxForeignText = 256

	retryAfter = 5 * time.Second
)

// Handler is the front door. It is an http.Handler.
type Handler struct {
	doors map[string]*door // by path
	names map[string]*door

	log      bridge.Appender
	ids      *ids
	recorder bridge.DeliveryRecorder
	gate     Gate
	logger   *slog.Logger
	metrics  *metrics
	now      func() time.Time

	appendTimeout time.Duration
	budget        budget
}

// delivery is one HTTP attempt while it is being handled.
type delivery struct {
	door    *door
	started time.Time
	// entry is what goes into the log. Its header values are filled in from the start, the rest as it becomes known.
	entry     bridge.Entry
	webhookID string // verbatim
	timestamp string // verbatim
	// authentic says that the signature was right.
	authentic bool
	answer    answer
}

// answer is what the source is told and what we note.
type answer struct {
	outcome pb.DeliveryOutcome
	cause   pb.DeliveryCause
	// sequence of the entry that was stored, or of the first one.
	sequence uint64
	// event says that the webhook id is an event.
	event bool
	// retryAfter goes with 503.
	retryAfter time.Duration
	// err is for our log.
	err error
}

func refuse(cause pb.DeliveryCause) answer {
	return answer{outcome: refused, cause: cause, retryAfter: retryAfter}
}

// ServeHTTP answers one delivery: the table of DESIGN.md section 4.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	d := h.doors[r.URL.Path]
	if d == nil {
		h.metrics.deliveries.WithLabelValues("", outcomeLabel(refused), causeUnknownPath).Inc()
		write(w, http.StatusNotFound, "not_found")
		return
	}
	if r.Method != http.MethodPost {
		h.metrics.deliveries.WithLabelValues(d.Name, outcomeLabel(refused), causeWrongMethod).Inc()
		w.Header().Set("Allow", http.MethodPost)
		write(w, http.StatusMethodNotAllowed, "method_not_allowed")
		return
	}
	h.metrics.inFlight.Inc()
	defer h.metrics.inFlight.Dec()
	v := delivery{door: d, started: time.Now()}
	l := lease{budget: &h.budget, gauge: h.metrics.flightBytes.Add}
	defer l.release()

	v.answer = h.take(r, &v, &l)
	status := statusOf(v.answer.outcome, v.answer.cause)
	if status == http.StatusServiceUnavailable {
		seconds := max(1, int64((v.answer.retryAfter+time.Second-1)/time.Second))
		w.Header().Set("Retry-After", strconv.FormatInt(seconds, 10))
	}
	write(w, status, statusText(v.answer.outcome, status))
	h.report(r, &v, status)
}

// take judges a delivery, in the order of DESIGN.md section 4.
func (h *Handler) take(r *http.Request, v *delivery, l *lease) answer {
	header := r.Header
	v.webhookID, v.timestamp = header.Get(HeaderID), header.Get(HeaderTimestamp)
	v.entry = bridge.Entry{
		Source: v.door.Name, ReceiveTime: h.now().UTC(),
		TraceID: text(header.Get(HeaderTraceID), maxTraceText), SpanID: text(header.Get(HeaderSpanID), maxTraceText),
		APIVersion: text(header.Get(HeaderAPIVersion), maxTraceText),
	}
	seconds, cause := checkHeaders(header, v)
	if cause != none {
		return refuse(cause)
	}
	if r.ContentLength > v.door.MaxBody {
		return refuse(pb.DeliveryCause_DELIVERY_CAUSE_TOO_LARGE)
	}
	// A closed door is the last thing to see before reading, so that what will never be taken is told so at any time.
	if a, open := h.open(); !open {
		return a
	}
	body, cause := readBody(r, v.door.MaxBody, l)
	v.entry.Body, v.entry.BodySize = body, len(body)
	if cause != none {
		return refuse(cause)
	}
	signatures := header[HeaderSignature][0]
	if more := header[HeaderSignature]; len(more) > 1 {
		signatures = strings.Join(more[:min(len(more), maxSignatures)], " ")
	}
	if !Verify(v.door.Secrets, v.webhookID, v.timestamp, signatures, body) {
		return refuse(pb.DeliveryCause_DELIVERY_CAUSE_WRONG_SIGNATURE)
	}
	v.authentic = true
	if cause := v.door.checkAge(v.entry.ReceiveTime, seconds); cause != none {
		return refuse(cause)
	}
	v.fill()
	return h.settle(r.Context(), &v.entry)
}

// checkHeaders checks what can be checked without the body. It returns the timestamp.
func checkHeaders(header http.Header, v *delivery) (seconds int64, cause pb.DeliveryCause) {
	if v.webhookID == "" {
		return 0, pb.DeliveryCause_DELIVERY_CAUSE_MISSING_ID
	}
	seconds, ok := parseSeconds(v.timestamp)
	if !ok {
		return 0, pb.DeliveryCause_DELIVERY_CAUSE_MISSING_TIMESTAMP
	}
	if header.Get(HeaderSignature) == "" {
		return 0, pb.DeliveryCause_DELIVERY_CAUSE_MISSING_SIGNATURE
	}
	fits := 1
	for i := range v.door.required {
		q := &v.door.required[i]
		// Hashes have one length, so the comparison tells nothing about the value's.
		hash := sha256.Sum256([]byte(header.Get(q.name)))
		fits &= subtle.ConstantTimeCompare(hash[:], q.hash[:])
	}
	if fits != 1 {
		return 0, pb.DeliveryCause_DELIVERY_CAUSE_REQUIRED_HEADER
	}
	return seconds, none
}

// parseSeconds reads Unix seconds: digits and nothing else.
func parseSeconds(text string) (int64, bool) {
	if text == "" || text[0] < '0' || text[0] > '9' { // ParseInt would take a sign
		return 0, false
	}
	n, err := strconv.ParseInt(text, 10, 64)
	return n, err == nil
}

// checkAge checks the timestamp window.
func (d *door) checkAge(now time.Time, seconds int64) pb.DeliveryCause {
	if d.MaxAge <= 0 {
		return none
	}
	switch age := now.Unix() - seconds; {
	case age > int64(d.MaxAge/time.Second):
		return pb.DeliveryCause_DELIVERY_CAUSE_TOO_OLD
	case age < -int64(maxAhead/time.Second):
		return pb.DeliveryCause_DELIVERY_CAUSE_TOO_NEW
	}
	return none
}

// open asks the gate.
func (h *Handler) open() (answer, bool) {
	if h.gate != nil {
		if ok, cause, after := h.gate.Accepting(); !ok {
			if statusOf(refused, cause) != http.StatusServiceUnavailable {
				cause = pb.DeliveryCause_DELIVERY_CAUSE_NOT_ACCEPTING
			}
			return answer{outcome: refused, cause: cause, retryAfter: after}, false
		}
	}
	if h.ids.size() >= maxRemembered {
		return refuse(pb.DeliveryCause_DELIVERY_CAUSE_NOT_ACCEPTING), false
	}
	return answer{}, true
}

// fill completes the entry of an authentic delivery.
func (v *delivery) fill() {
	e := &v.entry
	e.EventID, e.WebhookID = bridge.EventID(e.Source, v.webhookID), bridge.WebhookIDText(v.webhookID)
	e.TimestampText = v.timestamp
	e.BodyHash = sha256.Sum256(e.Body)
	read(e, v.door)
}

// read sets what the body says: an event, or a quarantined body with its cause.
func read(e *bridge.Entry, d *door) {
	env, cause := bridge.ParseEnvelope(e.Body)
	if cause == none {
		e.Envelope = env
	}
	if env != nil {
		e.EventType, e.Operation, e.Organizations = env.EventType, env.Operation, env.Organizations
		if cause == none && !d.allows(env) {
			cause = pb.DeliveryCause_DELIVERY_CAUSE_ORGANIZATION_NOT_ALLOWED
		}
	}
	e.Kind, e.Cause = bridge.EntryEvent, none
	if cause != none {
		e.Kind, e.Cause = bridge.EntryQuarantine, cause
	}
}

// allows reports whether every organization of the event may use this door: one customer's secret cannot bring in another
// customer's events.
func (d *door) allows(env *bridge.Envelope) bool {
	if d.allowed == nil {
		return true
	}
	for _, o := range env.Organizations {
		if _, ok := d.allowed[o]; !ok {
			return false
		}
	}
	return len(env.Organizations) > 0 && !env.OrganizationsCut
}

// settle decides what an authentic delivery is, and appends what is new. The body was read and parsed before, which
// changes no verdict, so that deliveries of one id hold each other up as little as possible.
func (h *Handler) settle(ctx context.Context, e *bridge.Entry) answer {
	deadline := time.Now().Add(h.appendTimeout)
	waiting, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	unlock, err := h.ids.lock(waiting, e.EventID)
	if err != nil {
		return unavailable(pb.DeliveryCause_DELIVERY_CAUSE_LOG_UNAVAILABLE, err)
	}
	defer unlock()
	// From here on the outcome matters beyond this connection: an append that is given up may still land.
	working, cancel := context.WithDeadline(context.WithoutCancel(ctx), deadline)
	defer cancel()
	known, err := h.ids.known(working, e)
	switch {
	case err != nil:
		return unavailable(pb.DeliveryCause_DELIVERY_CAUSE_NOT_ACCEPTING, err)
	case known.Found && known.BodyHash == e.BodyHash:
		return answer{outcome: duplicate, sequence: known.Sequence, event: true}
	case known.Found:
		return h.conflicting(working, e, known)
	}
	if sequence, ok := known.Quarantined[e.BodyHash]; ok && e.Kind == bridge.EntryQuarantine {
		return answer{outcome: duplicate, sequence: sequence}
	}
	a, err := h.append(working, e)
	switch {
	case err != nil:
		return unavailable(pb.DeliveryCause_DELIVERY_CAUSE_LOG_UNAVAILABLE, err)
	case e.Kind == bridge.EntryQuarantine && a.Duplicate:
		return answer{outcome: duplicate, sequence: a.Sequence}
	case e.Kind == bridge.EntryQuarantine:
		return answer{outcome: quarantined, cause: e.Cause, sequence: a.Sequence}
	case !a.Duplicate:
		return answer{outcome: accepted, sequence: a.Sequence, event: true}
	case a.FirstHash == e.BodyHash:
		return answer{outcome: duplicate, sequence: a.Sequence, event: true}
	default:
		known.Found, known.Sequence, known.BodyHash = true, a.Sequence, a.FirstHash
		return h.conflicting(working, e, known)
	}
}

// conflicting keeps a body whose webhook id is an event with another body: in quarantine, once.
func (h *Handler) conflicting(ctx context.Context, e *bridge.Entry, known bridge.IDState) answer {
	if sequence, ok := known.Quarantined[e.BodyHash]; ok {
		return answer{outcome: duplicate, sequence: sequence, event: true}
	}
	q := *e
	q.Kind, q.Cause = bridge.EntryQuarantine, pb.DeliveryCause_DELIVERY_CAUSE_CONFLICT
	a, err := h.append(ctx, &q)
	switch {
	case err != nil:
		return unavailable(pb.DeliveryCause_DELIVERY_CAUSE_LOG_UNAVAILABLE, err)
	case a.Duplicate:
		return answer{outcome: duplicate, sequence: a.Sequence, event: true}
	default:
		return answer{outcome: conflict, cause: q.Cause, sequence: a.Sequence, event: true}
	}
}

// append puts an entry on the log and remembers what the log holds then. The caller holds the id's lock.
func (h *Handler) append(ctx context.Context, e *bridge.Entry) (bridge.Appended, error) {
	a, err := h.log.Append(ctx, e)
	if err != nil {
		return a, err
	}
	hash := e.BodyHash
	if a.Duplicate && e.Kind == bridge.EntryEvent {
		hash = a.FirstHash
	}
	h.ids.remember(e.Kind, e.EventID, hash, a.Sequence)
	return a, nil
}

func unavailable(cause pb.DeliveryCause, err error) answer {
	a := refuse(cause)
	a.err = err
	return a
}

// statusOf returns the HTTP status of an answer; 0 for a cause that no delivery is refused with.
func statusOf(o pb.DeliveryOutcome, c pb.DeliveryCause) int {
	if o != refused {
		return http.StatusOK
	}
	switch c {
	case pb.DeliveryCause_DELIVERY_CAUSE_MISSING_ID, pb.DeliveryCause_DELIVERY_CAUSE_MISSING_TIMESTAMP,
		pb.DeliveryCause_DELIVERY_CAUSE_MISSING_SIGNATURE, pb.DeliveryCause_DELIVERY_CAUSE_WRONG_SIGNATURE,
		pb.DeliveryCause_DELIVERY_CAUSE_TOO_OLD, pb.DeliveryCause_DELIVERY_CAUSE_TOO_NEW,
		pb.DeliveryCause_DELIVERY_CAUSE_REQUIRED_HEADER:
		return http.StatusUnauthorized
	case pb.DeliveryCause_DELIVERY_CAUSE_TOO_LARGE:
		return http.StatusRequestEntityTooLarge
	case pb.DeliveryCause_DELIVERY_CAUSE_INCOMPLETE_BODY:
		return http.StatusBadRequest
	case pb.DeliveryCause_DELIVERY_CAUSE_LOG_UNAVAILABLE, pb.DeliveryCause_DELIVERY_CAUSE_OVERLOADED,
		pb.DeliveryCause_DELIVERY_CAUSE_NOT_ACCEPTING:
		return http.StatusServiceUnavailable
	default:
		return 0
	}
}

// statusText returns what the answer's body says: the same for every failed authentication.
func statusText(o pb.DeliveryOutcome, status int) string {
	switch {
	case o != refused:
		return outcomeLabel(o)
	case status == http.StatusUnauthorized:
		return "unauthorized"
	case status == http.StatusRequestEntityTooLarge:
		return "too_large"
	case status == http.StatusBadRequest:
		return "incomplete"
	default:
		return "unavailable"
	}
}

func write(w http.ResponseWriter, status int, word string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	// An error means that the source is gone; it will send again.
	_, _ = w.Write([]byte(`{"status":"` + word + `"}` + "\n"))
}
