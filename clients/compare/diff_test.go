//go:build clients

package compare

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"testing"
)

var columns = strings.Fields("ticket_number pnr_id organization_id traveler_id currency amount_milli refund_milli net_milli state version event_id")

// maxDifferences bounds what is printed: the first ones tell.
const maxDifferences = 20

// differences are sentences about what is wrong.
type differences []string

func (d *differences) add(format string, args ...any) { *d = append(*d, fmt.Sprintf(format, args...)) }

func (d *differences) String() string {
	if len(*d) == 0 {
		return "  the lines are the same and stand in another order, or the last line has no end"
	}
	out, rest := *d, len(*d)-maxDifferences
	if rest > 0 {
		out = append(slices.Clone(out[:maxDifferences]), fmt.Sprintf("and %d more", rest))
	}
	return "  " + strings.Join(out, "\n  ")
}

func splitLines(text string) []string {
	return strings.FieldsFunc(text, func(r rune) bool { return r == '\n' })
}

// diffTables says, ticket by ticket and column by column, in what a dump differs.
func diffTables(want, got string) string {
	var d differences
	rows := func(text string) map[string][]string {
		out := map[string][]string{}
		for _, line := range splitLines(text) {
			row := strings.Split(line, "\t")
			if len(row) != len(columns) {
				d.add("a line has %d columns instead of %d: %q", len(row), len(columns), line)
			}
			if out[row[0]] != nil {
				d.add("ticket %s stands twice", row[0])
			}
			out[row[0]] = row
		}
		return out
	}
	wanted, present := rows(want), rows(got)
	for _, line := range splitLines(want) {
		number, _, _ := strings.Cut(line, "\t")
		row, ok := present[number]
		if !ok {
			d.add("ticket %s is missing", number)
			continue
		}
		for i, v := range wanted[number] {
			if i < len(row) && row[i] != v {
				d.add("ticket %s: %s is %q and should be %q", number, columns[i], row[i], v)
			}
		}
	}
	for _, line := range splitLines(got) {
		if number, _, _ := strings.Cut(line, "\t"); wanted[number] == nil {
			d.add("ticket %s should not be there", number)
		}
	}
	return d.String()
}

// diffIDs says which events are missing, too many, or there twice.
func diffIDs(want, got string) string {
	var d differences
	count := map[string]int{}
	for _, id := range splitLines(got) {
		count[id]++
	}
	for _, id := range splitLines(want) {
		if count[id] == 0 {
			d.add("%s is missing", id)
		}
		delete(count, id)
	}
	for id := range count {
		d.add("%s should not be there", id)
	}
	seen := ""
	for _, id := range splitLines(got) {
		switch c := cmp.Compare(seen, id); {
		case c == 0:
			d.add("%s stands twice", id)
		case c > 0:
			d.add("%s stands after %s", id, seen)
		}
		seen = id
	}
	return d.String()
}

func TestDifferencesAreNamed(t *testing.T) {
	row := func(number, net string) string {
		return strings.Join([]string{number, "p", "o", "t", "EUR", "1", "0", net, "ISSUED", "2", "s.1"}, "\t") + "\n"
	}
	for _, c := range []struct{ name, got, want string }{
		{"table", diffTables(row("1", "1")+row("2", "1")+row("3", "3"), row("1", "2")+row("3", "3")+row("4", "4")+"5\n"),
			`  a line has 1 columns instead of 11: "5"
  ticket 1: net_milli is "2" and should be "1"
  ticket 2 is missing
  ticket 4 should not be there
  ticket 5 should not be there`},
		{"order", diffTables(row("1", "1")+row("2", "1"), row("2", "1")+row("1", "1")), "  the lines are the same and stand in another order, or the last line has no end"},
		{"ids", diffIDs("a\nb\nc\n", "a\na\nd\nc\n"), "  b is missing\n  d should not be there\n  a stands twice\n  c stands after d"},
	} {
		if c.got != c.want {
			t.Errorf("%s:\n%s\nwant:\n%s", c.name, c.got, c.want)
		}
	}
}
