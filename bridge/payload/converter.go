package payload

import (
	"bytes"
	"math"
	"sync"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/spotbridge/spotbridge/bridge"
	"github.com/spotbridge/spotbridge/bridge/internal/scan"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

// Fields of Event.
const (
	fieldConversion = 30
	fieldOther      = 31
)

// maxPooled is the largest buffer that is kept for the next conversion.
const maxPooled = 4 << 20

var _ bridge.Inspector = (*Converter)(nil)

// Converter turns payloads into wire bytes. It implements bridge.Inspector and is safe for concurrent use.
type Converter struct {
	revision string
	roots    map[string]*rootTable
	pool     sync.Pool
}

// New returns a converter that follows the published schema, as generated.
func New() *Converter { return newConverter(schemaRevision, roots()) }

// NewOf returns a converter that follows another revision of the schema: that of files, which have the messages of package
// spotnana.payload.v1. It panics when a message of a known event type is missing.
func NewOf(revision string, files []protoreflect.FileDescriptor) *Converter {
	return newConverter(revision, compileRoots(files, eventField))
}

func newConverter(revision string, roots map[string]*rootTable) *Converter {
	return &Converter{revision: revision, roots: roots, pool: sync.Pool{New: func() any { return new(conv) }}}
}

// Revision is the revision of the published schema that the converter follows.
func (v *Converter) Revision() string { return v.revision }

// Result is the outcome of a conversion.
type Result = bridge.Inspection

// Convert returns the wire bytes of Event.conversion and Event.payload for a body. It never fails: what cannot be
// converted is said in the conversion.
func (v *Converter) Convert(eventType string, body []byte) []byte {
	return v.convert(eventType, body, false).Wire
}

// Inspect converts like Convert and tells in what the payload differs from the published schema.
func (v *Converter) Inspect(eventType string, body []byte) Result {
	return v.convert(eventType, body, true)
}

func (v *Converter) convert(eventType string, body []byte, track bool) Result {
	c := v.pool.Get().(*conv)
	defer v.put(c)
	c.b = bytes.TrimPrefix(body, []byte("\xef\xbb\xbf"))
	if len(c.b) > math.MaxInt32 { // far beyond what the door lets in
		c.b = nil
	}
	c.into, c.track = v.roots[eventType], track
	for {
		c.again = false
		ok := c.body()
		if c.again {
			continue // some members gave way to later ones, which was not known when they were written
		}
		if !ok {
			c.start()
		}
		break
	}
	r := Result{Status: pb.ConversionStatus_CONVERSION_STATUS_RAW_ONLY}
	revision := ""
	if c.typed {
		r.Status, revision = pb.ConversionStatus_CONVERSION_STATUS_FULL, v.revision
		if c.unset {
			r.Status = pb.ConversionStatus_CONVERSION_STATUS_PARTIAL
		}
	}
	if len(c.issues) > 0 {
		r.Issues = append([]Issue(nil), c.issues...)
	}
	if len(c.drifts) > 0 {
		r.Drift, r.MoreDrift = append([]Drift(nil), c.drifts...), c.moreDrifts
	}
	conversion := appendConversion(make([]byte, 0, 256), r.Status, revision, r.Issues)
	r.Wire = make([]byte, 0, len(conversion)+c.w.size())
	r.Wire = append(r.Wire, conversion...)
	r.Wire = c.w.assemble(r.Wire)
	return r
}

func (v *Converter) put(c *conv) {
	clear(c.names[:cap(c.names)]) // they point into the body
	clear(c.path[:cap(c.path)])
	clear(c.issues)
	c.b, c.dead = nil, nil
	if cap(c.w.out) <= maxPooled {
		v.pool.Put(c)
	}
}

// body converts the payload member of the body. It is false when the body is not a JSON object.
func (c *conv) body() bool {
	b := c.b
	c.start()
	i := scan.Space(b, 0)
	if scan.At(b, i) != '{' {
		return false
	}
	if i = scan.Space(b, i+1); scan.At(b, i) == '}' {
		return scan.Space(b, i+1) == len(b)
	}
	for {
		if scan.At(b, i) != '"' {
			return false
		}
		start := i + 1
		end, t := scan.Str(b, start)
		if end == scan.Bad {
			return false
		}
		if i = scan.Space(b, end+1); scan.At(b, i) != ':' {
			return false
		}
		i = scan.Space(b, i+1)
		if string(c.name(start, end, t)) == "payload" {
			i = c.payload(i) // the last one counts; the envelope tells of repeats
		} else {
			i = scan.Skip(b, i, 1)
		}
		if i == scan.Bad {
			return false
		}
		i = scan.Space(b, i)
		switch scan.At(b, i) {
		case ',':
			i = scan.Space(b, i+1)
		case '}':
			return scan.Space(b, i+1) == len(b)
		default:
			return false
		}
	}
}

// start forgets what an earlier payload member left.
func (c *conv) start() {
	c.w.reset()
	c.root, c.path = "$.payload", c.path[:0]
	c.names, c.places, c.fieldPlaces = c.names[:0], c.places[:0], c.fieldPlaces[:0]
	c.issues, c.drifts, c.odd = c.issues[:0], c.drifts[:0], pb.IssueKind_ISSUE_KIND_UNSPECIFIED
	c.unset, c.typed, c.wrapped, c.moreDrifts = false, false, false, 0
}

// payload writes the payload that begins at i.
func (c *conv) payload(i int) int {
	c.start()
	if c.into == nil || scan.At(c.b, i) != '{' {
		c.w.out = protowire.AppendTag(c.w.out, fieldOther, protowire.BytesType)
		end, set := c.value(i, eventLevel+1)
		if !set {
			c.w.reset()
		}
		return end
	}
	m := c.openRoot()
	end := c.message(i, c.into.message, eventLevel+1)
	if c.wrapped {
		c.start()
		m = c.openRoot()
		end = c.unwrap(i)
	}
	if end != scan.Bad {
		c.w.close(m)
		c.typed = true
	}
	return end
}

func (c *conv) openRoot() mark {
	c.w.out = protowire.AppendTag(c.w.out, c.into.number, protowire.BytesType)
	return c.w.open()
}

// unwrap writes the payload that is a member of the object at i.
func (c *conv) unwrap(i int) int {
	b := c.b
	i = scan.Space(b, i+1)
	c.path = append(c.path, step{})
	earlier := scan.Bad
	for {
		place := i
		if scan.At(b, i) != '"' {
			return scan.Bad
		}
		end, t := scan.Str(b, i+1)
		if end == scan.Bad {
			return scan.Bad
		}
		name := c.name(i+1, end, t)
		if i = c.colon(end + 1); i == scan.Bad {
			return scan.Bad
		}
		c.path[0].name = name
		switch {
		case c.replaced(place):
			i = scan.Skip(b, i, 0)
		case string(name) != c.into.member:
			if c.track && c.into.wrapper.names.find(name) < 0 {
				c.drift(pb.IssueKind_ISSUE_KIND_UNKNOWN_FIELD)
			}
			i = scan.Skip(b, i, 0)
		default:
			if earlier != scan.Bad {
				c.kill(earlier)
			}
			earlier = place
			switch scan.At(b, i) {
			case '{':
				i = c.message(i, c.into.message, eventLevel+1)
			case 'n':
				i = scan.Literal(b, i, "null")
			default:
				c.odd = pb.IssueKind_ISSUE_KIND_TYPE_MISMATCH
				c.report()
				i = scan.Skip(b, i, 0)
			}
		}
		if i == scan.Bad {
			return scan.Bad
		}
		i = scan.Space(b, i)
		switch scan.At(b, i) {
		case ',':
			i = scan.Space(b, i+1)
		case '}':
			return i + 1
		default:
			return scan.Bad
		}
	}
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
