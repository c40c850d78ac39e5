package projection

import pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"

// entityState is what the fold remembers of an entity. The zero value is an entity that was never seen.
type entityState struct {
	// version is the highest and time the latest one seen.
	version, time *int64
	// proven says that the entity's beginning was seen, so that its marks are exact.
	proven bool
}

// fold says where an event stands among the events of its entity that came before it in the log, and what is remembered
// after it. complete says that the projection was begun with the log's first entry: then there is no earlier event of the
// entity that it does not know. version and time are nil where the event has none; seen is false at first sight.
//
// Versions are compared where the event has one, else event times. Both maxima go up with every event that has them, so
// an event without a version is compared with the times of those that have one.
func fold(s entityState, seen, complete bool, version, time *int64) (pb.Ordering, entityState) {
	next := s
	if !seen {
		next.proven = complete
	}
	if version != nil {
		next.proven = next.proven || *version <= 1
		if s.version == nil || *version > *s.version {
			next.version = version
		}
	}
	if time != nil && (s.time == nil || *time > *s.time) {
		next.time = time
	}
	switch {
	case version == nil && time == nil, !next.proven:
		return pb.Ordering_ORDERING_UNKNOWN, next
	case version != nil:
		switch {
		case s.version == nil, *version == *s.version+1:
			return pb.Ordering_ORDERING_IN_ORDER, next
		case *version > *s.version:
			return pb.Ordering_ORDERING_GAP, next
		case *version == *s.version:
			return pb.Ordering_ORDERING_SAME_VERSION, next
		}
		return pb.Ordering_ORDERING_STALE, next
	case s.time == nil, *time > *s.time:
		return pb.Ordering_ORDERING_IN_ORDER, next
	case *time == *s.time:
		return pb.Ordering_ORDERING_SAME_VERSION, next
	}
	return pb.Ordering_ORDERING_STALE, next
}
