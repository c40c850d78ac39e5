package server

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"hash"
	"hash/crc32"
	"time"

	"github.com/spotbridge/spotbridge/bridge"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

// A page token is base64url of: version, kind, eight bytes of a hash of the request, where to go on, CRC-32. It is opaque,
// and bound to the request by the hash: with another one it would skip events silently.
const (
	tokenVersion       = 1
	tokenEvents        = 1
	tokenDeliveries    = 2
	tokenDrift         = 3
	tokenGroups        = 16
	tokenLetters       = 17
	tokenSubscriptions = 4
	tokenHead          = 2 + 8
	tokenTail          = 4
)

// binding hashes what a token is bound to.
type binding struct{ hash.Hash }

func newBinding(log bridge.LogID) binding {
	b := binding{sha256.New()}
	b.Write(log[:])
	return b
}

func (b binding) text(s string) {
	b.number(uint64(len(s)))
	b.Write([]byte(s))
}

func (b binding) number(n uint64) {
	b.Write(binary.BigEndian.AppendUint64(nil, n))
}

func (b binding) time(t time.Time) {
	if t.IsZero() {
		b.number(0)
		return
	}
	b.number(1)
	b.number(uint64(t.UnixNano()))
}

func (b binding) flag(v bool) {
	if v {
		b.number(1)
	} else {
		b.number(0)
	}
}

func (b binding) token(kind byte, position []byte) string {
	out := append([]byte{tokenVersion, kind}, b.Sum(nil)[:8]...)
	out = append(out, position...)
	out = binary.BigEndian.AppendUint32(out, crc32.ChecksumIEEE(out))
	return base64.RawURLEncoding.EncodeToString(out)
}

// position returns what a token of the request says.
func (b binding) position(kind byte, token string) ([]byte, error) {
	refuse := func(msg string) error {
		return &bridge.Error{Reason: pb.ErrorReason_ERROR_REASON_INVALID_PAGE_TOKEN, Field: "page_token", Message: msg}
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(token)
	if err != nil || len(raw) < tokenHead+tokenTail || raw[0] != tokenVersion || raw[1] != kind ||
		crc32.ChecksumIEEE(raw[:len(raw)-tokenTail]) != binary.BigEndian.Uint32(raw[len(raw)-tokenTail:]) {
		return nil, refuse("not a page token of this method; pass it exactly as it was received, or start from the first page")
	}
	if string(raw[2:tokenHead]) != string(b.Sum(nil)[:8]) {
		return nil, refuse("belongs to another request: filter, times, order and so on must stay the same; start from the first page")
	}
	return raw[tokenHead : len(raw)-tokenTail], nil
}
