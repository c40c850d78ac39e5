package app_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/spotbridge/spotbridge/app"
	"github.com/spotbridge/spotbridge/bridge"
	"github.com/spotbridge/spotbridge/bridge/bridgetest"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

func TestGroupsOnTheEmbeddedLog(t *testing.T) {
	groupSuite(t, func(t testing.TB) app.Config { return testConfig(t) })
}

func seconds(n int) *durationpb.Duration { return durationpb.New(time.Duration(n) * time.Second) }

const earliest = pb.Start_START_EARLIEST

// groupSuite holds consumer groups to their contract, over gRPC, on a bridge with this configuration. config is called once
// for each test, and gives it a log of its own.
func groupSuite(t *testing.T, config func(t testing.TB) app.Config) {
	begin := func(t *testing.T) *running { t.Helper(); return start(t, config(t), app.Options{}) }

	t.Run("EveryEventOnceInOrderToAMemberThatAcknowledges", func(t *testing.T) {
		r := begin(t)
		want := r.put(t, "a", 150)
		r.create(t, &pb.CreateConsumerGroupRequest{Group: "g", Start: earliest})
		m := r.join(t, &pb.Join{Group: "g", Credit: &pb.Credit{Events: 10}, AutoCredit: true})
		want = append(want, r.put(t, "b", 50)...)
		for i, id := range want {
			d := m.delivery()
			if d.GetEvent().GetId() != id || d.GetAttempt() != 1 || d.GetEvent().GetPnrV3() == nil || d.GetRedriven() {
				t.Fatalf("delivery %d: %v, want %s", i, d, id)
			}
			m.ack(d.GetDeliveryId())
		}
		waitUntil(t, "everything is settled", func() bool {
			st := r.state(t, "g")
			return st.GetLagEvents() == 0 && st.GetSettledSequence() == 200 && st.GetInFlightEvents() == 0 && st.GetLag().AsDuration() == 0
		})
		m.leave()
	})

	t.Run("MembersShareEventsAndMayComeAndGo", func(t *testing.T) {
		r := begin(t)
		r.create(t, &pb.CreateConsumerGroupRequest{Group: "g"})
		join := &pb.Join{Group: "g", Credit: &pb.Credit{Events: 5}, AutoCredit: true}
		seen, by := map[string]int{}, map[string]int{}
		// take settles n events, or (n < 0) all that are still held when the member leaves.
		take := func(name string, m *memberClient, n int) {
			t.Helper()
			for ; n != 0; n-- {
				d := m.delivery()
				if d.GetAttempt() != 1 {
					t.Fatalf("%s: attempt %d", name, d.GetAttempt())
				}
				seen[d.GetEvent().GetId()]++
				by[name]++
				m.confirm(d.GetDeliveryId())
			}
		}
		a, b := r.join(t, join), r.join(t, join)
		a.joined()
		b.joined()
		ids := r.put(t, "x", 20)
		take("a", a, 6)
		take("b", b, 6)
		c := r.join(t, join)
		c.joined()
		ids = append(ids, r.put(t, "y", 40)...)
		take("c", c, 6)
		// One leaves in good order: it settles what it has, and gets nothing more.
		a.send(&pb.ConsumeRequest{Content: &pb.ConsumeRequest_Leave{Leave: &pb.Leave{}}})
		finish := func(x *pb.ConsumeResponse) {
			if d := x.GetDelivery(); d != nil {
				seen[d.GetEvent().GetId()]++
				a.ack(d.GetDeliveryId())
			}
		}
		for _, x := range a.kept {
			finish(x)
		}
		for x := range a.got {
			finish(x)
		}
		a.end(codes.OK)
		members := map[string]*memberClient{"b": b, "c": c}
		for len(seen) < len(ids) {
			for name, m := range members {
				select {
				case x := <-m.got:
					m.kept = append(m.kept, x)
				case <-time.After(10 * time.Millisecond):
				}
				if slices.ContainsFunc(m.kept, func(x *pb.ConsumeResponse) bool { return x.GetDelivery() != nil }) {
					take(name, m, 1)
				}
			}
		}
		for _, id := range ids {
			if seen[id] != 1 {
				t.Fatalf("%s came %d times", id, seen[id])
			}
		}
		if len(by) != 3 {
			t.Fatalf("shares %v", by)
		}
	})

	t.Run("EventsOfAMemberThatDiesComeBackAtOnce", func(t *testing.T) {
		r := begin(t)
		r.create(t, &pb.CreateConsumerGroupRequest{Group: "g", AckDeadline: seconds(600)})
		ids := r.put(t, "x", 20)
		a := r.join(t, &pb.Join{Group: "g", ClientName: "doomed", Credit: &pb.Credit{Events: 100}})
		for range ids {
			a.delivery()
		}
		if ms := r.state(t, "g").GetMembers(); len(ms) != 1 || ms[0].GetClientName() != "doomed" || ms[0].GetInFlightEvents() != 20 || ms[0].GetInFlightBytes() == 0 {
			t.Fatalf("members %v", ms)
		}
		b := r.join(t, &pb.Join{Group: "g", Credit: &pb.Credit{Events: 100}})
		b.joined()
		a.cut()
		var got []string
		for range ids {
			d := b.delivery()
			if d.GetAttempt() != 2 {
				t.Fatalf("attempt %d", d.GetAttempt())
			}
			got = append(got, d.GetEvent().GetId())
			b.ack(d.GetDeliveryId())
		}
		slices.Sort(got)
		slices.Sort(ids)
		if !slices.Equal(got, ids) {
			t.Fatalf("got %v", got)
		}
	})

	t.Run("NothingIsLostOverARestart", func(t *testing.T) {
		cfg := config(t)
		r := start(t, cfg, app.Options{})
		r.create(t, &pb.CreateConsumerGroupRequest{
			Group: "g", AckDeadline: seconds(20), Description: "kept", MaxDeliveries: 7, View: pb.EventView_EVENT_VIEW_RAW,
			Filter: &pb.EventFilter{OrganizationIds: []string{"org-1"}},
		})
		ids := r.put(t, "x", 30)
		m := r.join(t, &pb.Join{Group: "g", Credit: &pb.Credit{Events: 100}})
		done := map[string]bool{}
		for i := range ids {
			if d := m.delivery(); i%3 == 0 {
				m.confirm(d.GetDeliveryId())
				done[d.GetEvent().GetId()] = true
			}
		}
		pulled := r.pull(t, &pb.PullRequest{Group: "g", MaxEvents: 5})
		if len(pulled) != 0 {
			t.Fatalf("pulled %d events that a member holds", len(pulled))
		}
		if err := r.stop(); err != nil {
			t.Fatal(err)
		}
		goodbye := next(m, func(x *pb.ConsumeResponse) (*pb.Goodbye, bool) { return x.GetGoodbye(), x.GetGoodbye() != nil })
		if goodbye.GetReason() != pb.GoodbyeReason_GOODBYE_REASON_DRAIN {
			t.Fatal(goodbye)
		}
		r = start(t, cfg, app.Options{})
		g, err := r.groups().GetConsumerGroup(t.Context(), &pb.GetConsumerGroupRequest{Group: "g"})
		if x := g.GetGroup(); err != nil || x.GetDescription() != "kept" || x.GetMaxDeliveries() != 7 || x.GetView() != pb.EventView_EVENT_VIEW_RAW ||
			len(x.GetFilter().GetOrganizationIds()) != 1 || x.GetAckDeadline().AsDuration() != 20*time.Second {
			t.Fatalf("%v, %v", g, err)
		}
		ids = append(ids, r.put(t, "y", 5)...)
		m = r.join(t, &pb.Join{Group: "g", Credit: &pb.Credit{Events: 100}})
		for len(done) < len(ids) {
			d := m.delivery()
			if done[d.GetEvent().GetId()] {
				t.Fatalf("%s was settled before the restart and came again", d.GetEvent().GetId())
			}
			if d.GetEvent().GetRawBody() == nil {
				t.Fatal("the view was forgotten")
			}
			done[d.GetEvent().GetId()] = true
			m.confirm(d.GetDeliveryId())
		}
	})

	t.Run("ADeliveryOfPullMayBeSettledAfterARestart", func(t *testing.T) {
		cfg := config(t)
		r := start(t, cfg, app.Options{})
		r.create(t, &pb.CreateConsumerGroupRequest{Group: "g", AckDeadline: seconds(300)})
		r.put(t, "x", 4)
		ds := r.pull(t, &pb.PullRequest{Group: "g", MaxEvents: 4, Wait: seconds(20)})
		if len(ds) != 4 {
			t.Fatalf("%d deliveries", len(ds))
		}
		if err := r.stop(); err != nil {
			t.Fatal(err)
		}
		r = start(t, cfg, app.Options{})
		res := r.acknowledge(t, &pb.AcknowledgeRequest{
			Group: "g", Ack: &pb.Ack{DeliveryIds: []string{ds[0].GetDeliveryId(), ds[1].GetDeliveryId()}},
			Nacks:  []*pb.Nack{{DeliveryIds: []string{ds[2].GetDeliveryId()}, Action: pb.NackAction_NACK_ACTION_PARK, Reason: "after a restart"}},
			Extend: &pb.Extend{DeliveryIds: []string{ds[3].GetDeliveryId()}},
		})
		if len(res.GetSettled()) != 3 || len(res.GetExtended()) != 1 || len(res.GetRefused()) != 0 {
			t.Fatal(res)
		}
		// Once.
		res2 := r.acknowledge(t, &pb.AcknowledgeRequest{Group: "g", Ack: &pb.Ack{DeliveryIds: []string{res.GetExtended()[0].GetNewDeliveryId()}}})
		if len(res2.GetSettled()) != 1 {
			t.Fatal(res2)
		}
		if st := r.state(t, "g"); st.GetInFlightEvents() != 0 || st.GetDeadLetters() != 1 || st.GetLagEvents() != 0 {
			t.Fatal(st)
		}
	})

	t.Run("AStaleAckIsRefusedAndTheStreamGoesOn", func(t *testing.T) {
		r := begin(t)
		r.create(t, &pb.CreateConsumerGroupRequest{Group: "g", AckDeadline: seconds(1)})
		r.create(t, &pb.CreateConsumerGroupRequest{Group: "other", AckDeadline: seconds(60)})
		r.put(t, "x", 1)
		a := r.join(t, &pb.Join{Group: "g", Credit: &pb.Credit{Events: 1}})
		first := a.delivery()
		b := r.join(t, &pb.Join{Group: "g", Credit: &pb.Credit{Events: 10}})
		second := b.delivery() // when a's deadline has passed
		if second.GetAttempt() != 2 || second.GetEvent().GetId() != first.GetEvent().GetId() || second.GetDeliveryId() == first.GetDeliveryId() {
			t.Fatalf("%v then %v", first, second)
		}
		a.ack(first.GetDeliveryId())
		if x := a.refused(); x.GetReason() != "STALE_DELIVERY" || x.GetDeliveryId() != first.GetDeliveryId() {
			t.Fatal(x)
		}
		a.ack(second.GetDeliveryId())
		if x := a.refused(); x.GetReason() != "STALE_DELIVERY" {
			t.Fatal("another member's delivery was taken:", x)
		}
		b.confirm(second.GetDeliveryId())
		b.ack(second.GetDeliveryId())
		if x := b.refused(); x.GetReason() != "STALE_DELIVERY" {
			t.Fatal(x)
		}
		// A forged id, and one of another group.
		for _, id := range []string{"", "rubbish", second.GetDeliveryId() + "A", "B" + second.GetDeliveryId()[1:], second.GetDeliveryId()[:40] + "AAAA" + second.GetDeliveryId()[44:], strings.Repeat("A", 5000)} {
			b.ack(id)
			if x := b.refused(); x.GetReason() != "INVALID_DELIVERY_ID" {
				t.Fatal(id, x)
			}
		}
		other := r.pull(t, &pb.PullRequest{Group: "other", Wait: seconds(20)})
		b.ack(other[0].GetDeliveryId())
		if x := b.refused(); x.GetReason() != "INVALID_DELIVERY_ID" {
			t.Fatal(x)
		}
		if st := r.state(t, "other"); st.GetInFlightEvents() != 1 {
			t.Fatal("an id of another group had an effect")
		}
		// Both streams still work.
		r.put(t, "y", 1)
		d := b.delivery()
		b.confirm(d.GetDeliveryId())
	})

	t.Run("AMemberThatSaysNothingGetsOneEventAtATime", func(t *testing.T) {
		r := begin(t)
		r.create(t, &pb.CreateConsumerGroupRequest{Group: "g", AckDeadline: seconds(1), MaxDeliveries: 1000})
		ids := r.put(t, "x", 20)
		hung := r.join(t, &pb.Join{Group: "g", ClientName: "hung", Credit: &pb.Credit{Events: 20}, AutoCredit: true})
		held := make([]string, len(ids))
		for i := range held {
			held[i] = hung.delivery().GetDeliveryId()
		}
		// member returns it, as long as it is there.
		member := func() *pb.GroupMember {
			for _, m := range r.state(t, "g").GetMembers() {
				if m.GetClientName() == "hung" {
					return m
				}
			}
			return &pb.GroupMember{}
		}
		eventually(t, func() bool { return member().GetUnresponsive() })
		// It still gets events, so that nothing stands still when it is the only one.
		for range 3 {
			if d := hung.delivery(); d.GetAttempt() < 2 {
				t.Fatal(d)
			}
			if m := member(); m.GetInFlightEvents() > 1 {
				t.Fatalf("it holds %d", m.GetInFlightEvents())
			}
		}
		well := r.join(t, &pb.Join{Group: "g", ClientName: "well", Credit: &pb.Credit{Events: 20}, AutoCredit: true})
		done := map[string]bool{}
		for len(done) < len(ids) {
			d := well.delivery()
			done[d.GetEvent().GetId()] = true
			well.confirm(d.GetDeliveryId())
		}
		well.cut()
		// A word is enough, even a useless one.
		hung.ack(held[0])
		if x := hung.refused(); x.GetReason() != "STALE_DELIVERY" {
			t.Fatal(x)
		}
		eventually(t, func() bool { return !member().GetUnresponsive() })
		r.put(t, "y", 10)
		eventually(t, func() bool { return member().GetInFlightEvents() == 10 })
	})

	t.Run("ExtendingKeepsAnEvent", func(t *testing.T) {
		r := begin(t)
		r.create(t, &pb.CreateConsumerGroupRequest{Group: "g", AckDeadline: seconds(1)})
		r.put(t, "x", 1)
		a := r.join(t, &pb.Join{Group: "g", Credit: &pb.Credit{Events: 1}})
		b := r.join(t, &pb.Join{Group: "g"})
		b.joined()
		d := a.delivery()
		begun := time.Now()
		b.send(&pb.ConsumeRequest{Content: &pb.ConsumeRequest_Credit{Credit: &pb.Credit{Events: 10}}})
		for time.Since(begun) < 5*time.Second { // longer than the deadline, the bridge's and the engine's
			a.send(&pb.ConsumeRequest{Content: &pb.ConsumeRequest_Extend{Extend: &pb.Extend{DeliveryIds: []string{d.GetDeliveryId()}}}})
			select {
			case x := <-b.got:
				if x.GetDelivery() != nil {
					t.Fatal("it went to somebody else")
				}
			case x := <-a.got:
				t.Fatalf("%v", x)
			case <-time.After(300 * time.Millisecond):
			}
		}
		a.confirm(d.GetDeliveryId())
	})

	t.Run("EventsComeTogetherToAMemberThatAsksForThat", func(t *testing.T) {
		r := begin(t)
		const events, batch, credit = 300, 20, 50
		ids := r.put(t, "x", events, func(i int, e *bridge.Entry) {
			body := bridgetest.PNRBody("BOOKING_UPDATED", "org-1", fmt.Sprintf("x-%d", i), 1)
			if i%40 == 7 { // of four, no two fit into a message
				body = fmt.Sprintf(`%s,"_pad":"%s"}`, body[:len(body)-1], strings.Repeat("x", 150<<10))
			}
			*e = *bridgetest.Entry("sandbox", fmt.Sprintf("x-%d", i), body)
		})
		r.create(t, &pb.CreateConsumerGroupRequest{Group: "g", Start: earliest, View: pb.EventView_EVENT_VIEW_RAW})
		m := r.join(t, &pb.Join{Group: "g", Credit: &pb.Credit{Events: credit}, AutoCredit: true, MaxBatchEvents: batch})
		if j := m.joined(); j.GetMaxBatchEvents() != batch {
			t.Fatal(j)
		}
		// The window is filled and nothing settled yet; then every other event is settled, and the rest later.
		var later []string
		for i, id := range ids {
			if i == credit {
				if n := r.state(t, "g").GetMembers()[0].GetInFlightEvents(); n != credit {
					t.Fatalf("it holds %d of %d", n, credit)
				}
				m.confirm(later...)
				later = nil
			}
			d := m.delivery()
			if d.GetEvent().GetId() != id || d.GetAttempt() != 1 || len(d.GetEvent().GetRawBody()) == 0 {
				t.Fatalf("delivery %d: %v, want %s", i, d.GetDeliveryId(), id)
			}
			if later = append(later, d.GetDeliveryId()); i > credit && i%2 == 0 {
				m.ack(later[len(later)-1])
				later = later[:len(later)-1]
			}
			if len(later) == credit/2 && i > credit {
				m.confirm(later...)
				later = nil
			}
		}
		m.confirm(later...)
		if m.together.Load() < 2 {
			t.Error("no two events came together")
		}
		waitUntil(t, "everything is settled", func() bool {
			st := r.state(t, "g")
			return st.GetLagEvents() == 0 && st.GetInFlightEvents() == 0 && st.GetMembers()[0].GetCreditEvents() == credit && st.GetMembers()[0].GetInFlightBytes() == 0
		})
		// Those between them that a filter refuses do not keep them apart.
		var odd []string
		for i := 1; i < events; i += 2 {
			odd = append(odd, fmt.Sprintf("x-%d", i))
		}
		r.create(t, &pb.CreateConsumerGroupRequest{Group: "odd", Start: earliest, Filter: &pb.EventFilter{PnrIds: odd}})
		o := r.join(t, &pb.Join{Group: "odd", Credit: &pb.Credit{Events: 1000}, MaxBatchEvents: batch})
		for i := range odd {
			if d := o.delivery(); d.GetEvent().GetId() != ids[2*i+1] {
				t.Fatalf("%s instead of %s", d.GetEvent().GetId(), ids[2*i+1])
			}
		}
		if o.together.Load() < 2 {
			t.Error("no two of a finer filter came together")
		}
		o.leave()
		// One event has nothing to come with.
		r.put(t, "y", 1)
		if m.together.Store(0); m.delivery() == nil || m.together.Load() != 0 {
			t.Error("one event came as several")
		}
		for _, n := range []int32{-1, 1001} {
			bad := r.join(t, &pb.Join{Group: "g", MaxBatchEvents: n})
			err := <-bad.ended
			if reason(err) != "INVALID_FIELD" || !strings.Contains(err.Error(), "join.max_batch_events") {
				t.Errorf("%d: %v", n, err)
			}
		}
	})

	t.Run("CreditsBoundWhatIsSent", func(t *testing.T) { creditsBoundWhatIsSent(t, begin(t), 0) })
	t.Run("CreditsBoundWhatIsSentTogether", func(t *testing.T) { creditsBoundWhatIsSent(t, begin(t), 100) })

	t.Run("AMemberHoldsAtMostAThousand", func(t *testing.T) {
		r := begin(t)
		r.create(t, &pb.CreateConsumerGroupRequest{Group: "g", View: pb.EventView_EVENT_VIEW_ENVELOPE})
		m := r.join(t, &pb.Join{Group: "g", Credit: &pb.Credit{Events: 5000}, HeartbeatInterval: seconds(5)})
		m.joined()
		r.put(t, "x", 1010)
		var last *pb.GroupDelivery
		for range 1000 {
			last = m.delivery()
		}
		next(m, func(x *pb.ConsumeResponse) (bool, bool) {
			if x.GetDelivery() != nil {
				t.Fatal("more than a thousand")
			}
			return true, x.GetHeartbeat() != nil
		})
		m.ack(last.GetDeliveryId())
		m.delivery()
	})

	t.Run("TheFilterRefusesSilently", func(t *testing.T) {
		r := begin(t)
		// Finer than the log's subjects.
		r.create(t, &pb.CreateConsumerGroupRequest{Group: "pnr", Filter: &pb.EventFilter{PnrIds: []string{"x-7", "x-93"}}, MaxDeliveries: 1})
		// As fine as they are.
		r.create(t, &pb.CreateConsumerGroupRequest{Group: "org", Filter: &pb.EventFilter{OrganizationIds: []string{"org-2"}, Operations: []string{"BOOKING_CREATED"}}})
		r.create(t, &pb.CreateConsumerGroupRequest{Group: "not", Filter: &pb.EventFilter{ExcludeOperations: []string{"BOOKING_UPDATED"}}})
		ids := r.put(t, "x", 100, func(i int, e *bridge.Entry) {
			if i%10 == 3 {
				*e = *bridgetest.Entry("sandbox", fmt.Sprintf("x-%d", i), bridgetest.PNRBody("BOOKING_CREATED", "org-2", fmt.Sprintf("x-%d", i), 1))
			}
		})
		for group, want := range map[string][]string{"pnr": {ids[7], ids[93]}, "org": everyTenth(ids), "not": everyTenth(ids)} {
			m := r.join(t, &pb.Join{Group: group, Credit: &pb.Credit{Events: 1}, AutoCredit: true})
			for _, id := range want {
				d := m.delivery()
				if d.GetEvent().GetId() != id || d.GetAttempt() != 1 {
					t.Fatalf("group %s: %s attempt %d, want %s", group, d.GetEvent().GetId(), d.GetAttempt(), id)
				}
				m.confirm(d.GetDeliveryId())
			}
			waitUntil(t, group+" has nothing left", func() bool { st := r.state(t, group); return st.GetLagEvents() == 0 && st.GetDeadLetters() == 0 })
			m.leave()
		}
	})

	t.Run("MarksAndExcludeStaleAreThoseOfHistory", func(t *testing.T) {
		r := begin(t)
		filters := map[string]*pb.EventFilter{"all": nil, "fresh": {ExcludeStale: true}, "one": {ExcludeStale: true, EntityIds: []string{"p-1"}}}
		for name, f := range filters {
			r.create(t, &pb.CreateConsumerGroupRequest{Group: name, Filter: f})
		}
		versions := []int{1, 3, 2, 3, 5, 4, 6, 1, 8, 7}
		r.put(t, "x", 40, func(i int, e *bridge.Entry) {
			*e = *bridgetest.Entry("sandbox", fmt.Sprintf("x-%d", i), bridgetest.PNRBody("BOOKING_UPDATED", "org", fmt.Sprintf("p-%d", i%4), versions[i/4]))
		})
		r.applied(t, 40)
		stale := 0
		for name, f := range filters {
			want, err := pb.NewEventServiceClient(r.conn).ListEvents(t.Context(), &pb.ListEventsRequest{
				Filter: f, Order: pb.Order_ORDER_OLDEST_FIRST, PageSize: 100, View: pb.EventView_EVENT_VIEW_FULL,
			})
			if err != nil || len(want.GetEvents()) == 0 {
				t.Fatal(want, err)
			}
			streamed, _ := r.collect(t, &pb.SubscribeRequest{Start: earliest, Filter: f, View: pb.EventView_EVENT_VIEW_FULL})
			m := r.join(t, &pb.Join{Group: name, Credit: &pb.Credit{Events: 100}, View: pb.EventView_EVENT_VIEW_FULL})
			for i, e := range want.GetEvents() {
				d := m.delivery()
				if !proto.Equal(d.GetEvent(), e) || !proto.Equal(streamed[i], e) {
					t.Fatalf("group %s: event %d\n%v\nhistory has\n%v", name, i, d.GetEvent(), e)
				}
				if e.GetOrdering() == pb.Ordering_ORDERING_STALE {
					stale++
				}
				m.confirm(d.GetDeliveryId())
			}
			waitUntil(t, "nothing is left", func() bool { return r.state(t, name).GetLagEvents() == 0 })
		}
		if stale != 16 {
			t.Fatalf("%d stale events, all of them in the group without a filter", stale)
		}
	})

	t.Run("TheFilterChangesAndThePositionStays", func(t *testing.T) {
		r := begin(t)
		r.create(t, &pb.CreateConsumerGroupRequest{Group: "g", Start: earliest, Filter: &pb.EventFilter{EventTypes: []string{"PNR_V3"}}})
		ids := r.put(t, "x", 30)
		m := r.join(t, &pb.Join{Group: "g", Credit: &pb.Credit{Events: 10}})
		for i := range 10 {
			d := m.delivery()
			if i < 9 {
				m.confirm(d.GetDeliveryId())
			} else {
				m.nack(pb.NackAction_NACK_ACTION_RETRY, 0, "", d.GetDeliveryId()) // it waits for another delivery
			}
		}
		waitUntil(t, "one is in flight", func() bool { return r.state(t, "g").GetSettledSequence() == 9 })
		want := []string{ids[9], ids[20], ids[25]}
		up, err := r.groups().UpdateConsumerGroup(t.Context(), &pb.UpdateConsumerGroupRequest{
			Group: "g", Filter: &pb.EventFilter{PnrIds: []string{"x-3", "x-9", "x-20", "x-25"}, EventTypes: []string{"PNR_V3", "NO_SUCH"}},
		})
		if err != nil || len(up.GetWarnings()) != 1 || len(up.GetGroup().GetFilter().GetPnrIds()) != 4 {
			t.Fatalf("%v, %v", up, err)
		}
		m.send(&pb.ConsumeRequest{Content: &pb.ConsumeRequest_Credit{Credit: &pb.Credit{Events: 10}}})
		var got []string
		for range want {
			d := m.delivery()
			got = append(got, d.GetEvent().GetId())
			m.confirm(d.GetDeliveryId())
		}
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Fatalf("got %v, want %v", got, want)
		}
		// And wider again, for what comes from then on.
		waitUntil(t, "nothing is left", func() bool { return r.state(t, "g").GetLagEvents() == 0 })
		if _, err := r.groups().UpdateConsumerGroup(t.Context(), &pb.UpdateConsumerGroupRequest{Group: "g", Filter: &pb.EventFilter{}}); err != nil {
			t.Fatal(err)
		}
		id := r.put(t, "y", 1)[0]
		if d := m.delivery(); d.GetEvent().GetId() != id {
			t.Fatalf("got %s, want %s", d.GetEvent().GetId(), id)
		}
	})

	t.Run("PauseStopsDeliveriesAndNothingElse", func(t *testing.T) {
		r := begin(t)
		r.create(t, &pb.CreateConsumerGroupRequest{Group: "g", Paused: true})
		m := r.join(t, &pb.Join{Group: "g", Credit: &pb.Credit{Events: 100}, HeartbeatInterval: seconds(5)})
		ids := r.put(t, "x", 5)
		h := next(m, func(x *pb.ConsumeResponse) (*pb.GroupHeartbeat, bool) {
			if x.GetDelivery() != nil {
				t.Fatal("an event of a paused group")
			}
			return x.GetHeartbeat(), x.GetHeartbeat() != nil
		})
		if !h.GetPaused() {
			t.Fatal(h)
		}
		if p, err := r.groups().Pull(t.Context(), &pb.PullRequest{Group: "g"}); err != nil || !p.GetPaused() || len(p.GetDeliveries()) > 0 {
			t.Fatal(p, err)
		}
		for range 2 {
			if _, err := r.groups().ResumeConsumerGroup(t.Context(), &pb.ResumeConsumerGroupRequest{Group: "g"}); err != nil {
				t.Fatal(err)
			}
		}
		var held []string
		for range ids {
			held = append(held, m.delivery().GetDeliveryId())
		}
		if _, err := r.groups().PauseConsumerGroup(t.Context(), &pb.PauseConsumerGroupRequest{Group: "g"}); err != nil {
			t.Fatal(err)
		}
		m.confirm(held...) // what is held may be settled
		if g, err := r.groups().GetConsumerGroup(t.Context(), &pb.GetConsumerGroupRequest{Group: "g"}); err != nil || !g.GetGroup().GetPaused() {
			t.Fatal(g, err)
		}
	})

	t.Run("SeekMovesTheGroupAndVoidsWhatIsHeld", func(t *testing.T) {
		r := begin(t)
		r.create(t, &pb.CreateConsumerGroupRequest{Group: "g"})
		ids := r.put(t, "x", 20)
		m := r.join(t, &pb.Join{Group: "g", Credit: &pb.Credit{Events: 20}, AutoCredit: true})
		var held []*pb.GroupDelivery
		for range ids {
			held = append(held, m.delivery())
		}
		m.confirm(held[0].GetDeliveryId(), held[1].GetDeliveryId())
		cursor := r.cursorOf(t, ids[4])
		for _, s := range []struct {
			req   *pb.SeekConsumerGroupRequest
			first int // index of the next event; -1 = none
		}{
			{&pb.SeekConsumerGroupRequest{Group: "g", Start: earliest}, 0},
			{&pb.SeekConsumerGroupRequest{Group: "g", AfterCursor: cursor}, 5},
			{&pb.SeekConsumerGroupRequest{Group: "g", FromTime: held[7].GetEvent().GetAppendTime()}, -2},
			{&pb.SeekConsumerGroupRequest{Group: "g", Start: pb.Start_START_LATEST}, -1},
		} {
			if _, err := r.groups().SeekConsumerGroup(t.Context(), s.req); err != nil {
				t.Fatal(err)
			}
			m.ack(held[10].GetDeliveryId())
			for {
				x := next(m, func(x *pb.ConsumeResponse) (*pb.ConsumeResponse, bool) {
					return x, x.GetRefused() != nil || x.GetDelivery() != nil
				})
				if x.GetRefused() != nil {
					if x.GetRefused().GetReason() != "STALE_DELIVERY" {
						t.Fatal(x)
					}
					break
				}
			}
			if s.first == -1 {
				id := r.put(t, "late", 1)[0]
				d := m.delivery()
				for d.GetEvent().GetSequence() <= 20 { // on its way when the group was moved
					d = m.delivery()
				}
				if d.GetEvent().GetId() != id || d.GetAttempt() != 1 {
					t.Fatal(d)
				}
				m.confirm(d.GetDeliveryId())
			}
		}
		if st := r.state(t, "g"); st.GetInFlightEvents() != 0 || st.GetLagEvents() != 0 {
			t.Fatal(st)
		}
		// All over again: exactly what is after the cursor, each once.
		m.leave()
		if res, err := r.groups().SeekConsumerGroup(t.Context(), &pb.SeekConsumerGroupRequest{Group: "g", AfterCursor: cursor}); err != nil || res.GetAfterSequence() != 5 {
			t.Fatal(res, err)
		}
		m = r.join(t, &pb.Join{Group: "g", Credit: &pb.Credit{Events: 100}})
		for i := 5; i < 20; i++ {
			if d := m.delivery(); d.GetEvent().GetId() != ids[i] || d.GetAttempt() != 1 {
				t.Fatalf("%d: %v", i, d)
			}
		}
	})

	t.Run("AnEventThatFailsComesAgainAndThenIsADeadLetter", func(t *testing.T) {
		r := begin(t)
		r.create(t, &pb.CreateConsumerGroupRequest{Group: "g", MaxDeliveries: 3})
		r.create(t, &pb.CreateConsumerGroupRequest{Group: "other"})
		ids := r.put(t, "x", 2)
		head := r.state(t, "g").GetHeadSequence()
		m := r.join(t, &pb.Join{Group: "g", ClientName: "worker", Credit: &pb.Credit{Events: 1}, AutoCredit: true})
		for attempt := int32(1); attempt <= 3; attempt++ {
			d := m.delivery()
			for d.GetEvent().GetId() != ids[0] {
				m.confirm(d.GetDeliveryId())
				d = m.delivery()
			}
			if d.GetAttempt() != attempt {
				t.Fatalf("attempt %d, want %d", d.GetAttempt(), attempt)
			}
			m.nack(pb.NackAction_NACK_ACTION_RETRY, 50*time.Millisecond, "no luck", d.GetDeliveryId())
		}
		var letter *pb.DeadLetter
		waitUntil(t, "it is a dead letter", func() bool {
			l := r.letters(t, &pb.ListDeadLettersRequest{Group: "g", View: pb.EventView_EVENT_VIEW_FULL})
			if len(l) == 1 {
				letter = l[0]
			}
			return len(l) == 1
		})
		if letter.GetCause() != pb.DeadLetterCause_DEAD_LETTER_CAUSE_EXHAUSTED || letter.GetAttempts() != 3 || letter.GetReason() != "no luck" || letter.GetClientName() != "worker" ||
			letter.GetEvent().GetId() != ids[0] || letter.GetEvent().GetPnrV3() == nil || !bytes.Contains(letter.GetEvent().GetRawBody(), []byte("x-0")) {
			t.Fatal(letter)
		}
		// The same as in history, marks included.
		want, err := pb.NewEventServiceClient(r.conn).GetEvent(t.Context(), &pb.GetEventRequest{EventId: ids[0], View: pb.EventView_EVENT_VIEW_FULL})
		if err != nil || !proto.Equal(want.GetEvent(), letter.GetEvent()) {
			t.Fatalf("%v\n%v\n%v", err, want.GetEvent(), letter.GetEvent())
		}
		waitUntil(t, "nothing is left", func() bool { st := r.state(t, "g"); return st.GetLagEvents() == 0 && st.GetDeadLetters() == 1 })

		// Filters, causes, dry run.
		for _, q := range []struct {
			req  *pb.RedriveDeadLettersRequest
			want int64
		}{
			{&pb.RedriveDeadLettersRequest{Group: "g", DryRun: true}, 1},
			{&pb.RedriveDeadLettersRequest{Group: "g", DryRun: true, Filter: &pb.EventFilter{PnrIds: []string{"x-0"}}, Ids: []string{letter.GetId()}}, 1},
			{&pb.RedriveDeadLettersRequest{Group: "g", DryRun: true, Filter: &pb.EventFilter{PnrIds: []string{"x-1"}}}, 0},
			{&pb.RedriveDeadLettersRequest{Group: "g", DryRun: true, Causes: []pb.DeadLetterCause{pb.DeadLetterCause_DEAD_LETTER_CAUSE_PARKED}}, 0},
			{&pb.RedriveDeadLettersRequest{Group: "g", DryRun: true, Ids: []string{"999999"}}, 0},
			{&pb.RedriveDeadLettersRequest{Group: "g", DryRun: true, Before: letter.GetTime()}, 0},
			{&pb.RedriveDeadLettersRequest{Group: "other", DryRun: true}, 0},
		} {
			if res, err := r.groups().RedriveDeadLetters(t.Context(), q.req); err != nil || res.GetMatched() != q.want || res.GetRedriven() != q.want || !res.GetDone() {
				t.Fatalf("%v: %v, %v", q.req, res, err)
			}
		}
		if st := r.state(t, "g"); st.GetDeadLetters() != 1 || st.GetRedrivenEvents() != 0 {
			t.Fatal("a dry run did something:", st)
		}

		// Redrive: to this group only, no new event, attempts go on counting.
		res, err := r.groups().RedriveDeadLetters(t.Context(), &pb.RedriveDeadLettersRequest{Group: "g"})
		if err != nil || res.GetRedriven() != 1 || res.GetBytes() == 0 || !res.GetDone() {
			t.Fatal(res, err)
		}
		d := m.delivery()
		if d.GetEvent().GetId() != ids[0] || d.GetAttempt() != 4 || !d.GetRedriven() || d.GetEvent().GetSequence() != 1 {
			t.Fatal(d)
		}
		if st := r.state(t, "g"); st.GetHeadSequence() != head || st.GetDeadLetters() != 0 || st.GetRedrivenEvents() != 1 {
			t.Fatal(st)
		}
		// It may die again, and be redriven again.
		for attempt := int32(4); ; attempt++ {
			if d.GetAttempt() != attempt {
				t.Fatalf("attempt %d, want %d", d.GetAttempt(), attempt)
			}
			m.nack(pb.NackAction_NACK_ACTION_RETRY, 0, "", d.GetDeliveryId())
			if attempt == 6 {
				break
			}
			d = m.delivery()
		}
		waitUntil(t, "it died again", func() bool { st := r.state(t, "g"); return st.GetDeadLetters() == 1 && st.GetRedrivenEvents() == 0 })
		if l := r.letters(t, &pb.ListDeadLettersRequest{Group: "g"}); l[0].GetAttempts() != 6 {
			t.Fatal(l)
		}
		if _, err := r.groups().RedriveDeadLetters(t.Context(), &pb.RedriveDeadLettersRequest{Group: "g"}); err != nil {
			t.Fatal(err)
		}
		d = m.delivery()
		if d.GetAttempt() != 7 {
			t.Fatal(d)
		}
		m.confirm(d.GetDeliveryId())
		waitUntil(t, "it is done", func() bool { st := r.state(t, "g"); return st.GetDeadLetters() == 0 && st.GetRedrivenEvents() == 0 })

		// The other group had both events once.
		ds := r.pull(t, &pb.PullRequest{Group: "other", Wait: seconds(20)})
		if len(ds) != 2 || ds[0].GetAttempt() != 1 || ds[0].GetRedriven() {
			t.Fatal(ds)
		}
	})

	t.Run("TheBridgeDoublesTheDelayOfItsOwnRetries", func(t *testing.T) {
		r := begin(t)
		r.create(t, &pb.CreateConsumerGroupRequest{Group: "g"})
		r.put(t, "x", 1)
		m := r.join(t, &pb.Join{Group: "g", Credit: &pb.Credit{Events: 1}, AutoCredit: true})
		d := m.delivery()
		for attempt := 1; attempt <= 2; attempt++ {
			begun := time.Now()
			m.nack(pb.NackAction_NACK_ACTION_RETRY, -1, "", d.GetDeliveryId())
			d = m.delivery()
			if took, want := time.Since(begun), time.Second<<(attempt-1); took < want || d.GetAttempt() != int32(attempt+1) {
				t.Fatalf("attempt %d after %v, want at least %v", d.GetAttempt(), took, want)
			}
		}
	})

	t.Run("ParkAndSkip", func(t *testing.T) {
		r := begin(t)
		r.create(t, &pb.CreateConsumerGroupRequest{Group: "g"})
		ids := r.put(t, "x", 6)
		m := r.join(t, &pb.Join{Group: "g", Credit: &pb.Credit{Events: 100}})
		for i := range ids {
			d := m.delivery()
			switch i {
			case 0, 1, 2, 3:
				m.nack(pb.NackAction_NACK_ACTION_PARK, -1, "bad\r\nline ü", d.GetDeliveryId())
			case 4:
				m.nack(pb.NackAction_NACK_ACTION_SKIP, -1, "", d.GetDeliveryId())
			default:
				m.nack(pb.NackAction_NACK_ACTION_PARK, time.Second, "", d.GetDeliveryId())
				if x := m.refused(); x.GetReason() != "INVALID_FIELD" || x.GetField() != "nack.retry_after" {
					t.Fatal(x)
				}
				m.confirm(d.GetDeliveryId())
			}
		}
		waitUntil(t, "four are parked", func() bool { st := r.state(t, "g"); return st.GetDeadLetters() == 4 && st.GetLagEvents() == 0 })
		// Pages.
		var got []string
		token := ""
		for {
			p, err := r.groups().ListDeadLetters(t.Context(), &pb.ListDeadLettersRequest{Group: "g", PageSize: 3, PageToken: token})
			if err != nil {
				t.Fatal(err)
			}
			for _, l := range p.GetDeadLetters() {
				if l.GetCause() != pb.DeadLetterCause_DEAD_LETTER_CAUSE_PARKED || l.GetReason() != "bad  line ü" || l.GetEvent().GetPayload() != nil {
					t.Fatal(l)
				}
				got = append(got, l.GetEvent().GetId())
			}
			if token = p.GetNextPageToken(); token == "" {
				break
			}
		}
		if !slices.Equal(got, ids[:4]) {
			t.Fatalf("letters %v", got)
		}
		if _, err := r.groups().ListDeadLetters(t.Context(), &pb.ListDeadLettersRequest{Group: "g", PageToken: "rubbish"}); reason(err) != "INVALID_PAGE_TOKEN" {
			t.Fatal(err)
		}
		// Deleting.
		if _, err := r.groups().DeleteDeadLetters(t.Context(), &pb.DeleteDeadLettersRequest{Group: "g"}); reason(err) != "INVALID_FIELD" {
			t.Fatal(err)
		}
		for _, q := range []struct {
			req         *pb.DeleteDeadLettersRequest
			count, left int64
		}{
			{&pb.DeleteDeadLettersRequest{Group: "g", All: true, DryRun: true}, 4, 4},
			{&pb.DeleteDeadLettersRequest{Group: "g", Filter: &pb.EventFilter{PnrIds: []string{"x-0", "x-2"}}}, 2, 2},
			{&pb.DeleteDeadLettersRequest{Group: "g", All: true}, 2, 0},
		} {
			res, err := r.groups().DeleteDeadLetters(t.Context(), q.req)
			if err != nil || res.GetDeleted() != q.count || !res.GetDone() || r.state(t, "g").GetDeadLetters() != q.left {
				t.Fatal(res, err)
			}
		}
	})

	t.Run("AMemberThatCrashesOnAnEventDoesNotGetItForEver", func(t *testing.T) {
		r := begin(t)
		r.create(t, &pb.CreateConsumerGroupRequest{Group: "g", MaxDeliveries: 3, AckDeadline: seconds(600)})
		r.put(t, "x", 1)
		for attempt := int32(1); attempt <= 3; attempt++ {
			m := r.join(t, &pb.Join{Group: "g", Credit: &pb.Credit{Events: 1}})
			if d := m.delivery(); d.GetAttempt() != attempt {
				t.Fatal(d)
			}
			m.cut()
		}
		m := r.join(t, &pb.Join{Group: "g", Credit: &pb.Credit{Events: 1}})
		waitUntil(t, "it is a dead letter", func() bool { return r.state(t, "g").GetDeadLetters() == 1 })
		if l := r.letters(t, &pb.ListDeadLettersRequest{Group: "g"}); l[0].GetAttempts() != 3 || l[0].GetCause() != pb.DeadLetterCause_DEAD_LETTER_CAUSE_EXHAUSTED {
			t.Fatal(l)
		}
		r.put(t, "y", 1)
		m.delivery()
	})

	t.Run("DrainSaysGoodbyeAndGivesBack", func(t *testing.T) {
		cfg := config(t)
		r := start(t, cfg, app.Options{})
		r.create(t, &pb.CreateConsumerGroupRequest{Group: "g", AckDeadline: seconds(600)})
		r.put(t, "x", 3)
		m := r.join(t, &pb.Join{Group: "g", Credit: &pb.Credit{Events: 3}})
		for range 3 {
			m.delivery()
		}
		begun := time.Now()
		if err := r.stop(); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begun); took > 6*time.Second {
			t.Fatalf("the drain took %v", took)
		}
		next(m, func(x *pb.ConsumeResponse) (bool, bool) { return true, x.GetGoodbye() != nil })
		m.end(codes.OK)
		r = start(t, cfg, app.Options{})
		m = r.join(t, &pb.Join{Group: "g", Credit: &pb.Credit{Events: 3}})
		for range 3 {
			if d := m.delivery(); d.GetAttempt() != 2 {
				t.Fatal(d)
			}
		}
	})

	t.Run("AGroupBelowTheLogsFloorIsTold", func(t *testing.T) {
		cfg := config(t)
		cfg.Log.MaxBytes = 128 << 10
		r := start(t, cfg, app.Options{})
		r.create(t, &pb.CreateConsumerGroupRequest{Group: "g", AckDeadline: seconds(600)})
		r.create(t, &pb.CreateConsumerGroupRequest{Group: "narrow", Filter: &pb.EventFilter{PnrIds: []string{"c-0"}}})
		r.create(t, &pb.CreateConsumerGroupRequest{Group: "pulled"})
		r.put(t, "a", 3)
		m := r.join(t, &pb.Join{Group: "g", Credit: &pb.Credit{Events: 3}})
		m.confirm(m.delivery().GetDeliveryId(), m.delivery().GetDeliveryId())
		last := m.delivery() // held while it leaves the log
		r.put(t, "b", 600)
		// The oldest go when the stream gets the newest, not when the journal does.
		waitUntil(t, "everything is in the stream", func() bool {
			_, metrics := r.admin(t, "/metrics")
			return strings.Contains(string(metrics), "spotbridge_eventlog_journal_backlog_entries 0\n")
		})
		if st, err := r.Log().State(t.Context()); err != nil || st.Floor < 100 {
			t.Fatalf("the floor is %d: %v", st.Floor, err)
		}
		r.applied(t, 603)
		// The held one cannot come again from the log: it is kept as a dead letter, from history.
		m.nack(pb.NackAction_NACK_ACTION_RETRY, 0, "", last.GetDeliveryId())
		waitUntil(t, "it is a dead letter", func() bool { return r.state(t, "g").GetDeadLetters() == 1 })
		if l := r.letters(t, &pb.ListDeadLettersRequest{Group: "g", View: pb.EventView_EVENT_VIEW_RAW}); l[0].GetCause() != pb.DeadLetterCause_DEAD_LETTER_CAUSE_UNDELIVERABLE || len(l[0].GetEvent().GetRawBody()) == 0 {
			t.Fatal(l)
		}
		m.send(&pb.ConsumeRequest{Content: &pb.ConsumeRequest_Credit{Credit: &pb.Credit{Events: 1000}}})
		x := next(m, func(x *pb.ConsumeResponse) (*pb.ConsumeResponse, bool) {
			return x, x.GetLost() != nil || x.GetDelivery() != nil
		})
		lost := x.GetLost()
		if lost == nil || lost.GetFromSequence() > 4 || lost.GetToSequence() < 99 || lost.GetEvents() < 96 {
			t.Fatalf("before its next event the member was told %v", x)
		}
		if d := m.delivery(); d.GetEvent().GetSequence() != lost.GetToSequence()+1 {
			t.Fatalf("after %v came %d", lost, d.GetEvent().GetSequence())
		}
		if got := r.state(t, "g").GetLastLost(); got.GetToSequence() != lost.GetToSequence() {
			t.Fatal(got)
		}
		_, metrics := r.admin(t, "/metrics")
		if !strings.Contains(string(metrics), `spotbridge_group_losses_total{group="g"} 1`) {
			t.Error("the metric does not tell")
		}
		// Without members: whoever comes first is told, once.
		p, err := r.groups().Pull(t.Context(), &pb.PullRequest{Group: "pulled", MaxEvents: 1, Wait: seconds(20)})
		if err != nil || len(p.GetLost()) != 1 || len(p.GetDeliveries()) != 1 {
			t.Fatal(p, err)
		}
		if p, err = r.groups().Pull(t.Context(), &pb.PullRequest{Group: "pulled", MaxEvents: 1, Wait: seconds(20)}); err != nil || len(p.GetLost()) != 0 || len(p.GetDeliveries()) != 1 {
			t.Fatal(p, err)
		}
		// Nothing that this one would have had.
		id := r.put(t, "c", 1)[0]
		m = r.join(t, &pb.Join{Group: "narrow", Credit: &pb.Credit{Events: 1}})
		next(m, func(x *pb.ConsumeResponse) (bool, bool) {
			if x.GetLost() != nil {
				t.Fatal("lost:", x)
			}
			return true, x.GetDelivery().GetEvent().GetId() == id
		})
	})

	t.Run("DeletingEndsMembersAndANewGroupIsAnotherOne", func(t *testing.T) {
		r := begin(t)
		r.create(t, &pb.CreateConsumerGroupRequest{Group: "g"})
		r.put(t, "x", 2)
		m := r.join(t, &pb.Join{Group: "g", Credit: &pb.Credit{Events: 2}})
		a, b := m.delivery(), m.delivery()
		m.nack(pb.NackAction_NACK_ACTION_PARK, -1, "", a.GetDeliveryId())
		waitUntil(t, "one is parked", func() bool { return r.state(t, "g").GetDeadLetters() == 1 })
		if _, err := r.groups().DeleteConsumerGroup(t.Context(), &pb.DeleteConsumerGroupRequest{Group: "g"}); reason(err) != "GROUP_HAS_DEAD_LETTERS" || status.Code(err) != codes.FailedPrecondition {
			t.Fatal(err)
		}
		if _, err := r.groups().DeleteConsumerGroup(t.Context(), &pb.DeleteConsumerGroupRequest{Group: "g", Force: true}); err != nil {
			t.Fatal(err)
		}
		m.end(codes.NotFound)
		if _, err := r.groups().GetConsumerGroup(t.Context(), &pb.GetConsumerGroupRequest{Group: "g"}); reason(err) != "GROUP_NOT_FOUND" {
			t.Fatal(err)
		}
		if _, err := r.groups().Pull(t.Context(), &pb.PullRequest{Group: "g"}); reason(err) != "GROUP_NOT_FOUND" {
			t.Fatal(err)
		}
		r.create(t, &pb.CreateConsumerGroupRequest{Group: "g", Start: earliest})
		if st := r.state(t, "g"); st.GetDeadLetters() != 0 || st.GetLagEvents() != 2 {
			t.Fatal(st)
		}
		if res := r.acknowledge(t, &pb.AcknowledgeRequest{Group: "g", Ack: &pb.Ack{DeliveryIds: []string{b.GetDeliveryId()}}}); len(res.GetSettled()) != 0 || res.GetRefused()[0].GetReason() != "INVALID_DELIVERY_ID" {
			t.Fatal(res)
		}
	})

	t.Run("MistakesAreTyped", func(t *testing.T) {
		cfg := config(t)
		cfg.Groups.Max = 2
		r := start(t, cfg, app.Options{})
		c := r.groups()
		ctx := t.Context()
		r.create(t, &pb.CreateConsumerGroupRequest{Group: "g"})
		for _, tt := range []struct {
			req  *pb.CreateConsumerGroupRequest
			want string
		}{
			{&pb.CreateConsumerGroupRequest{Group: "g"}, "GROUP_EXISTS"},
			{&pb.CreateConsumerGroupRequest{Group: ""}, "INVALID_FIELD"},
			{&pb.CreateConsumerGroupRequest{Group: "a.b"}, "INVALID_FIELD"},
			{&pb.CreateConsumerGroupRequest{Group: "a>*"}, "INVALID_FIELD"},
			{&pb.CreateConsumerGroupRequest{Group: strings.Repeat("a", 65)}, "INVALID_FIELD"},
			{&pb.CreateConsumerGroupRequest{Group: "h", AckDeadline: durationpb.New(time.Millisecond)}, "INVALID_FIELD"},
			{&pb.CreateConsumerGroupRequest{Group: "h", AckDeadline: seconds(601)}, "INVALID_FIELD"},
			{&pb.CreateConsumerGroupRequest{Group: "h", MaxDeliveries: -1}, "INVALID_FIELD"},
			{&pb.CreateConsumerGroupRequest{Group: "h", Start: pb.Start_START_SNAPSHOT}, "INVALID_FIELD"},
			{&pb.CreateConsumerGroupRequest{Group: "h", View: 99}, "INVALID_FIELD"},
			{&pb.CreateConsumerGroupRequest{Group: "h", Start: earliest, AfterCursor: "x"}, "INVALID_FIELD"},
			{&pb.CreateConsumerGroupRequest{Group: "h", AfterCursor: "x"}, "INVALID_CURSOR"},
			{&pb.CreateConsumerGroupRequest{Group: "h", AfterCursor: bridge.Cursor{Sequence: 1}.String()}, "CURSOR_FOREIGN"},
			{&pb.CreateConsumerGroupRequest{Group: "h", Filter: &pb.EventFilter{PnrIds: []string{""}}}, "INVALID_FILTER"},
			{&pb.CreateConsumerGroupRequest{Group: "h", Description: strings.Repeat("a", 1025)}, "INVALID_FIELD"},
		} {
			if _, err := c.CreateConsumerGroup(ctx, tt.req); reason(err) != tt.want {
				t.Errorf("%v: %v, want %s", tt.req, err, tt.want)
			}
		}
		r.create(t, &pb.CreateConsumerGroupRequest{Group: "h"})
		if _, err := c.CreateConsumerGroup(ctx, &pb.CreateConsumerGroupRequest{Group: "i"}); reason(err) != "TOO_MANY_GROUPS" {
			t.Error(err)
		}
		for want, call := range map[string]func() error{
			"GROUP_NOT_FOUND": func() error {
				_, err := c.SeekConsumerGroup(ctx, &pb.SeekConsumerGroupRequest{Group: "no", Start: earliest})
				return err
			},
			"INVALID_FIELD": func() error {
				_, err := c.SeekConsumerGroup(ctx, &pb.SeekConsumerGroupRequest{Group: "g"})
				return err
			},
			"INVALID_FILTER": func() error {
				_, err := c.UpdateConsumerGroup(ctx, &pb.UpdateConsumerGroupRequest{Group: "g", Filter: &pb.EventFilter{Sources: []string{"NO!"}}})
				return err
			},
			"INVALID_PAGE_TOKEN": func() error {
				_, err := c.ListConsumerGroups(ctx, &pb.ListConsumerGroupsRequest{PageToken: "x"})
				return err
			},
		} {
			if err := call(); reason(err) != want {
				t.Errorf("%v, want %s", err, want)
			}
		}
		p1, err := c.ListConsumerGroups(ctx, &pb.ListConsumerGroupsRequest{PageSize: 1})
		if err != nil || len(p1.GetGroups()) != 1 || p1.GetGroups()[0].GetGroup() != "g" || p1.GetNextPageToken() == "" {
			t.Fatal(p1, err)
		}
		p2, err := c.ListConsumerGroups(ctx, &pb.ListConsumerGroupsRequest{PageSize: 1, PageToken: p1.GetNextPageToken()})
		if err != nil || len(p2.GetGroups()) != 1 || p2.GetGroups()[0].GetGroup() != "h" || p2.GetNextPageToken() != "" {
			t.Fatal(p2, err)
		}
		// A stream that does not begin with join, that joins twice, or joins nothing.
		s, err := c.Consume(ctx)
		if err != nil {
			t.Fatal(err)
		}
		_ = s.Send(&pb.ConsumeRequest{Content: &pb.ConsumeRequest_Credit{Credit: &pb.Credit{Events: 1}}})
		if _, err := s.Recv(); reason(err) != "INVALID_FIELD" {
			t.Fatal(err)
		}
		m := r.join(t, &pb.Join{Group: "no"})
		m.end(codes.NotFound)
		m = r.join(t, &pb.Join{Group: "g"})
		m.joined()
		m.send(&pb.ConsumeRequest{Content: &pb.ConsumeRequest_Join{Join: &pb.Join{Group: "g"}}})
		m.end(codes.InvalidArgument)
		m = r.join(t, &pb.Join{Group: "g"})
		m.joined()
		m.send(&pb.ConsumeRequest{})
		if x := m.refused(); x.GetReason() != "INVALID_FIELD" {
			t.Fatal(x)
		}
	})

	t.Run("OverREST", func(t *testing.T) {
		r := begin(t)
		r.put(t, "x", 3)
		call := func(method, path, body string, want int) map[string]any {
			t.Helper()
			req, err := http.NewRequest(method, "http://"+r.RESTAddr()+path, strings.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			if body != "" {
				req.Header.Set("Content-Type", "application/json")
			}
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			b, err := io.ReadAll(resp.Body)
			if err != nil || resp.StatusCode != want {
				t.Fatalf("%s %s: %d %s, want %d", method, path, resp.StatusCode, b, want)
			}
			var out map[string]any
			if err := json.Unmarshal(b, &out); err != nil {
				t.Fatal(err)
			}
			return out
		}
		call("POST", "/v1/groups", `{"group":"g","start":"earliest","filter":{"eventTypes":["PNR_V3"]}}`, 200)
		call("POST", "/v1/groups", `{"group":"g"}`, 409)
		call("PATCH", "/v1/groups/g", `{"description":"d"}`, 200)
		got := call("POST", "/v1/groups/g:pull", `{"maxEvents":2,"wait":"20s","view":"RAW"}`, 200)
		ds, _ := got["deliveries"].([]any)
		if len(ds) != 2 {
			t.Fatal(got)
		}
		var ids []string
		for _, d := range ds {
			id, _ := d.(map[string]any)["deliveryId"].(string)
			ids = append(ids, id)
		}
		got = call("POST", "/v1/groups/g:acknowledge", fmt.Sprintf(`{"ack":{"deliveryIds":[%q,"x"]},"nacks":[{"deliveryIds":[%q],"action":"park"}]}`, ids[0], ids[1]), 200)
		if s, _ := got["settled"].([]any); len(s) != 2 {
			t.Fatal(got)
		}
		if s, _ := got["refused"].([]any); len(s) != 1 {
			t.Fatal(got)
		}
		got = call("GET", "/v1/groups/g", "", 200)
		state, _ := got["group"].(map[string]any)["state"].(map[string]any)
		if state["deadLetters"] != "1" || state["lagEvents"] != "1" {
			t.Fatal(got)
		}
		if l, _ := call("GET", "/v1/groups/g/deadLetters?event_types=PNR_V3&causes=parked&view=typed", "", 200)["deadLetters"].([]any); len(l) != 1 {
			t.Fatal(l)
		}
		if got := call("POST", "/v1/groups/g/deadLetters:redrive", `{"dryRun":true}`, 200); got["redriven"] != "1" {
			t.Fatal(got)
		}
		call("POST", "/v1/groups/g/deadLetters:delete", `{}`, 400)
		call("POST", "/v1/groups/g/deadLetters:delete", `{"all":true}`, 200)
		call("POST", "/v1/groups/g:pause", `{}`, 200)
		call("POST", "/v1/groups/g:resume", `{}`, 200)
		call("POST", "/v1/groups/g:seek", `{"start":"START_LATEST"}`, 200)
		if l, _ := call("GET", "/v1/groups", "", 200)["groups"].([]any); len(l) != 1 {
			t.Fatal(l)
		}
		call("DELETE", "/v1/groups/g", "", 200)
		call("GET", "/v1/groups/g", "", 404)
	})
}

func everyTenth(ids []string) []string {
	var out []string
	for i := 3; i < len(ids); i += 10 {
		out = append(out, ids[i])
	}
	return out
}

// creditsBoundWhatIsSent also where events come together: not one more than the credits, in events as in bytes.
func creditsBoundWhatIsSent(t *testing.T, r *running, batch int32) {
	r.create(t, &pb.CreateConsumerGroupRequest{Group: "g"})
	r.put(t, "x", 20)
	m := r.join(t, &pb.Join{Group: "g", HeartbeatInterval: seconds(5), MaxBatchEvents: batch})
	m.joined()
	grant := func(events, bytes int64) {
		m.send(&pb.ConsumeRequest{Content: &pb.ConsumeRequest_Credit{Credit: &pb.Credit{Events: events, Bytes: bytes}}})
	}
	none := func() {
		t.Helper()
		h := next(m, func(x *pb.ConsumeResponse) (*pb.GroupHeartbeat, bool) {
			if x.GetDelivery() != nil {
				t.Fatal("an event without credit")
			}
			return x.GetHeartbeat(), x.GetHeartbeat() != nil
		})
		if h.GetCredit().GetEvents() > 0 && h.GetCredit().GetBytes() > 0 {
			t.Fatalf("credits are left: %v", h)
		}
	}
	none()
	grant(3, 0)
	for range 3 {
		m.delivery()
	}
	none()
	grant(100, 1) // one event may go beyond the bytes
	m.delivery()
	none()
	if st := r.state(t, "g"); st.GetMembers()[0].GetInFlightEvents() != 4 {
		t.Fatal(st)
	}
	grant(-1, 0)
	if x := m.refused(); x.GetReason() != "INVALID_FIELD" || x.GetField() != "credit.events" {
		t.Fatal(x)
	}
	grant(0, 1<<20)
	for range 16 {
		if d := m.delivery(); d.GetAttempt() != 1 {
			t.Fatal("an event that waited for credits counted as delivered")
		}
	}
}
