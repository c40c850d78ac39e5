package main

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// builder makes the new lock from the documents and the old lock.
type builder struct {
	doc *document
	old *lock
	new *lock
	// names are the message names in use, and topLevel those that the documents' schemas have or would get.
	names, topLevel map[string]bool
	queue           []func()
	depth           int
	errs            []error
}

// build returns the lock for the documents. All that it refuses is in the error, one line each, by schema path.
func build(doc *document, old *lock, roots map[string]string) (*lock, error) {
	if err := old.rename(); err != nil {
		return nil, err
	}
	b := &builder{doc: doc, old: old, names: map[string]bool{}, topLevel: map[string]bool{}}
	b.new = &lock{Roots: map[string]*root{}, Enums: map[string][]string{}, Messages: map[string]*message{}}
	for _, m := range old.Messages {
		b.names[m.Name] = true
	}
	for name := range doc.schemas {
		b.topLevel[pascal(name)] = true
	}
	b.roots(roots)
	if len(b.errs) > 0 {
		return nil, errors.Join(b.errs...)
	}
	for _, event := range slices.Sorted(maps.Keys(b.new.Roots)) {
		r := b.new.Roots[event]
		b.keepOrNeed(r.Schema)
		if r.Wrapper != "" {
			b.keepOrNeed(r.Wrapper)
		}
	}
	if b.new.Envelope != "" {
		b.keepOrNeed(b.new.Envelope)
	}
	for len(b.queue) > 0 {
		next := b.queue[0]
		b.queue = b.queue[1:]
		next()
	}
	b.keepGone()
	if len(b.errs) > 0 {
		return nil, errors.Join(b.errs...)
	}
	if err := layOut(b.new, b.old); err != nil {
		return nil, err
	}
	b.enums()
	return b.new, b.new.verify()
}

func (b *builder) fail(path, format string, args ...any) {
	text := path + ": " + fmt.Sprintf(format, args...)
	if !slices.ContainsFunc(b.errs, func(err error) bool { return err.Error() == text }) {
		b.errs = append(b.errs, errors.New(text))
	}
}

// roots finds the payload of every event type: what the caller says, the document's x-webhooks, what the lock has.
func (b *builder) roots(given map[string]string) {
	for event, r := range b.old.Roots {
		b.new.Roots[event] = r
	}
	b.new.Envelope = b.old.Envelope
	if b.doc.envelope != "" {
		b.new.Envelope = b.doc.envelope
	}
	if b.doc.webhooks.object() {
		for _, event := range b.doc.webhooks.names {
			w := b.doc.webhooks.members[event]
			r := &root{Schema: strings.TrimPrefix(w.text("payload"), refPrefix)}
			for _, alt := range w.get("alternates").texts() {
				r.Wrapper = strings.TrimPrefix(alt, refPrefix)
				r.Member = b.member(r.Wrapper, r.Schema)
				if r.Member == "" {
					b.fail("#/x-webhooks/"+event, "%s has no property that is a %s", alt, r.Schema)
				}
			}
			b.new.Roots[event] = r
		}
	}
	for event, schema := range given {
		b.new.Roots[event] = &root{Schema: schema}
	}
	if len(b.new.Roots) == 0 {
		b.fail("#", "no roots: the document has no x-webhooks and there is no lock; give -root EVENT_TYPE=Schema")
	}
	for event, r := range b.new.Roots {
		if b.doc.schemas[r.Schema] == nil && b.old.Messages[r.Schema] == nil {
			b.fail(refPrefix+r.Schema, "missing; it is the payload of %s", event)
		}
	}
}

// member returns the name of the property of wrapper that is a schema.
func (b *builder) member(wrapper, schema string) string {
	props := b.doc.schemas[wrapper].get("properties")
	if props == nil {
		return ""
	}
	for _, name := range props.names {
		if props.members[name].text("$ref") == refPrefix+schema {
			return name
		}
	}
	return ""
}

// keepOrNeed makes a message of a root's schema. When no document has the schema, it and what hangs on it stay as the
// lock has them: not everything is published in one document.
func (b *builder) keepOrNeed(key string) {
	if b.doc.schemas[key] != nil {
		b.needSchema(key)
		return
	}
	b.keep(key)
}

func (b *builder) keep(key string) {
	m := b.old.Messages[key]
	if m == nil || b.new.Messages[key] != nil {
		return
	}
	if top, _, _ := strings.Cut(key, "."); top == key && b.doc.schemas[key] != nil {
		b.needSchema(key)
		return
	}
	m.Gone = false
	b.new.Messages[key] = m
	keys := b.old.byName()
	for _, f := range m.sorted() {
		if t := elem(f.Type); isMessage(t) {
			b.keep(keys[t])
		}
	}
}

// keepGone keeps the messages that no payload has any more: events of yesterday have them, and so do programs.
func (b *builder) keepGone() {
	for key, m := range b.old.Messages {
		if b.new.Messages[key] == nil {
			m.Gone = true
			b.new.Messages[key] = m
		}
	}
}

// needSchema returns the name of the message of a schema, which is made when it is not there.
func (b *builder) needSchema(name string) string {
	return b.need(name, pascal(name), refPrefix+name, b.doc.schemas[name])
}

func (b *builder) need(key, name, path string, n *node) string {
	if m := b.new.Messages[key]; m != nil {
		return m.Name
	}
	m := &message{Next: 1, Fields: map[string]*field{}}
	b.new.Messages[key] = m
	if old := b.old.Messages[key]; old != nil {
		m.Name, m.File, m.Next = old.Name, old.File, old.Next
	} else {
		m.Name = name
		for i := 2; b.names[m.Name]; i++ {
			m.Name = name + strconv.Itoa(i)
		}
	}
	b.names[m.Name] = true
	b.queue = append(b.queue, func() { b.fields(key, m, path, n) })
	return m.Name
}

// property is what a schema says of one of its properties.
type property struct {
	name, path string
	node       *node
	values     []string // of a discriminator
}

// fields fills in a message.
func (b *builder) fields(key string, m *message, path string, n *node) {
	var props []*property
	b.properties(n, path, &props, map[*node]bool{})
	m.Notes = b.notes(n, path)
	old := b.old.Messages[key]
	if old == nil {
		old = &message{}
	}
	names := map[string]bool{}
	for _, f := range old.sorted() {
		names[f.Name], names[jsonName(f.Name)] = true, true
	}
	for _, p := range props {
		names[p.name] = true
	}
	for _, p := range props {
		f := b.field(key, m, p)
		was := old.Fields[p.name]
		switch {
		case was == nil:
			f.Number, m.Next = m.Next, m.Next+1
			f.Name = fieldName(p.name, snake(p.name), names)
		case was.Type == f.Type:
			f.Number, f.Name, f.Earlier = was.Number, was.Name, was.Earlier
		case was.Cycle != "" && was.Cycle == elem(f.Type) && was.Retype == "":
			f.Number, f.Name, f.Earlier, f.Type, f.Cycle = was.Number, was.Name, was.Earlier, was.Type, was.Cycle
		case was.Retype == f.Type:
			f.Number, m.Next = m.Next, m.Next+1
			f.Name = fieldName("", snake(p.name)+"_as_"+snake(strings.ReplaceAll(f.Type, "repeated", "list of")), names)
			earlier := *was
			earlier.Retype, earlier.Earlier = "", nil
			f.Earlier = append(slices.Clone(was.Earlier), &earlier)
		default:
			b.fail(p.path, "its type was %q and is %q now; to agree, write \"retype\": %q into the line of %q of message %q in the lock: it gets a new number then, and the old field stays", was.Type, f.Type, f.Type, p.name, key)
			continue
		}
		names[f.Name], names[jsonName(f.Name)] = true, true
		m.Fields[p.name] = f
	}
	for prop, f := range old.Fields {
		if m.Fields[prop] == nil {
			f.Gone = true
			m.Fields[prop] = f
		}
	}
}

// properties collects the properties of an object schema: its own, those of all parts and those of all members of a
// union. The same name in two of them must mean the same.
func (b *builder) properties(n *node, path string, props *[]*property, busy map[*node]bool) {
	if busy[n] {
		return
	}
	busy[n] = true
	defer delete(busy, n)
	if ref := n.text("$ref"); ref != "" {
		name, target := b.target(n, path)
		if target != nil {
			b.properties(target, refPrefix+name, props, busy)
		}
		return
	}
	if own := n.get("properties"); own.object() {
		for _, name := range own.names {
			b.add(props, &property{name: name, path: path + "/properties/" + name, node: own.members[name]})
		}
	}
	for _, keyword := range []string{"allOf", "oneOf", "anyOf"} {
		if parts := n.get(keyword); parts != nil {
			for i, part := range parts.items {
				b.properties(part, fmt.Sprintf("%s/%s/%d", path, keyword, i), props, busy)
			}
		}
	}
	if d := n.get("discriminator"); d != nil {
		name := d.text("propertyName")
		i := slices.IndexFunc(*props, func(p *property) bool { return p.name == name })
		if i < 0 {
			if name != "" {
				*props = append(*props, &property{name: name, path: path + "/discriminator", node: &node{members: map[string]*node{"type": {scalar: "string"}}}})
				i = len(*props) - 1
			} else {
				return
			}
		}
		if mapping := d.get("mapping"); mapping.object() {
			for _, v := range mapping.names {
				if !slices.Contains((*props)[i].values, v) {
					(*props)[i].values = append((*props)[i].values, v)
				}
			}
		}
	}
}

func (b *builder) add(props *[]*property, p *property) {
	for _, other := range *props {
		if other.name != p.name || same(other.node, p.node) {
			if other.name == p.name {
				return
			}
			continue
		}
		// Two members of a union may list different values for one property: together they are the known ones.
		x, y := b.shape(other.node, other.path), b.shape(p.node, p.path)
		if x.kind != y.kind || x.kind != "scalar" || x.scalar != y.scalar {
			b.fail(p.path, "differs from %s, and one message cannot have both", other.path)
			return
		}
		for _, v := range append(slices.Clone(x.values), y.values...) {
			if !slices.Contains(other.values, v) {
				other.values = append(other.values, v)
			}
		}
		return
	}
	*props = append(*props, p)
}

// notes say what a message's members of a union are.
func (b *builder) notes(n *node, path string) []string {
	var notes []string
	if n.text("x-provenance") != "" {
		notes = append(notes, "Not published; rebuilt from the "+n.text("x-provenance")+".")
	}
	for _, keyword := range []string{"oneOf", "anyOf"} {
		union := n.get(keyword)
		if union == nil {
			continue
		}
		var members []string
		tags := map[string]string{}
		if mapping := n.get("discriminator").get("mapping"); mapping.object() {
			for _, v := range mapping.names {
				s, _ := mapping.members[v].scalar.(string)
				tags[strings.TrimPrefix(s, refPrefix)] = v
			}
		}
		for _, m := range union.items {
			name := strings.TrimPrefix(m.text("$ref"), refPrefix)
			var props []*property
			b.properties(m, path, &props, map[*node]bool{})
			switch {
			case tags[name] != "":
				members = append(members, fmt.Sprintf("%s (%s)", tags[name], name))
			case len(props) == 1:
				members = append(members, props[0].name)
			case name != "":
				members = append(members, name)
			}
		}
		if tag := n.get("discriminator").text("propertyName"); tag != "" {
			notes = append(notes, "Union by "+tag+": "+strings.Join(members, ", ")+".")
		} else {
			notes = append(notes, "Union, usually with one of: "+strings.Join(members, ", ")+".")
		}
	}
	return notes
}

// target follows a reference.
func (b *builder) target(n *node, path string) (string, *node) {
	ref := n.text("$ref")
	name, ok := strings.CutPrefix(ref, refPrefix)
	if !ok {
		b.fail(path, "reference %q does not begin with %s", ref, refPrefix)
		return "", nil
	}
	target := b.doc.schemas[name]
	if target == nil {
		b.fail(path, "reference to %s, which no document has", ref)
	}
	return name, target
}

// shape is what a schema becomes: kind is message, array, struct, value or scalar.
type shape struct {
	kind, scalar string
	values       []string
	// name is the schema's name, "" for one that stands where it is used.
	name string
	node *node
	path string
}

// shape tells what a schema becomes.
func (b *builder) shape(n *node, path string) shape {
	s := shape{node: n, path: path}
	for range 100 { // aliases of aliases
		if n.text("$ref") == "" {
			break
		}
		name, target := b.target(n, path)
		if target == nil {
			return shape{kind: "value"}
		}
		n, path = target, refPrefix+name
		s.name, s.node, s.path = name, n, path
	}
	types := n.get("type").texts()
	if t := n.text("type"); t != "" {
		types = []string{t}
	}
	types = slices.DeleteFunc(types, func(t string) bool { return t == "null" })
	var parts []shape
	for _, keyword := range []string{"allOf", "oneOf", "anyOf"} {
		union := n.get(keyword)
		if union == nil {
			continue
		}
		for i, part := range union.items {
			if part.text("type") == "null" {
				continue
			}
			if b.depth++; b.depth > 100 {
				b.fail(path, "is a part of itself")
				return shape{kind: "value"}
			}
			parts = append(parts, b.shape(part, fmt.Sprintf("%s/%s/%d", path, keyword, i)))
			b.depth--
		}
	}
	own := n.get("properties").object() && len(n.get("properties").names) > 0
	if len(parts) == 1 && !own { // a reference with something said beside it, or one that may be null
		return parts[0]
	}
	for _, p := range parts {
		if p.kind != "message" {
			s.kind = "value"
			return s
		}
	}
	switch {
	case len(parts) > 0 || own:
		s.kind = "message"
		return s
	case len(types) > 1:
		s.kind = "value"
		return s
	case len(types) == 0 && n.get("enum") != nil:
		types = []string{"string"}
	case len(types) == 0 && n.get("items") != nil:
		types = []string{"array"}
	case len(types) == 0 && (n.get("additionalProperties") != nil || n.get("properties") != nil):
		types = []string{"object"}
	case len(types) == 0:
		s.kind = "value"
		return s
	}
	s.kind = "scalar"
	switch types[0] {
	case "object":
		s.kind = "struct"
	case "array":
		s.kind = "array"
	case "string":
		s.scalar = "string"
		s.values = n.get("enum").texts()
		if c := n.text("const"); c != "" {
			s.values = []string{c}
		}
	case "boolean":
		s.scalar = "bool"
	case "integer":
		s.scalar = "int64"
		if n.text("format") == "int32" {
			s.scalar = "int32"
		}
	case "number":
		s.scalar = "double"
	default:
		b.fail(path+"/type", "%q is no JSON type", types[0])
	}
	return s
}

// field makes a field of a property, without number and name.
func (b *builder) field(key string, m *message, p *property) *field {
	f := &field{}
	s := b.mark(f, p.node, p.path)
	f.Type = b.fieldType(f, s, key, m, p, key+"."+p.name)
	if f.Type == "string" || f.Type == "repeated string" {
		values := slices.Clone(p.values)
		name := pascal(strings.ReplaceAll(m.Name, ".", "_")) + pascal(p.name)
		if len(values) == 0 {
			if s = b.items(s); s.name != "" {
				name = pascal(s.name)
			}
			values = s.values
		}
		if len(values) > 0 {
			f.Enum = name
			b.enum(name, values, p.path)
		}
	}
	return f
}

// items goes into an array.
func (b *builder) items(s shape) shape {
	for s.kind == "array" && s.node.get("items") != nil {
		s = b.shape(s.node.get("items"), s.path+"/items")
	}
	return s
}

// mark notes what is said at a property and at what it refers to.
func (b *builder) mark(f *field, n *node, path string) shape {
	s := b.shape(n, path)
	for _, at := range []*node{n, s.node, b.items(s).node} {
		f.PII = f.PII || at.is("x-pii")
		if at == n || at.get("properties") == nil {
			if f.Format == "" {
				f.Format = at.text("format")
			}
		}
	}
	f.Deprecated, f.ReadOnly = n.is("deprecated"), n.is("readOnly")
	if f.Format == "int32" || f.Format == "int64" || f.Format == "double" || f.Format == "float" {
		f.Format = ""
	}
	return s
}

func (b *builder) fieldType(f *field, s shape, key string, m *message, p *property, nested string) string {
	switch s.kind {
	case "scalar":
		return s.scalar
	case "array":
		item := s.node.get("items")
		if item == nil {
			return "repeated value"
		}
		i := b.shape(item, s.path+"/items")
		if i.kind == "array" {
			return "repeated value"
		}
		if s.name != "" && i.name == "" && i.kind == "message" { // an alias of an array of what has no name
			return "repeated " + b.need(s.name+"[]", pascal(s.name)+"Item", i.path, i.node)
		}
		return "repeated " + b.fieldType(f, i, key, m, p, nested+"[]")
	case "message":
		if s.name != "" {
			return b.needSchema(s.name)
		}
		name := pascal(p.name)
		if b.topLevel[name] {
			name += "Inline" // so that nobody takes it for the other one
		}
		return b.need(nested, m.Name+"."+name, s.path, s.node)
	}
	return s.kind
}

func (b *builder) enum(name string, values []string, path string) {
	if old, ok := b.new.Enums[name]; ok && !slices.Equal(old, values) {
		b.fail(path, "two lists of values by the name %s", name)
	}
	b.new.Enums[name] = values
}

// enums keeps the lists of values of fields that are gone.
func (b *builder) enums() {
	for _, m := range b.new.Messages {
		for _, f := range m.sorted() {
			if _, ok := b.new.Enums[f.Enum]; f.Enum != "" && !ok {
				b.new.Enums[f.Enum] = b.old.Enums[f.Enum]
			}
		}
	}
}

func elem(typ string) string { return strings.TrimPrefix(typ, "repeated ") }

func isMessage(elem string) bool { return elem[0] >= 'A' && elem[0] <= 'Z' }
