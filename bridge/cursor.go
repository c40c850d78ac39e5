package bridge

import (
	"encoding/base64"
	"encoding/binary"
	"hash/crc32"

	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

// LogID is the random identity of a log. It is made with the log and kept with it; a restored copy has another.
type LogID [16]byte

// IsZero reports whether the identity is unset.
func (id LogID) IsZero() bool { return id == LogID{} }

const (
	cursorVersion = 1
	cursorSize    = 1 + len(LogID{}) + 8 + 4

	cursorTextSize = (cursorSize*8 + 5) / 6
)

// Cursor is a position in a log: everything at or before Sequence was sent. It is a position and no permission.
type Cursor struct {
	Log      LogID
	Sequence uint64
}

// String returns the cursor as clients get it.
func (c Cursor) String() string {
	var b [cursorSize]byte
	b[0] = cursorVersion
	copy(b[1:], c.Log[:])
	binary.BigEndian.PutUint64(b[17:], c.Sequence)
	binary.BigEndian.PutUint32(b[25:], crc32.ChecksumIEEE(b[:25]))
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// ParseCursor reads a cursor of the given log.
func ParseCursor(text string, log LogID) (Cursor, error) {
	damaged := &Error{
		Reason: pb.ErrorReason_ERROR_REASON_INVALID_CURSOR, Field: "after_cursor",
		Message: "not a cursor of this service; pass it exactly as it was received",
	}
	// Strict, and of the exact length, since line ends are skipped even so: otherwise several texts would be the same cursor.
	if len(text) != cursorTextSize {
		return Cursor{}, damaged
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(b) != cursorSize || b[0] != cursorVersion ||
		binary.BigEndian.Uint32(b[25:]) != crc32.ChecksumIEEE(b[:25]) {
		return Cursor{}, damaged
	}
	c := Cursor{Log: LogID(b[1:17]), Sequence: binary.BigEndian.Uint64(b[17:25])}
	if c.Log != log {
		return Cursor{}, &Error{
			Reason: pb.ErrorReason_ERROR_REASON_CURSOR_FOREIGN, Field: "after_cursor",
			Message: "the cursor belongs to another log; choose a new start, for example from_time",
		}
	}
	return c, nil
}
