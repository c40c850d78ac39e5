package group

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"hash"
	"sync"
	"time"

	"github.com/spotbridge/spotbridge/bridge"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

// A delivery id is base64url of: version, flags, the process that gave it, then as varints epoch, attempt, the queue's
// receipt and the deadline in milliseconds; and a MAC under the group's key. So it can be used after a restart and at
// another replica, and not for another group.
const (
	tokenVersion  = 1
	flagRedriven  = 1
	macSize       = 12
	maxTokenBytes = 192
)

// token is what a delivery id says.
type token struct {
	instance uint32
	epoch    uint64
	attempt  int
	receipt  bridge.Receipt
	deadline time.Time
}

// signer makes the MACs of a group's delivery ids.
type signer struct {
	key    [32]byte
	hashes sync.Pool // of hash.Hash: setting one up costs as much as the MAC
}

func newSigner(key [32]byte) *signer {
	s := &signer{key: key}
	s.hashes.New = func() any { return hmac.New(sha256.New, s.key[:]) }
	return s
}

// append appends the MAC of what is there.
func (s *signer) append(b []byte) []byte {
	h := s.hashes.Get().(hash.Hash)
	defer s.hashes.Put(h)
	h.Reset()
	h.Write(b)
	return h.Sum(b)[:len(b)+macSize]
}

func (t *token) encode(s *signer) string {
	b := make([]byte, 0, maxTokenBytes)
	flags := byte(0)
	if t.receipt.Redriven {
		flags |= flagRedriven
	}
	b = append(b, tokenVersion, flags)
	b = binary.BigEndian.AppendUint32(b, t.instance)
	for _, n := range [...]uint64{
		t.epoch, uint64(t.attempt), t.receipt.Deliveries, t.receipt.Entry, t.receipt.Delivery, t.receipt.Time, uint64(t.deadline.UnixMilli()),
	} {
		b = binary.AppendUvarint(b, n)
	}
	return base64.RawURLEncoding.EncodeToString(s.append(b))
}

var (
	tokenEncoding = base64.RawURLEncoding.Strict()
	errToken      = &bridge.Error{
		Reason: pb.ErrorReason_ERROR_REASON_INVALID_DELIVERY_ID, Message: "not a delivery id of this group; pass it exactly as it was received",
	}
)

// readToken reads a delivery id. Whether it is the group's own, only genuine tells.
func readToken(text string) (t token, raw []byte, err error) {
	if len(text) > tokenEncoding.EncodedLen(maxTokenBytes) {
		return t, nil, errToken
	}
	b, err := tokenEncoding.DecodeString(text)
	if err != nil || len(b) < 6+macSize || b[0] != tokenVersion {
		return t, nil, errToken
	}
	body := b[:len(b)-macSize]
	t.instance = binary.BigEndian.Uint32(body[2:6])
	t.receipt.Redriven = body[1]&flagRedriven != 0
	var attempt, deadline uint64
	rest := body[6:]
	for _, into := range [...]*uint64{&t.epoch, &attempt, &t.receipt.Deliveries, &t.receipt.Entry, &t.receipt.Delivery, &t.receipt.Time, &deadline} {
		n, size := binary.Uvarint(rest)
		if size <= 0 {
			return t, nil, errToken
		}
		*into, rest = n, rest[size:]
	}
	t.attempt, t.deadline = int(attempt), time.UnixMilli(int64(deadline))
	return t, b, nil
}

// genuine reports whether the group made a token.
func (s *signer) genuine(raw []byte) bool {
	body := raw[:len(raw)-macSize]
	return hmac.Equal(s.append(body[:len(body):len(body)])[len(body):], raw[len(body):])
}
