package bridge_test

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/spotbridge/spotbridge/bridge"
)

func TestSourceNames(t *testing.T) {
	for name, want := range map[string]bool{
		"a": true, "sandbox": true, "prod-2": true, "-": true, strings.Repeat("a", 32): true,
		"": false, strings.Repeat("a", 33): false, "Sandbox": false, "a.b": false, "a_b": false, "a b": false, "é": false, "a\n": false,
	} {
		if bridge.ValidSource(name) != want {
			t.Errorf("%q: %v", name, !want)
		}
	}
}

func TestEventIDs(t *testing.T) {
	long := strings.Repeat("x", 128)
	for id, want := range map[string]string{
		"msg_1":      "s.msg_1",
		"A-z_0":      "s.A-z_0",
		long:         "s." + long,
		long + "x":   "s.sha256-" + sum(long+"x"),
		"":           "s.sha256-" + sum(""),
		"a.b":        "s.sha256-" + sum("a.b"),
		"a b":        "s.sha256-" + sum("a b"),
		"é":          "s.sha256-" + sum("é"),
		"\xff":       "s.sha256-" + sum("\xff"),
		"a\r\nb: c":  "s.sha256-" + sum("a\r\nb: c"),
		"../../etc":  "s.sha256-" + sum("../../etc"),
		"msg_1%00":   "s.sha256-" + sum("msg_1%00"),
		"*":          "s.sha256-" + sum("*"),
		"msg_1.abcd": "s.sha256-" + sum("msg_1.abcd"),
	} {
		if got := bridge.EventID("s", id); got != want {
			t.Errorf("%q: %s, want %s", id, got, want)
		}
	}
}

func TestWebhookIDTextIsVerbatimUnlessItIsNotUTF8(t *testing.T) {
	for id, want := range map[string]string{
		"msg_1": "msg_1", "a b%41": "a b%41", "é": "é", "a\xffb": "a%FFb", "\x80\xc3": "%80%C3", "\uFFFD": "\uFFFD", "é\xff": "é%FF",
	} {
		if got := bridge.WebhookIDText(id); got != want {
			t.Errorf("%q: %q, want %q", id, got, want)
		}
	}
}

func TestSubjectTokens(t *testing.T) {
	long := strings.Repeat("x", 64)
	for value, want := range map[string]string{
		"": "~", "PNR_V3": "PNR_V3", "a-b": "a-b", long: long,
		long + "x": "~" + sum(long + "x")[:32], "a.b": "~" + sum("a.b")[:32], "*": "~" + sum("*")[:32], ">": "~" + sum(">")[:32],
		"~": "~" + sum("~")[:32], "~many": "~" + sum("~many")[:32], " ": "~" + sum(" ")[:32], "\x00": "~" + sum("\x00")[:32], "é": "~" + sum("é")[:32],
	} {
		if got := bridge.SubjectToken(value); got != want {
			t.Errorf("%q: %s, want %s", value, got, want)
		}
	}
	for want, got := range map[string]string{
		"ev.s.T.O.~":     bridge.EventSubject("s", "T", "O", nil),
		"ev.s.T.~.a":     bridge.EventSubject("s", "T", "", []string{"a"}),
		"ev.s.T.O.~many": bridge.EventSubject("s", "T", "O", []string{"a", "b"}),
		"q.s.not_json":   bridge.QuarantineSubject("s", "not_json"),
	} {
		if got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

func FuzzSubjectToken(f *testing.F) {
	for _, s := range []string{"", "PNR_V3", "a.b", "*.>", "~many", strings.Repeat("x", 65), "\x00\xff", " ", "ev.~"} {
		f.Add(s, "other")
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		token := bridge.SubjectToken(a)
		if token == "" || len(token) > 64 || strings.Trim(token, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-~") != "" || token == "~many" {
			t.Fatalf("%q: token %q", a, token)
		}
		if (token == bridge.SubjectToken(b)) != (a == b) {
			t.Fatalf("%q and %q: %s and %s", a, b, token, bridge.SubjectToken(b))
		}
		subject := bridge.EventSubject("s", a, b, []string{a})
		if strings.Count(subject, ".") != 4 || len(subject) > 250 {
			t.Fatalf("subject %q", subject)
		}
		id := bridge.EventID("s", a)
		if len(id) > 2+128 || strings.Count(id, ".") != 1 || !utf8.ValidString(bridge.WebhookIDText(a)) {
			t.Fatalf("id %q", id)
		}
	})
}
