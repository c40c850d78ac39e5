package payload

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"strconv"
	"strings"
	"sync"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"

	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
	payloadv1 "github.com/spotbridge/spotbridge/gen/go/spotnana/payload/v1"
)

// schemaRoot is the payload of an event type. Its wrapper is an object that has it as a member.
type schemaRoot struct{ eventType, message, wrapper, member string }

// rootTable tells how to convert the payload of an event type.
type rootTable struct {
	number  protowire.Number
	message *messageTable
	// wrapper and member are nil and "" when the payload always comes by itself.
	wrapper *messageTable
	member  string
}

// messageTable tells how to convert a message.
type messageTable struct {
	fields []fieldTable
	names  nameTable
}

// fieldTable tells how to convert a field.
type fieldTable struct {
	// name is the published one.
	name []byte
	kind kind
	list bool
	// tag is the wire form of number and wire type.
	tag    [4]byte
	tagLen uint8
	// deprecated says that the schema discourages the field, or does not have it any more.
	deprecated bool
	message    *messageTable
	// values are the known ones; nil when any will do.
	values *nameTable
	// earlier is the field of the same name that has the type of yesterday.
	earlier *fieldTable
}

type kind uint8

const (
	kindString kind = iota
	kindBool
	kindInt32
	kindInt64
	kindDouble
	kindMessage
	kindStruct
	kindValue
)

// nameTable finds strings in a fixed set: a hash table with open addresses, filled by a quarter at most.
type nameTable struct {
	names []string
	slots []int16 // index into names, -1 = free
	shift uint8
}

func newNameTable(names []string) nameTable {
	size := 4
	for size < 4*len(names) {
		size *= 2
	}
	t := nameTable{names: names, slots: make([]int16, size), shift: uint8(64 - bits.TrailingZeros(uint(size)))}
	for i := range t.slots {
		t.slots[i] = -1
	}
	for i, name := range names {
		at := hash([]byte(name)) >> t.shift
		for t.slots[at] >= 0 {
			at = (at + 1) & uint64(size-1)
		}
		t.slots[at] = int16(i)
	}
	return t
}

// find returns the index of a name, -1 when it is not there.
func (t *nameTable) find(name []byte) int {
	mask := uint64(len(t.slots) - 1)
	for at := hash(name) >> t.shift & mask; ; at = (at + 1) & mask {
		i := t.slots[at&mask]
		if i < 0 || t.names[i] == string(name) {
			return int(i)
		}
	}
}

// hash looks at the ends and the middle of a name; its high bits are the good ones.
func hash(name []byte) uint64 {
	const odd = 0x9e3779b97f4a7c15
	n := len(name)
	h := uint64(n)
	switch {
	case n >= 8:
		h ^= binary.LittleEndian.Uint64(name) ^ bits.RotateLeft64(binary.LittleEndian.Uint64(name[n-8:])*odd, 29)
		if n > 16 {
			h ^= bits.RotateLeft64(binary.LittleEndian.Uint64(name[n/2-4:])*odd, 47)
		}
	case n >= 4:
		h ^= uint64(binary.LittleEndian.Uint32(name))<<8 ^ bits.RotateLeft64(uint64(binary.LittleEndian.Uint32(name[n-4:]))*odd, 29)
	case n > 0:
		h ^= uint64(name[0])<<8 | uint64(name[n/2])<<16 | uint64(name[n-1])<<24
	}
	h *= odd
	return (h ^ h>>32) * odd
}

// roots are the tables by event type, made of the generated descriptors when they are first needed.
var roots = sync.OnceValue(func() map[string]*rootTable { return compileRoots(payloadFiles, eventField) })

// eventField returns the field of Event for a payload, 0 when there is none.
func eventField(payload protoreflect.FullName) protowire.Number {
	fields := (&pb.Event{}).ProtoReflect().Descriptor().Oneofs().ByName("payload").Fields()
	for i := range fields.Len() {
		if m := fields.Get(i).Message(); m != nil && m.FullName() == payload {
			return fields.Get(i).Number()
		}
	}
	return 0
}

func compileRoots(files []protoreflect.FileDescriptor, field func(protoreflect.FullName) protowire.Number) map[string]*rootTable {
	c := compiler{files: files, messages: map[protoreflect.FullName]*messageTable{}, values: map[string]*nameTable{}, fieldValues: map[string]*nameTable{}, earlier: map[string][]protoreflect.FieldNumber{}}
	c.readSchema()
	out := map[string]*rootTable{}
	for _, r := range schemaRoots {
		t := &rootTable{number: field(payloadPackage + protoreflect.FullName(r.message)), member: r.member}
		if t.number == 0 {
			continue // it stays generic until Event has a field for it
		}
		t.message = c.named(r.message)
		if r.wrapper != "" {
			t.wrapper = c.named(r.wrapper)
		}
		out[r.eventType] = t
	}
	return out
}

// compiler makes the tables.
type compiler struct {
	files    []protoreflect.FileDescriptor
	messages map[protoreflect.FullName]*messageTable
	// values are the lists of known values by name, fieldValues by message and field number.
	values, fieldValues map[string]*nameTable
	// earlier are the numbers of fields with types of yesterday, oldest first, by message and number of the one with
	// today's.
	earlier map[string][]protoreflect.FieldNumber
	// published are the published names by message and number of an earlier field.
	published map[string]string
}

const payloadPackage = "spotnana.payload.v1."

func fieldKey(message string, number int) string { return message + "#" + strconv.Itoa(number) }

func (c *compiler) readSchema() {
	for line := range strings.Lines(schemaEnums) {
		values := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		t := newNameTable(values[1:])
		c.values[values[0]] = &t
	}
	for line := range strings.Lines(schemaEnumFields) {
		f := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		c.fieldValues[f[0]+"#"+f[1]] = c.values[f[2]]
	}
	c.published = map[string]string{}
	for line := range strings.Lines(schemaRetyped) {
		f := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		number, _ := strconv.Atoi(f[3])
		c.earlier[f[0]+"#"+f[2]] = append(c.earlier[f[0]+"#"+f[2]], protoreflect.FieldNumber(number))
		c.published[f[0]+"#"+f[3]] = f[1]
	}
}

// named returns the table of a message that is named below the package.
func (c *compiler) named(name string) *messageTable {
	for _, file := range c.files {
		if d := file.Messages().ByName(protoreflect.Name(name)); d != nil {
			return c.message(d)
		}
	}
	panic(fmt.Sprintf("payload: no message %s", name)) // generated code that does not belong together; a test finds it
}

var payloadFiles = []protoreflect.FileDescriptor{
	payloadv1.File_spotnana_payload_v1_common_proto,
	payloadv1.File_spotnana_payload_v1_pnr_proto,
	payloadv1.File_spotnana_payload_v1_trip_proto,
	payloadv1.File_spotnana_payload_v1_traveler_proto,
	payloadv1.File_spotnana_payload_v1_service_charge_proto,
	payloadv1.File_spotnana_payload_v1_approval_proto,
	payloadv1.File_spotnana_payload_v1_agent_task_proto,
}

func (c *compiler) message(d protoreflect.MessageDescriptor) *messageTable {
	if t := c.messages[d.FullName()]; t != nil {
		return t
	}
	t := &messageTable{}
	c.messages[d.FullName()] = t // before its fields: messages may hold themselves
	name := strings.TrimPrefix(string(d.FullName()), payloadPackage)
	fields := map[protoreflect.FieldNumber]fieldTable{}
	for i := range d.Fields().Len() {
		fd := d.Fields().Get(i)
		fields[fd.Number()] = c.field(name, fd)
	}
	var names []string
	for i := range d.Fields().Len() {
		fd := d.Fields().Get(i)
		if _, old := c.published[fieldKey(name, int(fd.Number()))]; old {
			continue
		}
		f := fields[fd.Number()]
		for _, old := range c.earlier[fieldKey(name, int(fd.Number()))] {
			f.name = []byte(c.published[fieldKey(name, int(old))])
			e := fields[old]
			e.name, e.earlier = f.name, f.earlier
			f.earlier = &e
		}
		t.fields = append(t.fields, f)
		names = append(names, string(f.name))
	}
	t.names = newNameTable(names)
	return t
}

func (c *compiler) field(message string, fd protoreflect.FieldDescriptor) fieldTable {
	f := fieldTable{name: []byte(fd.JSONName()), list: fd.IsList(), values: c.fieldValues[fieldKey(message, int(fd.Number()))]}
	if o, ok := fd.Options().(*descriptorpb.FieldOptions); ok {
		f.deprecated = o.GetDeprecated()
	}
	wire := protowire.BytesType
	switch fd.Kind() {
	case protoreflect.StringKind:
		f.kind = kindString
	case protoreflect.BoolKind:
		f.kind, wire = kindBool, protowire.VarintType
	case protoreflect.Int32Kind:
		f.kind, wire = kindInt32, protowire.VarintType
	case protoreflect.Int64Kind:
		f.kind, wire = kindInt64, protowire.VarintType
	case protoreflect.DoubleKind:
		f.kind, wire = kindDouble, protowire.Fixed64Type
	case protoreflect.MessageKind:
		switch fd.Message().FullName() {
		case "google.protobuf.Struct":
			f.kind = kindStruct
		case "google.protobuf.Value":
			f.kind = kindValue
		default:
			f.kind = kindMessage
			f.message = c.message(fd.Message())
		}
	default:
		panic(fmt.Sprintf("payload: %s has a type that payloadgen does not write", fd.FullName()))
	}
	if f.list { // numbers are packed
		wire = protowire.BytesType
	}
	tag := protowire.AppendTag(nil, fd.Number(), wire)
	f.tagLen = uint8(copy(f.tag[:], tag))
	return f
}
