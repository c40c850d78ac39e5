package conformance

import (
	"bytes"
	"context"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/spotbridge/spotbridge/bridge"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

// strangeScenarios are about events and messages that are not as usual.
var strangeScenarios = []scenario{
	{
		name: "unknown-events", on: everyone,
		demand: "process events of unknown types and operations too: note them, and move on",
		script: func(p *play) {
			story := ticketStory()
			body := retold(&story[0], 900)
			p.insert(1, newEvent(900, []byte(`{"event_type":"CONFORMANCE_NOVELTY","payload":{"novelty":{"id":7,"tags":["a",null]}}}`)))
			p.insert(3, newEvent(901, bytes.ReplaceAll(body, []byte("BOOKING_TICKETED"), []byte("BOOKING_TELEPORTED"))))
			p.insert(5, newEvent(902, []byte(`{"event_type":"CONFORMANCE_EMPTY"}`)))
			p.insert(7, newEvent(903, []byte(`{"event_type":"PNR_V3","operation":"BOOKING_TICKETED"}`)))
			c := p.next()
			p.confirm(c)
			p.finish(c)
		},
	},
	{
		name: "unknown-kinds", on: everyone,
		demand: "ignore unknown kinds of messages, fields and enum values, over REST unknown event names and JSON members",
		script: func(p *play) {
			p.alter = func(_ int, e *pb.Event) {
				e.Ordering = 99
				if e.Conversion != nil {
					e.Conversion.Status = 99
				}
				if e.Entity != nil {
					e.Entity.Kind = 99
					e.Entity.ProtoReflect().SetUnknown(strangeFields())
				}
				if b := e.GetPnrV3(); b != nil {
					b.ProtoReflect().SetUnknown(strangeFields())
				}
				e.EnvelopeIssues = append(e.EnvelopeIssues, &pb.Issue{Path: "$", Kind: 99})
				e.ProtoReflect().SetUnknown(strangeFields())
			}
			notice := []byte("event: quota_notice\ndata: {\"quota\":{\"left\":1}}\n\n: a comment\n\n")
			strange := func(b []byte) []byte {
				if !bytes.HasPrefix(b, []byte("event: ")) && !bytes.HasPrefix(b, []byte("retry: ")) {
					return b
				}
				b = bytes.Replace(b, []byte(`data: {`), []byte(`data: {"conformance":[1,{"a":null}],`), 1)
				b = bytes.Replace(b, []byte(`"event":{`), []byte(`"event":{"conformance":{"b":"c"},`), 1)
				return append(slices.Clone(notice), b...)
			}
			p.bridge.sse.Store(&strange)
			c := p.next()
			p.confirm(c)
			p.strange(c)
			p.handle(c, 3)
			p.strange(c)
			p.handle(c, 6)
			p.goodbye(c, 99, 0)
			c = p.next()
			p.confirm(c)
			p.strange(c)
			p.finish(c)
		},
	},
	{
		name: "omitted", on: everyone,
		demand: "read the body of an event that is too large for the stream with GetEventBody, over REST /v1/events/{id}/body",
		script: func(p *play) {
			for i, e := range largeBodies() {
				p.insertOmitted(2+3*i, e)
			}
			c := p.next()
			p.confirm(c)
			p.finish(c)
			p.wantBodies(c)
		},
	},
	{
		name: "omitted-later", on: everyone,
		demand: "not take an event for processed whose body cannot be had yet: ask again, or resume",
		script: func(p *play) {
			e := largeBodies()[1]
			p.insertOmitted(3, e)
			p.bridge.history.before = func(_ context.Context, id string, times int) error {
				if id == e.EventID && times == 1 {
					return refusal(pb.ErrorReason_ERROR_REASON_HISTORY_UNAVAILABLE, "history cannot be read now; retry with backoff", nil)
				}
				return nil
			}
			// It may ask again while it has the stream, or give that up and have the event sent again.
			c := p.persuade(p.next())
			p.finish(c)
			p.wantBodies(c)
		},
	},
	{
		name: "nesting", on: everyone,
		demand: "read messages that nest 90 levels deep, typed and untyped",
		script: func(p *play) {
			p.insert(2, deepTyped())
			p.insertEvent(4, event{id: deepOther(911, 1).GetId(), message: func(c *call) *pb.Event { return deepOther(911, c.above()) }})
			c := p.next()
			p.confirm(c)
			p.finish(c)
		},
	},
	{
		name: "large", on: everyone,
		demand: "take events as large as its own max_message_bytes allows, by default 4 MiB less 64 KiB",
		script: func(p *play) {
			c := p.next()
			view, limit := c.view, c.limit
			for i := range 2 {
				p.insert(2+3*i, sized(920+i, view, limit))
			}
			p.confirm(c)
			p.finish(c)
		},
	},
}

// insert puts an event into the script.
func (p *play) insert(at int, e *bridge.Encoded) {
	p.bridge.history.add(e)
	p.insertEvent(at, realEvent(e))
}

func (p *play) insertEvent(at int, e event) { p.events = slices.Insert(p.events, at, e) }

// insertOmitted puts an event into the script that comes without its payload.
func (p *play) insertOmitted(at int, e *bridge.Encoded) {
	p.bridge.history.add(e)
	p.omitted = append(p.omitted, e.EventID)
	p.insertEvent(at, event{id: e.EventID, message: func(*call) *pb.Event {
		m := proto.CloneOf(asMessage(e, pb.EventView_EVENT_VIEW_ENVELOPE, 0))
		m.Omitted = &pb.Omitted{Reason: pb.OmittedReason_OMITTED_REASON_TOO_LARGE, Bytes: int64(e.BodySize)}
		return m
	}})
}

// wantBodies demands that the client has read the bodies of what was omitted. One that wants only envelopes need not.
func (p *play) wantBodies(c *call) {
	for _, id := range p.omitted {
		if p.bridge.history.times(id) == 0 && c.view != pb.EventView_EVENT_VIEW_ENVELOPE {
			p.fatalf("the client never asked for the body of %s, which was omitted", id)
		}
	}
}

// strange sends a message of a kind that the protos do not have, and one without any content.
func (p *play) strange(c *call) {
	content := protowire.AppendTag(nil, 200, protowire.BytesType)
	content = protowire.AppendBytes(content, strangeFields())
	for _, unknown := range [][]byte{content, nil} {
		if c.sub != nil {
			m := &pb.SubscribeResponse{}
			m.ProtoReflect().SetUnknown(unknown)
			p.notice(c, m)
			continue
		}
		m := &pb.ConsumeResponse{}
		m.ProtoReflect().SetUnknown(unknown)
		p.say(c, m)
	}
	// A known kind with a field that it does not have.
	beat := &pb.Heartbeat{ServerTime: timestamppb.Now()}
	beat.ProtoReflect().SetUnknown(strangeFields())
	if c.sub != nil {
		p.notice(c, &pb.SubscribeResponse{Content: &pb.SubscribeResponse_Heartbeat{Heartbeat: beat}})
	}
}

// strangeFields are fields of every wire type under numbers that no message has.
func strangeFields() []byte {
	b := protowire.AppendVarint(protowire.AppendTag(nil, 900, protowire.VarintType), 7)
	b = protowire.AppendString(protowire.AppendTag(b, 901, protowire.BytesType), "to come")
	b = protowire.AppendFixed32(protowire.AppendTag(b, 902, protowire.Fixed32Type), 7)
	return protowire.AppendFixed64(protowire.AppendTag(b, 903, protowire.Fixed64Type), 7)
}
