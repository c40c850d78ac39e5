package conformance

import (
	"encoding/json"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

// levels counts how deep messages nest.
func levels(m protoreflect.Message) int {
	deepest := 0
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case fd.IsMap() && fd.MapValue().Message() != nil:
			v.Map().Range(func(_ protoreflect.MapKey, v protoreflect.Value) bool {
				deepest = max(deepest, 1+levels(v.Message()))
				return true
			})
		case fd.IsMap() || fd.Message() == nil:
		case fd.IsList():
			for i := range v.List().Len() {
				deepest = max(deepest, levels(v.List().Get(i).Message()))
			}
		default:
			deepest = max(deepest, levels(v.Message()))
		}
		return true
	})
	return 1 + deepest
}

func TestTicketsAreRealEvents(t *testing.T) {
	ids := map[string]bool{}
	operations := map[string]int{}
	for i, e := range tickets(40) {
		m := asMessage(e, pb.EventView_EVENT_VIEW_TYPED, 0)
		s := m.GetOperationSummary()
		if m.GetEventType() != "PNR_V3" || m.GetPnrV3().GetPnrId() != m.GetPnrId() || m.GetPnrId() == "" || m.Entity.Version == nil || m.GetOrganizationId() == "" ||
			len(s.GetTicketsIssued())+len(s.GetTicketsVoided())+len(s.GetTicketsRefunded()) != 1 || m.GetConversion().GetStatus() != pb.ConversionStatus_CONVERSION_STATUS_FULL {
			t.Errorf("event %d: %v", i, m)
		}
		if operations[m.GetOperation()]++; ids[m.GetId()] {
			t.Errorf("%s comes twice", m.GetId())
		}
		ids[m.GetId()] = true
	}
	if operations["BOOKING_TICKETED"] != 20 || operations["TICKET_VOIDED"] != 10 || operations["TICKET_REFUNDED"] != 10 {
		t.Error(operations)
	}
	// Two tellings are about two bookings, the events of one about the same.
	es := tickets(8)
	if es[0].PNRID == es[4].PNRID || es[0].PNRID != es[2].PNRID {
		t.Error(es[0].PNRID, es[2].PNRID, es[4].PNRID)
	}
}

func TestSpecialEventsAreAsSpecialAsTheySay(t *testing.T) {
	for above := 1; above <= 2; above++ {
		m := deepOther(911, above)
		if n := above + levels(m.ProtoReflect()); n != maxLevels {
			t.Errorf("%d levels", n)
		}
	}
	typed := asMessage(deepTyped(), pb.EventView_EVENT_VIEW_TYPED, 0)
	if n := 2 + levels(typed.ProtoReflect()); n > maxLevels || n < maxLevels-6 || typed.GetPnrV3() == nil || typed.GetConversion().GetStatus() != pb.ConversionStatus_CONVERSION_STATUS_PARTIAL {
		t.Errorf("%d levels, %v", n, typed.GetConversion())
	}

	const size = 4<<20 - 64<<10 - subscriptionOverhead
	for _, view := range []pb.EventView{pb.EventView_EVENT_VIEW_TYPED, pb.EventView_EVENT_VIEW_RAW, pb.EventView_EVENT_VIEW_FULL} {
		e := sized(920, view, size)
		m := asMessage(e, view, size)
		if n := proto.Size(m); n > size || n < size-2 || m.GetOmitted() != nil {
			t.Errorf("%v: %d bytes instead of %d", view, n, size)
		}
	}
	large := largeBodies()
	if large[0].BodySize < 5<<20 || !json.Valid(large[0].Body) {
		t.Errorf("%d bytes", large[0].BodySize)
	}
	var body struct {
		Payload struct {
			PNRID string `json:"pnrId"`
			Data  struct {
				PNRID string `json:"pnrId"`
			} `json:"data"`
		} `json:"payload"`
	}
	if err := json.Unmarshal(large[1].Body, &body); err != nil || body.Payload.PNRID == "" || body.Payload.PNRID != body.Payload.Data.PNRID || large[1].PNRID != body.Payload.PNRID {
		t.Errorf("%v %+v", err, body)
	}
}
