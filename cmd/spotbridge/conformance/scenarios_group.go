package conformance

import (
	"context"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

// groupScenarios are about what only members of a consumer group meet.
var groupScenarios = []scenario{
	{
		name: "ack-after-result", on: members, events: 20,
		demand: "acknowledge only what is stored: killed right after an ack, it has processed the event",
		script: func(p *play) {
			for round := range 3 {
				c := p.next()
				p.confirm(c)
				acks, dead := 0, make(chan struct{})
				p.group.setOnAck(func(*handed) ackFate {
					if acks++; acks == round+1 {
						go func() { // at once, and not when this ack has been answered
							p.client.kill()
							close(dead)
						}()
					} else if acks > round+1 {
						return loseAck // it is as good as dead, and may be quick enough to leave nothing for the next round
					}
					return takeAck
				})
				p.giveUntilKilled(c)
				<-dead
				p.group.setOnAck(nil)
				p.compare()
				p.start()
			}
			c := p.next()
			p.confirm(c)
			p.finish(c)
		},
	},
	{
		name: "cut-in-hand", on: members,
		demand: "handle events that come again after the connection broke, in another order: those that were processed once, and acknowledge them again",
		script: func(p *play) {
			for _, how := range []breakage{byRST, byFIN} {
				c := p.next()
				p.confirm(c)
				p.settle(c, p.had(c)+1)
				// Acks of these are lost: the client has processed them, or not.
				p.group.setOnAck(func(*handed) ackFate { return loseAck })
				p.giveNow(c, p.had(c)+4)
				p.snap(c, how)
				p.group.setOnAck(nil)
			}
			c := p.next()
			p.confirm(c)
			for i := p.had(c) + 3; i >= p.had(c); i-- { // the last ones first
				p.giveOne(c, i)
			}
			p.finish(c)
		},
	},
	{
		name: "refused", on: members,
		demand: "go on after refused (STALE_DELIVERY): the stream does not end, and the event comes again",
		script: func(p *play) {
			c := p.next()
			p.confirm(c)
			p.settle(c, 2)
			refusals := 0
			p.group.setOnAck(func(h *handed) ackFate {
				if h.event == 2 && h.attempt == 1 || h.event == 4 && h.attempt < 3 {
					refusals++
					return refuseAck
				}
				return takeAck
			})
			p.settle(c, 8)
			if refusals != 3 {
				p.fatalf("three acks were to be refused, and %d were", refusals)
			}
			p.finish(c)
		},
	},
	{
		name: "acked-again", on: members,
		demand: "acknowledge an event again that comes again though it was acknowledged, and process it once",
		script: func(p *play) {
			c := p.next()
			p.confirm(c)
			p.settle(c, 4)
			for _, i := range []int{1, 3, 1} {
				p.giveOne(c, i)
				p.settle(c, 4)
			}
			p.finish(c)
		},
	},
	{
		name: "lost", on: members,
		demand: "go on after lost: it is news, for people",
		script: func(p *play) {
			c := p.next()
			p.confirm(c)
			some := int64(3)
			for _, l := range []*pb.Lost{{FromSequence: 1, ToSequence: 9, Time: timestamppb.Now(), Events: &some}, {FromSequence: 20, ToSequence: 21}} {
				p.say(c, &pb.ConsumeResponse{Content: &pb.ConsumeResponse_Lost{Lost: l}})
				p.settle(c, p.had(c)+3)
			}
			p.finish(c)
		},
	},
	{
		name: "group-not-found", on: members,
		demand: "stop when there is no such group",
		script: func(p *play) {
			p.end(p.next(), refusal(pb.ErrorReason_ERROR_REASON_GROUP_NOT_FOUND, "there is no consumer group "+groupName, nil))
			p.stops("GROUP_NOT_FOUND")
		},
	},
	{
		name: "leave", on: members, events: 60,
		demand: "send leave after SIGTERM, settle what it holds, and end with 0 when the stream does",
		script: func(p *play) {
			c := p.next()
			p.confirm(c)
			p.settle(c, 2)
			p.giveNow(c, len(p.events))
			p.stop()
			left, dropped := p.group.farewell(c)
			if !left {
				p.fatalf("the client did not send leave after SIGTERM")
			}
			if dropped > 0 {
				p.fatalf("the client ended its stream while it held %d events; after leave they are to be settled", dropped)
			}
			p.start()
			c = p.next()
			p.confirm(c)
			p.finish(c)
		},
	},
	{
		name: "deadline", on: members, events: 4,
		demand: "extend an event whose handling takes longer than the ack deadline (2 s; the body of an omitted event comes after 5 s), or have it come again: process it once, and acknowledge it at last",
		script: func(p *play) {
			e := largeBodies()[1]
			p.insertOmitted(2, e)
			p.group.deadline = 2 * time.Second
			p.bridge.history.before = func(ctx context.Context, id string, times int) error {
				if id != e.EventID || times > 1 {
					return nil
				}
				select {
				case <-time.After(5 * time.Second):
					return nil
				case <-ctx.Done():
					return ctx.Err()
				}
			}
			c := p.next()
			p.confirm(c)
			p.settle(c, len(p.events)-1)
			p.finish(c) // the ack of the last one shows that it has read what was refused before
		},
	},
}
