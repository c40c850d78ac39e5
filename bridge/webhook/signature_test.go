package webhook_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/spotbridge/spotbridge/bridge/bridgetest/samples"
	"github.com/spotbridge/spotbridge/bridge/webhook"
)

// The worked vectors of CONTRACT.md section 3.
const (
	vectorID   = "msg_2f0c6c1e-5b1d-4e59-9a3c-7d0d5f8b1a01"
	vectorTime = "1767225600"
	vectorBody = `{"event_type":"PNR_V3","operationSummary":{"ticketsIssued":["0167489825830"],"ticketsVoided":[],"ticketsRefunded":[]},"operation":"BOOKING_TICKETED","payload":{"pnrId":"6789533589","tripId":"6926658168","version":2},"timestamp":"2026-01-01T00:00:00Z"}`
	vectorSig  = "Y+QN/R7d+UejV7C+IU4D5fFruvkJyKXTuOFiD5hVM7c="
	otherSig   = "z2k84n6n/RwTNCmdaSGzVc1XJxphuwDsjdaOD9qiNRo="
)

func TestVerifyAgreesWithTheContractVectors(t *testing.T) {
	first, second := parseSecret(t, secretText), parseSecret(t, otherText)
	one := []webhook.Secret{first}
	urlSafe := strings.NewReplacer("+", "-", "/", "_").Replace(vectorSig)
	for _, tc := range []struct {
		name       string
		secrets    []webhook.Secret
		body       string
		signatures string
		want       bool
	}{
		{"the worked vector", one, vectorBody, vectorSig, true},
		{"old secret", []webhook.Secret{second}, vectorBody, otherSig, true},
		{"rotation header, first secret", one, vectorBody, otherSig + " " + vectorSig, true},
		{"rotation header, second secret", []webhook.Secret{second}, vectorBody, otherSig + " " + vectorSig, true},
		{"both secrets active, one signature", []webhook.Secret{second, first}, vectorBody, vectorSig, true},
		{"v1 tag", one, vectorBody, "v1," + vectorSig, true},
		{"v1 tag among others", one, vectorBody, "v1a,AAAA v2," + vectorSig + " v1," + vectorSig, true},
		{"UTF-8 body", one, `{"note":"Zürich → 東京"}`, "80Ifid80HR3YhSTote4w8z2mX3h2qa1zYyQGAKzVQSU=", true},
		{"no padding", one, vectorBody, strings.TrimRight(vectorSig, "="), true},
		{"URL-safe alphabet", one, vectorBody, urlSafe, true},
		{"spaces around and between", one, vectorBody, "  " + otherSig + "   " + vectorSig + "  ", true},
		{"rubbish before", one, vectorBody, "%%% , v1, = " + vectorSig, true},
		{"the 32nd entry", one, vectorBody, strings.Repeat("AAAA ", 31) + vectorSig, true},

		{"another body", one, strings.Replace(vectorBody, `"version":2`, `"version":3`, 1), vectorSig, false},
		{"its true value", one, strings.Replace(vectorBody, `"version":2`, `"version":3`, 1), "bkzAj9excbYhXMDL/DhRQ+idxKEZ4vf8RCV4jGsj6cc=", true},
		{"keyed with the whole secret text", one, vectorBody, "uvcOf1hpVsfC2k136EejL8d24FC/CXvQFldTd7ty+jA=", false},
		{"only another version tag", one, vectorBody, "v2," + vectorSig, false},
		{"upper-case version tag", one, vectorBody, "V1," + vectorSig, false},
		{"another secret's signature", one, vectorBody, otherSig, false},
		{"empty", one, vectorBody, "", false},
		{"spaces", one, vectorBody, "   ", false},
		{"tag only", one, vectorBody, "v1,", false},
		{"cut short", one, vectorBody, vectorSig[:40], false},
		{"too long", one, vectorBody, vectorSig[:43] + "AAAA", false},
		{"hex", one, vectorBody, "63e40dfd1eddf947a357b0be214e03e5f16bbaf909c8a5d3b8e1620f985533b7", false},
		{"the 33rd entry", one, vectorBody, strings.Repeat("AAAA ", 32) + vectorSig, false},
		{"no secrets", nil, vectorBody, vectorSig, false},
		{"the zero secret", []webhook.Secret{{}}, vectorBody, vectorSig, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			// Twice: the HMAC states are used again.
			for range 2 {
				if got := webhook.Verify(tc.secrets, vectorID, vectorTime, tc.signatures, []byte(tc.body)); got != tc.want {
					t.Fatalf("Verify = %v, want %v", got, tc.want)
				}
			}
		})
	}
	if webhook.Verify(one, vectorID, "01767225600", vectorSig, []byte(vectorBody)) || webhook.Verify(one, vectorID+" ", vectorTime, vectorSig, []byte(vectorBody)) {
		t.Error("id and timestamp are signed verbatim, but another text passed")
	}
}

func TestSignMakesTheContractVectors(t *testing.T) {
	if got := webhook.Sign(parseSecret(t, secretText), vectorID, vectorTime, []byte(vectorBody)); got != vectorSig {
		t.Errorf("Sign = %s", got)
	}
	if got := webhook.Sign(webhook.Secret{}, vectorID, vectorTime, nil); got != "" {
		t.Errorf("the zero secret signed: %s", got)
	}
}

func TestSampleSignaturesVerify(t *testing.T) {
	var secrets []webhook.Secret
	for _, s := range samples.Secrets() {
		secrets = append(secrets, parseSecret(t, s))
	}
	for _, d := range samples.Deliveries() {
		h := d.Headers
		if !webhook.Verify(secrets[:1], d.WebhookID(), h["x-spotnana-webhook-timestamp"], h["x-spotnana-webhook-signature"], d.Body) {
			t.Errorf("delivery %d does not verify with the current secret", d.Seq)
		}
	}
}

func TestParseSecretAcceptsEveryForm(t *testing.T) {
	key := strings.Repeat("\xfb\xff", 16) + "x" // needs + / and padding
	std := base64.StdEncoding.EncodeToString([]byte(key))
	want := webhook.Sign(parseSecret(t, "whsec_"+std), "i", "1", nil)
	for name, text := range map[string]string{
		"standard":         "whsec_" + std,
		"standard, raw":    "whsec_" + base64.RawStdEncoding.EncodeToString([]byte(key)),
		"URL-safe":         "whsec_" + base64.URLEncoding.EncodeToString([]byte(key)),
		"URL-safe, raw":    "whsec_" + base64.RawURLEncoding.EncodeToString([]byte(key)),
		"with white space": " \twhsec_" + std + "\r\n",
	} {
		if got := webhook.Sign(parseSecret(t, text), "i", "1", nil); got != want {
			t.Errorf("%s: another key", name)
		}
	}
}

func TestParseSecretErrorsNeverHoldTheSecret(t *testing.T) {
	for _, text := range []string{"", " ", "whsec_", "whsec_==", "CanarySecret", "whsec_Canary*Secret", "WHSEC_CanarySecret", "whsec_CanarySecretX", "env:CanarySecret"} {
		s, err := webhook.ParseSecret(text)
		if err == nil {
			t.Errorf("%q was accepted", text)
		} else if strings.Contains(err.Error(), "Canary") {
			t.Errorf("the error holds the secret: %v", err)
		}
		if webhook.Sign(s, "i", "1", nil) != "" {
			t.Errorf("%q: a secret came with the error", text)
		}
	}
}

func TestSecretPrintsAsStars(t *testing.T) {
	s := parseSecret(t, secretText)
	hidden := struct{ inner []webhook.Secret }{[]webhook.Secret{s}}
	src := webhook.Source{Name: "sandbox", Secrets: []webhook.Secret{s}, RequireHeaders: map[string]string{"X-Partner-Key": "CanaryPartnerKey"}}
	var out strings.Builder
	for _, v := range []any{s, &s, []webhook.Secret{s}, hidden, src, &src, webhook.Config{Sources: []webhook.Source{src}}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%q", "%d"} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
	}
	b, err := json.Marshal(s)
	if err != nil || string(b) != `"***"` {
		t.Errorf("JSON %s, %v", b, err)
	}
	slog.New(slog.NewTextHandler(&out, nil)).Info("x", "secret", s, "source", src, "sources", []webhook.Source{src})
	slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "secret", s, "source", src)
	for _, bad := range []string{"AAECAwQF", "0001020304", "0 1 2 3 4 5", "0x0, 0x1", "CanaryPartnerKey", "43616e617279"} {
		if strings.Contains(out.String(), bad) {
			t.Errorf("printed %q in\n%s", bad, out.String())
		}
	}
}

func FuzzVerify(f *testing.F) {
	f.Add("msg_1", "1767225600", vectorSig, []byte(vectorBody))
	f.Add(vectorID, vectorTime, otherSig+" "+vectorSig, []byte(vectorBody))
	f.Add(vectorID, vectorTime, "v1,"+vectorSig+" v2,x v1, ,", []byte("{}"))
	f.Add("a.b", "1", strings.Repeat("A", 5000), []byte(nil))
	f.Add("\xff", "\x00", "====", []byte{0})
	first, second := parseSecret(f, secretText), parseSecret(f, otherText)
	f.Fuzz(func(t *testing.T, id, timestamp, signatures string, body []byte) {
		secrets := []webhook.Secret{first, second}
		right := webhook.Sign(second, id, timestamp, body)
		verdict := webhook.Verify(secrets, id, timestamp, signatures, body)
		holds := strings.Contains(signatures, strings.TrimRight(right, "=")) ||
			strings.Contains(signatures, strings.TrimRight(webhook.Sign(first, id, timestamp, body), "="))
		if verdict && !holds && !strings.ContainsAny(signatures, "-_\r\n") {
			// Lax Base64 ignores the last character's spare bits; nothing else may differ.
			if !strings.Contains(signatures, right[:42]) && !strings.Contains(signatures, webhook.Sign(first, id, timestamp, body)[:42]) {
				t.Fatalf("%q passed", signatures)
			}
		}
		// The right signature passes as the first entry, whatever follows.
		if !webhook.Verify(secrets, id, timestamp, right+" "+signatures, body) {
			t.Fatalf("the right signature before %q did not pass", signatures)
		}
		if webhook.Verify(secrets, id, timestamp, right, append(body[:len(body):len(body)], ' ')) {
			t.Fatal("a longer body passed")
		}
	})
}
