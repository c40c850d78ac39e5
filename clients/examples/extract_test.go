//go:build clients

package examples

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spotbridge/spotbridge/clients/internal/realbridge"
)

// command is a command line of a page, joined where it goes on in the next line.
type command struct {
	page string
	line int
	text string
	tool string // curl, grpcurl, buf, spotbridge or make
}

// block is a fenced block with its commands.
type block struct {
	line     int
	commands []command
}

var tools = []string{"curl", "grpcurl", "buf", "spotbridge", "make"}

// comment is what a command line says about itself, set off by two spaces.
var comment = regexp.MustCompile(`\s{2,}# .*$`)

// readBlocks returns the blocks of a page that hold commands: those marked sh, which may hold nothing else, and unmarked
// ones that begin with a command.
func readBlocks(t *testing.T, page string) []block {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(realbridge.Root(), page))
	if err != nil {
		t.Fatal(err)
	}
	var out []block
	var lines []command
	lang, open := "", false
	for i, line := range strings.Split(string(text), "\n") {
		fence, isFence := strings.CutPrefix(line, "```")
		switch {
		case isFence && !open:
			lang, open, lines = fence, true, nil
		case isFence:
			open = false
			if b, ok := commandsOf(t, lang, lines); ok {
				out = append(out, b)
			}
		case !open || strings.TrimSpace(line) == "" || strings.HasPrefix(line, "#"):
		case len(lines) > 0 && strings.HasSuffix(lines[len(lines)-1].text, `\`):
			last := &lines[len(lines)-1]
			last.text = strings.TrimSuffix(last.text, `\`) + strings.TrimSpace(line)
		default:
			lines = append(lines, command{page: page, line: i + 1, text: comment.ReplaceAllString(line, "")})
		}
	}
	if open {
		t.Fatalf("%s: a block does not end", page)
	}
	return out
}

func commandsOf(t *testing.T, lang string, lines []command) (b block, ok bool) {
	t.Helper()
	if lang != "" && lang != "sh" || len(lines) == 0 {
		return b, false
	}
	for i := range lines {
		c := &lines[i]
		c.tool = filepath.Base(strings.Fields(c.text)[0])
		if slices.Contains(tools, c.tool) {
			continue
		}
		if lang == "" && i == 0 {
			return b, false // a picture
		}
		t.Errorf("%s:%d: %q is no command that this test knows", c.page, c.line, c.text)
		return b, false
	}
	return block{lines[0].line, lines}, true
}
