package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// node is a value of a document. Members keep the order in which they stand there: it gives the field numbers.
type node struct {
	names   []string // of an object's members
	members map[string]*node
	items   []*node // of an array
	array   bool
	// scalar is a string, bool, json.Number or nil.
	scalar any
}

func (n *node) object() bool { return n != nil && n.members != nil }

// get returns a member, nil when there is none.
func (n *node) get(name string) *node {
	if n == nil {
		return nil
	}
	return n.members[name]
}

// text returns a member's string, "" when there is none.
func (n *node) text(name string) string {
	if m := n.get(name); m != nil {
		s, _ := m.scalar.(string)
		return s
	}
	return ""
}

// is reports whether a member is true.
func (n *node) is(name string) bool {
	m := n.get(name)
	return m != nil && m.scalar == true
}

// texts returns the strings of an array, others left out.
func (n *node) texts() []string {
	var out []string
	if n != nil {
		for _, i := range n.items {
			if s, ok := i.scalar.(string); ok {
				out = append(out, s)
			}
		}
	}
	return out
}

// prose are the keywords that say nothing about the shape.
var prose = []string{"description", "title", "example", "examples", "externalDocs", "summary"}

// same reports whether two schemas say the same, apart from prose and the order of members.
func same(a, b *node) bool {
	if a == nil || b == nil {
		return a == b
	}
	if a.array != b.array || (a.members == nil) != (b.members == nil) || !reflect.DeepEqual(a.scalar, b.scalar) || len(a.items) != len(b.items) {
		return false
	}
	for i := range a.items {
		if !same(a.items[i], b.items[i]) {
			return false
		}
	}
	covers := func(a, b *node) bool {
		for _, name := range a.names {
			if !same(a.members[name], b.members[name]) && !slices.Contains(prose, name) {
				return false
			}
		}
		return true
	}
	return covers(a, b) && covers(b, a)
}

// document is one OpenAPI document, or several put together.
type document struct {
	schemas  map[string]*node
	webhooks *node
	envelope string
}

// readDocuments reads OpenAPI documents in JSON or YAML. A schema that several of them have must be the same in all.
func readDocuments(paths []string) (*document, error) {
	doc := &document{schemas: map[string]*node{}}
	from := map[string]string{}
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		root, err := parse(b)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		schemas := root.get("components").get("schemas")
		if !schemas.object() {
			return nil, fmt.Errorf("%s: no components.schemas: not an OpenAPI 3 document", path)
		}
		for _, name := range schemas.names {
			if other, ok := doc.schemas[name]; ok && !same(other, schemas.members[name]) {
				return nil, fmt.Errorf("#/components/schemas/%s: %s and %s differ", name, from[name], path)
			}
			doc.schemas[name], from[name] = schemas.members[name], path
		}
		if w := root.get("x-webhooks"); w.object() {
			if doc.webhooks != nil {
				return nil, fmt.Errorf("%s: a second document with x-webhooks", path)
			}
			doc.webhooks = w
		}
		if ref := root.get("x-envelope").text("operationSummary"); ref != "" {
			doc.envelope = strings.TrimPrefix(ref, refPrefix)
		}
	}
	return doc, nil
}

const refPrefix = "#/components/schemas/"

func parse(b []byte) (*node, error) {
	if bytes.HasPrefix(bytes.TrimLeft(b, "\ufeff \t\r\n"), []byte("{")) {
		dec := json.NewDecoder(bytes.NewReader(bytes.TrimPrefix(b, []byte("\ufeff"))))
		dec.UseNumber()
		n, err := parseJSON(dec, "#")
		if err != nil {
			return nil, err
		}
		if _, err := dec.Token(); !errors.Is(err, io.EOF) {
			return nil, errors.New("something follows the document")
		}
		return n, nil
	}
	var y yaml.Node
	if err := yaml.Unmarshal(b, &y); err != nil {
		return nil, err
	}
	if len(y.Content) != 1 {
		return nil, errors.New("empty")
	}
	return parseYAML(y.Content[0], "#")
}

func parseJSON(dec *json.Decoder, path string) (*node, error) {
	t, err := dec.Token()
	if err != nil {
		return nil, err
	}
	switch t {
	case json.Delim('{'):
		n := &node{members: map[string]*node{}}
		for dec.More() {
			name, err := dec.Token()
			if err != nil {
				return nil, err
			}
			if err := n.add(name.(string), path, func(path string) (*node, error) { return parseJSON(dec, path) }); err != nil {
				return nil, err
			}
		}
		_, err := dec.Token()
		return n, err
	case json.Delim('['):
		n := &node{array: true}
		for dec.More() {
			item, err := parseJSON(dec, fmt.Sprintf("%s/%d", path, len(n.items)))
			if err != nil {
				return nil, err
			}
			n.items = append(n.items, item)
		}
		_, err := dec.Token()
		return n, err
	}
	return &node{scalar: t}, nil
}

func parseYAML(y *yaml.Node, path string) (*node, error) {
	switch y.Kind {
	case yaml.AliasNode:
		return parseYAML(y.Alias, path)
	case yaml.MappingNode:
		n := &node{members: map[string]*node{}}
		for i := 0; i < len(y.Content); i += 2 {
			if err := n.add(y.Content[i].Value, path, func(path string) (*node, error) { return parseYAML(y.Content[i+1], path) }); err != nil {
				return nil, err
			}
		}
		return n, nil
	case yaml.SequenceNode:
		n := &node{array: true}
		for i, c := range y.Content {
			item, err := parseYAML(c, fmt.Sprintf("%s/%d", path, i))
			if err != nil {
				return nil, err
			}
			n.items = append(n.items, item)
		}
		return n, nil
	}
	switch y.ShortTag() {
	case "!!null":
		return &node{}, nil
	case "!!bool":
		var v bool
		err := y.Decode(&v)
		return &node{scalar: v}, err
	case "!!int", "!!float":
		return &node{scalar: json.Number(y.Value)}, nil
	}
	return &node{scalar: y.Value}, nil
}

func (n *node) add(name, path string, value func(path string) (*node, error)) error {
	path += "/" + strings.NewReplacer("~", "~0", "/", "~1").Replace(name)
	if _, ok := n.members[name]; ok {
		return fmt.Errorf("%s: comes twice", path)
	}
	v, err := value(path)
	if err != nil {
		return err
	}
	n.names, n.members[name] = append(n.names, name), v
	return nil
}
