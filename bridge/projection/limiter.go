package projection

import (
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

const (
	// ownRows is how many deliveries of one source and cause get a row of their own in a second; the rest is counted in one
	// row a minute.
	ownRows = 10
	// maxKinds bounds the memory of the limiter; above it everything is forgotten, and counted rows end early.
	maxKinds = 4096
)

// counted is a row of deliveries.db to be written. n is 0 until it is; count is how many deliveries it stands for.
type counted struct {
	d     *pb.Delivery
	n     int64
	count int32
	// queued says that the row is in the batch that is being collected.
	queued bool
}

type kind struct {
	source  string
	outcome pb.DeliveryOutcome
	cause   pb.DeliveryCause
}

type rate struct {
	second, minute int64
	seen           int
	row            *counted
}

// limiter decides which deliveries get a row of their own.
type limiter map[kind]*rate

// add adds a delivery that came at now to the rows to be written: as one of its own, or in the counted one.
func (l limiter) add(rows []*counted, d *pb.Delivery, now time.Time) []*counted {
	if d.GetReceiveTime() == nil {
		d = proto.CloneOf(d)
		d.ReceiveTime = timestamppb.New(now)
	}
	k := kind{d.GetSource(), d.GetOutcome(), d.GetCause()}
	r := l[k]
	if r == nil {
		if len(l) >= maxKinds {
			clear(l)
		}
		r = &rate{}
		l[k] = r
	}
	if s := now.Unix(); s != r.second {
		r.second, r.seen = s, 0
	}
	if r.seen++; r.seen <= ownRows {
		return append(rows, &counted{d: d, count: 1})
	}
	if m := now.Unix() / 60; r.row == nil || m != r.minute {
		// What tells one delivery from another is left out of a row that stands for many.
		r.minute, r.row = m, &counted{d: &pb.Delivery{
			Source: d.GetSource(), Outcome: d.GetOutcome(), Cause: d.GetCause(), HttpStatus: d.GetHttpStatus(), ReceiveTime: d.GetReceiveTime(),
		}}
	}
	r.row.count++
	if !r.row.queued {
		r.row.queued = true
		rows = append(rows, r.row)
	}
	return rows
}

// forget ends all counted rows, after rows could not be written.
func (l limiter) forget() { clear(l) }

// validDelivery makes all texts UTF-8.
func validDelivery(d *pb.Delivery) {
	var fix func(m protoreflect.Message)
	fix = func(m protoreflect.Message) {
		m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
			switch fd.Kind() {
			case protoreflect.StringKind:
				m.Set(fd, protoreflect.ValueOfString(strings.ToValidUTF8(v.String(), "\uFFFD")))
			case protoreflect.MessageKind:
				fix(v.Message())
			}
			return true
		})
	}
	fix(d.ProtoReflect())
}
