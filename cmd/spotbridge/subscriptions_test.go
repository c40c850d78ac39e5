package main

import (
	"context"
	"encoding/json"
	"io"
	"strings"
	"testing"
)

func TestSubscriptionsOnTheCommandLine(t *testing.T) {
	a := startBridge(t)
	server := []string{"--server", a.GRPCAddr()}
	if out := ok(t, "", append([]string{"subscriptions"}, server...)...); out != "" {
		t.Error(out)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan int, 1)
	go func() {
		done <- run(ctx, append([]string{"tail", "--type", "PNR_V3"}, server...), strings.NewReader(""), io.Discard, io.Discard)
	}()
	out := until(t, func(s string) bool { return strings.Contains(s, "LIVE") }, append([]string{"subscriptions"}, server...)...)
	rows := lines(out)
	if len(rows) != 2 || !strings.HasPrefix(rows[0], "CLIENT ") || !strings.HasPrefix(rows[1], "spotbridge tail") || !strings.HasSuffix(rows[1], `{"eventTypes":["PNR_V3"]}`) {
		t.Error(out)
	}
	var s struct{ ClientName, State, Peer, Replica string }
	if err := json.Unmarshal([]byte(ok(t, "", append([]string{"subscriptions", "--json"}, server...)...)), &s); err != nil || s.ClientName != "spotbridge tail" || s.State != "SUBSCRIPTION_STATE_LIVE" || s.Peer == "" {
		t.Error(s, err)
	}
	cancel()
	if code := <-done; code != 0 {
		t.Error(code)
	}
}
