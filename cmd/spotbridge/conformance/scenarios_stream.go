package conformance

import (
	"math/rand/v2"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

// streamScenarios are about streams that work as they should, and about their ends.
var streamScenarios = []scenario{
	{
		name: "plain", on: everyone,
		demand: "handle every event of a stream without trouble, each once, and end with 0 after SIGTERM",
		script: func(p *play) {
			c := p.next()
			p.confirm(c)
			p.handle(c, 4)
			p.heartbeat(c)
			p.finish(c)
		},
	},
	{
		name: "many", on: everyone, events: 250,
		demand: "handle hundreds of events that come at once",
		script: func(p *play) {
			c := p.next()
			p.confirm(c)
			p.finish(c)
		},
	},
	{
		name: "duplicates", on: subscribers,
		demand: "skip events that come again after a resume",
		script: func(p *play) {
			c := p.next()
			p.confirm(c)
			p.give(c, 6)
			p.end(c, starting())
			c = p.next()
			p.confirm(c)
			c.pos = place{events: max(0, c.pos.events-4)}
			p.finish(c)
		},
	},
	{
		name: "heartbeat-cursor", on: subscribers,
		demand: "store the cursor of a heartbeat too, also before the first event, and resume with it",
		script: func(p *play) {
			last := ""
			for _, upTo := range []int{0, 3, 3} {
				c := p.next()
				if last != "" && c.sub.AfterCursor != last {
					p.fatalf("the client resumed after event %d and not with the cursor of the heartbeat that it had been sent since", c.pos.events)
				}
				p.confirm(c)
				p.give(c, upTo)
				p.heartbeat(c)
				last = p.heartbeat(c)
				p.end(c, starting())
			}
			c := p.next()
			if c.sub.AfterCursor != last {
				p.fatalf("the client did not resume with the cursor of the last heartbeat")
			}
			p.confirm(c)
			p.finish(c)
		},
	},
	{
		name: "fell-behind", on: subscribers,
		demand: "take fell_behind and caught_up for what they are, news, and go on",
		script: func(p *play) {
			c := p.next()
			p.confirm(c)
			p.give(c, 3)
			p.caughtUp(c)
			p.notice(c, &pb.SubscribeResponse{Content: &pb.SubscribeResponse_FellBehind{FellBehind: &pb.FellBehind{
				ServerTime: timestamppb.Now(), HeadSequence: 1000, BehindEvents: 1000,
			}}})
			p.give(c, 9)
			p.caughtUp(c)
			p.finish(c)
		},
	},
	{
		name: "goodbye-drain", on: everyone,
		demand: "come back after goodbye, but not before retry_after (2 s)",
		script: func(p *play) {
			const retryAfter = 2 * time.Second
			c := p.next()
			p.confirm(c)
			p.handle(c, 4)
			p.goodbye(c, pb.GoodbyeReason_GOODBYE_REASON_DRAIN, retryAfter)
			c = p.next()
			if waited := c.at.Sub(p.ended); waited < retryAfter-20*time.Millisecond {
				p.fatalf("the client came back %v after goodbye; retry_after said %v", waited.Round(time.Millisecond), retryAfter)
			}
			p.confirm(c)
			p.finish(c)
		},
	},
	{
		name: "goodbye-max-age", on: everyone,
		demand: "come back soon after goodbye without retry_after",
		script: func(p *play) {
			c := p.next()
			for upTo := 2; upTo <= 6; upTo += 2 {
				p.confirm(c)
				p.handle(c, upTo)
				p.goodbye(c, pb.GoodbyeReason_GOODBYE_REASON_MAX_AGE, 0)
				c = p.nextWithin(firstBackoff + promptly)
			}
			p.confirm(c)
			p.finish(c)
		},
	},
	{
		name: "sigterm", on: everyone, events: 60,
		demand: "end with 0 within 10 s of SIGTERM in the middle of a stream, and lose and repeat nothing after a new start",
		script: func(p *play) {
			c := p.warmUp()
			p.give(c, 25)
			p.stop()
			p.start()
			c = p.next()
			p.confirm(c)
			p.finish(c)
		},
	},
	{
		name: "kill", on: everyone, events: 240,
		demand: "resume from what is stored after SIGKILL in the middle of the work: nothing lost, nothing twice",
		script: func(p *play) {
			c := p.warmUp()
			for range 4 {
				if c.sub == nil {
					p.settle(c, p.had(c)+1) // now it is at work
					p.give(c, p.had(c)+3)
					p.pause(rand.N(60 * time.Millisecond))
				} else {
					// A subscriber does not say when it is. Events come until it is killed.
					p.forAWhile(8*time.Millisecond, func() { p.give(c, c.pos.events+1) })
					p.give(c, c.pos.events+2)
				}
				c = p.killed()
			}
			p.finish(c)
		},
	},
	{
		name: "batches", on: []protocol{subscribe, grouped}, events: 240,
		demand: "handle several events in one message, if it asks for that: all of them, and resume after SIGKILL in the middle with nothing lost and nothing twice",
		script: func(p *play) {
			c := p.warmUp()
			for range 4 {
				if c.sub == nil {
					p.settleBatches(c, p.had(c)+20)
					p.batch(c, p.had(c)+9)
					p.pause(rand.N(60 * time.Millisecond))
					c = p.killed()
					continue
				}
				p.forAWhile(20*time.Millisecond, func() { p.batch(c, c.pos.events+1+rand.IntN(5)) })
				p.batch(c, c.pos.events+6)
				c = p.killed()
			}
			if c.sub == nil {
				p.settleBatches(c, len(p.events))
			} else {
				p.batch(c, c.pos.events+7)
			}
			p.finish(c)
		},
	},
}

// promptly is how much longer than necessary something may take on a busy machine.
const promptly = 6 * time.Second

// forAWhile gives again and again, for a time of random length.
func (p *play) forAWhile(every time.Duration, give func()) {
	for until := time.Now().Add(100*time.Millisecond + rand.N(300*time.Millisecond)); time.Now().Before(until); {
		give()
		p.pause(every)
	}
}

// killed kills the client and starts it again. It returns the confirmed stream with which it comes back.
func (p *play) killed() *call {
	p.kill()
	p.start()
	c := p.next()
	p.confirm(c)
	return c
}

// warmUp has the client handle three events and come back, so that it is known to have a position. It returns the confirmed
// stream on which it did.
func (p *play) warmUp() *call {
	c := p.next()
	p.confirm(c)
	p.handle(c, 3)
	p.goodbye(c, pb.GoodbyeReason_GOODBYE_REASON_MAX_AGE, 0)
	c = p.next()
	p.confirm(c)
	return c
}

func starting() error {
	return refusal(pb.ErrorReason_ERROR_REASON_STARTING, "the bridge is starting and history is not complete yet; retry with backoff", nil)
}
