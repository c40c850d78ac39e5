package payload

import (
	"math"

	"github.com/spotbridge/spotbridge/bridge/internal/scan"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

// Typed conversion: JSON to the wire form of the generated messages, led by the tables.

var zeros [64]int32

// message writes the members of the object at i as the fields of a message; level is the message's nesting level.
func (c *conv) message(i int, t *messageTable, level int) int {
	b := c.b
	i = scan.Space(b, i+1)
	if scan.At(b, i) == '}' {
		return i + 1
	}
	// Where each field came, plus 1: to tell repeats.
	base := len(c.fieldPlaces)
	for n := len(t.fields); n > 0; n -= len(zeros) {
		c.fieldPlaces = append(c.fieldPlaces, zeros[:min(n, len(zeros))]...)
	}
	depth := len(c.path)
	c.path = append(c.path, step{table: t})
	next := 0
	for {
		if scan.At(b, i) != '"' {
			return scan.Bad
		}
		place := i
		var f *fieldTable
		// Members mostly come in the order of the schema.
		if next < len(t.fields) {
			name := t.fields[next].name
			if end := i + 1 + len(name); end < len(b) && b[end] == '"' && string(b[i+1:end]) == string(name) {
				f, i = &t.fields[next], end+1
			}
		}
		if f == nil {
			end, k := scan.Str(b, i+1)
			if end == scan.Bad {
				return scan.Bad
			}
			name := b[i+1 : end]
			if k != 0 {
				name = c.name(i+1, end, k)
			}
			i = end + 1
			if next = t.names.find(name); next < 0 {
				if i = c.unknown(i, name, depth); i == scan.Bad {
					return scan.Bad
				}
				next = 0
				goto comma
			}
			f = &t.fields[next]
		}
		c.path[depth].index = next
		if c.dead != nil || c.fieldPlaces[base+next] != 0 {
			if c.replaced(place) {
				if i = c.colon(i); i == scan.Bad {
					return scan.Bad
				}
				if i = scan.Skip(b, i, 0); i == scan.Bad {
					return scan.Bad
				}
				goto comma
			}
			if earlier := c.fieldPlaces[base+next]; earlier != 0 {
				c.kill(int(earlier) - 1)
			}
		}
		c.fieldPlaces[base+next] = int32(place) + 1
		next++
		if i = c.colon(i); i == scan.Bad {
			return scan.Bad
		}
		if scan.At(b, i) == 'n' { // null says the same as nothing, but for a value of any type
			if f.kind != kindValue || f.list {
				if i = scan.Literal(b, i, "null"); i == scan.Bad {
					return scan.Bad
				}
				goto comma
			}
		}
		if f.deprecated && c.track {
			c.drift(pb.IssueKind_ISSUE_KIND_DEPRECATED_FIELD)
		}
		if i = c.field(i, f, level); i == scan.Bad {
			return scan.Bad
		}
	comma:
		if scan.At(b, i) == ',' {
			i = scan.Space(b, i+1)
			continue
		}
		i = scan.Space(b, i)
		switch scan.At(b, i) {
		case ',':
			i = scan.Space(b, i+1)
		case '}':
			c.path = c.path[:depth]
			c.fieldPlaces = c.fieldPlaces[:base]
			return i + 1
		default:
			return scan.Bad
		}
	}
}

// colon returns where the value of a member begins whose name ends before i.
func (c *conv) colon(i int) int {
	b := c.b
	if len(b)-i > 2 && b[i] == ':' { // the two usual ways of writing it
		if b[i+1] > ' ' {
			return i + 1
		}
		if b[i+1] == ' ' && b[i+2] > ' ' {
			return i + 2
		}
	}
	if i = scan.Space(b, i); scan.At(b, i) != ':' {
		return scan.Bad
	}
	return scan.Space(b, i+1)
}

// unknown reads past the value of a member that the schema does not have; i is after the name.
func (c *conv) unknown(i int, name []byte, depth int) int {
	if i = c.colon(i); i == scan.Bad {
		return scan.Bad
	}
	c.path[depth].name = name
	if depth == 0 && c.into.wrapper != nil && string(name) == c.into.member && scan.At(c.b, i) == '{' {
		c.wrapped = true // payload begins again: this is not the payload itself
		return scan.Bad
	}
	if c.track {
		c.drift(pb.IssueKind_ISSUE_KIND_UNKNOWN_FIELD)
	}
	c.path[depth].name = nil
	return scan.Skip(c.b, i, 0)
}

// field writes the value at i, which is not null, as a field of a message at that level.
func (c *conv) field(i int, f *fieldTable, level int) int {
	if f.list {
		return c.repeated(i, f, level)
	}
	before := c.w.mark()
	c.tag(f)
	end, set := c.single(i, f, level)
	if set || end == scan.Bad {
		return end
	}
	c.w.back(before)
	return c.leave(i, end, f, level)
}

// leave is what happens to a field that was not set: the type of yesterday may fit, else it is left unset.
func (c *conv) leave(i, end int, f *fieldTable, level int) int {
	if f.earlier != nil && c.odd == pb.IssueKind_ISSUE_KIND_TYPE_MISMATCH {
		c.odd = pb.IssueKind_ISSUE_KIND_UNSPECIFIED
		if c.track {
			c.drift(pb.IssueKind_ISSUE_KIND_TYPE_MISMATCH)
		}
		return c.field(i, f.earlier, level)
	}
	c.report()
	return end
}

// report tells of the value that single has just refused.
func (c *conv) report() {
	c.unset = true
	if c.odd != pb.IssueKind_ISSUE_KIND_UNSPECIFIED {
		c.issue(c.odd)
		if c.track && c.odd != pb.IssueKind_ISSUE_KIND_TOO_DEEP {
			c.drift(c.odd)
		}
		c.odd = pb.IssueKind_ISSUE_KIND_UNSPECIFIED
	}
}

func (c *conv) tag(f *fieldTable) {
	c.w.out = append(c.w.out, f.tag[0])
	if f.tagLen > 1 {
		c.w.out = append(c.w.out, f.tag[1:f.tagLen]...)
	}
}

// refuse reads past a value that does not fit.
func (c *conv) refuse(i int, kind pb.IssueKind) (end int, set bool) {
	c.odd = kind
	return scan.Skip(c.b, i, 0), false
}

// single writes one value without a tag. set is false when it does not fit: c.odd says why, unless that is told already.
func (c *conv) single(i int, f *fieldTable, level int) (end int, set bool) {
	b := c.b
	switch ch := scan.At(b, i); f.kind {
	case kindString:
		if ch != '"' {
			return c.refuse(i, pb.IssueKind_ISSUE_KIND_TYPE_MISMATCH)
		}
		end, t := scan.Str(b, i+1)
		if end == scan.Bad {
			return scan.Bad, false
		}
		if t == 0 {
			c.w.varint(uint64(end - i - 1))
			c.w.out = append(c.w.out, b[i+1:end]...)
		} else {
			c.lengthAndText(i+1, end, t)
		}
		if c.track && f.values != nil && f.values.find(c.name(i+1, end, t)) < 0 {
			c.drift(pb.IssueKind_ISSUE_KIND_UNKNOWN_ENUM_VALUE)
		}
		return end + 1, true
	case kindMessage:
		if ch != '{' {
			return c.refuse(i, pb.IssueKind_ISSUE_KIND_TYPE_MISMATCH)
		}
		if level >= maxLevel {
			return c.refuse(i, pb.IssueKind_ISSUE_KIND_TOO_DEEP)
		}
		m := c.w.open()
		if end = c.message(i, f.message, level+1); end == scan.Bad {
			return scan.Bad, false
		}
		c.w.close(m)
		return end, true
	case kindDouble:
		n, text, end, ok := c.number(i, ch)
		if !ok {
			return c.infinite(i, ch)
		}
		v, ok := n.Double(text)
		if !ok {
			c.odd = pb.IssueKind_ISSUE_KIND_OUT_OF_RANGE
			return end, false
		}
		c.w.double(v)
		return end, true
	case kindInt32, kindInt64:
		n, text, end, ok := c.number(i, ch)
		if !ok {
			return c.refuse(i, pb.IssueKind_ISSUE_KIND_TYPE_MISMATCH)
		}
		v, ok := int64(n.Mant), n.Exp == 0 && n.Exact && !n.Neg && n.Mant <= math.MaxInt32
		if !ok {
			v, ok = n.Integer(text)
			ok = ok && (f.kind == kindInt64 || v == int64(int32(v)))
		}
		if !ok {
			c.odd = pb.IssueKind_ISSUE_KIND_OUT_OF_RANGE
			return end, false
		}
		c.w.varint(uint64(v))
		return end, true
	case kindBool:
		switch ch {
		case 't':
			c.w.out = append(c.w.out, 1)
			return scan.Literal(b, i, "true"), true
		case 'f':
			c.w.out = append(c.w.out, 0)
			return scan.Literal(b, i, "false"), true
		}
	case kindStruct:
		if ch == '{' {
			return c.object(i, level+1)
		}
	case kindValue:
		if level >= maxLevel {
			return c.refuse(i, pb.IssueKind_ISSUE_KIND_TOO_DEEP)
		}
		return c.value(i, level+1)
	}
	return c.refuse(i, pb.IssueKind_ISSUE_KIND_TYPE_MISMATCH)
}

// number reads a number, or one that stands in a string as ProtoJSON allows. ok is false when it is neither; then end
// means nothing.
func (c *conv) number(i int, ch byte) (n scan.Number, text []byte, end int, ok bool) {
	b := c.b
	switch {
	case ch-'0' <= 9 || ch == '-':
		end, n = scan.ReadNumber(b, i)
		if end == scan.Bad {
			return n, nil, scan.Bad, false
		}
		return n, b[i:end], end, true
	case ch == '"':
		q, t := scan.Str(b, i+1)
		if q == scan.Bad {
			return n, nil, scan.Bad, false
		}
		text = c.name(i+1, q, t)
		if end, n = scan.ReadNumber(text, 0); end != len(text) {
			return n, nil, scan.Bad, false
		}
		if c.track { // it fits, and the schema says otherwise
			c.drift(pb.IssueKind_ISSUE_KIND_TYPE_MISMATCH)
		}
		return n, text, q + 1, true
	}
	return n, nil, scan.Bad, false
}

// infinite writes the doubles that JSON has no numbers for, as ProtoJSON does.
func (c *conv) infinite(i int, ch byte) (end int, set bool) {
	if ch == '"' {
		q, t := scan.Str(c.b, i+1)
		if q == scan.Bad {
			return scan.Bad, false
		}
		v := 0.0
		switch string(c.name(i+1, q, t)) {
		case "NaN":
			v = math.NaN()
		case "Infinity":
			v = math.Inf(1)
		case "-Infinity":
			v = math.Inf(-1)
		}
		if v != 0 {
			if c.track {
				c.drift(pb.IssueKind_ISSUE_KIND_TYPE_MISMATCH)
			}
			c.w.double(v)
			return q + 1, true
		}
	}
	return c.refuse(i, pb.IssueKind_ISSUE_KIND_TYPE_MISMATCH)
}

// repeated writes the array at i as a list. The items of a list keep their places, since payloads point to them by index:
// an object that does not fit becomes an empty one. There is no such stand-in for strings and numbers: there the whole
// list is left unset.
func (c *conv) repeated(i int, f *fieldTable, level int) int {
	b := c.b
	if scan.At(b, i) != '[' {
		end, _ := c.refuse(i, pb.IssueKind_ISSUE_KIND_TYPE_MISMATCH)
		if end == scan.Bad {
			return scan.Bad
		}
		return c.leave(i, end, f, level)
	}
	whole := i
	if i = scan.Space(b, i+1); scan.At(b, i) == ']' {
		return i + 1
	}
	before := c.w.mark()
	packed := f.kind != kindString && f.kind < kindMessage
	var m mark
	if packed {
		c.tag(f)
		m = c.w.open()
	}
	depth := len(c.path)
	c.path = append(c.path, step{})
	for {
		item := c.w.mark()
		if !packed {
			c.tag(f)
		}
		end, set := c.single(i, f, level)
		if end == scan.Bad {
			return scan.Bad
		}
		if !set {
			again := f.earlier != nil && c.odd == pb.IssueKind_ISSUE_KIND_TYPE_MISMATCH
			if again || f.kind < kindMessage {
				c.w.back(before)
				if end = scan.Skip(b, whole, 0); end == scan.Bad {
					return scan.Bad
				}
				if !again {
					c.report() // before the path forgets the item
				}
				c.path = c.path[:depth]
				if again {
					end = c.leave(whole, end, f, level)
				}
				return end
			}
			c.report()
			c.w.back(item)
			c.tag(f)
			if f.kind == kindValue {
				c.w.out = append(c.w.out, 2, tagNull, 0)
			} else {
				c.w.out = append(c.w.out, 0)
			}
		}
		c.path[depth].index++
		i = scan.Space(b, end)
		switch scan.At(b, i) {
		case ',':
			i = scan.Space(b, i+1)
		case ']':
			c.path = c.path[:depth]
			if packed {
				c.w.close(m)
			}
			return i + 1
		default:
			return scan.Bad
		}
	}
}
