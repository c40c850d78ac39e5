package projection

import (
	"crypto/sha256"
	"math"
	"time"
)

// Kinds of ids in table ent.
const (
	entPNR      = 2
	entTrip     = 3
	entTraveler = 4
)

// idHash is the key of an event id: 16 bytes of its SHA-256.
func idHash(eventID string) []byte {
	sum := sha256.Sum256([]byte(eventID))
	return sum[:16]
}

// entKey is the key of an entity, booking, trip or traveler id. Its length tells a short id from a hash.
func entKey(id string) []byte {
	if len(id) < 16 {
		return []byte(id)
	}
	return idHash(id)
}

// nanos is t for the database. Times outside of the years 1678 to 2261 become the nearest one of these: they are nonsense,
// and equal to each other.
func nanos(t time.Time) int64 {
	switch s := t.Unix(); {
	case s >= math.MaxInt64/1_000_000_000:
		return math.MaxInt64
	case s <= math.MinInt64/1_000_000_000:
		return math.MinInt64
	}
	return t.UnixNano()
}

func fromNanos(ns int64) time.Time { return time.Unix(0, ns).UTC() }

// floorHour is the rollup hour of a time; it also holds before 1970.
func floorHour(ns int64) int64 {
	h := ns / hour
	if ns%hour < 0 {
		h--
	}
	return h
}
