package server

import (
	"bytes"
	"errors"
	"io"
	"regexp"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/spotbridge/spotbridge/bridge"
)

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
