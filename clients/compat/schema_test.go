package compat

import (
	"os"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"

	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

// schema is the contract at some time.
type schema struct{ *protoregistry.Files }

func newSchema(t testing.TB, set *descriptorpb.FileDescriptorSet) schema {
	t.Helper()
	files, err := protodesc.NewFiles(set)
	if err != nil {
		t.Fatal(err)
	}
	return schema{files}
}

// baseline is the published contract: what clients were generated from.
func baseline(t testing.TB) schema {
	t.Helper()
	b, err := os.ReadFile("../../tools/baseline.binpb")
	if err != nil {
		t.Fatal(err)
	}
	set := &descriptorpb.FileDescriptorSet{}
	if err := proto.Unmarshal(b, set); err != nil {
		t.Fatal(err)
	}
	return newSchema(t, set)
}

// todaySet is the contract as it is.
func todaySet() *descriptorpb.FileDescriptorSet {
	set := &descriptorpb.FileDescriptorSet{}
	seen := map[string]bool{}
	var add func(protoreflect.FileDescriptor)
	add = func(fd protoreflect.FileDescriptor) {
		if seen[fd.Path()] {
			return
		}
		seen[fd.Path()] = true
		for i := range fd.Imports().Len() {
			add(fd.Imports().Get(i).FileDescriptor)
		}
		set.File = append(set.File, protodesc.ToFileDescriptorProto(fd))
	}
	protoregistry.GlobalFiles.RangeFilesByPackage("spotbridge.v1", func(fd protoreflect.FileDescriptor) bool {
		add(fd)
		return true
	})
	return set
}

// Names and numbers of what a later contract has beyond today's.
const (
	added       = 9000
	addedEnum   = 900
	addedEvent  = "hotel_folio"
	addedKind   = "rebalanced"
	addedMethod = "ReplaySubscription"
)

// later is a contract of the future: today's with every kind of change that buf breaking allows. Every message of
// spotbridge.v1 gets fields (a text, a list and a message), every enum a value, the events a type with a payload of its
// own, the stream a kind of message, and a service a method.
func later(t testing.TB) schema {
	t.Helper()
	set := todaySet()
	for _, file := range set.File {
		if file.GetPackage() != "spotbridge.v1" {
			continue
		}
		for _, e := range file.EnumType {
			prefix := e.Value[0].GetName()
			e.Value = append(e.Value, &descriptorpb.EnumValueDescriptorProto{Name: proto.String(prefix + "_ADDED"), Number: proto.Int32(addedEnum)})
		}
		for _, m := range file.MessageType {
			addFields(m)
		}
		switch file.GetName() {
		case "spotbridge/v1/event.proto":
			file.MessageType = append(file.MessageType, addedMessage("HotelFolio"))
			addToOneof(file, "Event", "payload", addedEvent, "HotelFolio")
		case "spotbridge/v1/subscription.proto":
			file.MessageType = append(file.MessageType, addedMessage("Rebalanced"))
			addToOneof(file, "SubscribeResponse", "content", addedKind, "Rebalanced")
			method := proto.Clone(file.Service[0].Method[0]).(*descriptorpb.MethodDescriptorProto)
			method.Name = proto.String(addedMethod)
			file.Service[0].Method = append(file.Service[0].Method, method)
		}
	}
	return newSchema(t, set)
}

func addFields(m *descriptorpb.DescriptorProto) {
	one, many := descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL, descriptorpb.FieldDescriptorProto_LABEL_REPEATED
	text, number, message := descriptorpb.FieldDescriptorProto_TYPE_STRING, descriptorpb.FieldDescriptorProto_TYPE_SINT64, descriptorpb.FieldDescriptorProto_TYPE_MESSAGE
	m.Field = append(m.Field,
		&descriptorpb.FieldDescriptorProto{Name: proto.String("added_text"), JsonName: proto.String("addedText"), Number: proto.Int32(added), Label: &one, Type: &text},
		&descriptorpb.FieldDescriptorProto{Name: proto.String("added_numbers"), JsonName: proto.String("addedNumbers"), Number: proto.Int32(added + 1), Label: &many, Type: &number},
		&descriptorpb.FieldDescriptorProto{
			Name: proto.String("added_message"), JsonName: proto.String("addedMessage"), Number: proto.Int32(added + 2), Label: &one, Type: &message,
			TypeName: proto.String(".spotbridge.v1." + m.GetName()),
		},
	)
}

func addedMessage(name string) *descriptorpb.DescriptorProto {
	m := &descriptorpb.DescriptorProto{Name: proto.String(name)}
	addFields(m)
	return m
}

// addToOneof adds a member to a oneof of a message, behind its other members.
func addToOneof(file *descriptorpb.FileDescriptorProto, message, oneof, field, of string) {
	kind, label := descriptorpb.FieldDescriptorProto_TYPE_MESSAGE, descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL
	m := file.MessageType[slices.IndexFunc(file.MessageType, func(m *descriptorpb.DescriptorProto) bool { return m.GetName() == message })]
	index := int32(slices.IndexFunc(m.OneofDecl, func(o *descriptorpb.OneofDescriptorProto) bool { return o.GetName() == oneof }))
	last := 0
	for i, f := range m.Field {
		if f.OneofIndex != nil && f.GetOneofIndex() == index {
			last = i
		}
	}
	m.Field = slices.Insert(m.Field, last+1, &descriptorpb.FieldDescriptorProto{
		Name: &field, JsonName: &field, Number: proto.Int32(added + 3), Label: &label, Type: &kind, TypeName: proto.String(".spotbridge.v1." + of), OneofIndex: &index,
	})
}

// message returns the descriptor of a message of spotbridge.v1.
func (s schema) message(t testing.TB, name string) protoreflect.MessageDescriptor {
	t.Helper()
	d, err := s.FindDescriptorByName(protoreflect.FullName("spotbridge.v1." + name))
	if err != nil {
		t.Fatal(err)
	}
	return d.(protoreflect.MessageDescriptor)
}

// method returns the descriptor of a method by the name that it has in a call, or nil when the contract has none.
func (s schema) method(service, name string) protoreflect.MethodDescriptor {
	d, err := s.FindDescriptorByName(protoreflect.FullName(service))
	if err != nil {
		return nil
	}
	return d.(protoreflect.ServiceDescriptor).Methods().ByName(protoreflect.Name(name))
}

var _ = pb.File_spotbridge_v1_event_proto // todaySet finds the files that are linked in
