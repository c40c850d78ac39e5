package conformance

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
)

// TestTheDocumentIsComplete holds docs/conformance.md to the scenarios and checks that there are.
func TestTheDocumentIsComplete(t *testing.T) {
	b, err := os.ReadFile("../../../docs/conformance.md")
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	rows := map[string]bool{}
	for _, s := range scenarios() {
		rows[fmt.Sprintf("| `%s` | %s | %s |", s.name, s.protocols(), s.demand)] = true
	}
	for _, c := range doorChecks() {
		strict := fmt.Sprint(c.status)
		if c.word != "" {
			strict += " " + c.word
		}
		rows[fmt.Sprintf("| `%s` | %s | %s | %s |", c.name, c.about, c.want, strict)] = true
	}
	for row := range rows {
		if !strings.Contains(text, "\n"+row+"\n") {
			t.Errorf("docs/conformance.md lacks the row\n%s", row)
		}
	}
	for _, m := range regexp.MustCompile("(?m)^\\| `[a-z0-9][a-z0-9-]*` \\|.*$").FindAllString(text, -1) {
		if !rows[m] {
			t.Errorf("docs/conformance.md has a row that is no more:\n%s", m)
		}
	}
	for _, kv := range clientEnv("", "", "") {
		name, _, _ := strings.Cut(kv, "=")
		if os.Getenv(name) == "" && !strings.Contains(text, "\n| `"+name+"` |") && (strings.HasPrefix(name, "SPOTBRIDGE_") || name == "EXPENSES_DB" || name == "CONFORMANCE_DIR") {
			t.Errorf("docs/conformance.md lacks the variable %s", name)
		}
	}
}

func TestNamesAreUnique(t *testing.T) {
	seen := map[string]bool{}
	for _, s := range scenarios() {
		if seen[s.name] || len(s.on) == 0 || s.demand == "" {
			t.Errorf("scenario %s", s.name)
		}
		seen[s.name] = true
	}
	seen = map[string]bool{}
	for _, c := range doorChecks() {
		if seen[c.name] || c.about == "" || (c.shot == nil) == (c.play == nil) {
			t.Errorf("check %s", c.name)
		}
		seen[c.name] = true
	}
}
