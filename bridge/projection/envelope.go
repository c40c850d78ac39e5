package projection

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/spotbridge/spotbridge/bridge"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

// metaOf reads the filter's view of an event from E: what bridge.MetaOf gives for the whole message, at a fifth of its
// cost. A test holds the two together.
func metaOf(e []byte) (bridge.Meta, error) {
	var m bridge.Meta
	org := ""
	var others []string
	err := eachField(e, func(num protowire.Number, b []byte, v uint64) {
		switch num {
		case 1:
			m.EventID = string(b)
		case 2:
			m.Source = string(b)
		case 4:
			m.EventType = string(b)
		case 5:
			m.Operation = string(b)
		case 6:
			org = string(b)
		case 7:
			others = append(others, string(b))
		case 8:
			_ = eachField(b, func(num protowire.Number, b []byte, _ uint64) {
				if num == 2 {
					m.EntityID = string(b)
				}
			})
		case 9:
			m.PNRID = string(b)
		case 10:
			m.TripID = string(b)
		case 11:
			m.TravelerIDs = append(m.TravelerIDs, string(b))
		case 15:
			var sec, ns uint64
			_ = eachField(b, func(num protowire.Number, _ []byte, v uint64) {
				switch num {
				case 1:
					sec = v
				case 2:
					ns = v
				}
			})
			m.AppendTime = time.Unix(int64(sec), int64(ns)).UTC()
		case 16:
			m.Sequence = v
		case 20:
			m.Stale = v == uint64(pb.Ordering_ORDERING_STALE)
		}
	})
	if org != "" {
		m.Organizations = append([]string{org}, others...)
	}
	return m, err
}

// eachField calls f with the fields of a message: bytes of length-delimited ones, the value of varints.
func eachField(b []byte, f func(num protowire.Number, bytes []byte, varint uint64)) error {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return fmt.Errorf("%w: an envelope does not parse: %w", errCorrupt, protowire.ParseError(n))
		}
		b = b[n:]
		switch typ {
		case protowire.BytesType:
			v, n := protowire.ConsumeBytes(b)
			if n < 0 {
				return fmt.Errorf("%w: an envelope does not parse: %w", errCorrupt, protowire.ParseError(n))
			}
			f(num, v, 0)
			b = b[n:]
		case protowire.VarintType:
			v, n := protowire.ConsumeVarint(b)
			if n < 0 {
				return fmt.Errorf("%w: an envelope does not parse: %w", errCorrupt, protowire.ParseError(n))
			}
			f(num, nil, v)
			b = b[n:]
		default:
			if n = protowire.ConsumeFieldValue(num, typ, b); n < 0 {
				return fmt.Errorf("%w: an envelope does not parse: %w", errCorrupt, protowire.ParseError(n))
			}
			b = b[n:]
		}
	}
	return nil
}
