package payload

import (
	"strconv"
	"unicode/utf8"

	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

const (
	maxIssues    = 64
	maxPathBytes = 256
	// maxLevel is how deep messages may nest in any response (clients refuse 100), and eventLevel the level at which an
	// Event stands at most: SubscribeResponse, ConsumeResponse and pages need 2 or 3.
	maxLevel   = 90
	eventLevel = 4
)

// Issue is something that did not fit, by place and kind and never by value.
type Issue struct {
	Path string
	Kind pb.IssueKind
}

// conv is one conversion under way. It is pooled.
type conv struct {
	b []byte
	w writer
	// path leads to the value in hand, below root.
	root string
	path []step
	// names and places are the member names of the open generic objects and where they stand in the body.
	names  [][]byte
	places []int
	// dead holds the places of members that a later one of the same name replaces. They become known only when the
	// later one comes; the conversion is then made again without them.
	dead map[int]struct{}
	// again says that dead has grown.
	again  bool
	issues []Issue
	// unset says that a known field was left unset.
	unset bool
}

// step is a member name, or an index when name is nil.
type step struct {
	name  []byte
	index int
}

func (c *conv) issue(kind pb.IssueKind) {
	if len(c.issues) < maxIssues {
		c.issues = append(c.issues, Issue{Path: c.pathText(false), Kind: kind})
	}
}

// pathText is the path to the value in hand: $.payload.legs[0].flights, at most 256 bytes. general leaves out which item
// of an array it is.
func (c *conv) pathText(general bool) string {
	p := append(make([]byte, 0, maxPathBytes), c.root...)
	for _, s := range c.path {
		switch {
		case s.name == nil && general:
			p = append(p, "[]"...)
		case s.name == nil:
			p = append(p, '[')
			p = strconv.AppendInt(p, int64(s.index), 10)
			p = append(p, ']')
		default:
			p = appendName(p, s.name)
		}
		if len(p) > maxPathBytes {
			break
		}
	}
	return cutPath(p)
}

// appendName appends .name, or ["name"] when the name is not a plain word.
func appendName(p, name []byte) []byte {
	plain := len(name) > 0
	for _, ch := range name {
		if !('a' <= ch && ch <= 'z' || 'A' <= ch && ch <= 'Z' || '0' <= ch && ch <= '9' || ch == '_' || ch == '-') {
			plain = false
			break
		}
	}
	if plain {
		p = append(p, '.')
		return append(p, name...)
	}
	if len(name) > maxPathBytes {
		name = name[:maxPathBytes]
	}
	p = append(p, '[')
	p = strconv.AppendQuote(p, string(name))
	return append(p, ']')
}

func cutPath(p []byte) string {
	const more = "..."
	if len(p) <= maxPathBytes {
		return string(p)
	}
	n := maxPathBytes - len(more)
	for n > 0 && !utf8.RuneStart(p[n]) {
		n--
	}
	return string(append(p[:n], more...))
}

// stringValue writes the text of the string between start and end, without a length.
func (c *conv) stringValue(start, end int) {
	var ok bool
	if c.w.out, ok = unquote(c.w.out, c.b[start:end]); !ok {
		c.issue(pb.IssueKind_ISSUE_KIND_INVALID_UTF8)
	}
}

// plain reports whether the bytes of a string are its text.
func (c *conv) plain(start, end int, t text) bool {
	return t == 0 || t == nonASCII && utf8.Valid(c.b[start:end])
}

// lengthAndText writes a string with its length before it.
func (c *conv) lengthAndText(start, end int, t text) {
	if c.plain(start, end, t) {
		c.w.varint(uint64(end - start))
		c.w.out = append(c.w.out, c.b[start:end]...)
		return
	}
	m := c.w.open()
	c.stringValue(start, end)
	c.w.close(m)
}

// name returns the text of a member name.
func (c *conv) name(start, end int, t text) []byte {
	if t&escaped == 0 {
		return c.b[start:end]
	}
	name, _ := unquote(nil, c.b[start:end])
	return name
}
