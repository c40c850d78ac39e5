package app_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/spotbridge/spotbridge/app"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

// groupModel is what a group must be, beside a real one. Every step waits until its effect is certain, so the model is exact:
// which events are due, which are settled, and who holds what.
type groupModel struct {
	t       *testing.T
	rt      *rapid.T
	cfg     app.Config
	r       *running
	group   string
	begin   string // cursor
	names   int
	ids     []string
	due     map[string]bool // not settled
	parked  map[string]bool
	members []*modelMember
	// attempts are those since the last seek.
	attempts map[string]int32
	// gaps says that a member went: what was on its way to it comes late to others.
	gaps bool
}

type modelMember struct {
	*memberClient
	held map[string]*pb.GroupDelivery
	last uint64 // newest first delivery
}

func (m *groupModel) join() *modelMember {
	x := &modelMember{
		memberClient: m.r.join(m.t, &pb.Join{
			Group: m.group, Credit: &pb.Credit{Events: int64(rapid.IntRange(1, 8).Draw(m.rt, "credits"))}, AutoCredit: true,
			MaxBatchEvents: rapid.SampledFrom([]int32{0, 3, 1000}).Draw(m.rt, "batch"),
		}),
		held: map[string]*pb.GroupDelivery{},
	}
	x.joined()
	m.members = append(m.members, x)
	return x
}

// receive takes what has come to a member, and checks it.
func (m *groupModel) receive(x *modelMember) {
	msgs := append(x.kept, x.drainQueue()...)
	x.kept = nil
	for _, msg := range msgs {
		d := msg.GetDelivery()
		switch {
		case d != nil:
			m.got(x, d)
		case msg.GetHeartbeat() != nil:
		default:
			m.rt.Fatalf("a member got %v", msg)
		}
	}
}

func (m *groupModel) got(x *modelMember, d *pb.GroupDelivery) {
	id := d.GetEvent().GetId()
	if !m.due[id] {
		m.rt.Fatalf("%s came, and it is settled (attempt %d)", id, d.GetAttempt())
	}
	if m.parked[id] && !d.GetRedriven() {
		m.rt.Fatalf("%s came, and it is a dead letter", id)
	}
	for _, other := range m.members {
		if h := other.held[id]; h != nil {
			m.rt.Fatalf("%s came with attempt %d while a member holds attempt %d", id, d.GetAttempt(), h.GetAttempt())
		}
	}
	if d.GetAttempt() <= m.attempts[id] {
		m.rt.Fatalf("%s: attempt %d after %d", id, d.GetAttempt(), m.attempts[id])
	}
	if m.attempts[id] == 0 && d.GetAttempt() == 1 && !m.gaps {
		if d.GetEvent().GetSequence() <= x.last {
			m.rt.Fatalf("first deliveries out of order: %d after %d", d.GetEvent().GetSequence(), x.last)
		}
		x.last = d.GetEvent().GetSequence()
	}
	m.attempts[id] = d.GetAttempt()
	x.held[id] = d
}

// some draws some of what a member holds.
func (m *groupModel) some(x *modelMember) (ids, deliveries []string) {
	for id := range x.held {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	if len(ids) == 0 {
		return nil, nil
	}
	ids = rapid.Permutation(ids).Draw(m.rt, "which")[:rapid.IntRange(1, len(ids)).Draw(m.rt, "how many")]
	for _, id := range ids {
		deliveries = append(deliveries, x.held[id].GetDeliveryId())
	}
	return ids, deliveries
}

// barrier waits until everything that the member said before has had its effect, and everything that was sent to it has
// come.
func (m *groupModel) barrier(x *modelMember) {
	x.ack("barrier")
	r := x.refused()
	if r.GetReason() != "INVALID_DELIVERY_ID" || r.GetDeliveryId() != "barrier" {
		m.rt.Fatalf("refused: %v", r)
	}
}

func (m *groupModel) member() *modelMember {
	if len(m.members) == 0 {
		m.rt.Skip("nobody is there")
	}
	x := m.members[rapid.IntRange(0, len(m.members)-1).Draw(m.rt, "member")]
	m.receive(x)
	return x
}

func (m *groupModel) remove(x *modelMember) {
	m.gaps = true
	m.members = slices.DeleteFunc(m.members, func(y *modelMember) bool { return y == x })
}

func (m *groupModel) check(rt *rapid.T) {
	m.rt = rt
	for _, x := range m.members {
		m.receive(x)
	}
}

func (m *groupModel) actions() map[string]func(*rapid.T) {
	acts := map[string]func(){
		"publish": func() {
			m.names++
			for _, id := range m.r.put(m.t, fmt.Sprintf("%s-%d", m.group, m.names), rapid.IntRange(1, 12).Draw(m.rt, "events")) {
				m.ids = append(m.ids, id)
				m.due[id] = true
			}
		},
		"join": func() {
			if len(m.members) >= 4 {
				m.rt.Skip("enough members")
			}
			m.join()
		},
		"await": func() { // an event comes, or everything is held or parked already
			x := m.member()
			select {
			case msg := <-x.got:
				x.kept = append(x.kept, msg)
			case <-time.After(20 * time.Millisecond):
			}
			m.receive(x)
		},
		"ack": func() {
			x := m.member()
			ids, ds := m.some(x)
			if len(ids) == 0 {
				m.rt.Skip("holds nothing")
			}
			x.confirm(ds...)
			for _, id := range ids {
				delete(x.held, id)
				delete(m.due, id)
				delete(m.parked, id)
			}
		},
		"retry": func() {
			x := m.member()
			ids, ds := m.some(x)
			if len(ids) == 0 {
				m.rt.Skip("holds nothing")
			}
			for _, id := range ids {
				delete(x.held, id) // it may come to anyone from here on
			}
			x.nack(pb.NackAction_NACK_ACTION_RETRY, time.Duration(rapid.IntRange(0, 20).Draw(m.rt, "delay"))*time.Millisecond, "", ds...)
			m.barrier(x)
		},
		"park": func() {
			x := m.member()
			ids, ds := m.some(x)
			if len(ids) == 0 {
				m.rt.Skip("holds nothing")
			}
			x.nack(pb.NackAction_NACK_ACTION_PARK, -1, "", ds...)
			m.barrier(x)
			for _, id := range ids {
				delete(x.held, id)
				m.parked[id] = true
			}
		},
		"stale": func() {
			x := m.member()
			ids, ds := m.some(x)
			if len(ids) == 0 {
				m.rt.Skip("holds nothing")
			}
			x.confirm(ds...)
			for _, id := range ids {
				delete(x.held, id)
				delete(m.due, id)
				delete(m.parked, id)
			}
			x.ack(ds[0])
			if r := x.refused(); r.GetReason() != "STALE_DELIVERY" {
				m.rt.Fatalf("refused: %v", r)
			}
		},
		"crash": func() {
			x := m.member()
			m.remove(x)
			x.cut()
		},
		"leave": func() {
			x := m.member()
			x.send(&pb.ConsumeRequest{Content: &pb.ConsumeRequest_Leave{Leave: &pb.Leave{}}})
			// What it holds and what still comes is acknowledged; then the stream ends.
			for _, d := range x.held {
				delete(m.due, d.GetEvent().GetId())
				delete(m.parked, d.GetEvent().GetId())
				x.ack(d.GetDeliveryId())
			}
			x.held = map[string]*pb.GroupDelivery{}
			for msg := range x.got {
				if d := msg.GetDelivery(); d != nil {
					m.got(x, d)
					delete(x.held, d.GetEvent().GetId())
					delete(m.due, d.GetEvent().GetId())
					delete(m.parked, d.GetEvent().GetId())
					x.ack(d.GetDeliveryId())
				}
			}
			m.remove(x)
		},
		"seek": func() {
			if len(m.parked) > 0 {
				m.rt.Skip("the model knows no event that is due and a dead letter")
			}
			for _, x := range m.members {
				m.receive(x)
			}
			if _, err := m.r.groups().SeekConsumerGroup(m.t.Context(), &pb.SeekConsumerGroupRequest{Group: m.group, AfterCursor: m.begin}); err != nil {
				m.rt.Fatal(err)
			}
			for _, id := range m.ids {
				m.due[id] = true
			}
			m.attempts, m.gaps = map[string]int32{}, false
			for _, x := range m.members {
				// Whatever was on its way before the seek is void, and comes before the answer to the barrier. What is of the
				// new position comes with attempt 1 and cannot be told from it, so members start anew.
				x.cut()
			}
			m.members = nil
			waitUntil(m.t, "the members are gone", func() bool { return len(m.r.state(m.t, m.group).GetMembers()) == 0 })
		},
		"restart": func() {
			if rapid.IntRange(0, 3).Draw(m.rt, "luck") != 0 {
				m.rt.Skip("not now")
			}
			for _, x := range m.members {
				m.receive(x)
			}
			if err := m.r.stop(); err != nil {
				m.rt.Fatal(err)
			}
			m.members, m.gaps = nil, true
			m.r = start(m.t, m.cfg, app.Options{})
		},
		"redrive": func() {
			if _, err := m.r.groups().RedriveDeadLetters(m.t.Context(), &pb.RedriveDeadLettersRequest{Group: m.group}); err != nil {
				m.rt.Fatal(err)
			}
		},
	}
	out := map[string]func(*rapid.T){"": m.check}
	for name, f := range acts {
		out[name] = func(rt *rapid.T) { m.rt = rt; f() }
	}
	return out
}

// ackDeadline is longer than a schedule, so that no lease ends by itself; and short enough to wait for what was on its way to a
// member when a restart came: the engine has given it out, and nobody is there to give it back.
const ackDeadline = 60

// finish has a healthy member settle everything.
func (m *groupModel) finish() {
	for _, x := range slices.Clone(m.members) {
		m.receive(x)
		x.cut()
		m.remove(x)
	}
	if _, err := m.r.groups().RedriveDeadLetters(m.t.Context(), &pb.RedriveDeadLettersRequest{Group: m.group}); err != nil {
		m.rt.Fatal(err)
	}
	x := m.join()
	deadline := time.Now().Add((ackDeadline + 30) * time.Second)
	for len(m.due) > 0 {
		select {
		case msg, ok := <-x.got:
			if !ok {
				m.rt.Fatal("the stream has ended:", <-x.ended)
			}
			x.kept = append(x.kept, msg)
		case <-time.After(time.Until(deadline)):
			m.rt.Fatalf("%d events did not come: %v; state %v", len(m.due), m.due, m.r.state(m.t, m.group))
		}
		m.receive(x)
		for id, d := range x.held {
			x.confirm(d.GetDeliveryId())
			delete(x.held, id)
			delete(m.due, id)
		}
	}
	waitUntil(m.t, "nothing is left", func() bool {
		st := m.r.state(m.t, m.group)
		return st.GetLagEvents() == 0 && st.GetInFlightEvents() == 0 && st.GetDeadLetters() == 0 && st.GetRedrivenEvents() == 0
	})
	x.cut()
}

func TestGroupsKeepTheirPromisesOverRandomSchedules(t *testing.T) {
	cfg := testConfig(t)
	r := start(t, cfg, app.Options{})
	n := 0
	rapid.Check(t, func(rt *rapid.T) {
		n++
		m := &groupModel{
			t: t, rt: rt, cfg: cfg, r: r, group: fmt.Sprintf("g%d", n), due: map[string]bool{}, parked: map[string]bool{}, attempts: map[string]int32{},
		}
		defer func() { r = m.r }()
		r.create(t, &pb.CreateConsumerGroupRequest{Group: m.group, AckDeadline: seconds(ackDeadline), MaxDeliveries: 1000})
		m.begin = r.state(t, m.group).GetSettledCursor()
		rt.Repeat(m.actions())
		m.rt = rt
		m.finish()
		if _, err := m.r.groups().DeleteConsumerGroup(t.Context(), &pb.DeleteConsumerGroupRequest{Group: m.group}); err != nil {
			rt.Fatal(err)
		}
	})
}
