package app_test

import (
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/spotbridge/spotbridge/app"
	"github.com/spotbridge/spotbridge/bridge/bridgetest/samples"
	"github.com/spotbridge/spotbridge/bridge/payload"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
	payloadv1 "github.com/spotbridge/spotbridge/gen/go/spotnana/payload/v1"
)

// otherSchema returns the generated descriptors of the payloads after a change to the message of bookings.
func otherSchema(t testing.TB, change func(pnr *descriptorpb.DescriptorProto)) []protoreflect.FileDescriptor {
	t.Helper()
	set := &descriptorpb.FileDescriptorSet{}
	have := map[string]bool{}
	var add func(d protoreflect.FileDescriptor)
	add = func(d protoreflect.FileDescriptor) {
		if have[d.Path()] {
			return
		}
		have[d.Path()] = true
		for i := range d.Imports().Len() {
			add(d.Imports().Get(i).FileDescriptor)
		}
		set.File = append(set.File, protodesc.ToFileDescriptorProto(d))
	}
	ev := (&pb.Event{}).ProtoReflect().Descriptor().Oneofs().ByName("payload").Fields()
	for i := range ev.Len() {
		add(ev.Get(i).Message().ParentFile())
	}
	changed := false
	for _, f := range set.File {
		for _, m := range f.MessageType {
			if m.GetName() == "PnrData" {
				change(m)
				changed = true
			}
		}
	}
	if !changed {
		t.Fatal("there is no PnrData")
	}
	files, err := protodesc.NewFiles(set)
	if err != nil {
		t.Fatal(err)
	}
	var out []protoreflect.FileDescriptor
	files.RangeFiles(func(d protoreflect.FileDescriptor) bool {
		out = append(out, d)
		return true
	})
	return out
}

// TestASchemaUpdateAndARestart: a bridge runs with yesterday's schema, which lacks fields, has one of another type and one
// that it discourages. With today's schema the old events are converted anew, and what it covers is no drift any more.
func TestASchemaUpdateAndARestart(t *testing.T) {
	older := otherSchema(t, func(pnr *descriptorpb.DescriptorProto) {
		for _, f := range pnr.Field {
			switch f.GetJsonName() {
			case "bookingStatus", "bookingHistory":
				f.JsonName = proto.String("not" + f.GetJsonName()) // a published name that no payload has
			case "version":
				f.Type = descriptorpb.FieldDescriptorProto_TYPE_BOOL.Enum()
			case "pnrTravelers":
				f.Options = &descriptorpb.FieldOptions{Deprecated: proto.Bool(true)}
			}
		}
	})

	covered := []string{
		"PNR_V3 UNKNOWN_FIELD $.payload.bookingStatus", "PNR_V3 UNKNOWN_FIELD $.payload.bookingHistory",
		"PNR_V3 TYPE_MISMATCH $.payload.version", "PNR_V3 DEPRECATED_FIELD $.payload.pnrTravelers",
	}
	cfg := testConfig(t)
	r := start(t, cfg, app.Options{Converter: payload.NewOf("older", older)})
	accepted := r.deliverAll(t)
	i := slices.IndexFunc(accepted, func(d *samples.Delivery) bool {
		return d.EventType == "PNR_V3" && !d.Wrapped && d.Version > 0
	})
	id := "sandbox." + accepted[i].WebhookID()
	event := func() (*pb.Conversion, *payloadv1.PnrData) {
		t.Helper()
		got, err := pb.NewEventServiceClient(r.conn).GetEvent(t.Context(), &pb.GetEventRequest{EventId: id})
		if err != nil {
			t.Fatal(err)
		}
		return got.GetEvent().GetConversion(), got.GetEvent().GetPnrV3()
	}

	before := r.drift(t, &pb.ListSchemaDriftRequest{PageSize: 1000})
	if s := before.GetInspection().GetSchemaRevision(); s != "older" {
		t.Errorf("revision %s", s)
	}
	for _, line := range covered {
		if !slices.Contains(driftLines(before), line) {
			t.Errorf("%s is not found by the older schema", line)
		}
	}
	if c, p := event(); c.GetStatus() != pb.ConversionStatus_CONVERSION_STATUS_PARTIAL || c.GetSchemaRevision() != "older" || p.Version != nil || p.BookingStatus != nil || p.GetPnrId() == "" {
		t.Errorf("converted by the older schema: %v, version %v", c, p.Version)
	}
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}

	r = start(t, cfg, app.Options{})
	var after *pb.ListSchemaDriftResponse
	eventually(t, func() bool { // until then the answer is that of the older schema, and says so
		after = r.drift(t, &pb.ListSchemaDriftRequest{PageSize: 1000})
		revision := after.GetInspection().GetSchemaRevision()
		if revision == "older" && !slices.Equal(counted(after), counted(before)) {
			t.Fatal("the older schema's answer has changed")
		}
		return revision == payload.New().Revision()
	})
	for _, line := range covered {
		if slices.Contains(driftLines(after), line) {
			t.Errorf("%s is still there", line)
		}
	}
	if got, want := counted(after), expected(accepted); !slices.Equal(got, want) {
		t.Errorf("drift by today's schema:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if c, p := event(); c.GetStatus() != pb.ConversionStatus_CONVERSION_STATUS_FULL || c.GetSchemaRevision() != payload.New().Revision() ||
		p.GetVersion() != accepted[i].Version || p.GetBookingStatus() == "" {
		t.Errorf("converted by today's schema: %v, version %v", c, p.GetVersion())
	}
}

func driftLines(r *pb.ListSchemaDriftResponse) (out []string) {
	for _, e := range r.GetEntries() {
		out = append(out, e.GetEventType()+" "+strings.TrimPrefix(e.GetKind().String(), "ISSUE_KIND_")+" "+e.GetPath())
	}
	return out
}
