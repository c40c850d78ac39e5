package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	payloadv1 "github.com/spotbridge/spotbridge/gen/go/spotnana/payload/v1"
)

const treeProtos = "../../proto/spotnana/payload/v1"

// TestGeneratedCodeHasThePublishedNames compares the linked descriptors with the lock, field by field.
func TestGeneratedCodeHasThePublishedNames(t *testing.T) {
	l, err := readLock(filepath.Join(treeProtos, lockName))
	if err != nil {
		t.Fatal(err)
	}
	_ = payloadv1.File_spotnana_payload_v1_common_proto // linked
	fields := 0
	for key, m := range l.Messages {
		found, err := protoregistry.GlobalFiles.FindDescriptorByName(protoPackage + "." + protoreflect.FullName(m.Name))
		if err != nil {
			t.Errorf("%s: %v", key, err)
			continue
		}
		d := found.(protoreflect.MessageDescriptor)
		if d.Fields().Len() != len(m.sorted()) {
			t.Errorf("%s: %d fields, the lock has %d", key, d.Fields().Len(), len(m.sorted()))
		}
		for _, f := range m.sorted() {
			fields++
			fd := d.Fields().ByNumber(protoreflect.FieldNumber(f.Number))
			switch {
			case fd == nil:
				t.Errorf("%s.%s: no field %d", key, f.prop, f.Number)
			case string(fd.Name()) != f.Name || fd.JSONName() != f.json(m):
				t.Errorf("%s.%s: is %s, in JSON %s", key, f.prop, fd.Name(), fd.JSONName())
			case !f.earlier && len(f.Earlier) == 0 && fd.JSONName() != f.prop:
				t.Errorf("%s.%s: the JSON name is %s, and that is not the published one", key, f.prop, fd.JSONName())
			case strings.HasPrefix(f.Type, "repeated ") != fd.IsList():
				t.Errorf("%s.%s: list %v", key, f.prop, fd.IsList())
			case (f.Gone || f.Deprecated || f.earlier) != (deprecated(fd) != ""):
				t.Errorf("%s.%s: deprecated %v", key, f.prop, deprecated(fd) != "")
			}
		}
	}
	if len(l.Messages) < 400 || fields < 2000 {
		t.Errorf("%d messages with %d fields", len(l.Messages), fields)
	}
}

// TestTreeIsUpToDate generates again from the schema, where it is there, and compares with the tree.
func TestTreeIsUpToDate(t *testing.T) {
	const schema = "../../../shared/spotnana/schema/spotnana.json"
	if _, err := os.Stat(schema); err != nil {
		t.Skip("no schema")
	}
	p := newProject(t)
	lock, err := os.ReadFile(filepath.Join(treeProtos, lockName))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(p.protos(), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(p.protos(), lockName), lock, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := run([]string{schema}, nil, p.protos(), filepath.Join(p.dir, "go")); err != nil {
		t.Fatal(err)
	}
	for name, text := range p.files() {
		tree := strings.NewReplacer("/proto/"+protoFolder, treeProtos+"/", "/go/", "../../bridge/payload/").Replace(name)
		if b, err := os.ReadFile(tree); err != nil || string(b) != text {
			t.Errorf("%s is not what the schema and the lock give: run make payload-schema", tree)
		}
	}
}
