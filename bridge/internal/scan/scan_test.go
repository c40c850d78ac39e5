package scan

import (
	"bytes"
	"math"
	"strconv"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/spotbridge/spotbridge/bridge/bridgetest/samples"
)

// accepts reports whether the scanner takes b as one JSON value.
func accepts(b []byte) bool {
	end := Skip(b, Space(b, 0), 0)
	return end != Bad && Space(b, end) == len(b)
}

var lenient = []jsontext.Options{jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true)}

var oddDocuments = []string{
	``, ` `, `{}`, `[]`, `{"a":1}`, `{"a":1,}`, `{,}`, `[1,]`, `[,1]`, `{"a"}`, `{"a":}`, `{a:1}`, `{"a":1 "b":2}`, `[1 2]`, `{"a":1]`, `[}`,
	`1`, `-1`, `-`, `01`, `-0`, `-01`, `1.`, `.5`, `1.5`, `1e`, `1e+`, `1e5`, `1E-5`, `1e05`, `+1`, `1.5e400`, `NaN`, `Infinity`, `0x10`,
	`"a`, `"`, `"\`, `"\"`, `"\u12"`, `"\u12g4"`, `"\ud800"`, `"\ud83d\ude00"`, `"\x"`, "\"\x00\"", "\"\t\"", "\"a\x1f\"", "\"\x7f\"", "\"\xff\"", "\"abcdefgh\x01\"",
	"\"\xe2\x82\xac\"", "\"01234567\xe2\x82\xac01234567\\n0123456789\"", `"0123456\"`, `"01234567\"`, `"0123456"7`,
	`true`, `tru`, `truex`, `nul`, `null`, `false `, "\ufefftrue", " \n\t\r1\n        \n         2", "[\n                 1\n]", "\n  \x0b1", `{"a":1}{}`, `{"a":1} x`,
	"[1\x002]", "{\"a\x00\":1}", "\x00", `[[[[[]]]]]`, `[[[[[]]]]`, "1\n", "1\n ", "1\n         ",
}

func TestScannerAcceptsExactlyJSON(t *testing.T) {
	for _, doc := range oddDocuments {
		if got, want := accepts([]byte(doc)), jsontext.Value(doc).IsValid(lenient...); got != want {
			t.Errorf("%q: accepted %v, jsontext says %v", doc, got, want)
		}
	}
	for _, d := range samples.Deliveries() {
		for n := range 40 {
			// Cut and damage at many places.
			cut := d.Body[:len(d.Body)*n/40]
			if got, want := accepts(cut), jsontext.Value(cut).IsValid(lenient...); got != want {
				t.Fatalf("%s cut at %d: accepted %v, jsontext says %v", d.File, len(cut), got, want)
			}
		}
		if !accepts(d.Body) {
			t.Errorf("%s: not accepted", d.File)
		}
	}
	deep := strings.Repeat("[", 9_999) + strings.Repeat("]", 9_999)
	if !accepts([]byte(deep)) {
		t.Error("9,999 levels: not accepted")
	}
	if deeper := strings.Repeat("[", 1_000_000); accepts([]byte(deeper + strings.Repeat("]", 1_000_000))) {
		t.Error("a million levels: accepted")
	}
}

func FuzzScanner(f *testing.F) {
	for _, doc := range oddDocuments {
		f.Add([]byte(doc))
	}
	f.Add(samples.Deliveries()[3].Body)
	f.Fuzz(func(t *testing.T, doc []byte) {
		if got, want := accepts(doc), jsontext.Value(doc).IsValid(lenient...); got != want {
			t.Fatalf("%q: accepted %v, jsontext says %v", doc, got, want)
		}
		if len(doc) == 0 || doc[0] != '"' || !accepts(doc) {
			return
		}
		doc = bytes.TrimRight(doc, " \t\r\n")
		got, ok := Unquote(nil, doc[1:len(doc)-1])
		want, err := jsontext.AppendUnquote(nil, doc)
		if !bytes.Equal(got, want) || ok != (err == nil) {
			t.Fatalf("%q: text %q %v, jsontext says %q %v", doc, got, ok, want, err)
		}
	})
}

func TestNumbersAreTheNearestDoubles(t *testing.T) {
	for _, s := range []string{
		"0", "-0", "1", "-1", "0.1", "2641.97", "1e22", "1e23", "123456789012345678", "9007199254740993", "0.30000000000000004", "1.7976931348623157e308",
		"1.7976931348623159e308", "4.9e-324", "1e-400", "1e400", "-1e400", "12345678901234567890123", "1e999999999999999999999", "0e999999999999999999999", "0.000001e22", "5e-22",
		"1" + strings.Repeat("0", 400), "0." + strings.Repeat("0", 400) + "1", "1" + strings.Repeat("0", 400) + "e-400",
	} {
		end, n := ReadNumber([]byte(s), 0)
		if end != len(s) {
			t.Errorf("%s: read up to %d", s, end)
			continue
		}
		got, ok := n.Double([]byte(s))
		want, err := strconv.ParseFloat(s, 64)
		if ok != (err == nil) || ok && (got != want || math.Signbit(got) != math.Signbit(want)) {
			t.Errorf("%s: %v %v, want %v %v", s, got, ok, want, err)
		}
	}
}

func TestIntegersMayBeWrittenAsDecimals(t *testing.T) {
	for s, want := range map[string]string{
		"0": "0", "-0": "0", "5": "5", "-5": "-5", "5.0": "5", "1e3": "1000", "1.5e1": "15", "0.5e1": "5", "100e-2": "1", "1.5": "", "15e-1": "", "0e99999999999": "0", "0e-99999999999": "0",
		"9223372036854775807": "9223372036854775807", "9223372036854775808": "", "-9223372036854775808": "-9223372036854775808", "-9223372036854775809": "",
		"18446744073709551615": "", "18446744073709551616": "", "1e18": "1000000000000000000", "1e19": "", "9e18": "9000000000000000000", "9.3e18": "", "922337203685477580.7e1": "9223372036854775807",
		"5.00000000000000000000": "5", "5.00000000000000000001": "", "0.0000000000000000000000000": "0", "-500000000000000000000000e-23": "-5", "123456789012345678901234567890": "", "1e999999999999": "", "1e-999999999999": "",
		"0.00000000000000000000005e23": "5", "00": "bad", "92233720368547758070e-1": "9223372036854775807",
	} {
		end, n := ReadNumber([]byte(s), 0)
		if end != len(s) {
			if want != "bad" {
				t.Errorf("%s: read up to %d", s, end)
			}
			continue
		}
		got := ""
		if v, ok := n.Integer([]byte(s)); ok {
			got = strconv.FormatInt(v, 10)
		}
		if got != want {
			t.Errorf("%s: %q, want %q", s, got, want)
		}
	}
}
