package bridge

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"unicode/utf8"
)

// MaxSourceName is the largest length of a source's name.
const MaxSourceName = 32

// ValidSource reports whether name is a usable name of a source: 1 to 32 characters of a-z, 0-9 and -.
func ValidSource(name string) bool {
	if name == "" || len(name) > MaxSourceName {
		return false
	}
	for i := range len(name) {
		c := name[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return true
}

// EventID returns the id of the event that a delivery with this webhook id becomes. webhookID is the header's value as
// it came. It is the key of deduplication: two deliveries with the same id are the same webhook.
func EventID(source, webhookID string) string {
	if plain(webhookID, 128) {
		return source + "." + webhookID
	}
	sum := sha256.Sum256([]byte(webhookID))
	return source + ".sha256-" + hex.EncodeToString(sum[:])
}

// WebhookIDText returns the webhook id in a form that is always UTF-8: bytes that are not are percent-encoded.
func WebhookIDText(webhookID string) string { return percentEncodeInvalid(webhookID) }

func percentEncodeInvalid(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	var b strings.Builder
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		if r == utf8.RuneError && n == 1 {
			fmt.Fprintf(&b, "%%%02X", s[0])
		} else {
			b.WriteString(s[:n])
		}
		s = s[n:]
	}
	return b.String()
}

// plain reports whether s is 1 to limit characters of A-Z a-z 0-9 _ and -.
func plain(s string, limit int) bool {
	if s == "" || len(s) > limit {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '_' && c != '-' {
			return false
		}
	}
	return true
}

// SubjectToken returns the token that stands for a value in a log subject: the value itself when it is 1 to 64
// characters of A-Z a-z 0-9 _ and -, "~" when it is empty, else "~" and the first 32 hex digits of its SHA-256. Values
// are hostile input: a subject that is too long or has a wildcard would break the connection to the log.
func SubjectToken(value string) string {
	switch {
	case value == "":
		return "~"
	case plain(value, 64):
		return value
	}
	sum := sha256.Sum256([]byte(value))
	return "~" + hex.EncodeToString(sum[:16])
}

// EventSubject returns the log subject of an event.
func EventSubject(source, eventType, operation string, organizations []string) string {
	org := "~"
	switch len(organizations) {
	case 0:
	case 1:
		org = SubjectToken(organizations[0])
	default:
		org = "~many"
	}
	return "ev." + SubjectToken(source) + "." + SubjectToken(eventType) + "." + SubjectToken(operation) + "." + org
}

// QuarantineSubject returns the log subject of a quarantined body.
func QuarantineSubject(source, cause string) string {
	return "q." + SubjectToken(source) + "." + SubjectToken(cause)
}
