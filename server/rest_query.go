package server

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/spotbridge/spotbridge/bridge"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

// param is a field of a request that may be given in the query.
type param struct {
	path  string // snake_case, as the gateway knows it
	field protoreflect.FieldDescriptor
}

const (
	timestampName = "google.protobuf.Timestamp"
	durationName  = "google.protobuf.Duration"
	filterName    = "spotbridge.v1.EventFilter"
)

// findParams finds what the query may hold: every field that is not in the path, in snake_case and camelCase, and the
// filter's fields without "filter." too.
func (rt *route) findParams() error {
	rt.params = map[string]param{}
	inPath := map[string]bool{}
	for _, s := range rt.segments {
		if name, ok := variable(s); ok {
			inPath[name] = true
		}
	}
	if rt.body {
		return nil
	}
	add := func(path string, fd protoreflect.FieldDescriptor, names ...string) error {
		if _, err := normalValue(path, fd, ""); errors.Is(err, errKind) {
			return fmt.Errorf("field %s has a type that a query cannot hold", path)
		}
		for _, name := range names {
			if _, taken := rt.params[name]; taken && rt.params[name].path != path {
				return fmt.Errorf("parameter %s would mean two fields", name)
			}
			rt.params[name] = param{path, fd}
		}
		rt.names = append(rt.names, path)
		return nil
	}
	fields := rt.input.Descriptor().Fields()
	for i := range fields.Len() {
		fd := fields.Get(i)
		name := string(fd.Name())
		if inPath[name] {
			continue
		}
		if fd.Message() == nil || fd.Message().FullName() != filterName {
			if err := add(name, fd, name, fd.JSONName()); err != nil {
				return err
			}
			continue
		}
		inner := fd.Message().Fields()
		for j := range inner.Len() {
			f := inner.Get(j)
			snake, camel := string(f.Name()), f.JSONName()
			if err := add(name+"."+snake, f, name+"."+snake, name+"."+camel, snake, camel); err != nil {
				return err
			}
		}
	}
	return nil
}

func unknownParameter(name string, known []string) error {
	msg := "the method has no such parameter; it has none"
	if len(known) > 0 {
		msg = "the method has no such parameter; it has " + strings.Join(known, ", ")
	}
	if len(name) > 256 {
		name = name[:256]
	}
	return &bridge.Error{Reason: pb.ErrorReason_ERROR_REASON_UNKNOWN_PARAMETER, Field: strings.ToValidUTF8(name, "?"), Message: msg}
}

// query returns the parameters in the form that the gateway understands, or says what is wrong with the first bad one.
func (rt *route) query(raw string) (url.Values, error) {
	values, err := url.ParseQuery(raw)
	if err != nil {
		return nil, bridge.InvalidField("query", "is not properly encoded: percent-encode everything but letters, digits and -._~")
	}
	out := url.Values{}
	names := make([]string, 0, len(values))
	for name := range values {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		p, ok := rt.params[name]
		if !ok {
			return nil, unknownParameter(name, rt.names)
		}
		for _, v := range values[name] {
			if !p.field.IsList() && len(out[p.path]) > 0 {
				return nil, bridge.InvalidField(p.path, "is given more than once")
			}
			v, err := normalValue(p.path, p.field, v)
			if err != nil {
				return nil, err
			}
			out[p.path] = append(out[p.path], v)
		}
	}
	return out, nil
}

func encodeQuery(values url.Values) string { return values.Encode() }

var errKind = fmt.Errorf("unknown kind of field")

// normalValue checks a value and returns it in normal form.
func normalValue(path string, fd protoreflect.FieldDescriptor, v string) (string, error) {
	switch fd.Kind() {
	case protoreflect.StringKind:
		if !utf8.ValidString(v) {
			return "", bridge.InvalidField(path, "is not UTF-8")
		}
		return v, nil
	case protoreflect.BoolKind:
		b, err := strconv.ParseBool(v)
		if err != nil {
			return "", bridge.InvalidField(path, "is not true or false")
		}
		return strconv.FormatBool(b), nil
	case protoreflect.Int32Kind:
		n, err := strconv.ParseInt(v, 10, 32)
		if err != nil {
			return "", bridge.InvalidField(path, "is not a whole number that fits 32 bits")
		}
		return strconv.FormatInt(n, 10), nil
	case protoreflect.EnumKind:
		return normalEnum(path, fd.Enum(), v)
	case protoreflect.MessageKind:
		switch fd.Message().FullName() {
		case timestampName:
			return normalTime(path, v)
		case durationName:
			return normalDuration(path, v)
		}
	}
	return "", errKind
}

// normalEnum accepts full names, names without the enum's prefix, both in any case, and numbers.
func normalEnum(path string, ed protoreflect.EnumDescriptor, v string) (string, error) {
	prefix := strings.TrimSuffix(string(ed.Values().Get(0).Name()), "UNSPECIFIED")
	upper := strings.ToUpper(v)
	for _, name := range []string{upper, prefix + upper} {
		if d := ed.Values().ByName(protoreflect.Name(name)); d != nil {
			return string(d.Name()), nil
		}
	}
	if n, err := strconv.ParseInt(v, 10, 32); err == nil {
		if d := ed.Values().ByNumber(protoreflect.EnumNumber(n)); d != nil {
			return string(d.Name()), nil
		}
	}
	var names []string
	for i := 1; i < ed.Values().Len(); i++ {
		names = append(names, strings.TrimPrefix(string(ed.Values().Get(i).Name()), prefix))
	}
	return "", bridge.InvalidField(path, "is not one of "+strings.Join(names, ", "))
}

func normalTime(path, v string) (string, error) {
	t, err := time.Parse(time.RFC3339Nano, v)
	if err != nil {
		// An unencoded + arrives as a space.
		if t, err = time.Parse(time.RFC3339Nano, strings.Replace(v, " ", "+", 1)); err != nil {
			return "", bridge.InvalidField(path, "is not a time like 2026-11-23T09:00:00Z (RFC 3339)")
		}
	}
	if y := t.UTC().Year(); y < 1 || y > 9999 {
		return "", bridge.InvalidField(path, "is not a valid timestamp")
	}
	return t.UTC().Format(time.RFC3339Nano), nil
}

func normalDuration(path, v string) (string, error) {
	d, err := time.ParseDuration(v)
	if err != nil {
		return "", bridge.InvalidField(path, "is not a duration like 5s")
	}
	return strconv.FormatFloat(d.Seconds(), 'f', 9, 64) + "s", nil
}
