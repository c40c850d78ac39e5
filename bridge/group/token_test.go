package group

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/spotbridge/spotbridge/bridge"
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
		own, other := newSigner([32]byte{1}), newSigner([32]byte{2})
		text := want.encode(own)
		if len(text) > 256 {
			rt.Fatalf("%d bytes", len(text))
		}
		got, raw, err := readToken(text)
		if err != nil || got != want || !own.genuine(raw) {
			rt.Fatalf("%+v, %v, want %+v", got, err, want)
		}
		if other.genuine(raw) {
			rt.Fatal("another group took it")
		}
		b := []byte(text)
		i := rapid.IntRange(0, len(b)-1).Draw(rt, "changed")
		if b[i] = "ABCDEFGH"[rapid.IntRange(0, 7).Draw(rt, "to")]; string(b) == text {
			return
		}
		if _, raw, err := readToken(string(b)); err == nil && own.genuine(raw) {
			rt.Fatal("a changed id was taken")
		}
	})
}

func FuzzParseToken(f *testing.F) {
	s := newSigner([32]byte{1})
	f.Add((&token{epoch: 1, attempt: 1, deadline: time.UnixMilli(1)}).encode(s))
	f.Fuzz(func(t *testing.T, text string) {
		if got, raw, err := readToken(text); err == nil && s.genuine(raw) && got.encode(s) != text {
			t.Fatalf("%q is another spelling of %q", text, got.encode(s))
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
