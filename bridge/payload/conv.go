package payload

import (
	"bytes"
	"strconv"
	"unicode"
	"unicode/utf8"

	"github.com/spotbridge/spotbridge/bridge"
	"github.com/spotbridge/spotbridge/bridge/internal/scan"
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

// maxDrifts bounds the drift of one event.
const maxDrifts = 256

// Drift is something in which an event differs from the published schema.
type Drift = bridge.Drift

// Issue is something that did not fit.
type Issue = bridge.PayloadIssue

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

	// into is what the payload is converted into, nil when the event type is not known.
	into *rootTable
	// typed says that it was, wrapped that it came in its wrapper.
	typed, wrapped bool
	// fieldPlaces are, for the open messages, the places of their fields plus 1.
	fieldPlaces []int32
	// odd is why single has refused a value.
	odd pb.IssueKind
	// track says whether drift is wanted.
	track  bool
	drifts []Drift
	// moreDrifts counts those that had no place in drifts.
	moreDrifts int
	driftIndex map[driftKey]int
	// paths holds the texts of paths that came before, by themselves.
	paths    map[string]string
	pathText []byte
}

// step is a member by its name; or, when that is nil, a field of a table, or an item of an array.
type step struct {
	name  []byte
	table *messageTable
	index int
}

func (c *conv) issue(kind pb.IssueKind) {
	if len(c.issues) < maxIssues {
		c.issues = append(c.issues, Issue{Path: string(cutPath(c.appendPath(nil, false))), Kind: kind})
	}
}

// drift notes that the value in hand differs from the schema.
func (c *conv) drift(kind pb.IssueKind) {
	c.pathText = cutPath(c.appendPath(c.pathText[:0], true))
	path, ok := c.paths[string(c.pathText)]
	if !ok && len(c.drifts) == maxDrifts {
		c.moreDrifts++ // most likely a new one, and the work for a strange body stays bounded
		return
	}
	if !ok {
		if c.paths == nil || len(c.paths) > 4*maxDrifts {
			c.paths = map[string]string{}
		}
		path = string(c.pathText)
		c.paths[path] = path
	}
	key := driftKey{path, kind}
	if i, ok := c.findDrift(key); ok {
		c.drifts[i].Count++
		return
	}
	if len(c.drifts) == maxDrifts {
		c.moreDrifts++
		return
	}
	if len(c.drifts) >= fewDrifts {
		c.driftIndex[key] = len(c.drifts)
	}
	c.drifts = append(c.drifts, Drift{Path: path, Kind: kind, Count: 1})
}

// fewDrifts are found by looking at each: most events have no more. Those above are found by an index, so that the work for
// a strange body stays in proportion to its size.
const fewDrifts = 16

type driftKey struct {
	path string
	kind pb.IssueKind
}

func (c *conv) findDrift(k driftKey) (int, bool) {
	for i := range min(len(c.drifts), fewDrifts) {
		if d := &c.drifts[i]; d.Kind == k.kind && d.Path == k.path {
			return i, true
		}
	}
	if len(c.drifts) < fewDrifts {
		return 0, false
	}
	if len(c.drifts) == fewDrifts {
		if c.driftIndex == nil {
			c.driftIndex = map[driftKey]int{}
		}
		clear(c.driftIndex) // of an earlier event
	}
	i, ok := c.driftIndex[k]
	return i, ok
}

// appendPath appends the path to the value in hand: $.payload.legs[0].flights. general leaves out which item of an array
// it is, and which key of a map.
func (c *conv) appendPath(p []byte, general bool) []byte {
	p = append(p, c.root...)
	for _, s := range c.path {
		switch {
		case s.name != nil && general && isKey(s.name):
			p = append(p, "[*]"...)
		case s.name != nil:
			p = appendName(p, s.name)
		case s.table != nil:
			p = appendName(p, s.table.fields[s.index].name)
		case general:
			p = append(p, "[]"...)
		default:
			p = append(p, '[')
			p = strconv.AppendInt(p, int64(s.index), 10)
			p = append(p, ']')
		}
		if len(p) > maxPathBytes {
			break
		}
	}
	return p
}

// plainName reports whether a name is a plain word.
func plainName(name []byte) bool {
	return len(name) > 0 && !bytes.ContainsFunc(name, func(r rune) bool {
		return r >= utf8.RuneSelf || r != '_' && r != '-' && !unicode.IsLetter(r) && !unicode.IsDigit(r)
	})
}

const (
	maxNameBytes  = 64
	maxNameDigits = 4
)

// isKey reports whether a name that the schema does not have looks like the key of a map rather than the name of a field:
// there is no end of keys, and they may be data. iso8601 and addressLine2 are names.
func isKey(name []byte) bool {
	digits := 0
	for _, b := range name {
		if b >= '0' && b <= '9' {
			digits++
		}
	}
	return digits > maxNameDigits || len(name) > maxNameBytes || !plainName(name)
}

// appendName appends .name, or ["name"] when the name is not a plain word.
func appendName(p, name []byte) []byte {
	if plainName(name) {
		p = append(p, '.')
		return append(p, name...)
	}
	name = name[:min(len(name), maxPathBytes)]
	p = append(p, '[')
	p = strconv.AppendQuote(p, string(name))
	return append(p, ']')
}

// cutPath shortens a path to 256 bytes.
func cutPath(p []byte) []byte {
	const more = "..."
	if len(p) <= maxPathBytes {
		return p
	}
	n := maxPathBytes - len(more)
	for n > 0 && !utf8.RuneStart(p[n]) {
		n--
	}
	return append(p[:n], more...)
}

// stringValue writes the text of the string between start and end, without a length.
func (c *conv) stringValue(start, end int) {
	var ok bool
	if c.w.out, ok = scan.Unquote(c.w.out, c.b[start:end]); !ok {
		c.issue(pb.IssueKind_ISSUE_KIND_INVALID_UTF8)
	}
}

// plain reports whether the bytes of a string are its text.
func (c *conv) plain(start, end int, t scan.Text) bool {
	return t == 0 || t == scan.NonASCII && utf8.Valid(c.b[start:end])
}

// lengthAndText writes a string with its length before it.
func (c *conv) lengthAndText(start, end int, t scan.Text) {
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
func (c *conv) name(start, end int, t scan.Text) []byte {
	if t&scan.Escaped == 0 {
		return c.b[start:end]
	}
	name, _ := scan.Unquote(nil, c.b[start:end])
	return name
}
