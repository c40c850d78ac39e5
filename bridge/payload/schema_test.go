package payload

import (
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/spotbridge/spotbridge/bridge"
)

var _ bridge.Converter = (*Converter)(nil)

// rootFields are the fields of Event for the typed payloads.
var rootFields = map[string]protowire.Number{
	"PNR_V3":             32,
	"TRIP_DETAILS_V3":    33,
	"TRAVELER_V2":        34,
	"SERVICE_CHARGE":     35,
	"PNR_APPROVAL":       36,
	"AGENT_TASK_DETAILS": 37,
}

// newTyped is New with all typed payloads.
func newTyped() *Converter { return newConverter(schemaRevision, typedRoots()) }

var typedRoots = sync.OnceValue(func() map[string]*rootTable { return compileRoots(payloadFiles, rootField) })

func rootField(payload protoreflect.FullName) protowire.Number {
	i := slices.IndexFunc(schemaRoots, func(r schemaRoot) bool { return payloadPackage+protoreflect.FullName(r.message) == payload })
	return rootFields[schemaRoots[i].eventType]
}

func TestRootsAreTheFieldsOfEvent(t *testing.T) {
	if len(roots()) == 0 {
		t.Skip("Event has no typed payloads yet")
	}
	for _, r := range schemaRoots {
		if table := roots()[r.eventType]; table == nil || table.number != rootFields[r.eventType] {
			t.Errorf("%s: Event has no field %d of type %s%s", r.eventType, rootFields[r.eventType], payloadPackage, r.message)
		}
	}
}

// TestSchemaTableFitsTheDescriptors: what payloadgen wrote for the converter and what buf wrote are of one revision.
func TestSchemaTableFitsTheDescriptors(t *testing.T) {
	lists := map[string]bool{}
	for line := range strings.Lines(schemaEnums) {
		name, _, _ := strings.Cut(line, "\t")
		lists[name] = true
	}
	n := 0
	for line := range strings.Lines(schemaEnumFields) {
		n++
		f := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		d, err := protoregistry.GlobalFiles.FindDescriptorByName(payloadPackage + protoreflect.FullName(f[0]))
		if err != nil {
			t.Error(err)
			continue
		}
		number, err := strconv.Atoi(f[1])
		if err != nil {
			t.Fatal(err)
		}
		fd := d.(protoreflect.MessageDescriptor).Fields().ByNumber(protoreflect.FieldNumber(number))
		if fd == nil || fd.Kind() != protoreflect.StringKind || !lists[f[2]] {
			t.Errorf("%s: not a string with known values", line)
		}
	}
	if n < 300 {
		t.Errorf("%d fields with known values", n)
	}
}

func TestNameTable(t *testing.T) {
	var names []string
	for i := range 500 {
		names = append(names, "SOME_LONG_COMMON_PREFIX_"+strconv.Itoa(i)+"_AND_A_LONG_COMMON_SUFFIX", strconv.Itoa(i), strings.Repeat("x", i%40)+"y"+strconv.Itoa(i))
	}
	names = append(names, "")
	slices.Sort(names)
	names = slices.Compact(names)
	table := newNameTable(names)
	for i, name := range names {
		if got := table.find([]byte(name)); got != i {
			t.Fatalf("%q: %d, want %d", name, got, i)
		}
		if table.find([]byte(name+"?")) >= 0 {
			t.Fatalf("%q? found", name)
		}
	}
	if empty := newNameTable(nil); empty.find([]byte("a")) >= 0 || empty.find(nil) >= 0 {
		t.Error("found in nothing")
	}
}
