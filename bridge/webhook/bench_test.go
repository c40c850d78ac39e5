package webhook_test

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"sync/atomic"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/spotbridge/spotbridge/bridge"
	"github.com/spotbridge/spotbridge/bridge/bridgetest/samples"
	"github.com/spotbridge/spotbridge/bridge/webhook"
)

// nowhere takes every entry at once and remembers none.
type nowhere struct{ sequence atomic.Uint64 }

func (n *nowhere) Append(context.Context, *bridge.Entry) (bridge.Appended, error) {
	return bridge.Appended{Sequence: n.sequence.Add(1)}, nil
}
func (n *nowhere) Lookup(context.Context, string) (bridge.IDState, error) {
	return bridge.IDState{}, nil
}
func (n *nowhere) Watermark() uint64 { return n.sequence.Load() }

type reader struct{ *bytes.Reader }

func (reader) Close() error { return nil }

// BenchmarkDelivery compares the front door with the minimal handler: net/http and HMAC, and no more. No sockets, no log:
// what is left is the CPU of the door itself.
func BenchmarkDelivery(b *testing.B) {
	body := samples.Deliveries()[23].Body // 20 KB
	secret, err := webhook.ParseSecret(secretText)
	if err != nil {
		b.Fatal(err)
	}
	n := &nowhere{}
	door, err := webhook.New(webhook.Config{
		Sources: []webhook.Source{{Name: "sandbox", Secrets: []webhook.Secret{secret}}}, Log: n, IDs: n,
		Logger: slog.New(slog.NewJSONHandler(io.Discard, nil)), Registerer: prometheus.NewRegistry(),
	})
	if err != nil {
		b.Fatal(err)
	}
	key, err := base64.StdEncoding.DecodeString(secretText[6:])
	if err != nil {
		b.Fatal(err)
	}
	minimal := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			b.Error(err)
		}
		m := hmac.New(sha256.New, key)
		m.Write([]byte(r.Header.Get(webhook.HeaderID) + "." + r.Header.Get(webhook.HeaderTimestamp) + "."))
		m.Write(body)
		given, err := base64.StdEncoding.DecodeString(r.Header.Get(webhook.HeaderSignature))
		if err != nil || !hmac.Equal(given, m.Sum(nil)) {
			b.Error("wrong signature")
		}
		w.WriteHeader(http.StatusOK)
	})
	for _, x := range []struct {
		name    string
		handler http.Handler
	}{{"minimal", minimal}, {"door", door}} {
		b.Run(x.name, func(b *testing.B) {
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				b.StopTimer()
				i++
				id, ts := "msg_"+strconv.Itoa(i), "1772707191"
				r, err := http.NewRequest(http.MethodPost, "/webhooks/sandbox", reader{bytes.NewReader(body)})
				if err != nil {
					b.Fatal(err)
				}
				r.ContentLength, r.RemoteAddr = int64(len(body)), "127.0.0.1:1"
				r.Header.Set(webhook.HeaderID, id)
				r.Header.Set(webhook.HeaderTimestamp, ts)
				r.Header.Set(webhook.HeaderSignature, webhook.Sign(secret, id, ts, body))
				w := newWriter()
				b.StartTimer()
				x.handler.ServeHTTP(w, r)
				if w.code != http.StatusOK {
					b.Fatal(w.code)
				}
			}
		})
	}
}
