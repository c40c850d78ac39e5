package conformance

import (
	"fmt"
	"net/http"
	"sync"
	"time"

	"google.golang.org/grpc/codes"

	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

// shortHeartbeat is an interval that makes three of them short. A bridge may confirm another one than it was asked for.
const shortHeartbeat = 500 * time.Millisecond

// digest is time for a client to handle what it was sent, before its connection breaks: some libraries throw away what has
// come and was not read yet. Nothing is wrong with that, but a scenario of a client that never gets on tries little.
const digest = 100 * time.Millisecond

// troubleScenarios are about networks, restarts and refusals.
var troubleScenarios = []scenario{
	{
		name: "cut-between", on: everyone,
		demand: "resume when the connection breaks between two events",
		script: func(p *play) {
			for _, how := range []breakage{byFIN, byRST} {
				c := p.next()
				p.confirm(c)
				p.handle(c, p.had(c)+3)
				p.pause(digest)
				p.snap(c, how)
			}
			c := p.next()
			p.confirm(c)
			p.finish(c)
		},
	},
	{
		name: "cut-mid-event", on: everyone,
		demand: "drop an event of which the connection brought only a part, and have it come again",
		script: func(p *play) {
			for _, at := range []struct {
				part    float64
				fromEnd int
				how     breakage
			}{{0.1, 0, byFIN}, {0.5, 0, byFIN}, {0.5, 0, byRST}, {0, 60, byFIN}, {-0.001, 0, byFIN}} {
				c := p.next()
				p.confirm(c)
				p.handle(c, p.had(c)+2)
				p.pause(digest)
				p.cut(c, p.had(c), at.part, at.fromEnd, at.how)
			}
			c := p.next()
			p.confirm(c)
			p.finish(c)
		},
	},
	{
		name: "silent", on: everyone,
		demand: "give a stream up after three of the confirmed heartbeat intervals without a message, not of the requested ones, and not before",
		script: func(p *play) {
			c := p.next()
			p.confirmWith(c, shortHeartbeat)
			p.handle(c, 3)
			for range 5 {
				p.pause(shortHeartbeat)
				p.heartbeat(c)
			}
			silence := p.said
			c = p.nextWithin(3*shortHeartbeat + firstBackoff + promptly)
			if waited := c.at.Sub(silence); waited < 3*shortHeartbeat*9/10 {
				p.fatalf("the client gave the stream up after %v of silence; three intervals are %v", waited.Round(time.Millisecond), 3*shortHeartbeat)
			}
			p.confirm(c)
			p.finish(c)
		},
	},
	{
		name: "silent-start", on: everyone,
		demand: "give a stream up that does not even confirm, after three of the requested intervals",
		script: func(p *play) {
			c := p.next()
			c = p.nextWithin(3*c.heartbeat + firstBackoff + promptly)
			p.confirm(c)
			p.finish(c)
		},
	},
	{
		name: "half-open", on: everyone,
		demand: "come back over a new connection when the old one stays open and nothing passes any more",
		script: func(p *play) {
			c := p.next()
			p.confirmWith(c, shortHeartbeat)
			p.handle(c, 3)
			p.pause(digest)
			p.snap(c, byFreeze)
			// A client that keeps its connection needs keepalive pings to find out: 20 s and 10 s are usual.
			c = p.nextWithin(45 * time.Second)
			p.confirm(c)
			p.finish(c)
		},
	},
	{
		name: "unreachable", on: everyone, late: true,
		demand: "try again when nothing listens yet, without doing so all the time",
		script: func(p *play) {
			t := p.bridge.grpc
			if p.protocol == sse {
				t = p.bridge.http
			}
			t.setReset(true)
			p.start()
			p.await(t.first, p.patience, "that the client connects")
			p.pause(2 * time.Second)
			if n := t.setReset(false); n > 15 {
				p.fatalf("the client connected %d times within 2 s", n)
			}
			c := p.next()
			p.confirm(c)
			p.finish(c)
		},
	},
	{
		name: "slow-start", on: everyone,
		demand: "wait longer after each UNAVAILABLE: at least 125 ms, 250 ms, 500 ms, 1 s",
		script: func(p *play) {
			const failures = 4
			for n := range failures {
				c := p.next()
				if n > 0 {
					p.backedOff(c, n)
				}
				p.end(c, starting())
			}
			c := p.next()
			p.backedOff(c, failures)
			p.confirm(c)
			p.finish(c)
		},
	},
	{
		name: "crash-loop", on: everyone,
		demand: "wait longer each time also when streams break off right after their confirmation",
		script: func(p *play) {
			const failures = 4
			for n := range failures {
				c := p.next()
				if n > 0 {
					p.backedOff(c, n)
				}
				p.confirm(c)
				p.end(c, plainStatus(codes.Unavailable))
			}
			c := p.next()
			p.backedOff(c, failures)
			p.confirm(c)
			p.finish(c)
		},
	},
	{
		name: "backoff-anew", on: everyone,
		demand: "begin with short waits again once a stream has brought more than its confirmation",
		script: func(p *play) {
			const failures = 5 // the next wait would be 4 s at least
			for range failures {
				p.end(p.next(), starting())
			}
			c := p.next()
			p.confirm(c)
			p.handle(c, 2)
			p.heartbeat(c)
			p.end(c, plainStatus(codes.Unavailable))
			c = p.nextWithin(3500 * time.Millisecond)
			p.confirm(c)
			p.finish(c)
		},
	},
	{
		name: "resume-codes", on: everyone, events: 16,
		demand: "resume after UNAVAILABLE, RESOURCE_EXHAUSTED, DEADLINE_EXCEEDED, CANCELLED, INTERNAL, UNKNOWN and ABORTED in the middle of a stream",
		script: func(p *play) {
			for _, code := range []codes.Code{
				codes.Unavailable, codes.ResourceExhausted, codes.DeadlineExceeded, codes.Canceled, codes.Internal, codes.Unknown, codes.Aborted,
			} {
				c := p.next()
				p.confirm(c)
				p.handle(c, p.had(c)+2)
				p.end(c, plainStatus(code))
			}
			c := p.next()
			p.confirm(c)
			p.finish(c)
		},
	},
	{
		name: "stop-codes", on: everyone,
		demand: "end with another exit code than 0, and without another attempt, after INVALID_ARGUMENT, NOT_FOUND, OUT_OF_RANGE, PERMISSION_DENIED, UNAUTHENTICATED, FAILED_PRECONDITION, UNIMPLEMENTED and DATA_LOSS in the middle of a stream",
		script: func(p *play) {
			for _, code := range []codes.Code{
				codes.InvalidArgument, codes.NotFound, codes.OutOfRange, codes.PermissionDenied, codes.Unauthenticated, codes.FailedPrecondition, codes.Unimplemented, codes.DataLoss,
			} {
				c := p.next()
				p.confirm(c)
				p.handle(c, p.had(c)+1)
				p.end(c, plainStatus(code))
				p.stops(code.String())
				p.start()
			}
			c := p.next()
			p.confirm(c)
			p.finish(c)
		},
	},
	{
		name: "permission-denied", on: everyone,
		demand: "stop when the first answer is PERMISSION_DENIED, over REST 403",
		script: func(p *play) {
			p.end(p.next(), refusal(pb.ErrorReason_ERROR_REASON_PERMISSION_DENIED, "you may not see this organization", nil))
			p.stops("PERMISSION_DENIED")
		},
	},
	{
		name: "cursor-expired", on: subscribers,
		demand: "stop at OUT_OF_RANGE CURSOR_EXPIRED, keep the cursor, and never begin anew in silence",
		script: func(p *play) {
			c := p.next()
			p.confirm(c)
			p.give(c, 3)
			p.end(c, starting())
			expired := refusal(pb.ErrorReason_ERROR_REASON_CURSOR_EXPIRED, "events after this cursor are no longer held", map[string]string{
				"earliest_cursor": p.cursor(place{events: 8}), "earliest_time": time.Now().UTC().Format(time.RFC3339),
			})
			for again := range 2 {
				if again > 0 {
					p.start() // as a unit's manager would
				}
				c = p.next()
				if c.pos.events == 8 {
					p.fatalf("the client went on at the earliest cursor by itself: the events before it are lost, and nobody was told")
				}
				p.end(c, expired)
				p.stops("CURSOR_EXPIRED")
			}
		},
	},
	{
		name: "cursor-invalid", on: subscribers,
		demand: "stop when the cursor is refused as one of another log",
		script: func(p *play) {
			c := p.next()
			p.confirm(c)
			p.give(c, 3)
			p.end(c, starting())
			p.end(p.next(), refusal(pb.ErrorReason_ERROR_REASON_CURSOR_FOREIGN, "the cursor belongs to another log", nil))
			p.stops("CURSOR_FOREIGN")
		},
	},
	{
		name: "proxy-errors", on: readers, late: true,
		demand: "resume after 502, 504, 500 and 429 of a proxy that answers with a page, waiting longer each time",
		script: func(p *play) {
			answers := []int{http.StatusBadGateway, http.StatusGatewayTimeout, http.StatusInternalServerError, http.StatusTooManyRequests}
			var mu sync.Mutex
			var came []time.Time
			proxy := func(w http.ResponseWriter, _ *http.Request) bool {
				mu.Lock()
				defer mu.Unlock()
				if came = append(came, time.Now()); len(came) > len(answers) {
					return false
				}
				w.Header().Set("Content-Type", "text/html")
				w.WriteHeader(answers[len(came)-1])
				fmt.Fprintln(w, "<html><body>Sorry</body></html>")
				return true
			}
			p.bridge.proxy.Store(&proxy)
			p.start()
			c := p.next()
			mu.Lock()
			times := came
			mu.Unlock()
			for n := 1; n < len(times); n++ {
				if least, waited := firstBackoff<<(n-1)/2, times[n].Sub(times[n-1]); waited < least*9/10 {
					p.fatalf("after %d failures in a row the client came back within %v; at least %v must pass", n, waited.Round(time.Millisecond), least)
				}
			}
			p.confirm(c)
			p.finish(c)
		},
	},
	{
		name: "pieces", on: readers,
		demand: "put events together that come in pieces of a few bytes, in the middle of lines and characters",
		script: func(p *play) {
			c := p.next()
			p.wire(c).inPieces(23)
			p.confirm(c)
			p.finish(c)
		},
	},
}
