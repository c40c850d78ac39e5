package compat

import (
	"fmt"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"
)

// filler fills every field of messages with values that differ from each other, so that what gets lost, or into the wrong
// field, is seen. Of a oneof it sets the member that is asked for, or the next one in turn.
type filler struct {
	n      int
	budget int
	chosen map[protoreflect.FullName]protoreflect.Name
}

func fill(d protoreflect.MessageDescriptor, chosen map[protoreflect.FullName]protoreflect.Name) *dynamicpb.Message {
	f := &filler{budget: 3000, chosen: chosen}
	m := dynamicpb.NewMessage(d)
	f.message(m, 0)
	return m
}

func (f *filler) message(m protoreflect.Message, depth int) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		fd := fields.Get(i)
		if o := fd.ContainingOneof(); o != nil && !o.IsSynthetic() && f.member(o) != fd {
			continue
		}
		if f.budget--; f.budget < 0 || depth > 5 && fd.Message() != nil {
			continue // messages contain themselves
		}
		switch {
		case fd.IsMap():
			value := m.NewField(fd).Map()
			key := protoreflect.ValueOfString(fmt.Sprint("key", f.next())).MapKey()
			if fd.MapValue().Message() != nil {
				f.message(value.Mutable(key).Message(), depth+1)
			} else {
				value.Set(key, f.scalar(fd.MapValue()))
			}
			m.Set(fd, protoreflect.ValueOfMap(value))
		case fd.IsList():
			list := m.NewField(fd).List()
			for range 2 {
				if fd.Message() != nil {
					f.message(list.AppendMutable().Message(), depth+1)
				} else {
					list.Append(f.scalar(fd))
				}
			}
			m.Set(fd, protoreflect.ValueOfList(list))
		case fd.Message() != nil:
			f.message(m.Mutable(fd).Message(), depth+1)
		default:
			m.Set(fd, f.scalar(fd))
		}
	}
}

func (f *filler) member(o protoreflect.OneofDescriptor) protoreflect.FieldDescriptor {
	if name, ok := f.chosen[o.FullName()]; ok {
		return o.Fields().ByName(name)
	}
	return o.Fields().Get(f.n % o.Fields().Len())
}

func (f *filler) next() int { f.n++; return f.n }

func (f *filler) scalar(fd protoreflect.FieldDescriptor) protoreflect.Value {
	n := f.next()
	switch fd.Kind() {
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(true)
	case protoreflect.EnumKind:
		values := fd.Enum().Values() // the last one is the newest
		return protoreflect.ValueOfEnum(values.Get(values.Len() - 1 - n%min(2, values.Len())).Number())
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(fmt.Sprintf("%s %d", fd.Name(), n))
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes([]byte{0, 0xff, byte(n), byte(n >> 8)})
	case protoreflect.DoubleKind:
		return protoreflect.ValueOfFloat64(float64(n) + 0.25)
	case protoreflect.FloatKind:
		return protoreflect.ValueOfFloat32(float32(n) + 0.25)
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		return protoreflect.ValueOfInt32(int32(-n))
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		return protoreflect.ValueOfUint32(uint32(n))
	case protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind:
		return protoreflect.ValueOfInt64(-1<<40 - int64(n))
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		return protoreflect.ValueOfUint64(1<<40 + uint64(n))
	}
	panic("unknown kind of field " + string(fd.FullName()))
}

// known copies what the contract of to knows of from, field by field, by name and number, and never over the wire. It is
// what a client of that contract has to read.
func known(from, to protoreflect.Message) {
	from.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		own := to.Descriptor().Fields().ByNumber(fd.Number())
		if own == nil {
			return true
		}
		if own.Name() != fd.Name() || own.Kind() != fd.Kind() || own.Cardinality() != fd.Cardinality() {
			panic(fmt.Sprintf("%s and %s are not the same field", own.FullName(), fd.FullName()))
		}
		switch {
		case fd.IsMap():
			v.Map().Range(func(key protoreflect.MapKey, v protoreflect.Value) bool {
				if fd.MapValue().Message() != nil {
					known(v.Message(), to.Mutable(own).Map().Mutable(key).Message())
				} else {
					to.Mutable(own).Map().Set(key, v)
				}
				return true
			})
		case fd.IsList():
			for i := range v.List().Len() {
				if fd.Message() != nil {
					known(v.List().Get(i).Message(), to.Mutable(own).List().AppendMutable().Message())
				} else {
					to.Mutable(own).List().Append(v.List().Get(i))
				}
			}
		case fd.Message() != nil:
			known(v.Message(), to.Mutable(own).Message())
		default:
			to.Set(own, v)
		}
		return true
	})
}

// withoutUnknown removes what a client has read without knowing it, at every depth, and counts it.
func withoutUnknown(m protoreflect.Message) (n int) {
	if len(m.GetUnknown()) > 0 {
		n = 1
		m.SetUnknown(nil)
	}
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case fd.IsMap():
			if fd.MapValue().Message() != nil {
				v.Map().Range(func(_ protoreflect.MapKey, v protoreflect.Value) bool {
					n += withoutUnknown(v.Message())
					return true
				})
			}
		case fd.IsList():
			for i := 0; fd.Message() != nil && i < v.List().Len(); i++ {
				n += withoutUnknown(v.List().Get(i).Message())
			}
		case fd.Message() != nil:
			n += withoutUnknown(v.Message())
		}
		return true
	})
	return n
}
