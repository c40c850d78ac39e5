package conformance

import (
	"fmt"
	"time"

	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

// give sends the events up to a number: those that the client has not had, as far as is known. To a member it sends as its
// credits allow.
func (p *play) give(c *call, upTo int) {
	if upTo = min(upTo, len(p.events)); c.sub != nil {
		for i := c.pos.events; i < upTo; i++ {
			p.event(c, i)
		}
		return
	}
	for {
		p.check()
		p.group.mu.Lock()
		i, _ := p.group.toGive(c, upTo)
		p.group.mu.Unlock()
		if i < 0 {
			return
		}
		p.giveOne(c, i)
	}
}

// while waits for a change of the group as long as the member stays.
func (p *play) while(c *call, changed <-chan struct{}, what string) {
	either := make(chan struct{})
	go func() { // it ends with the wait
		defer close(either)
		select {
		case <-changed:
		case <-c.closed:
		case <-p.ctx.Done():
		}
	}()
	p.await(either, p.patience, what)
	select {
	case <-c.closed:
		p.fatalf("the client ended its stream by itself; it should have given %s", what)
	default:
	}
}

// settle gives a member the events up to a number and waits until it has acknowledged all of them.
func (p *play) settle(c *call, upTo int) { p.settleBy(c, upTo, p.give) }

// settleBatches is settle with as many events in a message as there can be.
func (p *play) settleBatches(c *call, upTo int) { p.settleBy(c, upTo, p.batch) }

func (p *play) settleBy(c *call, upTo int, give func(c *call, upTo int)) {
	upTo = min(upTo, len(p.events))
	for {
		give(c, upTo)
		p.group.mu.Lock()
		next, open := p.group.toGive(c, upTo)
		more := next >= 0 && p.group.hasCredit(c)
		changed := p.group.changed
		p.group.mu.Unlock()
		if !open {
			return
		}
		if !more {
			p.while(c, changed, "an acknowledgement of what it holds")
		}
	}
}

// credit waits until a member may be sent an event.
func (p *play) credit(c *call, i int) {
	for {
		p.check()
		p.group.mu.Lock()
		credit, changed := p.group.hasCredit(c), p.group.changed
		p.group.mu.Unlock()
		if credit {
			return
		}
		p.while(c, changed, fmt.Sprintf("credit, so that it can be sent event %d", i+1))
	}
}

// giveOne sends a member one event, whatever has become of it before.
func (p *play) giveOne(c *call, i int) {
	p.credit(c, i)
	p.event(c, i)
}

// giveNow sends a member as many of the events up to a number as it has credit for.
func (p *play) giveNow(c *call, upTo int) {
	for i := p.nextNow(c, upTo); i >= 0; i = p.nextNow(c, upTo) {
		p.event(c, i)
	}
}

// nextNow returns which of the events up to a number a member may be sent now; -1 when there is none, or no credit.
func (p *play) nextNow(c *call, upTo int) int {
	p.group.mu.Lock()
	defer p.group.mu.Unlock()
	if !p.group.hasCredit(c) {
		return -1
	}
	i, _ := p.group.toGive(c, upTo)
	return i
}

// giveUntilKilled sends a member events until the client is dead.
func (p *play) giveUntilKilled(c *call) {
	t := time.NewTimer(p.patience)
	defer t.Stop()
	for {
		p.check()
		p.group.mu.Lock()
		i, open := p.group.toGive(c, len(p.events))
		credit, changed := p.group.hasCredit(c), p.group.changed
		p.group.mu.Unlock()
		if i >= 0 && credit && c.ctx.Err() == nil {
			p.logf("event %d", i+1)
			_ = p.try(c, p.message(c, i)) // it may be dead by now
			continue
		}
		select {
		case <-changed:
		case <-p.client.exited():
			return
		case <-t.C:
			p.fatalf("nothing came within %v: an acknowledgement of what it holds (events left: %t)", p.patience, open)
		case <-p.ctx.Done():
			p.check()
		}
	}
}

// persuade gives everything to a client that may end its streams by itself and resume. It returns the stream on which the
// client has everything.
func (p *play) persuade(c *call) *call {
	for range 6 {
		p.confirm(c)
		if c.sub == nil {
			if p.settled(c) {
				return c
			}
			c = p.next()
			continue
		}
		for i := c.pos.events; i < len(p.events) && c.ctx.Err() == nil; i++ {
			p.logf("event %d", i+1)
			if p.try(c, p.message(c, i)) == nil {
				c.pos = place{events: i + 1}
			}
		}
		c.pos.others++
		p.ended = time.Now()
		_ = p.try(c, &pb.SubscribeResponse{Cursor: p.cursor(c.pos), Content: &pb.SubscribeResponse_Goodbye{Goodbye: &pb.Goodbye{
			Reason: pb.GoodbyeReason_GOODBYE_REASON_MAX_AGE,
		}}})
		c.finish(nil)
		if c = p.next(); c.pos.events == len(p.events) {
			p.confirm(c)
			return c
		}
	}
	p.fatalf("the client ends its streams again and again, and does not come on")
	return nil
}

// settled gives a member everything, and reports whether it has acknowledged it; if not, it has ended its stream.
func (p *play) settled(c *call) bool {
	t := time.NewTimer(p.patience)
	defer t.Stop()
	for {
		p.check()
		p.group.mu.Lock()
		i, open := p.group.toGive(c, len(p.events))
		credit, changed := p.group.hasCredit(c), p.group.changed
		p.group.mu.Unlock()
		switch {
		case !open:
			return true
		case i >= 0 && credit && c.ctx.Err() == nil:
			_ = p.try(c, p.message(c, i))
			continue
		}
		select {
		case <-changed:
		case <-c.closed:
			return false
		case <-t.C:
			p.fatalf("nothing came within %v: an acknowledgement of what it holds", p.patience)
		case <-p.ctx.Done():
			p.check()
		}
	}
}

// had returns how many events the client has, from the first one on, as far as is known.
func (p *play) had(c *call) int {
	if c.sub == nil {
		return p.group.done()
	}
	return c.pos.events
}

// handle gives the client the events up to a number and, where that can be seen, waits until it has handled them.
func (p *play) handle(c *call, upTo int) {
	if c.sub == nil {
		p.settle(c, upTo)
		return
	}
	p.give(c, upTo)
}
