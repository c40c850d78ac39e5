package server

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
	"google.golang.org/protobuf/encoding/protojson"
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

var unknownJSONField = regexp.MustCompile(`unknown field "([^"]{1,256})"`)

// normalBody checks the body of a request and returns it in the form that the gateway understands: enums and durations may be
// written in a body as in a query.
func (rt *route) normalBody(body []byte) ([]byte, error) {
	if len(bytes.TrimSpace(body)) == 0 {
		return nil, bridge.InvalidField("body", "is empty; send a JSON object, {} for everything")
	}
	err := protojson.Unmarshal(body, rt.message())
	if err == nil {
		return body, nil
	}
	normal, bad := rewriteBody(body, rt.input.Descriptor())
	if _, ours := errors.AsType[*bridge.Error](bad); ours {
		return nil, bad
	}
	if bad == nil {
		if err = protojson.Unmarshal(normal, rt.message()); err == nil {
			return normal, nil
		}
	} else {
		err = bad
	}
	if m := unknownJSONField.FindStringSubmatch(err.Error()); m != nil {
		return nil, bridge.InvalidField(m[1], "is not a field of the request")
	}
	// The decoder's text may quote the body. It is the caller's own, and holds no event.
	return nil, bridge.InvalidField("body", "is not the JSON form of the request: "+strings.TrimPrefix(strings.TrimPrefix(strings.ReplaceAll(err.Error(), "\u00a0", " "), "proto: "), "jsontext: "))
}

// rewriteBody returns the JSON of a message with its enums and durations in the form of protobuf. Everything else is copied.
// An error is one of the domain, which names the field, or says that it is no JSON.
func rewriteBody(body []byte, md protoreflect.MessageDescriptor) ([]byte, error) {
	var out bytes.Buffer
	r := rewriter{in: jsontext.NewDecoder(bytes.NewReader(body)), out: jsontext.NewEncoder(&out)}
	if err := r.message(md, ""); err != nil {
		return nil, err
	}
	if _, err := r.in.ReadToken(); !errors.Is(err, io.EOF) {
		return nil, errTrailing
	}
	return out.Bytes(), nil
}

var errTrailing = errors.New("something follows the object")

type rewriter struct {
	in  *jsontext.Decoder
	out *jsontext.Encoder
}

// token copies a token.
func (r *rewriter) token() (jsontext.Token, error) {
	t, err := r.in.ReadToken()
	if err != nil {
		return t, err
	}
	t = t.Clone()
	return t, r.out.WriteToken(t)
}

// message copies an object, or whatever stands in its place.
func (r *rewriter) message(md protoreflect.MessageDescriptor, path string) error {
	if r.in.PeekKind() != '{' {
		return r.copy()
	}
	for begun := false; ; begun = true {
		if begun && r.in.PeekKind() == '}' {
			_, err := r.token()
			return err
		}
		t, err := r.token() // the brace, then a name
		if err != nil {
			return err
		}
		if !begun {
			continue
		}
		fd := md.Fields().ByJSONName(t.String())
		if fd == nil {
			fd = md.Fields().ByTextName(t.String())
		}
		if fd == nil || fd.IsMap() {
			err = r.copy()
		} else {
			err = r.field(fd, strings.TrimPrefix(path+"."+fd.TextName(), "."))
		}
		if err != nil {
			return err
		}
	}
}

// field copies the value of a field, or each of a list.
func (r *rewriter) field(fd protoreflect.FieldDescriptor, path string) error {
	if !fd.IsList() || r.in.PeekKind() != '[' {
		return r.value(fd, path)
	}
	if _, err := r.token(); err != nil {
		return err
	}
	for r.in.PeekKind() != ']' {
		if err := r.value(fd, path); err != nil {
			return err
		}
	}
	_, err := r.token()
	return err
}

func (r *rewriter) value(fd protoreflect.FieldDescriptor, path string) error {
	var normal func(string) (string, error)
	switch {
	case fd.Enum() != nil:
		normal = func(v string) (string, error) { return normalEnum(path, fd.Enum(), v) }
	case fd.Message() != nil && fd.Message().FullName() == durationName:
		normal = func(v string) (string, error) { return normalDuration(path, v) }
	case fd.Message() != nil && fd.Message().FullName() != timestampName:
		return r.message(fd.Message(), path)
	default:
		return r.copy()
	}
	if r.in.PeekKind() != '"' {
		return r.copy()
	}
	t, err := r.in.ReadToken()
	if err != nil {
		return err
	}
	v, err := normal(t.String())
	if err != nil {
		return err
	}
	return r.out.WriteToken(jsontext.String(v))
}

func (r *rewriter) copy() error {
	v, err := r.in.ReadValue()
	if err != nil {
		return err
	}
	return r.out.WriteValue(v)
}
