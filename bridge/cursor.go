package bridge

import (
	"encoding/base64"
	"encoding/binary"
	"hash/crc32"
	"sync/atomic"

	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

// LogID is the random identity of a log. It is made with the log and kept with it; a restored copy has another.
type LogID [16]byte

// IsZero reports whether the identity is unset.
func (id LogID) IsZero() bool { return id == LogID{} }

const (
	cursorVersion = 1
	cursorHead    = 1 + len(LogID{}) + 8
	cursorSize    = cursorHead + 4
	// A cursor in the middle of a snapshot has its sequence too.
	snapshotVersion = 2
	snapshotSize    = cursorHead + 8 + 4

	cursorTextSize   = (cursorSize*8 + 5) / 6
	snapshotTextSize = (snapshotSize*8 + 5) / 6
)

// Cursor is a position in a log: everything at or before Sequence was sent. It is a position and no permission.
type Cursor struct {
	Log      LogID
	Sequence uint64
	// InSnapshot says that it is a position in the snapshot as of sequence Snapshot: of the events up to there only the
	// latest of each entity are sent, in log order, and those at or before Sequence were. Who takes Sequence for a plain
	// position all the same misses no entity's latest event.
	InSnapshot bool
	Snapshot   uint64
}

// String returns the cursor as clients get it.
func (c Cursor) String() string { return string(c.Append(nil)) }

// Append appends the cursor as clients get it.
func (c Cursor) Append(dst []byte) []byte {
	version := byte(cursorVersion)
	if c.InSnapshot {
		version = snapshotVersion
	}
	p := prefixOf(version, c.Log)
	var array [snapshotSize - cursorPrefixSize]byte
	b := append(array[:0], c.Log[cursorPrefixSize-1:]...)
	b = binary.BigEndian.AppendUint64(b, c.Sequence)
	if c.InSnapshot {
		b = binary.BigEndian.AppendUint64(b, c.Snapshot)
	}
	b = binary.BigEndian.AppendUint32(b, ^checksum(p.sum, b))
	return base64.RawURLEncoding.AppendEncode(append(dst, p.text[:]...), b)
}

// cursorPrefixSize is how many bytes of version and log a prefix covers: a multiple of three, so that their text is the
// same whatever follows.
const cursorPrefixSize = 15

// cursorPrefix is what cursors of a log have in common. A cursor is made for each event.
type cursorPrefix struct {
	log  LogID
	text [cursorPrefixSize / 3 * 4]byte
	sum  uint32 // of the bytes of the text
}

// cursorPrefixes has the newest prefix of each version: a process has one log, as a rule.
var cursorPrefixes [2]atomic.Pointer[cursorPrefix]

func prefixOf(version byte, log LogID) *cursorPrefix {
	newest := &cursorPrefixes[version-1]
	if p := newest.Load(); p != nil && p.log == log {
		return p
	}
	b := append([]byte{version}, log[:cursorPrefixSize-1]...)
	p := &cursorPrefix{log: log, sum: checksum(^uint32(0), b)}
	base64.RawURLEncoding.Encode(p.text[:], b)
	newest.Store(p)
	return p
}

// checksum goes on with a crc32.ChecksumIEEE, which is ^checksum(^0, b), and leaves b on the caller's stack.
func checksum(crc uint32, b []byte) uint32 {
	for _, v := range b {
		crc = crc32.IEEETable[byte(crc)^v] ^ (crc >> 8)
	}
	return crc
}

// ParseCursor reads a cursor of the given log.
func ParseCursor(text string, log LogID) (Cursor, error) {
	damaged := &Error{
		Reason: pb.ErrorReason_ERROR_REASON_INVALID_CURSOR, Field: "after_cursor",
		Message: "not a cursor of this service; pass it exactly as it was received",
	}
	// Strict, and of the exact length, since line ends are skipped even so: otherwise several texts would be the same cursor.
	version, size := byte(cursorVersion), cursorSize
	switch len(text) {
	case cursorTextSize:
	case snapshotTextSize:
		version, size = snapshotVersion, snapshotSize
	default:
		return Cursor{}, damaged
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(b) != size || b[0] != version || binary.BigEndian.Uint32(b[size-4:]) != crc32.ChecksumIEEE(b[:size-4]) {
		return Cursor{}, damaged
	}
	c := Cursor{Log: LogID(b[1:17]), Sequence: binary.BigEndian.Uint64(b[17:25])}
	if version == snapshotVersion {
		c.InSnapshot, c.Snapshot = true, binary.BigEndian.Uint64(b[25:33])
		if c.Sequence > c.Snapshot {
			return Cursor{}, damaged
		}
	}
	if c.Log != log {
		return Cursor{}, &Error{
			Reason: pb.ErrorReason_ERROR_REASON_CURSOR_FOREIGN, Field: "after_cursor",
			Message: "the cursor belongs to another log; choose a new start, for example from_time",
		}
	}
	return c, nil
}
