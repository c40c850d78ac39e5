package payload

import (
	"bytes"
	"sync"

	"google.golang.org/protobuf/encoding/protowire"

	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

// Fields of Event.
const (
	fieldConversion = 30
	fieldOther      = 31
)

// maxPooled is the largest buffer that is kept for the next conversion.
const maxPooled = 4 << 20

// Converter turns payloads into wire bytes. It is safe for concurrent use.
type Converter struct {
	pool sync.Pool
}

// New returns a converter.
func New() *Converter {
	return &Converter{pool: sync.Pool{New: func() any { return new(conv) }}}
}

// Result is the outcome of a conversion.
type Result struct {
	// Wire is what Convert returns.
	Wire   []byte
	Status pb.ConversionStatus
	Issues []Issue
}

// Convert returns the wire bytes of Event.conversion and Event.payload for a body. It never fails: what cannot be
// converted is said in the conversion.
func (v *Converter) Convert(eventType string, body []byte) []byte {
	return v.Result(eventType, body).Wire
}

// Result converts like Convert and tells more about it.
func (v *Converter) Result(_ string, body []byte) Result {
	c := v.pool.Get().(*conv)
	defer v.put(c)
	c.b = bytes.TrimPrefix(body, []byte("\xef\xbb\xbf"))
	c.dead = nil
	status := pb.ConversionStatus_CONVERSION_STATUS_RAW_ONLY
	for c.again = true; c.again; {
		c.again = false
		if !c.body() {
			c.w.reset()
			c.issues = c.issues[:0]
			break
		}
	}
	r := Result{Status: status}
	if len(c.issues) > 0 {
		r.Issues = append([]Issue(nil), c.issues...)
	}
	conversion := appendConversion(make([]byte, 0, 256), r.Status, "", r.Issues)
	r.Wire = make([]byte, 0, len(conversion)+c.w.size())
	r.Wire = append(r.Wire, conversion...)
	r.Wire = c.w.assemble(r.Wire)
	return r
}

func (v *Converter) put(c *conv) {
	clear(c.names[:cap(c.names)]) // they point into the body
	clear(c.path[:cap(c.path)])
	c.b, c.dead = nil, nil
	if cap(c.w.out) <= maxPooled {
		v.pool.Put(c)
	}
}

// body converts the payload member of the body. It is false when the body is not a JSON object.
func (c *conv) body() bool {
	b := c.b
	c.start()
	i := space(b, 0)
	if at(b, i) != '{' {
		return false
	}
	if i = space(b, i+1); at(b, i) == '}' {
		return space(b, i+1) == len(b)
	}
	for {
		if at(b, i) != '"' {
			return false
		}
		start := i + 1
		end, t := str(b, start)
		if end == bad {
			return false
		}
		if i = space(b, end+1); at(b, i) != ':' {
			return false
		}
		i = space(b, i+1)
		if string(c.name(start, end, t)) == "payload" {
			c.start() // the last one counts; the envelope tells of repeats
			i = c.payload(i)
		} else {
			i = skip(b, i, 1)
		}
		if i == bad {
			return false
		}
		i = space(b, i)
		switch at(b, i) {
		case ',':
			i = space(b, i+1)
		case '}':
			return space(b, i+1) == len(b)
		default:
			return false
		}
	}
}

func (c *conv) start() {
	c.w.reset()
	c.root, c.path = "$.payload", c.path[:0]
	c.names, c.places = c.names[:0], c.places[:0]
	c.issues, c.unset = c.issues[:0], false
}

func (c *conv) payload(i int) int {
	c.w.out = protowire.AppendTag(c.w.out, fieldOther, protowire.BytesType)
	end, set := c.value(i, eventLevel+1)
	if !set {
		c.w.reset()
	}
	return end
}

// appendConversion appends Event.conversion.
func appendConversion(dst []byte, status pb.ConversionStatus, revision string, issues []Issue) []byte {
	size := 2
	if revision != "" {
		size += 1 + protowire.SizeBytes(len(revision))
	}
	for _, is := range issues {
		size += 1 + protowire.SizeBytes(issueSize(is))
	}
	dst = protowire.AppendTag(dst, fieldConversion, protowire.BytesType)
	dst = protowire.AppendVarint(dst, uint64(size))
	dst = protowire.AppendTag(dst, 1, protowire.VarintType)
	dst = protowire.AppendVarint(dst, uint64(status))
	if revision != "" {
		dst = protowire.AppendTag(dst, 2, protowire.BytesType)
		dst = protowire.AppendString(dst, revision)
	}
	for _, is := range issues {
		dst = protowire.AppendTag(dst, 3, protowire.BytesType)
		dst = protowire.AppendVarint(dst, uint64(issueSize(is)))
		dst = protowire.AppendTag(dst, 1, protowire.BytesType)
		dst = protowire.AppendString(dst, is.Path)
		dst = protowire.AppendTag(dst, 2, protowire.VarintType)
		dst = protowire.AppendVarint(dst, uint64(is.Kind))
	}
	return dst
}

func issueSize(is Issue) int {
	return 1 + protowire.SizeBytes(len(is.Path)) + 2
}
