package server

import (
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/spotbridge/spotbridge/bridge/live"
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

// TestAPeerThatAnswersNoPingHasAsLongAsOneThatDoesNotRead: whoever stands still keeps its connection for the send timeout, and
// no longer.
func TestAPeerThatAnswersNoPingHasAsLongAsOneThatDoesNotRead(t *testing.T) {
	t.Parallel()
	const patience = 2 * time.Second
	f := newFixture(t, func(c *Config, _ *live.Config) { c.pingAfter, c.SendTimeout = time.Second, patience })
	begin := time.Now()
	c, err := net.Dial("tcp", f.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(begin.Add(15 * time.Second))
	if _, err := io.WriteString(c, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	fr := http2.NewFramer(c, c)
	if err := fr.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	pinged := false
	for {
		frame, err := fr.ReadFrame()
		if err != nil {
			if took := time.Since(begin); !pinged || took < patience || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("pinged %t, ended after %v: %v", pinged, took, err)
			}
			return
		}
		if ping, ok := frame.(*http2.PingFrame); ok {
			pinged = pinged || !ping.IsAck()
		}
	}
}
