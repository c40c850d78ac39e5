package main

import (
	"regexp"
	"strconv"
	"strings"
)

var (
	notWord   = regexp.MustCompile(`[^A-Za-z0-9]+`)
	acronym   = regexp.MustCompile(`([A-Z]+)([A-Z][a-z])`)
	wordStart = regexp.MustCompile(`([a-z0-9])([A-Z])`)
)

// pascal makes a message name of a schema's or property's name.
func pascal(name string) string {
	var out strings.Builder
	for _, part := range notWord.Split(name, -1) {
		if part != "" {
			out.WriteString(strings.ToUpper(part[:1]) + part[1:])
		}
	}
	s := out.String()
	if s == "" || s[0] >= '0' && s[0] <= '9' {
		s = "X" + s
	}
	return s
}

// snake makes a field name of a property's name.
func snake(name string) string {
	s := notWord.ReplaceAllString(name, "_")
	s = acronym.ReplaceAllString(s, "${1}_$2")
	s = wordStart.ReplaceAllString(s, "${1}_$2")
	s = strings.Trim(strings.ToLower(s), "_")
	if s == "" || s[0] >= '0' && s[0] <= '9' {
		s = "x" + s
	}
	return s
}

// fieldName makes a field name of base that is not in use, neither itself nor its JSON form; prop is the property's own
// name, which is free.
func fieldName(prop, base string, used map[string]bool) string {
	free := func(name string) bool {
		return !used[name] && (jsonName(name) == prop || !used[jsonName(name)]) || name == prop && jsonName(name) == prop
	}
	name := base
	for i := 2; !free(name); i++ {
		name = base + "_" + strconv.Itoa(i)
	}
	return name
}

// jsonName is the name that protoc gives a field in JSON.
func jsonName(field string) string {
	var out []byte
	up := false
	for i := range len(field) {
		c := field[i]
		switch {
		case c == '_':
			up = true
			continue
		case up && 'a' <= c && c <= 'z':
			c -= 'a' - 'A'
		}
		up = false
		out = append(out, c)
	}
	return string(out)
}
