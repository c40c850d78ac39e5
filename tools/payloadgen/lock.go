package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
)

// lock is everything that the protos are written from. It is read before and written after, so that what was given once
// (names, numbers, files) never changes. People edit it to agree to what the generator refuses: see "retype" and
// "renames".
type lock struct {
	About string `json:"about"`
	// Revision changes whenever anything else here does.
	Revision string `json:"revision"`
	// Renames says that a schema has another name now: old schema path -> new one. Applied once, then dropped.
	Renames map[string]string `json:"renames,omitempty"`
	// Roots are the payloads by event type.
	Roots map[string]*root `json:"roots"`
	// Envelope is a schema beside the payloads.
	Envelope string              `json:"envelope,omitempty"`
	Enums    map[string][]string `json:"enums"`
	// Messages are found by schema path: PnrData, Ticket.flightCoupons[].
	Messages map[string]*message `json:"messages"`
	warnings []string
}

// root is the payload of an event type.
type root struct {
	Schema string `json:"schema"`
	// Wrapper is another schema that the payload may have: an object with the real one as a member.
	Wrapper string `json:"wrapper,omitempty"`
	Member  string `json:"member,omitempty"`
}

type message struct {
	// Name is the full name below the package: Ticket.FlightCoupons.
	Name string `json:"name"`
	File string `json:"file"`
	// Gone says that no payload of the schema has it any more.
	Gone  bool     `json:"gone,omitempty"`
	Notes []string `json:"notes,omitempty"`
	// Next is the number that the next field gets.
	Next int `json:"next"`
	// Fields are found by published name.
	Fields map[string]*field `json:"fields"`
}

type field struct {
	Number int    `json:"number"`
	Name   string `json:"name"`
	// Type is a scalar, struct, value, or a message's name; "repeated " before it for a list.
	Type string `json:"type"`
	// Retype is written by hand: it agrees that the type changes to this one.
	Retype string `json:"retype,omitempty"`
	// Cycle is the message that the field would have if its file could be imported.
	Cycle  string `json:"cycle,omitempty"`
	Enum   string `json:"enum,omitempty"`
	Format string `json:"format,omitempty"`
	// Gone says that the schema does not have the field any more.
	Gone       bool `json:"gone,omitempty"`
	Deprecated bool `json:"deprecated,omitempty"`
	PII        bool `json:"pii,omitempty"`
	ReadOnly   bool `json:"readOnly,omitempty"`
	// Earlier are the fields that the property had when it had other types.
	Earlier []*field `json:"earlier,omitempty"`
}

const aboutLock = "Written by tools/payloadgen: the numbers and names that the typed payloads keep for ever. docs/payloads.md tells which lines may be edited."

func readLock(path string) (*lock, error) {
	l := &lock{Roots: map[string]*root{}, Enums: map[string][]string{}, Messages: map[string]*message{}}
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return l, nil
	}
	if err != nil {
		return nil, err
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(l); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if err := l.verify(); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return l, nil
}

// verify finds what a hand or a merge has broken: numbers and names given twice.
func (l *lock) verify() error {
	var errs []error
	names := map[string]string{}
	for _, key := range slices.Sorted(maps.Keys(l.Messages)) {
		m := l.Messages[key]
		if other, ok := names[m.Name]; ok {
			errs = append(errs, fmt.Errorf("%s: message name %s belongs to %s", key, m.Name, other))
		}
		names[m.Name] = key
		if m.Fields == nil {
			m.Fields = map[string]*field{}
		}
		numbers, fields := map[int]string{}, map[string]string{}
		for _, prop := range slices.Sorted(maps.Keys(m.Fields)) {
			for _, f := range append([]*field{m.Fields[prop]}, m.Fields[prop].Earlier...) {
				if other, ok := numbers[f.Number]; ok {
					errs = append(errs, fmt.Errorf("%s.%s: field number %d belongs to %s", key, prop, f.Number, other))
				}
				if other, ok := fields[f.Name]; ok {
					errs = append(errs, fmt.Errorf("%s.%s: field name %s belongs to %s", key, prop, f.Name, other))
				}
				if f.Number < 1 || f.Number >= m.Next || f.Number >= 19000 {
					errs = append(errs, fmt.Errorf("%s.%s: field number %d is out of range", key, prop, f.Number))
				}
				numbers[f.Number], fields[f.Name] = prop, prop
			}
		}
	}
	return errors.Join(errs...)
}

// rename applies the renames.
func (l *lock) rename() error {
	for _, from := range slices.Sorted(maps.Keys(l.Renames)) {
		to := l.Renames[from]
		if l.Messages[from] == nil {
			return fmt.Errorf("renames: the lock has no %s", from)
		}
		for _, key := range slices.Sorted(maps.Keys(l.Messages)) {
			rest, ok := strings.CutPrefix(key, from)
			if !ok || rest != "" && rest[0] != '.' && rest[0] != '[' {
				continue
			}
			if l.Messages[to+rest] != nil {
				return fmt.Errorf("renames: the lock has %s already", to+rest)
			}
			l.Messages[to+rest] = l.Messages[key]
			delete(l.Messages, key)
		}
		for _, r := range l.Roots {
			if r.Schema == from {
				r.Schema = to
			}
			if r.Wrapper == from {
				r.Wrapper = to
			}
		}
	}
	l.Renames = nil
	return nil
}

// sorted returns the fields in the order of their numbers, earlier ones included, with their published names.
func (m *message) sorted() []namedField {
	var out []namedField
	for _, prop := range slices.Sorted(maps.Keys(m.Fields)) {
		f := m.Fields[prop]
		out = append(out, namedField{prop, f, false})
		for _, e := range f.Earlier {
			out = append(out, namedField{prop, e, true})
		}
	}
	slices.SortFunc(out, func(a, b namedField) int { return a.Number - b.Number })
	return out
}

type namedField struct {
	prop string
	*field
	earlier bool
}

// json returns the name that the field has in JSON: the published one, but for fields that a retype has added.
func (f namedField) json(m *message) string {
	if first := m.Fields[f.prop]; len(first.Earlier) > 0 && first.Earlier[0] != f.field {
		return jsonName(f.Name)
	}
	return f.prop
}

// byName returns the messages by their names.
func (l *lock) byName() map[string]string {
	keys := map[string]string{}
	for key, m := range l.Messages {
		keys[m.Name] = key
	}
	return keys
}

// encode returns the lock as text with one field a line, and sets its revision.
func (l *lock) encode() ([]byte, error) {
	l.About, l.Revision = aboutLock, ""
	b, err := l.text()
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(b)
	l.Revision = hex.EncodeToString(sum[:6])
	return l.text()
}

func (l *lock) text() ([]byte, error) {
	var out bytes.Buffer
	var failed error
	compact := func(v any) string {
		var b bytes.Buffer
		enc := json.NewEncoder(&b)
		enc.SetEscapeHTML(false)
		if err := enc.Encode(v); err != nil {
			failed = err
		}
		return strings.TrimSuffix(b.String(), "\n")
	}
	w := func(format string, args ...any) { fmt.Fprintf(&out, format, args...) }
	w("{\n  \"about\": %s,\n  \"revision\": %s,\n", compact(l.About), compact(l.Revision))
	if len(l.Renames) > 0 {
		w("  \"renames\": %s,\n", compact(l.Renames))
	}
	w("  \"roots\": {")
	lines(w, "    ", slices.Sorted(maps.Keys(l.Roots)), func(k string) { w("%s: %s", compact(k), compact(l.Roots[k])) })
	w("\n  },\n")
	if l.Envelope != "" {
		w("  \"envelope\": %s,\n", compact(l.Envelope))
	}
	w("  \"enums\": {")
	lines(w, "    ", slices.Sorted(maps.Keys(l.Enums)), func(k string) { w("%s: %s", compact(k), compact(l.Enums[k])) })
	w("\n  },\n  \"messages\": {")
	lines(w, "    ", slices.Sorted(maps.Keys(l.Messages)), func(k string) {
		m := l.Messages[k]
		w("%s: {\n      \"name\": %s, \"file\": %s, ", compact(k), compact(m.Name), compact(m.File))
		if m.Gone {
			w("\"gone\": true, ")
		}
		if len(m.Notes) > 0 {
			w("\"notes\": %s, ", compact(m.Notes))
		}
		w("\"next\": %d,\n      \"fields\": {", m.Next)
		props := slices.SortedFunc(maps.Keys(m.Fields), func(a, b string) int { return m.Fields[a].Number - m.Fields[b].Number })
		lines(w, "        ", props, func(p string) { w("%s: %s", compact(p), compact(m.Fields[p])) })
		w("\n      }\n    }")
	})
	w("\n  }\n}\n")
	return out.Bytes(), failed
}

func lines(w func(string, ...any), indent string, keys []string, each func(string)) {
	for i, k := range keys {
		if i > 0 {
			w(",")
		}
		w("\n%s", indent)
		each(k)
	}
}
