package server

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/spotbridge/spotbridge/bridge"
	"github.com/spotbridge/spotbridge/bridge/bridgetest"
	"github.com/spotbridge/spotbridge/bridge/live"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

func TestListSubscriptionsSaysWhoIsConnectedAndHowFarBehind(t *testing.T) {
	f := newFixture(t, func(c *Config, lc *live.Config) { c.Replica, lc.RingEvents = "bridge-0", 32 })
	client := pb.NewSubscriptionServiceClient(f.conn)
	list := func() []*pb.Subscription {
		res, err := client.ListSubscriptions(t.Context(), &pb.ListSubscriptionsRequest{})
		if err != nil || res.GetReplica() != "bridge-0" || res.GetServerTime() == nil || res.GetNextPageToken() != "" {
			t.Fatal(res, err)
		}
		return res.GetSubscriptions()
	}
	if got := list(); len(got) != 0 {
		t.Fatal(got)
	}
	quick := f.subscribe(t, &pb.SubscribeRequest{ClientName: "quick", Filter: &pb.EventFilter{EventTypes: []string{"PNR_V3"}}, View: pb.EventView_EVENT_VIEW_RAW})
	next(t, quick)
	next(t, quick)
	p := bridgetest.NewTap()
	slow, err := pb.NewSubscriptionServiceClient(f.tapped(t, p)).Subscribe(t.Context(), &pb.SubscribeRequest{ClientName: "slow", View: pb.EventView_EVENT_VIEW_RAW})
	if err != nil {
		t.Fatal(err)
	}
	next(t, slow)
	next(t, slow)
	p.Stop()
	const n = 400
	body := []byte(strings.Repeat("x", 20<<10))
	for seq := uint64(1); seq <= n; seq++ {
		f.put(makeEvent(seq, body))
		next(t, quick)
	}
	eventually(t, "the quick one waits", func() bool { return list()[0].GetLagEvents() == 0 })
	got := list()
	q, s := got[0], got[1]
	if len(got) != 2 || q.GetClientName() != "quick" || s.GetClientName() != "slow" || q.GetId() >= s.GetId() || q.GetReplica() != "bridge-0" {
		t.Fatal(got)
	}
	if q.GetState() != pb.SubscriptionState_SUBSCRIPTION_STATE_LIVE || q.GetPositionSequence() != n || q.GetHeadSequence() != n || q.GetLag() != nil ||
		q.GetEventsSent() != n || q.GetBytesSent() < n*20<<10 || fmt.Sprint(q.GetFilter().GetEventTypes()) != "[PNR_V3]" || q.GetView() != pb.EventView_EVENT_VIEW_RAW ||
		!strings.HasPrefix(q.GetPeer(), "127.0.0.1:") || time.Since(q.GetStartTime().AsTime()).Abs() > time.Minute {
		t.Error(q)
	}
	// What it has yet to get is as old as the events are.
	if s.GetHeadSequence() != n || s.GetPositionSequence() >= n || s.GetLagEvents() != n-s.GetPositionSequence() || s.GetLag().AsDuration() < time.Second || s.GetEventsSent() >= n {
		t.Error(s)
	}
	p.Start()
	states := map[pb.SubscriptionState]bool{}
	for seq := uint64(0); seq < n; {
		if m := next(t, slow); m.GetEvent() != nil {
			seq++
		} else if m.GetFellBehind() != nil {
			p.Stop()
			states[list()[1].GetState()] = true
			p.Start()
		}
	}
	if !states[pb.SubscriptionState_SUBSCRIPTION_STATE_BEHIND] {
		t.Error("it was never shown as behind")
	}
	eventually(t, "it is live again", func() bool {
		return list()[1].GetState() == pb.SubscriptionState_SUBSCRIPTION_STATE_LIVE && list()[1].GetLagEvents() == 0 && list()[1].GetLag() == nil
	})
}

func TestListSubscriptionsPages(t *testing.T) {
	f := newFixture(t)
	const n = 7
	for i := range n {
		next(t, f.subscribe(t, &pb.SubscribeRequest{ClientName: fmt.Sprint("c", i), Filter: &pb.EventFilter{EventTypes: []string{fmt.Sprint("T", i%2)}}}))
	}
	byREST, err := f.http.Get(f.url + "/v1/events:subscribe?client_name=web")
	if err != nil {
		t.Fatal(err)
	}
	defer byREST.Body.Close()
	eventually(t, "all are there", func() bool { return len(f.hub.Subscriptions()) == n+1 })
	var names []string
	var res pb.ListSubscriptionsResponse
	pages := 0
	for token := ""; ; pages++ {
		f.get(t, "/v1/subscriptions?page_size=3&page_token="+url.QueryEscape(token)).decode(t, &res)
		for _, s := range res.GetSubscriptions() {
			names = append(names, s.GetClientName())
			if (s.GetClientName() == "web") != strings.HasPrefix(s.GetPeer(), "rest 127.0.0.1:") {
				t.Error(s)
			}
		}
		if token = res.GetNextPageToken(); token == "" {
			break
		}
	}
	slices.Sort(names) // streams that are opened at the same time are registered in any order
	if pages != 2 || fmt.Sprint(names) != "[c0 c1 c2 c3 c4 c5 c6 web]" {
		t.Error(pages, names)
	}
	f.get(t, "/v1/subscriptions?page_size=-1").expect(t, 400, codes.InvalidArgument, "INVALID_FIELD", "page_size")
	f.get(t, "/v1/subscriptions?page_token=x").expect(t, 400, codes.InvalidArgument, "INVALID_PAGE_TOKEN", "page_token")
	f.get(t, "/v1/subscriptions?page_size=3").decode(t, &res)
	// Ids begin anew in another process: a token from before would skip some.
	g := newFixture(t)
	g.get(t, "/v1/subscriptions?page_token="+res.GetNextPageToken()).expect(t, 400, codes.InvalidArgument, "INVALID_PAGE_TOKEN", "page_token")
}

func TestEveryStateOfASubscriptionIsShown(t *testing.T) {
	for s := bridge.SubscriptionCatchingUp; s <= bridge.SubscriptionBehind; s++ {
		if subscriptionStates[s] == pb.SubscriptionState_SUBSCRIPTION_STATE_UNSPECIFIED {
			t.Errorf("state %d has no value on the wire", s)
		}
	}
}
