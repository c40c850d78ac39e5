package conformance

import "time"

// next waits for the client's next stream, and checks where it wants to go on.
func (p *play) next() *call { return p.nextWithin(p.patience + longestBackoff) }

// nextWithin is next for when the contract gives the client less time.
func (p *play) nextWithin(atMost time.Duration) *call {
	p.check()
	t := time.NewTimer(atMost)
	defer t.Stop()
	var c *call
	for c == nil || c.ctx.Err() != nil { // one that is over already was opened before the client ended
		select {
		case c = <-p.bridge.calls:
		case <-p.client.exited():
			p.fatalf("the client ended by itself (%s); it should have opened a stream", p.client.ending())
		case <-t.C:
			p.fatalf("the client has not opened a stream within %v", atMost.Round(100*time.Millisecond))
		case <-p.ctx.Done():
			p.check()
		}
	}
	if p.bridge.crowded.Load() {
		p.fatalf("the client opens streams without end")
	}
	if c.sub == nil != (p.protocol == grouped) {
		p.fatalf("the client opened a stream of the other kind: this is the protocol %s", p.protocol)
	}
	if c.sub != nil {
		p.admit(c)
	} else {
		p.admitMember(c)
	}
	return c
}

// admit checks the cursor of a subscription.
func (p *play) admit(c *call) {
	if c.sub.AfterCursor == "" {
		p.logf("a subscription without a cursor, start %v", c.sub.Start)
		if p.owes {
			p.fatalf("the client began anew without a cursor, though it had one: what it has would come again, and what has expired would be lost in silence")
		}
		return
	}
	at, known := p.cursors[c.sub.AfterCursor]
	if !known {
		p.fatalf("the client presented a cursor that no message had: %q", c.sub.AfterCursor)
	}
	p.logf("a subscription after event %d", at.events)
	if at.events == p.torn && at.others == 0 && p.torn > 0 {
		p.fatalf("the client resumed after event %d, of which it had got only a part", p.torn)
	}
	if at.before(p.reached) {
		p.fatalf("the client went back: its cursor is that of a message after event %d, and it had presented a later one before, after event %d", at.events, p.reached.events)
	}
	p.reached, p.owes, c.pos = at, true, at
}

func (p *play) admitMember(c *call) {
	p.logf("a member joins with credit for %d events", c.events)
	if c.join.Group != groupName {
		p.fatalf("the client joined the group %q; SPOTBRIDGE_GROUP says %q", c.join.Group, groupName)
	}
}

// cursor returns the text of a place.
func (p *play) cursor(at place) string {
	text := token("cursor", 1000*at.events+at.others)
	p.cursors[text] = at
	return text
}

// backedOff demands that the client has waited as it should after n failures in a row.
func (p *play) backedOff(c *call, n int) {
	least := firstBackoff << (n - 1) / 2
	if waited := c.at.Sub(p.ended); waited < least*9/10 {
		p.fatalf("after %d failures in a row the client came back within %v; at least %v must pass", n, waited.Round(time.Millisecond), least)
	}
}
