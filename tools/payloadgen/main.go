// Command payloadgen writes the typed payloads from a published schema: OpenAPI in, protos out.
//
//	go run ./tools/payloadgen -schema spotnana.json
//
// It writes proto/spotnana/payload/v1/*.proto, schema.lock.json beside them, and two Go files for bridge/payload. The
// lock keeps every name and number that was ever given, so that the result stays compatible: a property that disappears
// stays as a deprecated field, and one whose type changes is refused until the lock agrees. The same input gives the
// same bytes. Several documents may be given; what none of them has stays as the lock has it.
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

func main() {
	var schemas []string
	roots := map[string]string{}
	flag.Func("schema", "OpenAPI 3 document in JSON or YAML to read; may be given several times", func(s string) error {
		schemas = append(schemas, s)
		return nil
	})
	flag.Func("root", "EVENT_TYPE=Schema: the payload of an event type, where the document has no x-webhooks", func(s string) error {
		event, schema, ok := strings.Cut(s, "=")
		if !ok || event == "" || schema == "" {
			return fmt.Errorf("%q is not EVENT_TYPE=Schema", s)
		}
		roots[event] = schema
		return nil
	})
	protos := flag.String("proto", "proto/spotnana/payload/v1", "folder of the protos and of schema.lock.json")
	tables := flag.String("go", "bridge/payload", "folder of the converter, for schema_gen.go and values/values_gen.go")
	flag.Parse()
	if len(schemas) == 0 || flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	report, err := run(schemas, roots, *protos, *tables)
	if err != nil {
		for line := range strings.Lines(err.Error()) {
			fmt.Fprint(os.Stderr, "payloadgen: ", line)
		}
		fmt.Fprintln(os.Stderr)
		os.Exit(1)
	}
	fmt.Println(report)
}

// lockName is the lock's name in the folder of the protos.
const lockName = "schema.lock.json"

// run writes everything, or nothing when the documents are refused, and returns what there is to say.
func run(schemas []string, roots map[string]string, protos, tables string) (report string, err error) {
	doc, err := readDocuments(schemas)
	if err != nil {
		return "", err
	}
	old, err := readLock(filepath.Join(protos, lockName))
	if err != nil {
		return "", err
	}
	l, err := build(doc, old, roots)
	if err != nil {
		return "", err
	}
	out := map[string][]byte{}
	if out[filepath.Join(protos, lockName)], err = l.encode(); err != nil {
		return "", err
	}
	for name, b := range emitProtos(l) {
		out[filepath.Join(protos, name)] = b
	}
	if out[filepath.Join(tables, "schema_gen.go")], err = emitTable(l); err != nil {
		return "", err
	}
	if out[filepath.Join(tables, "values", "values_gen.go")], err = emitValues(l); err != nil {
		return "", err
	}
	for name, b := range out {
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			return "", err
		}
		if err := os.WriteFile(name, b, 0o644); err != nil {
			return "", err
		}
	}
	return strings.Join(append(l.warnings, fmt.Sprintf("revision %s: %s", l.Revision, l.figures())), "\n"), nil
}

func (l *lock) figures() string {
	fields, values := 0, 0
	for _, m := range l.Messages {
		fields += len(m.sorted())
	}
	for _, v := range l.Enums {
		values += len(v)
	}
	return fmt.Sprintf("%d messages, %d fields, %d enums with %d values", len(l.Messages), fields, len(l.Enums), values)
}
