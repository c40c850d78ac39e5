package bridge_test

import (
	"encoding/base64"
	"math"
	"strings"
	"testing"

	"github.com/spotbridge/spotbridge/bridge"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

var someLog, otherLog = bridge.LogID{1, 2, 3, 255}, bridge.LogID{4}

func reason(err error) string {
	if err == nil {
		return ""
	}
	return strings.TrimPrefix(bridge.ReasonOf(err).String(), "ERROR_REASON_")
}

func TestCursorsComeBackAsTheyWere(t *testing.T) {
	for _, sequence := range []uint64{0, 1, 255, 1 << 40, math.MaxUint64} {
		c := bridge.Cursor{Log: someLog, Sequence: sequence}
		got, err := bridge.ParseCursor(c.String(), someLog)
		if err != nil || got != c {
			t.Errorf("%+v: %+v, %v", c, got, err)
		}
		// The logs take turns: a cursor keeps nothing of the one before.
		other := bridge.Cursor{Log: otherLog, Sequence: sequence}
		if got, err := bridge.ParseCursor(other.String(), otherLog); err != nil || got != other {
			t.Errorf("%+v: %+v, %v", other, got, err)
		}
		if strings.Trim(c.String(), "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-") != "" {
			t.Errorf("%q needs escaping in a URL", c.String())
		}
	}
}

func TestCursorsInASnapshotComeBackAsTheyWere(t *testing.T) {
	for _, c := range []bridge.Cursor{
		{Log: someLog, InSnapshot: true}, {Log: someLog, Sequence: 3, InSnapshot: true, Snapshot: 3}, {Log: someLog, Sequence: 1, InSnapshot: true, Snapshot: math.MaxUint64},
	} {
		got, err := bridge.ParseCursor(c.String(), someLog)
		if err != nil || got != c {
			t.Errorf("%+v: %+v, %v", c, got, err)
		}
		raw, err := base64.RawURLEncoding.DecodeString(c.String())
		if err != nil {
			t.Fatal(err)
		}
		for i := range raw {
			for bit := range 8 {
				b := append([]byte(nil), raw...)
				b[i] ^= 1 << bit
				if _, err := bridge.ParseCursor(base64.RawURLEncoding.EncodeToString(b), someLog); reason(err) != "INVALID_CURSOR" {
					t.Errorf("bit %d of byte %d: %v", bit, i, err)
				}
			}
		}
	}
	beyond := bridge.Cursor{Log: someLog, Sequence: 4, InSnapshot: true, Snapshot: 3}
	if _, err := bridge.ParseCursor(beyond.String(), someLog); reason(err) != "INVALID_CURSOR" {
		t.Errorf("a position after the snapshot: %v", err)
	}
}

func TestDamagedAndForeignCursorsAreTold(t *testing.T) {
	good := bridge.Cursor{Log: someLog, Sequence: 42}.String()
	raw, err := base64.RawURLEncoding.DecodeString(good)
	if err != nil {
		t.Fatal(err)
	}
	for i := range raw {
		for bit := range 8 {
			b := append([]byte(nil), raw...)
			b[i] ^= 1 << bit
			if _, err := bridge.ParseCursor(base64.RawURLEncoding.EncodeToString(b), someLog); reason(err) != "INVALID_CURSOR" {
				t.Errorf("bit %d of byte %d: %v", bit, i, err)
			}
		}
	}
	for last := range strings.SplitSeq("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-", "") {
		text := good[:len(good)-1] + last
		if _, err := bridge.ParseCursor(text, someLog); (err == nil) != (text == good) {
			t.Errorf("last character %s: %v", last, err)
		}
	}
	for name, text := range map[string]string{
		"empty": "", "cut": good[:len(good)-1], "longer": good + "A", "padded": good + "=", "space": " " + good, "line feed": good + "\n",
		"line feed inside": good[:5] + "\n" + good[5:], "number": "42", "upper case": strings.ToUpper(good), "twice": good + good, "not Base64": strings.Repeat("*", len(good)),
		"huge": strings.Repeat("A", 1<<20),
	} {
		_, err := bridge.ParseCursor(text, someLog)
		if reason(err) != "INVALID_CURSOR" || !strings.Contains(err.Error(), "after_cursor") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := bridge.ParseCursor(good, otherLog); reason(err) != "CURSOR_FOREIGN" {
		t.Errorf("another log: %v", err)
	}
	if !(bridge.LogID{}).IsZero() || someLog.IsZero() {
		t.Error("IsZero")
	}
}

func FuzzCursor(f *testing.F) {
	f.Add(bridge.Cursor{Log: someLog, Sequence: 42}.String(), uint64(42))
	f.Add(bridge.Cursor{Log: otherLog, Sequence: 1}.String(), uint64(1))
	f.Add("", uint64(0))
	f.Add("AQ==\n", uint64(math.MaxUint64))
	f.Fuzz(func(t *testing.T, text string, sequence uint64) {
		c, err := bridge.ParseCursor(text, someLog)
		if err == nil && c.String() != text {
			t.Fatalf("%q is %+v, which is %q", text, c, c.String())
		}
		if err != nil && bridge.ReasonOf(err) != pb.ErrorReason_ERROR_REASON_INVALID_CURSOR && bridge.ReasonOf(err) != pb.ErrorReason_ERROR_REASON_CURSOR_FOREIGN {
			t.Fatal(err)
		}
		c = bridge.Cursor{Log: someLog, Sequence: sequence}
		if got, err := bridge.ParseCursor(c.String(), someLog); err != nil || got != c {
			t.Fatalf("%+v: %+v, %v", c, got, err)
		}
	})
}
