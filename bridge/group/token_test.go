package group

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/spotbridge/spotbridge/bridge"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

func TestADeliveryIDIsReadBackAndWorthNothingElsewhere(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		n := rapid.Uint64()
		want := token{
			instance: rapid.Uint32().Draw(rt, "instance"), epoch: n.Draw(rt, "epoch"), attempt: rapid.IntRange(0, 1<<30).Draw(rt, "attempt"),
			receipt: bridge.Receipt{
				Redriven: rapid.Bool().Draw(rt, "redriven"), Deliveries: n.Draw(rt, "deliveries"), Entry: n.Draw(rt, "entry"),
				Delivery: n.Draw(rt, "delivery"), Time: n.Draw(rt, "time"),
			},
			deadline: time.UnixMilli(rapid.Int64Range(0, 1<<45).Draw(rt, "deadline")),
		}
		var key, other [32]byte
		key[0], other[0] = 1, 2
		text := want.encode(&key)
		if len(text) > 256 {
			rt.Fatalf("%d bytes", len(text))
		}
		got, err := parseToken(text, &key)
		if err != nil || *got != want {
			rt.Fatalf("%+v, %v, want %+v", got, err, want)
		}
		if _, err := parseToken(text, &other); bridge.ReasonOf(err) != pb.ErrorReason_ERROR_REASON_INVALID_DELIVERY_ID {
			rt.Fatalf("another group took it: %v", err)
		}
		b := []byte(text)
		i := rapid.IntRange(0, len(b)-1).Draw(rt, "changed")
		if b[i] = "ABCDEFGH"[rapid.IntRange(0, 7).Draw(rt, "to")]; string(b) == text {
			return
		}
		if _, err := parseToken(string(b), &key); err == nil {
			rt.Fatal("a changed id was taken")
		}
	})
}

func FuzzParseToken(f *testing.F) {
	var key [32]byte
	f.Add((&token{epoch: 1, attempt: 1, deadline: time.UnixMilli(1)}).encode(&key))
	f.Fuzz(func(t *testing.T, text string) {
		if got, err := parseToken(text, &key); err == nil && got.encode(&key) != text {
			t.Fatalf("%q is another spelling of %q", text, got.encode(&key))
		}
	})
}

func TestRetryDelaysDoubleUpToTenMinutes(t *testing.T) {
	for attempt, want := range map[int]time.Duration{
		0: time.Second, 1: time.Second, 2: 2 * time.Second, 5: 16 * time.Second, 10: 512 * time.Second, 11: 10 * time.Minute, 1000: 10 * time.Minute,
	} {
		if got := retryDelay(attempt); got != want {
			t.Errorf("attempt %d: %v, want %v", attempt, got, want)
		}
	}
}
