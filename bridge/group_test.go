package bridge_test

import (
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/spotbridge/spotbridge/bridge"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

// subjectMatches is the rule of subjects with wildcards.
func subjectMatches(pattern, subject string) bool {
	p, s := strings.Split(pattern, "."), strings.Split(subject, ".")
	for i, token := range p {
		if token == ">" {
			return len(s) > i
		}
		if i >= len(s) || token != "*" && token != s[i] {
			return false
		}
	}
	return len(p) == len(s)
}

// TestSubjectsCoverWhatTheFilterMatches: a subject too few would lose events.
func TestSubjectsCoverWhatTheFilterMatches(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		value := rapid.SampledFrom([]string{"A", "B", "c.d", "*", ">", "ü", "~", strings.Repeat("x", 80)})
		values := func(name string) []string { return rapid.SliceOfN(value, 0, 6).Draw(rt, name) }
		source := rapid.SampledFrom([]string{"s1", "s2", "s3"})
		f, err := bridge.CompileFilter(&pb.EventFilter{
			EventTypes: values("types"), Operations: values("operations"), OrganizationIds: values("organizations"),
			Sources: rapid.SliceOfN(source, 0, 2).Draw(rt, "sources"), PnrIds: rapid.SliceOfN(value, 0, 1).Draw(rt, "pnrs"),
		}, "filter")
		if err != nil {
			rt.Fatal(err)
		}
		limit := rapid.IntRange(1, 64).Draw(rt, "limit")
		subjects := f.Subjects(limit)
		if len(subjects) > limit {
			rt.Fatalf("%d subjects, limit %d", len(subjects), limit)
		}
		for i, s := range subjects {
			if slices.Contains(subjects[i+1:], s) {
				rt.Fatalf("%s twice", s)
			}
		}
		m := bridge.Meta{
			Source: source.Draw(rt, "source"), EventType: value.Draw(rt, "type"), Operation: rapid.OneOf(value, rapid.Just("")).Draw(rt, "operation"),
			Organizations: rapid.SliceOfNDistinct(value, 0, 3, rapid.ID[string]).Draw(rt, "of"), PNRID: value.Draw(rt, "pnr"),
		}
		subject := bridge.EventSubject(m.Source, m.EventType, m.Operation, m.Organizations)
		n := 0
		for _, s := range subjects {
			if subjectMatches(s, subject) {
				n++
			}
		}
		if f.Match(&m) && n != 1 || n > 1 {
			rt.Fatalf("%v matches %d of %v, the filter says %v", subject, n, subjects, f.Match(&m))
		}
	})
}
