package app_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestEveryGuaranteeNamesTestsThatExist holds docs/guarantees.md to the code.
func TestEveryGuaranteeNamesTestsThatExist(t *testing.T) {
	have := map[string]bool{}
	declared := regexp.MustCompile(`(?m)^func (Test\w+)\(`)
	if err := filepath.WalkDir("..", func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		b, err := os.ReadFile(path)
		for _, m := range declared.FindAllSubmatch(b, -1) {
			have[string(m[1])] = true
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("../docs/guarantees.md")
	if err != nil {
		t.Fatal(err)
	}
	named := regexp.MustCompile("`(Test\\w+)`")
	for _, section := range strings.Split(string(page), "\n## ")[1:] {
		title, text, _ := strings.Cut(section, "\n")
		names := named.FindAllStringSubmatch(text, -1)
		if len(names) == 0 && title != "Not promised" {
			t.Errorf("%s: no test is named", title)
		}
		for _, n := range names {
			if !have[n[1]] {
				t.Errorf("%s: there is no %s", title, n[1])
			}
		}
	}
}
