package main

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// commonFile takes what payloads share that do not hold one another.
const commonFile = "common"

// files are the files of known payloads; others get one by their event type.
var files = map[string]string{
	"PNR_V3": "pnr", "TRIP_DETAILS_V3": "trip", "TRAVELER_V2": "traveler", "SERVICE_CHARGE": "service_charge",
	"PNR_APPROVAL": "approval", "AGENT_TASK_DETAILS": "agent_task",
}

var version = regexp.MustCompile(`_v\d+$`)

func fileOf(event string) string {
	if f, ok := files[event]; ok {
		return f
	}
	return version.ReplaceAllString(snake(strings.ToLower(event)), "")
}

// layOut gives every new message a file, by the payloads that reach it. A message never changes its file. Files import
// one another without cycles: a field whose message would need one is free-form instead, and says so.
func layOut(l, old *lock) error {
	refs := map[string][]string{} // message -> messages of its fields, nested ones taken as their outermost
	top := func(name string) string { outer, _, _ := strings.Cut(name, "."); return outer }
	for _, key := range slices.Sorted(maps.Keys(l.Messages)) {
		m := l.Messages[key]
		for _, f := range m.sorted() {
			if t := elem(f.Type); isMessage(t) && top(t) != top(m.Name) {
				refs[top(m.Name)] = append(refs[top(m.Name)], top(t))
			}
		}
	}
	preferred := preferredFiles(l, refs)
	place := map[string]string{}
	for _, key := range slices.Sorted(maps.Keys(l.Messages)) {
		if m := l.Messages[key]; m.File != "" && top(m.Name) == m.Name {
			place[m.Name] = m.File
		}
	}
	imports := map[string]map[string]bool{}
	reaches := func(from, to string) bool { return from == to || reachable(imports, from)[to] }
	link := func(from, to string) {
		if from != to {
			if imports[from] == nil {
				imports[from] = map[string]bool{}
			}
			imports[from][to] = true
		}
	}
	// What the lock has comes first: those imports are there and have no cycle.
	for _, key := range slices.Sorted(maps.Keys(old.Messages)) {
		m := old.Messages[key]
		for _, f := range m.sorted() {
			if t := elem(f.Type); isMessage(t) {
				from, to := place[top(m.Name)], place[top(t)]
				if from != to && reaches(to, from) {
					return fmt.Errorf("%s.%s: the lock has its message %s in %s.proto, which imports %s.proto", key, f.prop, t, to, from)
				}
				link(from, to)
			}
		}
	}
	// Then the new messages, what they need before themselves.
	candidates := append([]string{commonFile}, slices.Sorted(maps.Values(preferred))...)
	for _, name := range dependenciesFirst(refs, slices.Sorted(maps.Keys(preferred))) {
		if place[name] != "" {
			continue
		}
		file := preferred[name]
		for _, candidate := range append([]string{file}, candidates...) {
			fits := true
			for _, dep := range refs[name] {
				fits = fits && (place[dep] == "" || place[dep] == candidate || !reaches(place[dep], candidate))
			}
			for user := range place {
				if slices.Contains(refs[user], name) {
					fits = fits && (place[user] == candidate || !reaches(candidate, place[user]))
				}
			}
			if fits {
				file = candidate
				break
			}
		}
		place[name] = file
		for _, dep := range refs[name] {
			if place[dep] != "" && !reaches(place[dep], file) {
				link(file, place[dep])
			}
		}
		for user := range place {
			if slices.Contains(refs[user], name) && !reaches(file, place[user]) {
				link(place[user], file)
			}
		}
	}
	for _, key := range slices.Sorted(maps.Keys(l.Messages)) {
		m := l.Messages[key]
		m.File = place[top(m.Name)]
		if m.File == "" {
			return fmt.Errorf("%s: got no file", key)
		}
		for _, f := range m.sorted() {
			t := elem(f.Type)
			if !isMessage(t) || place[top(t)] == m.File {
				continue
			}
			if target := place[top(t)]; !reaches(target, m.File) {
				link(m.File, target)
				continue
			}
			l.warnings = append(l.warnings, fmt.Sprintf("%s.%s becomes free-form: its message %s lies in %s.proto, which imports %s.proto", key, f.prop, t, place[top(t)], m.File))
			f.Type = strings.Replace(f.Type, t, "struct", 1)
			f.Cycle = t
		}
	}
	return nil
}

// preferredFiles returns the file in which each message belongs: that of the payload that reaches it, not counting
// payloads that hold that payload; or the common one.
func preferredFiles(l *lock, refs map[string][]string) map[string]string {
	graph := map[string]map[string]bool{}
	for from, tos := range refs {
		graph[from] = map[string]bool{}
		for _, to := range tos {
			graph[from][to] = true
		}
	}
	reach := map[string]map[string]bool{} // event -> messages
	entry := map[string]string{}
	for event, r := range l.Roots {
		name := l.Messages[r.Schema].Name
		entry[event] = name
		reach[event] = reachable(graph, name)
		reach[event][name] = true
		if w := l.Messages[r.Wrapper]; w != nil {
			reach[event][w.Name] = true
		}
	}
	out := map[string]string{}
	for _, m := range l.Messages {
		if strings.Contains(m.Name, ".") {
			continue
		}
		var events []string
		for event := range reach {
			if reach[event][m.Name] {
				events = append(events, event)
			}
		}
		own := slices.DeleteFunc(slices.Clone(events), func(e string) bool {
			return slices.ContainsFunc(events, func(other string) bool { return other != e && reach[e][entry[other]] })
		})
		switch {
		case len(own) == 1:
			out[m.Name] = fileOf(own[0])
		case len(events) == 0 && l.Envelope != "" && l.Messages[l.Envelope] == m:
			out[m.Name] = "envelope"
		default:
			out[m.Name] = commonFile
		}
	}
	return out
}

func reachable(graph map[string]map[string]bool, from string) map[string]bool {
	seen := map[string]bool{}
	todo := []string{from}
	for len(todo) > 0 {
		at := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		for to := range graph[at] {
			if !seen[to] {
				seen[to] = true
				todo = append(todo, to)
			}
		}
	}
	return seen
}

func dependenciesFirst(refs map[string][]string, all []string) []string {
	var out []string
	seen := map[string]bool{}
	var visit func(string)
	visit = func(name string) {
		if seen[name] {
			return
		}
		seen[name] = true
		for _, dep := range refs[name] {
			visit(dep)
		}
		out = append(out, name)
	}
	for _, name := range all {
		visit(name)
	}
	return out
}
