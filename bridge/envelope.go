package bridge

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spotbridge/spotbridge/bridge/internal/scan"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

// EnvelopeVersion is the version of the rules below. The projection stores it and reads the log again when it changes.
const EnvelopeVersion = 2

const (
	maxDepth          = 1000
	maxEnvelopeString = 1024
	maxTravelerIDs    = 64
	maxOrganizations  = 64
	maxIDs            = 64 // of one place
	maxTickets        = 256
	maxIssues         = 32
)

// Envelope is what a body says about itself. It is derived from the exact body alone, so it can be derived again.
type Envelope struct {
	EventType     string
	Operation     string
	Organizations []string
	// OrganizationsCut says that the body names more organizations than Organizations holds.
	OrganizationsCut bool
	EventTime        time.Time
	EventTimeText    string
	// OperationSummary is nil when the body has none.
	OperationSummary *pb.OperationSummary
	// Entity is nil when the payload names nothing that we know.
	Entity      *pb.EntityRef
	PNRID       string
	TripID      string
	TravelerIDs []string
	Issues      []*pb.Issue
}

// ParseEnvelope reads a body. A cause other than UNSPECIFIED says why it is not a readable event. It accepts every
// variant of CONTRACT.md section 2. An authentic body is never refused for repeated names or bad UTF-8.
func ParseEnvelope(body []byte) (*Envelope, pb.DeliveryCause) {
	body = bytes.TrimPrefix(body, []byte("\xef\xbb\xbf"))
	if len(bytes.TrimLeft(body, " \t\r\n")) == 0 {
		return nil, pb.DeliveryCause_DELIVERY_CAUSE_EMPTY_BODY
	}
	if tooDeep(body) {
		return nil, pb.DeliveryCause_DELIVERY_CAUSE_TOO_DEEP
	}
	p := envelopeParser{body: body}
	begin := scan.Space(body, 0)
	var end int
	object := scan.At(body, begin) == '{'
	if object {
		end = p.object(begin, envelopeRules)
	} else {
		end = scan.Skip(body, begin, 0)
	}
	switch {
	case end == scan.Bad:
		return nil, pb.DeliveryCause_DELIVERY_CAUSE_NOT_JSON
	case scan.Space(body, end) < len(body):
		return nil, pb.DeliveryCause_DELIVERY_CAUSE_TRAILING_DATA
	case !object: // valid JSON that is no object is told apart from what is no JSON at all
		return nil, pb.DeliveryCause_DELIVERY_CAUSE_NOT_AN_OBJECT
	}
	if !utf8.Valid(body) && !slices.ContainsFunc(p.issues, isUTF8Issue) {
		p.issue(envelopeRules.path, pb.IssueKind_ISSUE_KIND_INVALID_UTF8)
	}
	return p.result()
}

// tooDeep reports whether the body nests deeper than maxDepth. Brackets inside strings do not count.
func tooDeep(body []byte) bool {
	// Every level needs an opening bracket: most bodies have too few of them and are done here.
	if bytes.Count(body, []byte("{"))+bytes.Count(body, []byte("[")) <= maxDepth {
		return false
	}
	depth, inString := 0, false
	for i := 0; i < len(body); i++ {
		switch c := body[i]; {
		case inString:
			switch c {
			case '\\':
				i++
			case '"':
				inString = false
			}
		case c == '"':
			inString = true
		case c == '{' || c == '[':
			if depth++; depth > maxDepth {
				return true
			}
		case c == '}' || c == ']':
			depth--
		}
	}
	return false
}

// envelopeParser walks the body once. Where the rules have no path it skips (and so checks) whole values.
type envelopeParser struct {
	body []byte
	hits [slotCount][]hit
	// count is the number of hits of each slot; cut says that there were more than we keep.
	count  [slotCount]uint16
	cut    [slotCount]bool
	issues []*pb.Issue
}

// kind is a value's first byte: { [ " t f n, and 0 for a number.
type kind byte

func kindOf(c byte) kind {
	if c == '-' || '0' <= c && c <= '9' {
		return '0'
	}
	return kind(c)
}

// hit is a value found at a place that a rule names: a string's text, or the JSON text of anything else.
type hit struct {
	kind kind
	text string
}

func (p *envelopeParser) issue(path string, kind pb.IssueKind) {
	if len(p.issues) >= maxIssues {
		return
	}
	for _, i := range p.issues {
		if i.GetPath() == path && i.GetKind() == kind {
			return
		}
	}
	p.issues = append(p.issues, &pb.Issue{Path: path, Kind: kind})
}

func isUTF8Issue(i *pb.Issue) bool { return i.GetKind() == pb.IssueKind_ISSUE_KIND_INVALID_UTF8 }

// value reads the value that starts at i under a rule.
func (p *envelopeParser) value(i int, r *rule) int {
	b := p.body
	switch kind := kindOf(scan.At(b, i)); {
	case kind == '{' && r.members != nil:
		if r.container {
			p.note(r, hit{kind: kind})
		}
		return p.object(i, r)
	case kind == '[' && r.items != nil:
		if r.container {
			p.note(r, hit{kind: kind})
		}
		if i = scan.Space(b, i+1); scan.At(b, i) == ']' {
			return i + 1
		}
		for {
			if i = p.value(i, r.items); i == scan.Bad {
				return scan.Bad
			}
			i = scan.Space(b, i)
			switch scan.At(b, i) {
			case ',':
				i = scan.Space(b, i+1)
			case ']':
				return i + 1
			default:
				return scan.Bad
			}
		}
	case r.slot == noSlot:
		return scan.Skip(b, i, 0)
	case kind == '"':
		end, t := scan.Str(b, i+1)
		if end == scan.Bad {
			return scan.Bad
		}
		h := hit{kind: kind}
		if v := b[i+1 : end]; t == 0 || t == scan.NonASCII && utf8.Valid(v) {
			h.text = string(v)
		} else {
			text, ok := scan.Unquote(nil, v)
			if !ok { // bytes or escapes that are not UTF-8: replaced
				p.issue(r.path, pb.IssueKind_ISSUE_KIND_INVALID_UTF8)
			}
			h.text = string(text)
		}
		p.note(r, h)
		return end + 1
	default:
		end := scan.Skip(b, i, 0)
		if end == scan.Bad {
			return scan.Bad
		}
		h := hit{kind: kind}
		switch {
		case r.raw:
			// The text of an object may have strings with bytes that are not UTF-8.
			h.text = string(bytes.ToValidUTF8(b[i:end], []byte("\uFFFD")))
		case kind == '0':
			h.text = string(b[i:end])
		}
		p.note(r, h)
		return end
	}
}

func (p *envelopeParser) note(r *rule, h hit) {
	hits := p.hits[r.slot]
	switch {
	case !r.many:
		hits = append(hits[:0], h)
	case !r.raw && slices.Contains(hits, h):
		return
	case len(hits) < r.limit():
		hits = append(hits, h)
	default:
		p.cut[r.slot] = true
		p.issue(slotPath[r.slot], pb.IssueKind_ISSUE_KIND_TOO_MANY)
		return
	}
	p.hits[r.slot], p.count[r.slot] = hits, uint16(len(hits))
}

// object reads the object that starts at i under a rule.
func (p *envelopeParser) object(i int, r *rule) int {
	b := p.body
	if i = scan.Space(b, i+1); scan.At(b, i) == '}' {
		return i + 1
	}
	before, seen := p.count, uint64(0)
	for {
		if scan.At(b, i) != '"' {
			return scan.Bad
		}
		end, t := scan.Str(b, i+1)
		if end == scan.Bad {
			return scan.Bad
		}
		m := r.member(b[i+1:end], t)
		if i = scan.Space(b, end+1); scan.At(b, i) != ':' {
			return scan.Bad
		}
		i = scan.Space(b, i+1)
		if m == nil {
			i = scan.Skip(b, i, 0)
		} else {
			if seen&m.bit != 0 {
				// The last one of a repeated name wins: what the earlier ones said in this object is forgotten.
				p.issue(m.path, pb.IssueKind_ISSUE_KIND_DUPLICATE_KEY)
				for _, s := range m.owned {
					p.hits[s], p.count[s] = p.hits[s][:before[s]], before[s]
				}
			}
			seen |= m.bit
			i = p.value(i, m)
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

// str returns the first string at a slot, with an issue when there is something else than a string or null.
func (p *envelopeParser) str(s slot) (string, bool) {
	for _, h := range p.hits[s] {
		switch h.kind {
		case '"':
			return p.bounded(s, h.text), true
		case 'n':
		default:
			p.issue(slotPath[s], pb.IssueKind_ISSUE_KIND_TYPE_MISMATCH)
		}
	}
	return "", false
}

// idText returns the text of an id: a string that is not empty, or an integer's digits.
func (p *envelopeParser) idText(s slot, h hit) (string, bool) {
	switch {
	case h.kind == 'n', h.kind == '"' && h.text == "":
		return "", false
	case h.kind == '"', h.kind == '0' && strings.Trim(h.text, "0123456789") == "":
		return p.bounded(s, h.text), true
	default:
		p.issue(slotPath[s], pb.IssueKind_ISSUE_KIND_TYPE_MISMATCH)
		return "", false
	}
}

// id returns the first id at a slot.
func (p *envelopeParser) id(s slot) string {
	for _, h := range p.hits[s] {
		if v, ok := p.idText(s, h); ok {
			return v
		}
	}
	return ""
}

func (p *envelopeParser) firstID(slots ...slot) string {
	for _, s := range slots {
		if v := p.id(s); v != "" {
			return v
		}
	}
	return ""
}

func (p *envelopeParser) ids(limit int, slots ...slot) []string {
	var out []string
	for _, s := range slots {
		for _, h := range p.hits[s] {
			v, ok := p.idText(s, h)
			if !ok || slices.Contains(out, v) {
				continue
			}
			if len(out) == limit {
				p.issue(slotPath[s], pb.IssueKind_ISSUE_KIND_TOO_MANY)
				return out
			}
			out = append(out, v)
		}
	}
	return out
}

// bounded replaces a string that is too long for an envelope by its hash.
func (p *envelopeParser) bounded(s slot, text string) string {
	if len(text) <= maxEnvelopeString {
		return text
	}
	p.issue(slotPath[s], pb.IssueKind_ISSUE_KIND_TOO_LONG)
	sum := sha256.Sum256([]byte(text))
	return "sha256-" + hex.EncodeToString(sum[:])
}

func (p *envelopeParser) result() (*Envelope, pb.DeliveryCause) {
	env := &Envelope{}
	snake, okSnake := p.str(slotEventType)
	camel, okCamel := p.str(slotEventTypeCamel)
	switch {
	case okSnake && snake != "":
		env.EventType = snake
		if okCamel && camel != snake {
			p.issue(slotPath[slotEventTypeCamel], pb.IssueKind_ISSUE_KIND_CONFLICT)
		}
	case okCamel && camel != "":
		env.EventType = camel
		if okSnake { // it is empty
			p.issue(slotPath[slotEventType], pb.IssueKind_ISSUE_KIND_CONFLICT)
		}
	case p.absent(slotEventType) && p.absent(slotEventTypeCamel):
		return nil, pb.DeliveryCause_DELIVERY_CAUSE_NO_EVENT_TYPE
	default:
		return nil, pb.DeliveryCause_DELIVERY_CAUSE_BAD_EVENT_TYPE
	}
	env.Operation, _ = p.str(slotOperation)
	for _, h := range p.hits[slotPayload] {
		if h.kind != '{' && h.kind != 'n' {
			p.issue(slotPath[slotPayload], pb.IssueKind_ISSUE_KIND_TYPE_MISMATCH)
		}
	}
	env.Organizations, env.OrganizationsCut = p.organizations()
	p.time(env)
	p.summary(env)
	p.entity(env)
	env.Issues = p.issues
	return env, pb.DeliveryCause_DELIVERY_CAUSE_UNSPECIFIED
}

func (p *envelopeParser) absent(s slot) bool {
	for _, h := range p.hits[s] {
		if h.kind != 'n' {
			return false
		}
	}
	return true
}

// organizations follows CONTRACT.md section 2, rule 4: the first place that has one wins, and all of that place count.
func (p *envelopeParser) organizations() (ids []string, cut bool) {
	for _, h := range p.hits[slotAudience] {
		if h.kind != '{' && h.kind != '[' && h.kind != 'n' {
			p.issue(slotPath[slotAudience], pb.IssueKind_ISSUE_KIND_TYPE_MISMATCH)
		}
	}
	for _, s := range organizationSlots {
		if ids := p.ids(maxOrganizations, s); len(ids) > 0 {
			return ids, p.cut[s]
		}
	}
	return nil, false
}

func (p *envelopeParser) time(env *Envelope) {
	for _, h := range p.hits[slotTimestamp] {
		switch h.kind {
		case '"', '0':
			env.EventTimeText = p.bounded(slotTimestamp, h.text)
			t, ok := ParseEventTime(h.text)
			if !ok {
				p.issue(slotPath[slotTimestamp], pb.IssueKind_ISSUE_KIND_UNREADABLE_TIME)
			}
			env.EventTime = t
		case 'n':
		default:
			p.issue(slotPath[slotTimestamp], pb.IssueKind_ISSUE_KIND_TYPE_MISMATCH)
		}
	}
}

func (p *envelopeParser) summary(env *Envelope) {
	for _, h := range p.hits[slotSummary] {
		switch h.kind {
		case '{':
			env.OperationSummary = &pb.OperationSummary{}
		case 'n':
		default:
			p.issue(slotPath[slotSummary], pb.IssueKind_ISSUE_KIND_TYPE_MISMATCH)
		}
	}
	if env.OperationSummary == nil {
		return
	}
	for _, x := range []struct {
		list, items slot
		out         *[]string
	}{
		{slotIssuedList, slotIssued, &env.OperationSummary.TicketsIssued},
		{slotVoidedList, slotVoided, &env.OperationSummary.TicketsVoided},
		{slotRefundedList, slotRefunded, &env.OperationSummary.TicketsRefunded},
	} {
		for _, h := range p.hits[x.items] {
			*x.out = append(*x.out, p.bounded(x.items, h.text))
		}
		for _, h := range p.hits[x.list] {
			if h.kind != '[' && h.kind != 'n' {
				p.issue(slotPath[x.list], pb.IssueKind_ISSUE_KIND_TYPE_MISMATCH)
			}
		}
	}
}

func (p *envelopeParser) entity(env *Envelope) {
	x, ok := extractions[env.EventType]
	if !ok {
		x = anyExtraction
	}
	env.PNRID = p.firstID(x.pnr...)
	env.TripID = p.firstID(x.trip...)
	if t, _ := p.str(slotEntityType); env.TripID == "" && env.EventType == "SERVICE_CHARGE" && t == "TRIP" {
		env.TripID = p.id(slotEntityID)
	}
	env.TravelerIDs = p.ids(maxTravelerIDs, x.travelers...)
	id := p.firstID(x.id...)
	if id == "" || x.kind == pb.EntityKind_ENTITY_KIND_UNSPECIFIED {
		return
	}
	env.Entity = &pb.EntityRef{Kind: x.kind, Id: id}
	for _, s := range x.version {
		for _, h := range p.hits[s] {
			if h.kind != '0' {
				if h.kind != 'n' {
					p.issue(slotPath[s], pb.IssueKind_ISSUE_KIND_TYPE_MISMATCH)
				}
				continue
			}
			f, err := strconv.ParseFloat(h.text, 64)
			if err != nil || f != math.Trunc(f) || f < math.MinInt32 || f > math.MaxInt32 {
				p.issue(slotPath[s], pb.IssueKind_ISSUE_KIND_OUT_OF_RANGE)
				continue
			}
			v := int32(f)
			env.Entity.Version = &v
			return
		}
	}
}
