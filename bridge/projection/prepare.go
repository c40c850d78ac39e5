package projection

import (
	"runtime"
	"strings"
	"sync"
	"sync/atomic"

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

// prepare parses and compresses a batch, on all cores.
func prepare(entries []*bridge.Entry, c *codec) []record {
	out := make([]record, len(entries))
	workers := min(runtime.GOMAXPROCS(0), len(entries))
	if workers <= 1 {
		for i, e := range entries {
			out[i] = prepareOne(e, c)
		}
		return out
	}
	var next atomic.Int64
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < int64(len(entries)); i = next.Add(1) - 1 {
				out[i] = prepareOne(entries[i], c)
			}
		})
	}
	wg.Wait()
	return out
}

func prepareOne(e *bridge.Entry, c *codec) record {
	r := record{Entry: e}
	if e.Kind != bridge.EntryEvent && e.Kind != bridge.EntryQuarantine {
		return r
	}
	r.z = c.pack(e.Body)
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
	return r
}

// sanitize makes an entry's texts UTF-8, which protobuf insists on. The door does so already; an entry that someone else
// wrote must not stop the follower.
func (r *record) sanitize() {
	e := *r.Entry
	for _, s := range []*string{&e.Source, &e.EventID, &e.WebhookID, &e.EventType, &e.Operation, &e.TimestampText, &e.TraceID, &e.SpanID, &e.APIVersion} {
		*s = strings.ToValidUTF8(*s, "\uFFFD")
	}
	r.Entry = &e
	env := *r.env
	env.EventType, env.Operation = strings.ToValidUTF8(env.EventType, "\uFFFD"), strings.ToValidUTF8(env.Operation, "\uFFFD")
	env.Organizations = nil
	for _, o := range r.env.Organizations {
		env.Organizations = append(env.Organizations, strings.ToValidUTF8(o, "\uFFFD"))
	}
	r.env = &env
}
