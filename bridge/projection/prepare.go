package projection

import (
	"runtime"
	"strings"
	"sync"
	"sync/atomic"

	"google.golang.org/protobuf/proto"

	"github.com/spotbridge/spotbridge/bridge"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

// record is a log entry with what can be told from it alone.
type record struct {
	*bridge.Entry
	// env is nil for a quarantined body that is not readable.
	env *bridge.Envelope
	// unreadable says that an event does not parse with today's rules.
	unreadable bool
	// z is the body as it is stored.
	z []byte
}

// prepare parses and compresses a batch, on all cores. The two take about as long as each other, so one event has the use
// of two cores.
func prepare(entries []*bridge.Entry, c *codec) []record {
	out := make([]record, len(entries))
	work := func(job int) {
		r, e := &out[job/2], entries[job/2]
		switch {
		case e.Kind != bridge.EntryEvent && e.Kind != bridge.EntryQuarantine:
		case job%2 == 0:
			r.parse(e)
		default:
			r.z = c.pack(e.Body)
		}
	}
	for i, e := range entries {
		out[i].Entry = e
	}
	var next atomic.Int64
	loop := func() {
		for job := int(next.Add(1)) - 1; job < 2*len(entries); job = int(next.Add(1)) - 1 {
			work(job)
		}
	}
	var wg sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), 2*len(entries)) - 1 {
		wg.Go(loop)
	}
	loop()
	wg.Wait()
	return out
}

func (r *record) parse(e *bridge.Entry) {
	if r.env = e.Envelope; r.env != nil {
		return
	}
	env, cause := bridge.ParseEnvelope(e.Body)
	if cause == pb.DeliveryCause_DELIVERY_CAUSE_UNSPECIFIED {
		r.env = env
	}
	if e.Kind == bridge.EntryEvent && r.env == nil {
		// It was an event when it was accepted, so it stays one.
		r.unreadable = true
		r.env = &bridge.Envelope{
			EventType: e.EventType, Operation: e.Operation, Organizations: e.Organizations,
			Issues: []*pb.Issue{{Path: "$", Kind: pb.IssueKind_ISSUE_KIND_TYPE_MISMATCH}},
		}
	}
}

// sanitize makes all texts of an event UTF-8, which protobuf insists on: an entry that someone else wrote, or a text that
// was taken over as it came, must not stop the follower.
func (r *record) sanitize() {
	valid := func(s *string) { *s = strings.ToValidUTF8(*s, "\uFFFD") }
	all := func(s []string) []string {
		out := make([]string, len(s))
		for i := range s {
			out[i] = strings.ToValidUTF8(s[i], "\uFFFD")
		}
		return out
	}
	e, env := *r.Entry, *r.env
	for _, s := range []*string{
		&e.Source, &e.EventID, &e.WebhookID, &e.TraceID, &e.SpanID, &e.APIVersion, &env.EventType, &env.Operation, &env.EventTimeText, &env.PNRID, &env.TripID,
	} {
		valid(s)
	}
	env.Organizations, env.TravelerIDs = all(env.Organizations), all(env.TravelerIDs)
	if env.Entity != nil {
		env.Entity = proto.CloneOf(env.Entity)
		valid(&env.Entity.Id)
	}
	if s := env.OperationSummary; s != nil {
		env.OperationSummary = &pb.OperationSummary{TicketsIssued: all(s.TicketsIssued), TicketsVoided: all(s.TicketsVoided), TicketsRefunded: all(s.TicketsRefunded)}
	}
	env.Issues = nil
	for _, i := range r.env.Issues {
		env.Issues = append(env.Issues, &pb.Issue{Path: strings.ToValidUTF8(i.GetPath(), "\uFFFD"), Kind: i.GetKind()})
	}
	r.Entry, r.env = &e, &env
}
