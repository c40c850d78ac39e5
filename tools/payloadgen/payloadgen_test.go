package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/bufbuild/protocompile"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
)

// project is a folder that payloadgen writes to.
type project struct {
	t   *testing.T
	dir string
}

func newProject(t *testing.T) *project { return &project{t, t.TempDir()} }

func (p *project) protos() string { return filepath.Join(p.dir, "proto", protoFolder) }

// generate runs payloadgen on documents given as text.
func (p *project) generate(docs ...string) error {
	p.t.Helper()
	var paths []string
	for i, doc := range docs {
		path := filepath.Join(p.t.TempDir(), fmt.Sprintf("doc%d", i))
		if err := os.WriteFile(path, []byte(doc), 0o600); err != nil {
			p.t.Fatal(err)
		}
		paths = append(paths, path)
	}
	_, err := run(paths, nil, p.protos(), filepath.Join(p.dir, "go"))
	return err
}

func (p *project) must(docs ...string) {
	p.t.Helper()
	if err := p.generate(docs...); err != nil {
		p.t.Fatal(err)
	}
}

// files returns what was written, by path.
func (p *project) files() map[string]string {
	out := map[string]string{}
	err := filepath.WalkDir(p.dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		out[strings.TrimPrefix(path, p.dir)] = string(b)
		return err
	})
	if err != nil {
		p.t.Fatal(err)
	}
	return out
}

// edit changes the lock by hand.
func (p *project) edit(change func(l map[string]any)) {
	p.t.Helper()
	path := filepath.Join(p.protos(), lockName)
	b, err := os.ReadFile(path)
	if err != nil {
		p.t.Fatal(err)
	}
	var l map[string]any
	if err := json.Unmarshal(b, &l); err != nil {
		p.t.Fatal(err)
	}
	change(l)
	if b, err = json.Marshal(l); err != nil {
		p.t.Fatal(err)
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		p.t.Fatal(err)
	}
}

// compiled is what the protos say, a line for every field: file, message, JSON name, field name, number, type.
func (p *project) compiled() map[string]string {
	p.t.Helper()
	names, err := filepath.Glob(filepath.Join(p.protos(), "*.proto"))
	if err != nil || len(names) == 0 {
		p.t.Fatal("no protos", err)
	}
	for i := range names {
		names[i] = protoFolder + filepath.Base(names[i])
	}
	c := protocompile.Compiler{Resolver: protocompile.WithStandardImports(&protocompile.SourceResolver{ImportPaths: []string{filepath.Join(p.dir, "proto")}})}
	files, err := c.Compile(context.Background(), names...)
	if err != nil {
		p.t.Fatal(err)
	}
	out := map[string]string{}
	var add func(file string, ms protoreflect.MessageDescriptors)
	add = func(file string, ms protoreflect.MessageDescriptors) {
		for i := range ms.Len() {
			m := ms.Get(i)
			name := strings.TrimPrefix(string(m.FullName()), protoPackage+".")
			out[name] = file + deprecated(m)
			for j := range m.Fields().Len() {
				f := m.Fields().Get(j)
				kind := f.Kind().String()
				if f.Message() != nil {
					kind = strings.TrimPrefix(string(f.Message().FullName()), protoPackage+".")
				}
				switch {
				case f.IsList():
					kind = "repeated " + kind
				case f.Message() == nil && !f.HasOptionalKeyword():
					p.t.Errorf("%s has no presence", f.FullName())
				}
				out[name+"."+f.JSONName()] = fmt.Sprintf("%s = %d %s%s", f.Name(), f.Number(), kind, deprecated(f))
			}
			add(file, m.Messages())
		}
	}
	for _, f := range files {
		add(strings.TrimPrefix(f.Path(), protoFolder), f.Messages())
	}
	return out
}

func deprecated(d protoreflect.Descriptor) string {
	switch o := d.Options().(type) {
	case *descriptorpb.MessageOptions:
		if o.GetDeprecated() {
			return " deprecated"
		}
	case *descriptorpb.FieldOptions:
		if o.GetDeprecated() {
			return " deprecated"
		}
	}
	return ""
}

// has fails when the protos do not say what is wanted.
func (p *project) has(want ...string) {
	p.t.Helper()
	got := p.compiled()
	for _, w := range want {
		name, text, _ := strings.Cut(w, ": ")
		if got[name] != text {
			p.t.Errorf("%s: %q, want %q", name, got[name], text)
		}
	}
}

// doc makes an OpenAPI document in YAML of schemas; Root is the payload of ROOT_V1.
func doc(schemas string) string {
	return "openapi: 3.1.0\nx-webhooks:\n  ROOT_V1: {payload: '#/components/schemas/Root'}\ncomponents:\n  schemas:\n" + indent(schemas)
}

var reference = regexp.MustCompile(`\$S/(\w+)`)

func indent(s string) string {
	var out strings.Builder
	for line := range strings.Lines(strings.TrimPrefix(s, "\n")) {
		out.WriteString("    " + strings.ReplaceAll(line, "\t", "  "))
	}
	return reference.ReplaceAllString(out.String(), "'#/components/schemas/$1'")
}

const hardCases = `
Root:
	type: object
	required: [notThere]
	properties:
		text: {type: string}
		id: {type: string, format: uuid, x-pii: true}
		hash: {type: string, format: byte}
		yes: {type: boolean}
		small: {type: integer, format: int32}
		whole: {type: integer}
		big: {type: integer, format: int64}
		amount: {type: number}
		status: {type: string, enum: [A, b, "1"]}
		shared: {$ref: $S/Color}
		level: {type: integer, enum: [1, 2]}
		names: {type: array, items: {type: string}}
		alias: {$ref: $S/Breakdown}
		scalarAlias: {$ref: $S/Tier, deprecated: true}
		inlineAlias: {$ref: $S/Rows}
		matrix: {type: array, items: {type: array, items: {type: number}}}
		anything: {}
		anythings: {type: array, items: {}}
		free: {type: object, additionalProperties: true}
		emptyObject: {type: object}
		map: {type: object, additionalProperties: {type: string}}
		at: {$ref: $S/Time}
		child: {$ref: $S/Child}
		coupons: {type: array, items: {type: object, properties: {code: {type: string}, deeper: {type: object, properties: {x: {type: boolean}}}}}}
		color: {type: object, properties: {r: {type: number}}}
		inlineQCInfo: {type: string}
		co2EmissionDetail: {type: string}
		x-odd.name: {type: string}
		1st: {type: string}
		nullable: {type: [string, "null"]}
		either: {type: [string, integer]}
		maybe: {oneOf: [{type: "null"}, {$ref: $S/Time}]}
		mixed: {oneOf: [{type: string}, {$ref: $S/Time}]}
		described: {allOf: [{$ref: $S/Time}]}
		whole2: {allOf: [{$ref: $S/Time}, {type: object, properties: {zone: {type: string}}}]}
		doc: {$ref: $S/IdentityDocument}
		fee: {$ref: $S/Fee}
		value: {$ref: $S/Value}
		noType: {$ref: $S/NoType}
Color: {type: string, enum: [RED, GREEN]}
Tier: {type: string}
Breakdown: {type: array, items: {$ref: $S/Time}}
Rows: {type: array, items: {type: object, properties: {row: {type: string}}}}
Time: {type: object, properties: {iso8601: {type: string}}}
Child: {type: object, properties: {parent: {$ref: $S/Child}, root: {$ref: $S/Root}}}
lowercase-name: {type: object}
IdentityDocument:
	oneOf: [{$ref: $S/PassportWrapper}, {$ref: $S/KtnWrapper}]
	properties: {note: {type: string}}
PassportWrapper: {properties: {passport: {$ref: $S/Passport}}}
KtnWrapper: {properties: {ktn: {type: array, items: {type: string}}}}
Passport: {type: object, properties: {number: {type: string}}}
Fee:
	discriminator: {propertyName: feeType, mapping: {BOOKING: $S/BookingFee, AGENT: $S/AgentFee}}
	oneOf: [{$ref: $S/BookingFee}, {$ref: $S/AgentFee}]
BookingFee:
	discriminator: {propertyName: bookingFeeType, mapping: {TRIP: $S/TripFee}}
	oneOf: [{$ref: $S/TripFee}]
	properties: {feeType: {type: string}}
TripFee: {type: object, properties: {bookingFeeType: {type: string}, amount: {type: number}, kind: {type: string, enum: [X]}}}
AgentFee: {type: object, properties: {feeType: {type: string}, agent: {type: string}, kind: {type: string, enum: [Y]}}}
Value:
	oneOf: [{properties: {iList: {type: array, items: {type: integer, format: int32}}}}, {properties: {b: {type: boolean}}}]
NoType: {properties: {a: {type: string}}}
`

func TestHardCases(t *testing.T) {
	p := newProject(t)
	p.must(doc(hardCases))
	p.has(
		"Root: root.proto",
		"Root.text: text = 1 string",
		"Root.id: id = 2 string",
		"Root.hash: hash = 3 string",
		"Root.yes: yes = 4 bool",
		"Root.small: small = 5 int32",
		"Root.whole: whole = 6 int64",
		"Root.big: big = 7 int64",
		"Root.amount: amount = 8 double",
		"Root.status: status = 9 string",
		"Root.shared: shared = 10 string",
		"Root.level: level = 11 int64",
		"Root.names: names = 12 repeated string",
		"Root.alias: alias = 13 repeated Time",
		"Root.scalarAlias: scalar_alias = 14 string deprecated",
		"Root.inlineAlias: inline_alias = 15 repeated RowsItem",
		"RowsItem.row: row = 1 string",
		"Root.matrix: matrix = 16 repeated google.protobuf.Value",
		"Root.anything: anything = 17 google.protobuf.Value",
		"Root.anythings: anythings = 18 repeated google.protobuf.Value",
		"Root.free: free = 19 google.protobuf.Struct",
		"Root.emptyObject: empty_object = 20 google.protobuf.Struct",
		"Root.map: map = 21 google.protobuf.Struct",
		"Root.at: at = 22 Time",
		"Root.child: child = 23 Child",
		"Child.parent: parent = 1 Child",
		"Child.root: root = 2 Root",
		"Root.coupons: coupons = 24 repeated Root.Coupons",
		"Root.Coupons.deeper: deeper = 2 Root.Coupons.Deeper",
		"Root.Coupons.Deeper.x: x = 1 bool",
		"Root.color: color = 25 Root.ColorInline", // Color is a schema
		"Root.inlineQCInfo: inline_qc_info = 26 string",
		"Root.co2EmissionDetail: co2_emission_detail = 27 string",
		"Root.x-odd.name: x_odd_name = 28 string",
		"Root.1st: x1st = 29 string",
		"Root.nullable: nullable = 30 string",
		"Root.either: either = 31 google.protobuf.Value",
		"Root.maybe: maybe = 32 Time",
		"Root.mixed: mixed = 33 google.protobuf.Value",
		"Root.described: described = 34 Time",
		"Root.whole2: whole2 = 35 Root.Whole2",
		"Root.Whole2.iso8601: iso8601 = 1 string",
		"Root.Whole2.zone: zone = 2 string",
		"Root.doc: doc = 36 IdentityDocument",
		"IdentityDocument.note: note = 1 string",
		"IdentityDocument.passport: passport = 2 Passport",
		"IdentityDocument.ktn: ktn = 3 repeated string",
		"PassportWrapper: ", // used by the union alone
		"Root.fee: fee = 37 Fee",
		"Fee.feeType: fee_type = 1 string",
		"Fee.bookingFeeType: booking_fee_type = 2 string",
		"Fee.amount: amount = 3 double",
		"Fee.kind: kind = 4 string",
		"Fee.agent: agent = 5 string",
		"Value.iList: i_list = 1 repeated int32",
		"Value.b: b = 2 bool",
		"NoType.a: a = 1 string",
		"LowercaseName: ", // nobody refers to it
	)
	files := p.files()
	proto := files["/proto/spotnana/payload/v1/root.proto"]
	for _, want := range []string{
		"// Root.id. Marks: pii. Format: uuid.",
		"// Root.scalarAlias. Marks: deprecated.",
		"// Known values (RootStatus): A, b, 1.",
		"// Known values (Color): RED, GREEN.",
		"// Known values (FeeFeeType): BOOKING, AGENT.",
		"// Known values (FeeKind): X, Y.",
		"// Union, usually with one of: passport, ktn.",
		"// Union by feeType: BOOKING (BookingFee), AGENT (AgentFee).",
		`[json_name = "inlineQCInfo"]`,
	} {
		if !strings.Contains(proto, want) {
			t.Errorf("root.proto has no %s", want)
		}
	}
	values := files["/go/values/values_gen.go"]
	for _, want := range []string{`RootStatus_b = "b"`, `RootStatus_1 = "1"`, `Color_RED   = "RED"`} {
		if !strings.Contains(values, want) {
			t.Errorf("values_gen.go has no %s", want)
		}
	}
	if !strings.Contains(files["/go/schema_gen.go"], `"Fee\t1\tFeeFeeType\n"`) {
		t.Error("schema_gen.go does not know the values of Fee.feeType")
	}
	p.must(doc(hardCases))
	sameFiles(t, files, p.files())
}

func sameFiles(t *testing.T, a, b map[string]string) {
	t.Helper()
	for name := range a {
		if a[name] != b[name] {
			t.Errorf("%s is not the same", name)
		}
	}
	if len(a) != len(b) {
		t.Errorf("%d files, %d before", len(b), len(a))
	}
}

func TestLockKeepsNumbers(t *testing.T) {
	p := newProject(t)
	p.must(doc(`
Root: {type: object, properties: {a: {type: string}, b: {$ref: $S/B}, c: {type: integer}}}
B: {type: object, properties: {x: {type: string, enum: [ONE]}, in: {type: object, properties: {y: {type: string}}}}}
`))
	first := p.files()

	// b and with it B disappear, d comes before the others.
	p.must(doc(`
Root: {type: object, properties: {d: {type: string}, c: {type: integer}, a: {type: string}}}
`))
	p.has(
		"Root.a: a = 1 string",
		"Root.b: b = 2 B deprecated",
		"Root.c: c = 3 int64",
		"Root.d: d = 4 string",
		"B: root.proto deprecated",
		"B.x: x = 1 string",
		"B.In.y: y = 1 string",
	)
	if s := p.files()["/go/schema_gen.go"]; !strings.Contains(s, `"BX\tONE\n"`) {
		t.Error("the values of what is gone are forgotten")
	}

	// It comes back, without what it had.
	p.must(doc(`
Root: {type: object, properties: {d: {type: string}, c: {type: integer}, a: {type: string}, b: {$ref: $S/B}}}
B: {type: object, properties: {z: {type: string}}}
`))
	p.has(
		"Root.b: b = 2 B",
		"B: root.proto",
		"B.x: x = 1 string deprecated",
		"B.z: z = 3 string",
		"B.In: root.proto deprecated",
	)

	// Another order changes nothing.
	p.must(doc(`
Root: {type: object, properties: {a: {type: string}, b: {$ref: $S/B}, c: {type: integer}}}
B: {type: object, properties: {x: {type: string, enum: [ONE]}, in: {type: object, properties: {y: {type: string}}}}}
`))
	p.has("Root.d: d = 4 string deprecated", "B.x: x = 1 string", "B.In.y: y = 1 string")
	if first["/proto/spotnana/payload/v1/root.proto"] == p.files()["/proto/spotnana/payload/v1/root.proto"] {
		t.Error("what was once there must stay")
	}
}

func TestRetypedFieldsNeedALine(t *testing.T) {
	p := newProject(t)
	p.must(doc(`
Root: {type: object, properties: {v: {type: integer}, l: {type: string}, m: {type: object, properties: {x: {type: string}}}}}
`))
	before := p.files()
	next := doc(`
Root: {type: object, properties: {v: {type: string}, l: {type: array, items: {type: string}}, m: {type: object, properties: {x: {type: boolean}}}}}
`)
	err := p.generate(next)
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{
		`#/components/schemas/Root/properties/v: its type was "int64" and is "string" now`,
		`#/components/schemas/Root/properties/l: its type was "string" and is "repeated string" now`,
		`#/components/schemas/Root/properties/m/properties/x: its type was "string" and is "bool" now`,
		`write "retype": "bool" into the line of "x" of message "Root.m"`,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v\nhas no %s", err, want)
		}
	}
	sameFiles(t, before, p.files())

	retype := func(message, field, to string) {
		p.edit(func(l map[string]any) {
			l["messages"].(map[string]any)[message].(map[string]any)["fields"].(map[string]any)[field].(map[string]any)["retype"] = to
		})
	}
	retype("Root", "v", "string")
	retype("Root", "l", "repeated string")
	retype("Root.m", "x", "double") // not what it is
	if err := p.generate(next); err == nil || strings.Contains(err.Error(), "properties/v:") || !strings.Contains(err.Error(), "properties/x:") {
		t.Fatal(err)
	}
	retype("Root.m", "x", "bool")
	p.must(next)
	p.has(
		"Root.v: v = 1 int64 deprecated",
		"Root.vAsString: v_as_string = 4 string",
		"Root.l: l = 2 string deprecated",
		"Root.lAsListOfString: l_as_list_of_string = 5 repeated string",
		"Root.M.xAsBool: x_as_bool = 2 bool",
	)
	after := p.files()
	if s := after["/go/schema_gen.go"]; !strings.Contains(s, `"Root\tv\t4\t1\n"`) {
		t.Error("schema_gen.go does not tell where v goes")
	}
	p.must(next)
	sameFiles(t, after, p.files())

	// And back: a third field, so that no number ever changes its meaning.
	retype("Root", "v", "int64")
	p.must(doc(`
Root: {type: object, properties: {v: {type: integer}, l: {type: array, items: {type: string}}, m: {type: object, properties: {x: {type: boolean}}}}}
`))
	p.has("Root.v: v = 1 int64 deprecated", "Root.vAsString: v_as_string = 4 string deprecated", "Root.vAsInt64: v_as_int64 = 6 int64")
	if s := p.files()["/go/schema_gen.go"]; !strings.Contains(s, `"Root\tv\t6\t1\n"`) || !strings.Contains(s, `"Root\tv\t6\t4\n"`) {
		t.Error("schema_gen.go does not tell of both earlier fields")
	}
}

func TestRenamedSchema(t *testing.T) {
	p := newProject(t)
	p.must(doc(`
Root: {type: object, properties: {a: {$ref: $S/Old}}}
Old: {type: object, properties: {x: {type: object, properties: {y: {type: string}}}}}
`))
	next := doc(`
Root: {type: object, properties: {a: {$ref: $S/New}}}
New: {type: object, properties: {x: {type: object, properties: {y: {type: string}}}}}
`)
	if err := p.generate(next); err == nil {
		t.Fatal("a renamed schema is another type")
	}
	p.edit(func(l map[string]any) { l["renames"] = map[string]any{"Old": "New"} })
	p.must(next)
	p.has("Root.a: a = 1 Old", "Old.x: x = 1 Old.X", "New: ")
	after := p.files()
	p.must(next)
	sameFiles(t, after, p.files())
}

func TestBrokenLocksAreRefused(t *testing.T) {
	schema := doc("Root: {type: object, properties: {a: {type: string}, b: {type: string}}}")
	fields := func(l map[string]any) map[string]any {
		return l["messages"].(map[string]any)["Root"].(map[string]any)["fields"].(map[string]any)
	}
	for name, test := range map[string]struct {
		change func(l map[string]any)
		want   string
	}{
		"number given twice": {func(l map[string]any) { fields(l)["b"].(map[string]any)["number"] = 1 }, "Root.b: field number 1 belongs to a"},
		"name given twice":   {func(l map[string]any) { fields(l)["b"].(map[string]any)["name"] = "a" }, "Root.b: field name a belongs to a"},
		"number to come":     {func(l map[string]any) { fields(l)["b"].(map[string]any)["number"] = 3 }, "Root.b: field number 3 is out of range"},
		"misspelt line":      {func(l map[string]any) { fields(l)["b"].(map[string]any)["retipe"] = "x" }, "retipe"},
		"unknown rename":     {func(l map[string]any) { l["renames"] = map[string]any{"X": "Y"} }, "the lock has no X"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newProject(t)
			p.must(schema)
			p.edit(test.change)
			if err := p.generate(schema); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%v, want %s", err, test.want)
			}
		})
	}
}

func TestErrorsNameTheSchemaPath(t *testing.T) {
	for _, test := range []struct{ schemas, want string }{
		{"Root: {type: object, properties: {a: {$ref: $S/Gone}}}", "#/components/schemas/Root/properties/a: reference to #/components/schemas/Gone, which no document has"},
		{"Root: {type: object, properties: {a: {$ref: 'other.yaml#/X'}}}", `#/components/schemas/Root/properties/a: reference "other.yaml#/X"`},
		{"Root: {type: object, properties: {a: {type: array, items: {type: text}}}}", `#/components/schemas/Root/properties/a/items/type: "text" is no JSON type`},
		{"Root:\n  oneOf: [{properties: {a: {type: string}}}, {properties: {a: {type: integer}}}]", "#/components/schemas/Root/oneOf/1/properties/a: differs from #/components/schemas/Root/oneOf/0/properties/a"},
		{"Root: {type: object, properties: {a: {$ref: $S/A}}}\nA: {allOf: [{$ref: $S/A}, {$ref: $S/A}]}", "#/components/schemas/A: is a part of itself"},
		{"Other: {type: object}", "#/components/schemas/Root: missing; it is the payload of ROOT_V1"},
		{"Root: {type: object, properties: {a: {type: string}, a: {type: string}}}", "comes twice"},
	} {
		err := newProject(t).generate(doc(test.schemas))
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s\n%v\nwant %s", test.schemas, err, test.want)
		}
	}
	if err := newProject(t).generate(`{"openapi":"3.1.0","components":{"schemas":{}}}`); err == nil || !strings.Contains(err.Error(), "no roots") {
		t.Error(err)
	}
	if err := newProject(t).generate(`{"openapi":"3.1.0"}`); err == nil {
		t.Error("no schemas: accepted")
	}
}

// TestSeveralDocuments: schemas come from several documents, and what none of them has stays.
func TestSeveralDocuments(t *testing.T) {
	shared := "Money: {type: object, properties: {amount: {type: number}}}\n"
	one := "components:\n  schemas:\n" + indent("A: {type: object, properties: {m: {$ref: $S/Money}}}\n"+shared)
	two := "components:\n  schemas:\n" + indent("B: {type: object, properties: {m: {$ref: $S/Money}, own: {$ref: $S/Own}}}\nOwn: {type: object, properties: {x: {type: string}}}\n"+shared)
	hooks := "x-webhooks:\n  A_V1: {payload: '#/components/schemas/A'}\n  B_V1: {payload: '#/components/schemas/B'}\n"
	p := newProject(t)
	p.must(hooks+one, two)
	p.has("A: a.proto", "B: b.proto", "Own: b.proto", "Money: common.proto", "A.m: m = 1 Money")
	before := p.files()

	p.must(one) // a document as it is published: it knows neither B nor x-webhooks
	sameFiles(t, before, p.files())

	p.must(strings.Replace(one, "amount: {type: number}", "amount: {type: number}, currency: {type: string}", 1))
	p.has("Money.currency: currency = 2 string", "B: b.proto", "B.own: own = 2 Own", "Own.x: x = 1 string")

	if err := p.generate(one, strings.Replace(two, "number", "string", 1)); err == nil || !strings.Contains(err.Error(), "#/components/schemas/Money: ") {
		t.Errorf("two documents that differ: %v", err)
	}
	p.must(one, strings.Replace(two, "{type: number}", "{description: prose may differ, type: number}", 1))
}

func TestWrappedRoots(t *testing.T) {
	p := newProject(t)
	p.must(strings.Replace(doc(`
Root: {type: object, properties: {a: {type: string}}}
Wrapper: {type: object, properties: {id: {type: string}, data: {$ref: $S/Root}}}
`), "Root'}", "Root', alternates: ['#/components/schemas/Wrapper']}", 1))
	if s := p.files()["/go/schema_gen.go"]; !strings.Contains(s, `{"ROOT_V1", "Root", "Wrapper", "data"}`) {
		t.Error("the wrapper is not in schema_gen.go")
	}
	p.has("Wrapper: root.proto")
}

// TestFilesHaveNoCycles: a new reference that would make files import one another is written free-form.
func TestFilesHaveNoCycles(t *testing.T) {
	hooks := "x-webhooks:\n  A_V1: {payload: '#/components/schemas/A'}\n  B_V1: {payload: '#/components/schemas/B'}\ncomponents:\n  schemas:\n"
	schemas := func(money string) string {
		return hooks + indent("A: {type: object, properties: {m: {$ref: $S/Money}, own: {$ref: $S/Own}}}\nB: {type: object, properties: {m: {$ref: $S/Money}}}\nOwn: {type: object, properties: {m: {$ref: $S/Money}}}\nMoney: {type: object, properties: {"+money+"}}\n")
	}
	p := newProject(t)
	p.must(schemas("amount: {type: number}"))
	p.has("Own: a.proto", "Money: common.proto")
	p.must(schemas("amount: {type: number}, own: {$ref: $S/Own}, owns: {type: array, items: {$ref: $S/Own}}"))
	p.has("Own: a.proto", "Money.own: own = 2 google.protobuf.Struct", "Money.owns: owns = 3 repeated google.protobuf.Struct")
	before := p.files()
	p.must(schemas("amount: {type: number}, own: {$ref: $S/Own}, owns: {type: array, items: {$ref: $S/Own}}"))
	sameFiles(t, before, p.files())

	// A hand may decide that its file changes.
	p.edit(func(l map[string]any) {
		messages := l["messages"].(map[string]any)
		messages["Own"].(map[string]any)["file"] = "common"
		messages["Money"].(map[string]any)["fields"].(map[string]any)["own"].(map[string]any)["retype"] = "Own"
	})
	p.must(schemas("amount: {type: number}, own: {$ref: $S/Own}, owns: {type: array, items: {$ref: $S/Own}}"))
	p.has("Own: common.proto", "Money.own: own = 2 google.protobuf.Struct deprecated", "Money.ownAsOwn: own_as_own = 4 Own", "Money.owns: owns = 3 repeated google.protobuf.Struct")
}

// TestAnyEvolutionStaysCompatible changes a random schema step by step: whatever was given once stays as it was.
func TestAnyEvolutionStaysCompatible(t *testing.T) {
	rounds := 8
	if testing.Short() {
		rounds = 3
	}
	for seed := range rounds {
		r := rand.New(rand.NewPCG(uint64(seed), 1))
		p := newProject(t)
		e := evolution{Rand: r, messages: map[string]map[string]string{}}
		for range 6 {
			e.change()
		}
		var before map[string]string
		for step := range 9 {
			p.must(e.document())
			after := p.compiled()
			for name, was := range before {
				// A deprecation may come and go; nothing else.
				if strings.TrimSuffix(after[name], " deprecated") != strings.TrimSuffix(was, " deprecated") {
					t.Fatalf("seed %d, step %d: %s was %q and is %q\n%s", seed, step, name, was, after[name], e.document())
				}
			}
			for message, properties := range e.messages {
				for property := range properties {
					if after[message+"."+property] == "" && after[message] != "" && !strings.HasSuffix(after[message], "deprecated") {
						t.Fatalf("seed %d, step %d: no %s.%s", seed, step, message, property)
					}
				}
			}
			before = after
			files := p.files()
			p.must(e.document())
			sameFiles(t, files, p.files())
			e.change()
		}
	}
}

// evolution is a schema that changes without ever changing the type of a property.
type evolution struct {
	*rand.Rand
	messages map[string]map[string]string
}

var evolutionRoots = []string{"A", "B", "C"}

func (e *evolution) change() {
	all := append([]string{"M1", "M2", "M3", "M4", "M5", "M6"}, evolutionRoots...)
	for _, root := range evolutionRoots {
		if e.messages[root] == nil {
			e.messages[root] = map[string]string{"id": "{type: string}"}
		}
	}
	for range 1 + e.IntN(6) {
		m := all[e.IntN(len(all))]
		if e.messages[m] == nil {
			e.messages[m] = map[string]string{"id": "{type: string}"} // an object of nothing would be free-form
		}
		// The name tells the type, so that one that comes back has the same.
		switch to := all[e.IntN(len(all))]; e.IntN(6) {
		case 0, 1, 2:
			if e.messages[to] == nil {
				e.messages[to] = map[string]string{"id": "{type: string}"}
			}
			e.messages[m]["ref"+to] = "{$ref: $S/" + to + "}"
		case 3:
			e.messages[m]["list"] = "{type: array, items: {type: object, properties: {x: {type: integer}}}}"
		case 4:
			e.messages[m][fmt.Sprintf("text%d", e.IntN(5))] = "{type: string, enum: [A, B]}"
		default:
			for name := range e.messages[m] {
				if name != "id" && e.IntN(2) == 0 {
					delete(e.messages[m], name)
				}
			}
		}
	}
}

func (e *evolution) document() string {
	var out strings.Builder
	for _, m := range slices.Sorted(maps.Keys(e.messages)) {
		fmt.Fprintf(&out, "%s: {type: object, properties: {", m)
		for i, name := range slices.Sorted(maps.Keys(e.messages[m])) {
			if i > 0 {
				out.WriteString(", ")
			}
			fmt.Fprintf(&out, "%s: %s", name, e.messages[m][name])
		}
		out.WriteString("}}\n")
	}
	hooks := "x-webhooks:\n"
	for _, root := range evolutionRoots {
		hooks += fmt.Sprintf("  %s_V1: {payload: '#/components/schemas/%s'}\n", root, root)
	}
	return hooks + "components:\n  schemas:\n" + indent(out.String())
}

// TestBufAgrees runs buf over an evolution, where buf is there: lint, format and breaking with the project's settings.
func TestBufAgrees(t *testing.T) {
	buf, err := filepath.Abs("../../.bin/buf")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(buf); err != nil || testing.Short() {
		t.Skip("no .bin/buf")
	}
	p := newProject(t)
	settings, err := os.ReadFile("../../buf.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(p.dir, "buf.yaml"), settings, 0o600); err != nil {
		t.Fatal(err)
	}
	check := func(args ...string) {
		t.Helper()
		cmd := exec.Command(buf, args...)
		cmd.Dir = p.dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("buf %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	p.must(doc(hardCases))
	check("lint")
	check("format", "-d", "--exit-code")
	check("build", "-o", "before.binpb")
	p.edit(func(l map[string]any) {
		l["messages"].(map[string]any)["Root"].(map[string]any)["fields"].(map[string]any)["text"].(map[string]any)["retype"] = "repeated string"
	})
	p.must(doc(strings.NewReplacer("text: {type: string}", "text: {type: array, items: {type: string}}\n\t\tnewOne: {type: string}",
		"coupons:", "coupons2:", "doc: {$ref: $S/IdentityDocument}", "", "fee:", "inlineQCInfo2: {type: string}\n\t\tfee:", "		inlineQCInfo: {type: string}\n", "").Replace(hardCases)))
	check("lint")
	check("format", "-d", "--exit-code")
	check("breaking", "--against", "before.binpb")
	p.has("Root.text: text = 1 string deprecated", "Root.coupons: coupons = 24 repeated Root.Coupons deprecated", "IdentityDocument: root.proto deprecated", "Root.inlineQCInfo: inline_qc_info = 26 string deprecated")
}
