package webhook

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"hash"
	"log/slog"
	"strings"
	"sync"
)

// maxSignatures is how many entries of a signature header are looked at. Rotation needs two.
const maxSignatures = 32

const (
	secretPrefix = "whsec_"
	hidden       = "***"
)

// Secret is a signing key. It prints as ***.
type Secret struct {
	// Behind two pointers: fmt follows one of them for verbs that don't fit, where it cannot call our methods.
	*hiddenKey
}

type hiddenKey struct{ *key }

type key struct {
	bytes []byte
	macs  sync.Pool // of *mac
}

type mac struct {
	hash hash.Hash
	head []byte
	sum  [sha256.Size]byte
}

// ParseSecret reads a secret as Spotnana issues it: "whsec_" and Base64 in either alphabet, padded or not, with white
// space around it. Errors never hold the text.
func ParseSecret(text string) (Secret, error) {
	encoded, ok := strings.CutPrefix(strings.TrimSpace(text), secretPrefix)
	if !ok {
		return Secret{}, errors.New("a secret begins with " + secretPrefix)
	}
	b, err := decodeBase64(encoded)
	if err != nil {
		return Secret{}, errors.New("what follows " + secretPrefix + " in a secret is Base64; this is not")
	}
	if len(b) == 0 {
		return Secret{}, errors.New("the secret is empty")
	}
	k := &key{bytes: b}
	k.macs.New = func() any { return &mac{hash: hmac.New(sha256.New, k.bytes)} }
	return Secret{&hiddenKey{k}}, nil
}

// String returns ***.
func (Secret) String() string { return hidden }

// GoString returns ***.
func (Secret) GoString() string { return hidden }

// Format prints *** for every verb.
func (Secret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(hidden)) }

// LogValue returns ***.
func (Secret) LogValue() slog.Value { return slog.StringValue(hidden) }

// MarshalText returns ***.
func (Secret) MarshalText() ([]byte, error) { return []byte(hidden), nil }

// Sign returns the signature of a delivery, as it stands in the x-spotnana-webhook-signature header. The zero Secret signs
// nothing.
func Sign(secret Secret, id, timestamp string, body []byte) string {
	if secret.hiddenKey == nil {
		return ""
	}
	sum := secret.sum(id, timestamp, body)
	return base64.StdEncoding.EncodeToString(sum[:])
}

// Verify reports whether any signature in the header fits the delivery with any of the secrets (CONTRACT.md section 3).
// id and timestamp are the header values as they came, body the raw bytes. Entries are separated by spaces and may have
// the version tag "v1,"; those with another tag are skipped, and so is everything after the first 32 entries. The time
// it takes does not depend on how much of a signature is right.
func Verify(secrets []Secret, id, timestamp, signatures string, body []byte) bool {
	var space [4][sha256.Size]byte
	given := parseSignatures(space[:0], signatures)
	if len(given) == 0 {
		return false
	}
	found := false
	for _, s := range secrets {
		if s.hiddenKey == nil {
			continue
		}
		want := s.sum(id, timestamp, body)
		for i := range given {
			if hmac.Equal(want[:], given[i][:]) {
				found = true
			}
		}
	}
	return found
}

// sum returns the HMAC of the signed bytes: id.timestamp.body.
func (s Secret) sum(id, timestamp string, body []byte) [sha256.Size]byte {
	m := s.macs.Get().(*mac)
	defer s.macs.Put(m)
	m.head = append(append(append(append(m.head[:0], id...), '.'), timestamp...), '.')
	m.hash.Reset()
	m.hash.Write(m.head)
	m.hash.Write(body)
	m.hash.Sum(m.sum[:0])
	return m.sum
}

// parseSignatures appends the readable entries of a signature header.
func parseSignatures(dst [][sha256.Size]byte, header string) [][sha256.Size]byte {
	n := 0
	for entry := range strings.FieldsSeq(header) {
		if n++; n > maxSignatures {
			break
		}
		if tag, rest, ok := strings.Cut(entry, ","); ok {
			if tag != "v1" {
				continue
			}
			entry = rest
		}
		// 32 bytes are 43 characters and padding; anything longer is not worth decoding.
		if len(entry) > 64 {
			continue
		}
		if b, err := decodeBase64(entry); err == nil && len(b) == sha256.Size {
			dst = append(dst, [sha256.Size]byte(b))
		}
	}
	return dst
}

var toStdAlphabet = strings.NewReplacer("-", "+", "_", "/")

// decodeBase64 reads either alphabet, padded or not.
func decodeBase64(text string) ([]byte, error) {
	if strings.ContainsAny(text, "-_") {
		text = toStdAlphabet.Replace(text)
	}
	return base64.RawStdEncoding.DecodeString(strings.TrimRight(text, "="))
}
