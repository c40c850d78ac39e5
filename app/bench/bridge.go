package main

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/spotbridge/spotbridge/app"
	"github.com/spotbridge/spotbridge/bridge/bridgetest/samples"
)

// bridgeProcess is a whole bridge in this process.
type bridgeProcess struct {
	*app.App
	door string
	conn *grpc.ClientConn
	stop func()
}

func startBridge(ctx context.Context, dir string) (*bridgeProcess, error) {
	cfg := app.DefaultConfig()
	cfg.DataDir = dir
	cfg.Listen = app.ListenConfig{Webhook: "127.0.0.1:0", REST: "127.0.0.1:0", GRPC: "127.0.0.1:0", Admin: "127.0.0.1:0"}
	cfg.Sources = []app.Source{{Name: "bench", Secrets: []app.Secret{benchSecret}}}
	cfg.Log.MaxBytes = 32 << 30
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	// Info lines are written and thrown away: their cost is part of the bridge.
	logger := slog.New(slog.NewTextHandler(discard{}, nil))
	a, err := app.New(ctx, cfg, app.Options{Logger: logger})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	select {
	case <-a.Ready():
	case err := <-done:
		cancel()
		return nil, fmt.Errorf("the bridge ended: %w", err)
	}
	conn, err := grpc.NewClient(a.GRPCAddr(), grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(17<<20)))
	if err != nil {
		cancel()
		return nil, err
	}
	return &bridgeProcess{App: a, door: a.WebhookAddr(), conn: conn, stop: func() {
		conn.Close()
		cancel()
		if err := <-done; err != nil {
			fmt.Fprintln(os.Stderr, "bench: the bridge:", err)
		}
	}}, nil
}

type discard struct{}

func (discard) Write(b []byte) (int, error) { return len(b), nil }

// pnrBody is a real-shaped PNR of exactly size bytes: a sample, padded or cut in a member that nothing reads.
func pnrBody(size int) []byte {
	for _, d := range samples.Deliveries() {
		if d.EventType == "PNR_V3" && d.Operation == "BOOKING_UPDATED" && len(d.Body) <= size && len(d.Body) > size*9/10 {
			return pad(d.Body, size)
		}
	}
	return pad([]byte(`{"event_type":"PNR_V3","operation":"BOOKING_UPDATED","audience":{"organizationId":"1f03c874-6731-46aa-96cb-8672785de903"},"timestamp":"2026-03-07T07:10:46.065Z","payload":{"pnrId":"2757967342","tripId":"2600011208","version":2}}`), size)
}

func pad(body []byte, size int) []byte {
	body = bytes.TrimSpace(body)
	missing := size - len(body) - len(`,"_pad":""`)
	if missing < 0 || body[len(body)-1] != '}' {
		return body
	}
	return fmt.Appendf(nil, `%s,"_pad":"%s"}`, body[:len(body)-1], strings.Repeat("x", missing))
}
