package conformance

import (
	"errors"
	"io"
	"sync"
	"time"

	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

// defaultDeadline is the ack deadline of the scripted group; a scenario may have another.
const defaultDeadline = 30 * time.Second

// groupName is the group that exists.
const groupName = "conformance"

// maxAttempts is how often an event comes until somebody has to say that it never ends.
const maxAttempts = 8

// ackFate is what becomes of an ack.
type ackFate uint8

const (
	takeAck   ackFate = iota
	refuseAck         // STALE_DELIVERY; the event comes again
	loseAck           // it never arrives
)

// handed is one delivery of an event to a member.
type handed struct {
	id      string
	event   int
	attempt int
	to      *call
	size    int64
	held    bool
	expiry  *time.Timer
}

// group is the scripted consumer group: what was delivered, and what the members have said of it.
type group struct {
	deadline time.Duration // set before anything is delivered

	// Below: guarded by mu.
	mu sync.Mutex
	// fail ends the scenario: the client has done what no client may do. log tells what it does.
	fail, log func(format string, args ...any)
	// onAck is asked about each ack; nil = it is taken.
	onAck    func(h *handed) ackFate
	changed  chan struct{} // closed and made anew with each change
	attempts map[int]int   // by event
	settled  map[int]bool
	acked    map[int]bool // ever
	handed   map[string]*handed
	dropped  map[*call]int // what members held when their streams ended
}

func newGroup() *group {
	return &group{
		fail: func(string, ...any) {}, log: func(string, ...any) {}, deadline: defaultDeadline, changed: make(chan struct{}),
		attempts: map[int]int{}, settled: map[int]bool{}, acked: map[int]bool{}, handed: map[string]*handed{}, dropped: map[*call]int{},
	}
}

// tell sets who is told what the members do.
func (g *group) tell(fail, log func(format string, args ...any)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.fail, g.log = fail, log
}

// change tells whoever waits. The lock must be held.
func (g *group) change() {
	close(g.changed)
	g.changed = make(chan struct{})
}

// hand makes a delivery of an event. It is held from now on: the ack may be faster than the send.
func (g *group) hand(c *call, event int) *handed {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.attempts[event]++; g.attempts[event] > maxAttempts {
		g.fail("event %d has come %d times, and the client has never settled it", event+1, maxAttempts)
	}
	h := &handed{id: "d-" + token("delivery", 1000*event+g.attempts[event]), event: event, attempt: g.attempts[event], to: c, held: true}
	h.expiry = time.AfterFunc(g.deadline, func() { g.expire(h) })
	g.handed[h.id] = h
	g.settled[event] = false
	c.events--
	return h
}

// charge takes the bytes of a delivery from the member's credits.
func (g *group) charge(h *handed, size int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if h.size = int64(size); h.to.join.Bytes > 0 {
		h.to.bytes -= h.size
	}
}

// release takes a delivery from its member. The lock must be held.
func (g *group) release(h *handed) {
	h.held = false
	h.expiry.Stop()
	if c := h.to; c.join.AutoCredit {
		c.events++
		if c.join.Bytes > 0 {
			c.bytes += h.size
		}
	}
	g.change()
}

func (g *group) expire(h *handed) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if h.held {
		g.log("the deadline of event %d, attempt %d, has passed", h.event+1, h.attempt)
		g.release(h)
		g.leaveIfDone(h.to)
	}
}

// gone takes everything from a member whose stream has ended.
func (g *group) gone(c *call) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, h := range g.handed {
		if h.to == c && h.held {
			g.dropped[c]++
			g.release(h)
		}
	}
	g.change()
}

// farewell tells how a member whose stream has ended has left.
func (g *group) farewell(c *call) (left bool, dropped int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return c.left, g.dropped[c]
}

// setOnAck sets what is asked about each ack.
func (g *group) setOnAck(f func(h *handed) ackFate) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.onAck = f
}

// done returns how many events from the first one on are settled.
func (g *group) done() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := 0
	for g.settled[n] {
		n++
	}
	return n
}

// outcome returns which events must have been processed, since they were acknowledged, and which ones may have been.
func (g *group) outcome() (must, may []int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for i := range g.attempts {
		if may = append(may, i); g.acked[i] {
			must = append(must, i)
		}
	}
	return must, may
}

// receive reads what a member says, until its stream ends.
func (g *group) receive(c *call) {
	for {
		m, err := c.stream.Receive()
		if errors.Is(err, io.EOF) {
			c.finish(nil) // half-closed: nobody can settle what it holds
			return
		}
		if err != nil {
			return
		}
		for _, answer := range g.heard(c, m) {
			if c.send(answer) != nil {
				return
			}
		}
		g.mu.Lock()
		g.leaveIfDone(c)
		g.mu.Unlock()
	}
}

// heard handles one message of a member, and returns the answers.
func (g *group) heard(c *call, m *pb.ConsumeRequest) (answers []*pb.ConsumeResponse) {
	g.mu.Lock()
	defer g.mu.Unlock()
	defer g.change()
	var settled, refused []string
	switch m := m.GetContent().(type) {
	case *pb.ConsumeRequest_Credit:
		c.events += m.Credit.GetEvents()
		c.bytes += m.Credit.GetBytes()
	case *pb.ConsumeRequest_Ack:
		if settled, refused = g.ack(c, m.Ack); len(settled) > 0 && m.Ack.GetConfirm() {
			answers = append(answers, &pb.ConsumeResponse{Content: &pb.ConsumeResponse_Settled{Settled: &pb.Settled{DeliveryIds: settled}}})
		}
	case *pb.ConsumeRequest_Nack:
		_, refused = g.nack(c, m.Nack)
	case *pb.ConsumeRequest_Extend:
		_, refused = g.extend(c, m.Extend)
	case *pb.ConsumeRequest_Leave:
		g.log("the member leaves")
		c.left = true
	default:
		g.fail("the client sent %T, which is not for the middle of a stream", m)
	}
	for _, id := range refused {
		answers = append(answers, &pb.ConsumeResponse{Content: &pb.ConsumeResponse_Refused{Refused: stale(id)}})
	}
	return answers
}

// acknowledge is the unary twin: whoever holds a delivery may settle it.
func (g *group) acknowledge(r *pb.AcknowledgeRequest) *pb.AcknowledgeResponse {
	g.mu.Lock()
	defer g.mu.Unlock()
	defer g.change()
	settled, refused := g.ack(nil, r.GetAck())
	for _, n := range r.GetNacks() {
		s, bad := g.nack(nil, n)
		settled, refused = append(settled, s...), append(refused, bad...)
	}
	extended, bad := g.extend(nil, r.GetExtend())
	out := &pb.AcknowledgeResponse{Settled: settled}
	for _, id := range extended {
		out.Extended = append(out.Extended, &pb.Extended{DeliveryId: id, NewDeliveryId: id})
	}
	for _, id := range append(refused, bad...) {
		out.Refused = append(out.Refused, stale(id))
	}
	return out
}

func stale(id string) *pb.Refused {
	return &pb.Refused{
		DeliveryId: id, Reason: "STALE_DELIVERY", Message: "the delivery is no longer yours; the event comes again if it is not settled",
	}
}

// each calls settle with the deliveries that a member holds (nil = anybody), and returns the ids for which that was true, and
// the others. The lock must be held.
func (g *group) each(c *call, what string, ids []string, settle func(h *handed) bool) (done, refused []string) {
	for _, id := range ids {
		h := g.handed[id]
		switch {
		case h == nil:
			g.fail("the client sent %s for a delivery id that it was never given", what)
		case h.held && (c == nil || h.to == c):
			if settle(h) {
				done = append(done, id)
				continue
			}
			if h.held {
				continue // as if nothing had been said
			}
			fallthrough
		default:
			g.log("%s for event %d, attempt %d, is refused", what, h.event+1, h.attempt)
			refused = append(refused, id)
		}
	}
	return done, refused
}

func (g *group) ack(c *call, a *pb.Ack) (settled, refused []string) {
	return g.each(c, "ack", a.GetDeliveryIds(), func(h *handed) bool {
		fate := takeAck
		if g.onAck != nil {
			fate = g.onAck(h)
		}
		if fate == loseAck {
			return false
		}
		if g.release(h); fate == refuseAck {
			return false
		}
		g.log("event %d, attempt %d, is acknowledged", h.event+1, h.attempt)
		g.settled[h.event], g.acked[h.event] = true, true
		return true
	})
}

func (g *group) nack(c *call, n *pb.Nack) (settled, refused []string) {
	return g.each(c, "nack", n.GetDeliveryIds(), func(h *handed) bool {
		switch n.GetAction() {
		case pb.NackAction_NACK_ACTION_PARK, pb.NackAction_NACK_ACTION_SKIP:
			g.fail("the client gave event %d up with %v (reason %q); nothing here asks for that", h.event+1, n.GetAction(), n.GetReason())
		default:
			g.log("event %d, attempt %d, is to come again: %s", h.event+1, h.attempt, n.GetReason())
		}
		g.release(h)
		return true
	})
}

func (g *group) extend(c *call, x *pb.Extend) (extended, refused []string) {
	return g.each(c, "extend", x.GetDeliveryIds(), func(h *handed) bool {
		g.log("event %d, attempt %d, gets more time", h.event+1, h.attempt)
		h.expiry.Reset(g.deadline)
		return true
	})
}

// leaveIfDone ends the stream of a member that wants to leave and holds nothing. The lock must be held.
func (g *group) leaveIfDone(c *call) {
	if c.left && g.holds(c) == 0 {
		c.finish(nil)
	}
}

// holds counts what a member holds. The lock must be held.
func (g *group) holds(c *call) int {
	n := 0
	for _, h := range g.handed {
		if h.to == c && h.held {
			n++
		}
	}
	return n
}

// toGive returns the first of the events that is neither settled nor held by the member; -1 when there is none. open says
// that there are some that are not settled. The lock must be held.
func (g *group) toGive(c *call, upTo int) (next int, open bool) {
	held := map[int]bool{}
	for _, h := range g.handed {
		if h.to == c && h.held {
			held[h.event] = true
		}
	}
	next = -1
	for i := range upTo {
		if g.settled[i] {
			continue
		}
		open = true
		if !held[i] && next < 0 {
			next = i
		}
	}
	return next, open
}

// hasCredit reports whether the member may be sent an event. The lock must be held.
func (g *group) hasCredit(c *call) bool {
	return c.events > 0 && (c.join.Bytes == 0 || c.bytes > 0) && !c.left
}
