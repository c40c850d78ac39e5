package payload

import (
	"bytes"

	"github.com/spotbridge/spotbridge/bridge/internal/scan"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

// Tags of google.protobuf.Value, Struct, Struct.FieldsEntry and ListValue.
const (
	tagNull   = 1 << 3
	tagNumber = 2<<3 | 1
	tagString = 3<<3 | 2
	tagBool   = 4 << 3
	tagStruct = 5<<3 | 2
	tagList   = 6<<3 | 2

	tagFields = 1<<3 | 2
	tagKey    = 1<<3 | 2
	tagItem   = 2<<3 | 2
	tagValues = 1<<3 | 2
)

// value writes the value at i as a google.protobuf.Value with its length before it; level is that message's nesting
// level. set is false when it was left out: then nothing was written that the caller should keep.
func (c *conv) value(i, level int) (end int, set bool) {
	b := c.b
	switch scan.At(b, i) {
	case '"':
		start := i + 1
		end, t := scan.Str(b, start)
		if end == scan.Bad {
			return scan.Bad, false
		}
		if c.plain(start, end, t) {
			n := end - start
			c.w.varint(uint64(1 + varintSize(n) + n))
			c.w.out = append(c.w.out, tagString)
			c.w.varint(uint64(n))
			c.w.out = append(c.w.out, b[start:end]...)
			return end + 1, true
		}
		m := c.w.open()
		c.w.out = append(c.w.out, tagString)
		c.lengthAndText(start, end, t)
		c.w.close(m)
		return end + 1, true
	case 't':
		c.w.out = append(c.w.out, 2, tagBool, 1)
		return scan.Literal(b, i, "true"), true
	case 'f':
		c.w.out = append(c.w.out, 2, tagBool, 0)
		return scan.Literal(b, i, "false"), true
	case 'n':
		c.w.out = append(c.w.out, 2, tagNull, 0)
		return scan.Literal(b, i, "null"), true
	case '{':
		m := c.w.open()
		c.w.out = append(c.w.out, tagStruct)
		end, set := c.object(i, level+1)
		c.w.close(m)
		return end, set
	case '[':
		m := c.w.open()
		c.w.out = append(c.w.out, tagList)
		end, set := c.list(i, level+1)
		c.w.close(m)
		return end, set
	default:
		end, n := scan.ReadNumber(b, i)
		if end == scan.Bad {
			return scan.Bad, false
		}
		f, ok := n.Double(b[i:end])
		if !ok {
			c.issue(pb.IssueKind_ISSUE_KIND_OUT_OF_RANGE)
			return end, false
		}
		c.w.out = append(c.w.out, 9, tagNumber)
		c.w.double(f)
		return end, true
	}
}

// tooDeep reads past a value that clients could not read.
func (c *conv) tooDeep(i int) (end int, set bool) {
	c.issue(pb.IssueKind_ISSUE_KIND_TOO_DEEP)
	return scan.Skip(c.b, i, 0), false
}

// object writes the object at i as a google.protobuf.Struct at that level, with its length before it.
func (c *conv) object(i, level int) (end int, set bool) {
	b, first := c.b, scan.Space(c.b, i+1)
	empty := scan.At(b, first) == '}'
	if level > maxLevel || level+2 > maxLevel && !empty {
		return c.tooDeep(i)
	}
	if empty {
		c.w.out = append(c.w.out, 0)
		return first + 1, true
	}
	m := c.w.open()
	i = first
	base := len(c.names)
	var seen map[string]int
	depth := len(c.path)
	c.path = append(c.path, step{})
	for {
		place := i
		if scan.At(b, i) != '"' {
			return scan.Bad, false
		}
		start := i + 1
		end, t := scan.Str(b, start)
		if end == scan.Bad {
			return scan.Bad, false
		}
		if i = scan.Space(b, end+1); scan.At(b, i) != ':' {
			return scan.Bad, false
		}
		i = scan.Space(b, i+1)
		name := c.name(start, end, t)
		c.path[depth].name = name
		if c.replaced(place) {
			if i = scan.Skip(b, i, 0); i == scan.Bad {
				return scan.Bad, false
			}
		} else {
			seen = c.remember(base, seen, name, place)
			before := c.w.mark()
			c.w.out = append(c.w.out, tagFields)
			entry := c.w.open()
			c.w.out = append(c.w.out, tagKey)
			c.lengthAndText(start, end, t)
			c.w.out = append(c.w.out, tagItem)
			var set bool
			if i, set = c.value(i, level+2); i == scan.Bad {
				return scan.Bad, false
			}
			if set {
				c.w.close(entry)
			} else {
				c.unset = true
				c.w.back(before)
			}
		}
		i = scan.Space(b, i)
		switch scan.At(b, i) {
		case ',':
			i = scan.Space(b, i+1)
		case '}':
			c.path = c.path[:depth]
			c.names, c.places = c.names[:base], c.places[:base]
			c.w.close(m)
			return i + 1, true
		default:
			return scan.Bad, false
		}
	}
}

// list writes the array at i as a google.protobuf.ListValue at that level, with its length before it. An item that cannot
// be written is null, so that the others keep their places.
func (c *conv) list(i, level int) (end int, set bool) {
	b, first := c.b, scan.Space(c.b, i+1)
	empty := scan.At(b, first) == ']'
	if level > maxLevel || level+1 > maxLevel && !empty {
		return c.tooDeep(i)
	}
	if empty {
		c.w.out = append(c.w.out, 0)
		return first + 1, true
	}
	m := c.w.open()
	i = first
	depth := len(c.path)
	c.path = append(c.path, step{})
	for {
		before := c.w.mark()
		c.w.out = append(c.w.out, tagValues)
		var set bool
		if i, set = c.value(i, level+1); i == scan.Bad {
			return scan.Bad, false
		}
		if !set {
			c.unset = true
			c.w.back(before)
			c.w.out = append(c.w.out, tagValues, 2, tagNull, 0)
		}
		c.path[depth].index++
		i = scan.Space(b, i)
		switch scan.At(b, i) {
		case ',':
			i = scan.Space(b, i+1)
		case ']':
			c.path = c.path[:depth]
			c.w.close(m)
			return i + 1, true
		default:
			return scan.Bad, false
		}
	}
}

// replaced reports whether the member at that place in the body gives way to a later one of the same name.
func (c *conv) replaced(place int) bool {
	if c.dead == nil {
		return false
	}
	_, dead := c.dead[place]
	if dead {
		c.issue(pb.IssueKind_ISSUE_KIND_DUPLICATE_KEY)
	}
	return dead
}

// kill notes that the member at that place gives way to a later one.
func (c *conv) kill(place int) {
	if c.dead == nil {
		c.dead = map[int]struct{}{}
	}
	c.dead[place] = struct{}{}
	c.again = true
}

// manyNames is where comparing with all earlier names of an object becomes slower than a map.
const manyNames = 32

// remember notes a member of the object whose names begin at base.
func (c *conv) remember(base int, seen map[string]int, name []byte, place int) map[string]int {
	names := c.names[base:]
	if seen == nil && len(names) < manyNames {
		for k, other := range names {
			if bytes.Equal(other, name) {
				c.kill(c.places[base+k])
				c.places[base+k] = place
				return nil
			}
		}
		c.names, c.places = append(c.names, name), append(c.places, place)
		return nil
	}
	if seen == nil {
		seen = make(map[string]int, 2*manyNames)
		for k, other := range names {
			seen[string(other)] = c.places[base+k]
		}
	}
	if earlier, ok := seen[string(name)]; ok {
		c.kill(earlier)
	}
	seen[string(name)] = place
	return seen
}
