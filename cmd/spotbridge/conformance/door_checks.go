package conformance

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf16"

	"github.com/spotbridge/spotbridge/bridge/bridgetest/samples"
	"github.com/spotbridge/spotbridge/bridge/webhook"
)

// verdict is what the contract with Spotnana says of an answer.
type verdict string

const (
	taken   verdict = "200"
	refused verdict = "not 200"
	either  verdict = "any" // but no failure of the server
)

// doorCheck is a delivery, or a few, with the answer that is wanted. status and word are those of spotbridge.
type doorCheck struct {
	name, about string
	want        verdict
	status      int
	word        string
	shot        func(d *door) shot
	// skip leaves the check out; nil = never.
	skip func(d *door) bool
	// play is for checks of more than one delivery, in shot's place.
	play func(ctx context.Context, d *door, c doorCheck) error
}

func (c doorCheck) run(ctx context.Context, d *door) error {
	if c.play != nil {
		return c.play(ctx, d, c)
	}
	_, err := c.try(ctx, d, c.shot(d))
	return err
}

// try sends one delivery and judges the answer.
func (c doorCheck) try(ctx context.Context, d *door, s shot) (answer, error) {
	a, err := d.send(ctx, s)
	if err != nil {
		// A receiver may hang up on what it refuses; spotbridge answers.
		if c.want == refused && !d.strict && ctx.Err() == nil {
			return a, nil
		}
		return a, fmt.Errorf("no answer: %w", err)
	}
	return a, c.judge(a, d)
}

func (c doorCheck) judge(a answer, d *door) error {
	switch {
	case c.want == taken && a.status != http.StatusOK:
		return fmt.Errorf("the answer was %s; only 200 is a success for Spotnana", a)
	case c.want == refused && a.status == http.StatusOK:
		return fmt.Errorf("the answer was %s; 200 says that it is taken", a)
	case a.status >= 500:
		return fmt.Errorf("the answer was %s, a failure of the server", a)
	case d.strict && (a.status != c.status || a.word != c.word):
		return fmt.Errorf(`the answer was %s; spotbridge says %d {"status":%q}`, a, c.status, c.word)
	case d.strict && a.status == http.StatusMethodNotAllowed && a.allow != http.MethodPost:
		return fmt.Errorf("405 must say Allow: POST; it said %q", a.allow)
	}
	return nil
}

// goodBody is a ticket that nobody has sent before, with its envelope as it is documented.
func goodBody() []byte {
	var n [2]byte
	_, _ = rand.Read(n[:]) // never fails since Go 1.24
	story := ticketStory()
	i := slices.IndexFunc(story, func(d samples.Delivery) bool { return bytes.Contains(d.Body, []byte(`"event_type"`)) })
	return retold(&story[i], int(binary.BigEndian.Uint16(n[:])))
}

// doorChecks are all checks of a door.
func doorChecks() []doorCheck {
	accepted := func(name, about string, s func(d *door) shot) doorCheck {
		return doorCheck{name: name, about: about, want: taken, status: http.StatusOK, word: "accepted", shot: s}
	}
	unauthorized := func(name, about string, s func(d *door) shot) doorCheck {
		return doorCheck{name: name, about: about, want: refused, status: http.StatusUnauthorized, word: "unauthorized", shot: s}
	}
	quarantined := func(name, about, body string) doorCheck {
		return doorCheck{
			name: name, about: about, want: either, status: http.StatusOK, word: "quarantined", shot: func(*door) shot { return shot{body: []byte(body)} },
		}
	}
	readable := func(name, about, body string) doorCheck {
		return accepted(name, about, func(*door) shot { return shot{body: []byte(body)} })
	}
	one := func(s string) func(string) []string { return func(string) []string { return []string{s} } }

	checks := []doorCheck{
		// Signatures.
		accepted("signed", "a ticket, signed", func(*door) shot { return shot{} }),
		unauthorized("wrong-signature", "signed with another secret", func(*door) shot {
			return shot{signature: func(string) []string { return []string{otherSignature()} }}
		}),
		unauthorized("altered-body", "a body of which a byte was changed after it was signed", func(*door) shot {
			good := goodBody()
			return shot{body: bytes.Replace(good, []byte(`"PNR_V3"`), []byte(`"PNR_V4"`), 1), signed: &shot{body: good}}
		}),
		unauthorized("altered-id", "a webhook id that is not the signed one", func(*door) shot { return shot{signed: &shot{id: newID()}} }),
		unauthorized("altered-timestamp", "a timestamp that is not the signed one", func(*door) shot {
			return shot{signed: &shot{stamp: fmt.Sprint(time.Now().Add(-time.Second).Unix())}}
		}),
		unauthorized("reformatted-body", "signed over the same JSON with other white space", func(*door) shot {
			good := goodBody()
			return shot{body: append(bytes.Clone(good), ' '), signed: &shot{body: good}}
		}),
		unauthorized("text-as-key", "signed with the text whsec_... in the key's place", func(d *door) shot {
			s := shot{}
			s.fill()
			mac := hmac.New(sha256.New, []byte(d.text))
			fmt.Fprintf(mac, "%s.%s.%s", s.id, s.stamp, s.body)
			s.signature = one(base64.StdEncoding.EncodeToString(mac.Sum(nil)))
			return s
		}),
		accepted("rotated-first", "two signatures in the header, the old secret's first", func(*door) shot {
			return shot{signature: func(right string) []string { return []string{otherSignature() + " " + right} }}
		}),
		accepted("rotated-last", "two signatures in the header, the old secret's last", func(*door) shot {
			return shot{signature: func(right string) []string { return []string{right + " " + otherSignature()} }}
		}),
		unauthorized("rotated-none", "two signatures in the header, both of other secrets", func(*door) shot {
			return shot{signature: func(string) []string { return []string{otherSignature() + " " + otherSignature()} }}
		}),
		accepted("second-secret", "signed with the second secret only", func(d *door) shot {
			s := shot{}
			s.fill()
			s.signature = one(webhook.Sign(d.secrets[1], s.id, s.stamp, s.body))
			return s
		}),
		accepted("v1-prefix", "a signature with the version tag v1,", func(*door) shot {
			return shot{signature: func(right string) []string { return []string{"v1," + right} }}
		}),
		{
			name: "other-version", about: "a right signature under another version tag, beside nothing", want: either, status: http.StatusUnauthorized, word: "unauthorized",
			shot: func(*door) shot {
				return shot{signature: func(right string) []string { return []string{"v9," + right} }}
			},
		},
		{
			name: "two-headers", about: "two signature headers, the old secret's first", want: either, status: http.StatusOK, word: "accepted",
			shot: func(*door) shot {
				return shot{signature: func(right string) []string { return []string{otherSignature(), right} }}
			},
		},
		{
			name: "url-alphabet", about: "a signature in the URL alphabet of Base64, without padding", want: either, status: http.StatusOK, word: "accepted",
			shot: func(*door) shot {
				return shot{signature: func(right string) []string {
					return []string{strings.TrimRight(strings.NewReplacer("+", "-", "/", "_").Replace(right), "=")}
				}}
			},
		},
		unauthorized("no-id", "without x-spotnana-webhook-id", func(*door) shot { return shot{without: []string{webhook.HeaderID}} }),
		unauthorized("no-timestamp", "without x-spotnana-webhook-timestamp", func(*door) shot { return shot{without: []string{webhook.HeaderTimestamp}} }),
		unauthorized("no-signature", "without x-spotnana-webhook-signature", func(*door) shot { return shot{without: []string{webhook.HeaderSignature}} }),
		unauthorized("empty-signature", "with an empty signature", func(*door) shot { return shot{signature: one("")} }),
		unauthorized("no-headers", "without any of the three", func(*door) shot {
			return shot{without: []string{webhook.HeaderID, webhook.HeaderTimestamp, webhook.HeaderSignature}}
		}),
		accepted("lower-case", "header names in lower case, as they are documented", func(*door) shot {
			s := shot{}
			s.fill()
			s.without = []string{webhook.HeaderID, webhook.HeaderTimestamp}
			s.header = http.Header{strings.ToLower(webhook.HeaderID): {s.id}, strings.ToLower(webhook.HeaderTimestamp): {s.stamp}}
			return s
		}),

		// Time.
		accepted("old", "a retry whose timestamp is almost as old as the receiver takes", func(d *door) shot {
			age := time.Duration(d.maxAge)
			return shot{at: time.Now().Add(-age + min(age/10, time.Hour))}
		}),
		unauthorized("too-old", "a timestamp older than that", func(d *door) shot {
			return shot{at: time.Now().Add(-time.Duration(d.maxAge) - time.Hour)}
		}),
		accepted("ahead", "a clock that is a minute ahead", func(*door) shot { return shot{at: time.Now().Add(time.Minute)} }),
		unauthorized("too-far-ahead", "a timestamp of tomorrow", func(*door) shot { return shot{at: time.Now().Add(24 * time.Hour)} }),
		unauthorized("timestamp-text", "a timestamp that is no number, signed", func(*door) shot { return shot{stamp: "yesterday"} }),
		unauthorized("timestamp-millis", "a timestamp in milliseconds, signed", func(*door) shot {
			return shot{stamp: fmt.Sprint(time.Now().UnixMilli())}
		}),

		// The same id again.
		{name: "duplicate", about: "the same delivery twice more", want: taken, status: http.StatusOK, word: "duplicate", play: playDuplicate},
		{name: "at-once", about: "the same delivery eight times at once: one is accepted", want: taken, status: http.StatusOK, play: playAtOnce},
		{name: "conflicting", about: "the same id with another body, signed", want: either, status: http.StatusOK, word: "conflict", play: playConflicting},

		// HTTP.
		{
			name: "wrong-method", about: "GET, and PUT", want: refused, status: http.StatusMethodNotAllowed, word: "method_not_allowed",
			play: func(ctx context.Context, d *door, c doorCheck) error {
				for _, method := range []string{http.MethodGet, http.MethodPut} {
					if _, err := c.try(ctx, d, shot{method: method}); err != nil {
						return fmt.Errorf("%s: %w", method, err)
					}
				}
				return nil
			},
		},
		{
			name: "wrong-path", about: "a path below the door's", want: either, status: http.StatusNotFound, word: "not_found",
			shot: func(*door) shot { return shot{path: "/conformance"} },
		},
		accepted("chunked", "a body without Content-Length", func(*door) shot { return shot{chunked: true} }),
		accepted("slow", "a body that comes in pieces over a second", func(*door) shot { return shot{slowly: true} }),
		accepted("no-content-type", "without Content-Type", func(*door) shot { return shot{without: []string{"Content-Type"}} }),
		accepted("largest", "a body of exactly the size that the receiver takes", func(d *door) shot { return shot{body: bodyOf(int(d.maxBody))} }),
		{
			name: "huge", about: "a body over that size", want: refused, status: http.StatusRequestEntityTooLarge, word: "too_large",
			shot: func(d *door) shot { return shot{body: bodyOf(int(d.maxBody) + 64<<10)} },
		},
		{
			name: "huge-chunked", about: "the same without Content-Length", want: refused, status: http.StatusRequestEntityTooLarge, word: "too_large",
			shot: func(d *door) shot { return shot{body: bodyOf(int(d.maxBody) + 64<<10), chunked: true} },
		},

		// Bodies that must be taken: Spotnana adds fields and values without notice.
		readable("unknown-type", "an event type that nobody knows", `{"event_type":"CONFORMANCE_NOVELTY","operation":"CREATED","payload":{"id":"1"}}`),
		readable("unknown-operation", "an operation that nobody knows", `{"event_type":"PNR_V3","operation":"CONFORMANCE_TELEPORTED","payload":{"pnrId":"1","version":1}}`),
		readable("unknown-fields", "members that nobody knows, in the envelope and in the payload",
			`{"event_type":"PNR_V3","operation":"BOOKING_UPDATED","conformance":{"a":[1,null]},"payload":{"pnrId":"1","version":1,"conformance":{"b":true}}}`),
		readable("empty-operation", "an empty operation", `{"event_type":"PNR_V3","operation":"","payload":{"pnrId":"1","version":1}}`),
		readable("camel-case", "eventType in event_type's place", `{"eventType":"PNR_V3","operation":"BOOKING_UPDATED","payload":{"pnrId":"1","version":1}}`),
		readable("no-payload", "nothing but an event type", `{"event_type":"TRAVELER_V2"}`),
		readable("unreadable-time", "a timestamp in the body that is no time", `{"event_type":"PNR_V3","operation":"BOOKING_UPDATED","timestamp":"soon","payload":{"pnrId":"1"}}`),
		readable("white-space", "white space that nobody writes, inside and after the body", "{ \"event_type\" :\t\"PNR_V3\" ,\r\n\"payload\" : { \"pnrId\" : \"1\" } }\r\n"),
		readable("not-ascii", "text beyond ASCII, signed as UTF-8", `{"event_type":"PNR_V3","operation":"BOOKING_UPDATED","payload":{"pnrId":"1","note":"Zürich → 東京 \u00e9 🧳"}}`),

		// Bodies that are no events: kept by spotbridge, and what others do is theirs.
		{
			name: "bom", about: "a byte order mark before the body", want: either, status: http.StatusOK, word: "accepted",
			shot: func(*door) shot {
				return shot{body: []byte("\xef\xbb\xbf" + `{"event_type":"PNR_V3","payload":{"pnrId":"1"}}`)}
			},
		},
		{
			name: "duplicate-keys", about: "a member name that comes twice", want: either, status: http.StatusOK, word: "accepted",
			shot: func(*door) shot {
				return shot{body: []byte(`{"event_type":"PNR_V3","event_type":"TRAVELER_V2","payload":{"id":"1"}}`)}
			},
		},
		{
			name: "invalid-utf8", about: "bytes that are not UTF-8 inside a string", want: either, status: http.StatusOK, word: "accepted",
			shot: func(*door) shot {
				return shot{body: []byte("{\"event_type\":\"PNR_V3\",\"payload\":{\"pnrId\":\"1\",\"note\":\"\xff\xfe\"}}")}
			},
		},
		quarantined("malformed", "JSON that breaks off", `{"event_type":"PNR_V3","payload":{"pnrId":`),
		quarantined("not-json", "text", `event_type=PNR_V3&operation=BOOKING_TICKETED`),
		quarantined("empty-body", "no body at all", ``),
		quarantined("array", "an array", `[{"event_type":"PNR_V3"}]`),
		quarantined("two-documents", "two objects", `{"event_type":"PNR_V3"}{"event_type":"PNR_V3"}`),
		quarantined("no-type", "no event type", `{"operation":"BOOKING_TICKETED","payload":{"pnrId":"1"}}`),
		quarantined("type-no-text", "an event type that is a number", `{"event_type":7,"payload":{"pnrId":"1"}}`),
		quarantined("too-deep", "arrays 2,000 deep", `{"event_type":"PNR_V3","payload":`+strings.Repeat("[", 2000)+strings.Repeat("]", 2000)+`}`),
		quarantined("utf-16", "UTF-16 with a byte order mark", inUTF16(`{"event_type":"PNR_V3","payload":{"pnrId":"1"}}`)),

		accepted("still-open", "a ticket, after all that", func(*door) shot { return shot{} }),
	}
	for i := range checks {
		switch c := &checks[i]; c.name {
		case "second-secret":
			c.skip = func(d *door) bool { return len(d.secrets) < 2 }
		case "old", "too-old", "too-far-ahead", "timestamp-millis":
			c.skip = func(d *door) bool { return d.maxAge == 0 } // any time is good
		}
	}
	return checks
}

// otherSignature is what a secret that the receiver does not have gives.
func otherSignature() string {
	b := make([]byte, sha256.Size)
	_, _ = rand.Read(b) // never fails since Go 1.24
	return base64.StdEncoding.EncodeToString(b)
}

// bodyOf returns an event of exactly n bytes.
func bodyOf(n int) []byte {
	head, tail := `{"event_type":"PNR_V3","operation":"BOOKING_UPDATED","payload":{"pnrId":"1","version":1,"conformancePadding":"`, `"}}`
	return []byte(head + strings.Repeat("x", max(0, n-len(head)-len(tail))) + tail)
}

func inUTF16(text string) string {
	b := []byte{0xfe, 0xff}
	for _, u := range utf16.Encode([]rune(text)) {
		b = binary.BigEndian.AppendUint16(b, u)
	}
	return string(b)
}

// first sends a delivery that must be taken, before what the check is about.
func (c doorCheck) first(ctx context.Context, d *door, s shot) error {
	c.want, c.status, c.word = taken, http.StatusOK, "accepted"
	if _, err := c.try(ctx, d, s); err != nil {
		return fmt.Errorf("the first time: %w", err)
	}
	return nil
}

func playDuplicate(ctx context.Context, d *door, c doorCheck) error {
	s := shot{}
	s.fill()
	if err := c.first(ctx, d, s); err != nil {
		return err
	}
	for _, at := range []time.Duration{0, 2 * time.Second} { // retries may have a timestamp of their own
		again := shot{id: s.id, body: s.body, at: s.at.Add(at)}
		if _, err := c.try(ctx, d, again); err != nil {
			return err
		}
	}
	return nil
}

func playAtOnce(ctx context.Context, d *door, c doorCheck) error {
	const times = 8
	s := shot{}
	s.fill()
	answers := make([]answer, times)
	errs := make([]error, times)
	var wg sync.WaitGroup
	for i := range times {
		wg.Go(func() { answers[i], errs[i] = d.send(ctx, s) })
	}
	wg.Wait()
	words := map[string]int{}
	for i, a := range answers {
		if errs[i] != nil {
			return fmt.Errorf("no answer: %w", errs[i])
		}
		if a.status != http.StatusOK {
			return fmt.Errorf("the answer was %s; only 200 is a success for Spotnana", a)
		}
		words[a.word]++
	}
	if d.strict && (words["accepted"] != 1 || words["duplicate"] != times-1) {
		return fmt.Errorf("spotbridge accepts one of them and calls the others duplicates; the answers were %v", words)
	}
	return nil
}

func playConflicting(ctx context.Context, d *door, c doorCheck) error {
	s := shot{}
	s.fill()
	if err := c.first(ctx, d, s); err != nil {
		return err
	}
	_, err := c.try(ctx, d, shot{id: s.id, body: bytes.Replace(s.body, []byte(`"PNR_V3"`), []byte(`"PNR_V4"`), 1)})
	return err
}
