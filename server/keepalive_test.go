package server

import (
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// TestClientsThatPingTooOftenAreEnded: pings are for finding dead connections, not for load.
func TestClientsThatPingTooOftenAreEnded(t *testing.T) {
	f := newFixture(t)
	c, err := net.Dial("tcp", f.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(c, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	fr := http2.NewFramer(c, c)
	if err := fr.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	for acked := 0; ; {
		frame, err := fr.ReadFrame()
		if errors.Is(err, io.EOF) {
			t.Fatalf("the connection ended without a word after %d pings", acked)
		}
		if err != nil {
			t.Fatal(err)
		}
		switch frame := frame.(type) {
		case *http2.SettingsFrame:
			if !frame.IsAck() {
				err = errors.Join(fr.WriteSettingsAck(), fr.WritePing(false, [8]byte{}))
			}
		case *http2.PingFrame:
			if frame.IsAck() {
				if acked++; acked > 10 {
					t.Fatal("ten pings at once are allowed")
				}
				err = fr.WritePing(false, [8]byte{byte(acked)})
			}
		case *http2.GoAwayFrame:
			if frame.ErrCode != http2.ErrCodeEnhanceYourCalm || string(frame.DebugData()) != "too_many_pings" {
				t.Fatalf("%v %s", frame.ErrCode, frame.DebugData())
			}
			return
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}
