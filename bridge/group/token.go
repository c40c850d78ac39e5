package group

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
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

func (t *token) encode(key *[32]byte) string {
	b := make([]byte, 0, 96)
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
	return base64.RawURLEncoding.EncodeToString(append(b, mac(key, b)...))
}

func mac(key *[32]byte, b []byte) []byte {
	h := hmac.New(sha256.New, key[:])
	h.Write(b)
	return h.Sum(nil)[:macSize]
}

// parseToken reads a delivery id of the group.
func parseToken(text string, key *[32]byte) (*token, error) {
	invalid := &bridge.Error{
		Reason: pb.ErrorReason_ERROR_REASON_INVALID_DELIVERY_ID, Message: "not a delivery id of this group; pass it exactly as it was received",
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(b) < 6+macSize || len(b) > maxTokenBytes || b[0] != tokenVersion {
		return nil, invalid
	}
	body, sum := b[:len(b)-macSize], b[len(b)-macSize:]
	if !hmac.Equal(sum, mac(key, body)) {
		return nil, invalid
	}
	t := &token{instance: binary.BigEndian.Uint32(body[2:6])}
	t.receipt.Redriven = body[1]&flagRedriven != 0
	var attempt, deadline uint64
	rest := body[6:]
	for _, into := range []*uint64{&t.epoch, &attempt, &t.receipt.Deliveries, &t.receipt.Entry, &t.receipt.Delivery, &t.receipt.Time, &deadline} {
		n, size := binary.Uvarint(rest)
		if size <= 0 {
			return nil, invalid
		}
		*into, rest = n, rest[size:]
	}
	t.attempt, t.deadline = int(attempt), time.UnixMilli(int64(deadline))
	return t, nil
}
