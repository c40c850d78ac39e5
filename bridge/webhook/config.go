package webhook

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net/textproto"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/spotbridge/spotbridge/bridge"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

// Defaults of Config and Source.
const (
	DefaultMaxBody       = 8 << 20
	DefaultMaxAge        = 15 * 24 * time.Hour
	DefaultAppendTimeout = 10 * time.Second
	DefaultInFlightBytes = 256 << 20
	DefaultInFlightWait  = time.Second

	// maxAhead is how far a timestamp may lie in the future.
	maxAhead = 5 * time.Minute
)

// Source is a system that sends webhooks to a path of its own. It prints without its secrets.
type Source struct {
	// Name is 1 to 32 characters of a-z, 0-9 and -.
	Name string
	// Path is the exact URL path; empty = /webhooks/<Name>.
	Path string
	// Secrets are the active ones: at least one, several during a rotation.
	Secrets []Secret
	// RequireHeaders must be in every delivery with these values.
	RequireHeaders map[string]string
	// Organizations, when set, are the only ones whose events are taken; others are quarantined, and so are events that
	// name none.
	Organizations []string
	// MaxAge is how old a delivery's timestamp may be; 0 = any age, and any time in the future, too.
	MaxAge time.Duration
	// MaxBody is the largest body in bytes; 0 = 8 MiB.
	MaxBody int64
}

// String names the source and no more: it has secrets.
func (s Source) String() string { return fmt.Sprintf("source %s at %s", s.Name, s.Path) }

// Format prints String for every verb.
func (s Source) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(s.String())) }

// LogValue is String.
func (s Source) LogValue() slog.Value { return slog.StringValue(s.String()) }

// Gate says whether deliveries are taken now.
type Gate interface {
	// Accepting reports whether the door is open. When it is not, cause is what the delivery is refused with
	// (NOT_ACCEPTING, or LOG_UNAVAILABLE when the log has no room) and retryAfter what the source is told. It is called
	// for every delivery and must be fast.
	Accepting() (ok bool, cause pb.DeliveryCause, retryAfter time.Duration)
}

// Config is what the front door is made of.
type Config struct {
	// Sources may send: at least one.
	Sources []Source
	// Log takes the deliveries.
	Log bridge.Appender
	// IDs remembers the ids of earlier ones.
	IDs bridge.IDs
	// Recorder gets the deliveries that leave nothing in the log; nil = nobody.
	Recorder bridge.DeliveryRecorder
	// Gate closes the door; nil = always open.
	Gate Gate
	// Logger gets one line per delivery; nil = nobody.
	Logger *slog.Logger
	// Registerer gets the metrics; nil = nobody.
	Registerer prometheus.Registerer
	// Now is the clock for receive times and the timestamp window; nil = time.Now.
	Now func() time.Time
	// AppendTimeout is how long a delivery may wait for its turn and for the log, together; 0 = 10 s.
	AppendTimeout time.Duration
	// InFlightBytes is the memory that all bodies in flight share; 0 = 256 MiB.
	InFlightBytes int64
	// InFlightWait is how long a body waits for room; 0 = 1 s.
	InFlightWait time.Duration
}

// door is a source with what the handler needs to judge its deliveries fast.
type door struct {
	Source
	required []requiredHeader
	allowed  map[string]struct{}
}

type requiredHeader struct {
	name string
	hash [sha256.Size]byte
}

// New returns the front door. It reports everything that is wrong with the configuration at once, without secrets.
func New(cfg Config) (*Handler, error) {
	h := &Handler{
		doors: map[string]*door{}, names: map[string]*door{},
		log: cfg.Log, ids: newIDs(cfg.IDs), recorder: cfg.Recorder, gate: cfg.Gate, logger: cfg.Logger, now: cfg.Now,
		appendTimeout: positive(cfg.AppendTimeout, DefaultAppendTimeout),
	}
	if h.logger == nil {
		h.logger = slog.New(slog.DiscardHandler)
	}
	if h.now == nil {
		h.now = time.Now
	}
	inFlight := positive(cfg.InFlightBytes, DefaultInFlightBytes)
	h.budget.free, h.budget.wait = inFlight, positive(cfg.InFlightWait, DefaultInFlightWait)
	var problems []error
	if cfg.Log == nil || cfg.IDs == nil {
		problems = append(problems, errors.New("the front door needs a log and the memory of ids"))
	}
	if len(cfg.Sources) == 0 {
		problems = append(problems, errors.New("sources: at least one is needed"))
	}
	names := make([]string, 0, len(cfg.Sources))
	for i, s := range cfg.Sources {
		d, err := newDoor(s, inFlight)
		switch {
		case err != nil:
		case h.names[d.Name] != nil:
			err = fmt.Errorf("the name %q is taken by another source", d.Name)
		case h.doors[d.Path] != nil:
			err = fmt.Errorf("the path %q is taken by source %q", d.Path, h.doors[d.Path].Name)
		}
		if err != nil {
			problems = append(problems, fmt.Errorf("sources[%d]: %w", i, err))
			continue
		}
		h.names[d.Name], h.doors[d.Path] = d, d
		names = append(names, d.Name)
	}
	if err := errors.Join(problems...); err != nil {
		return nil, err
	}
	h.metrics = newMetrics(cfg.Registerer, names, func() float64 { return float64(h.ids.size()) })
	return h, nil
}

func newDoor(s Source, inFlight int64) (*door, error) {
	d := &door{Source: s}
	if d.Path == "" {
		d.Path = "/webhooks/" + d.Name
	}
	d.MaxBody = positive(d.MaxBody, DefaultMaxBody)
	var problems []error
	if !bridge.ValidSource(d.Name) {
		problems = append(problems, fmt.Errorf("the name %q is not 1 to 32 characters of a-z, 0-9 and -", d.Name))
	}
	if !strings.HasPrefix(d.Path, "/") {
		problems = append(problems, fmt.Errorf("the path %q does not begin with /", d.Path))
	}
	if len(d.Secrets) == 0 {
		problems = append(problems, errors.New("at least one secret is needed"))
	}
	for i, secret := range d.Secrets {
		if secret.hiddenKey == nil {
			problems = append(problems, fmt.Errorf("secrets[%d] is empty", i))
		}
	}
	// One byte more than the limit tells that a body of unknown length is too large.
	if d.MaxBody >= inFlight {
		problems = append(problems, fmt.Errorf("max_body %d does not fit into the memory for bodies in flight, %d bytes", d.MaxBody, inFlight))
	}
	if d.MaxAge < 0 {
		problems = append(problems, errors.New("max_age is negative; use off to switch the window off"))
	}
	for name, value := range d.RequireHeaders {
		if name == "" || value == "" {
			problems = append(problems, fmt.Errorf("require_headers: %q needs a name and a value", name))
		}
		d.required = append(d.required, requiredHeader{name: textproto.CanonicalMIMEHeaderKey(name), hash: sha256.Sum256([]byte(value))})
	}
	if len(d.Organizations) > 0 {
		d.allowed = make(map[string]struct{}, len(d.Organizations))
		for _, o := range d.Organizations {
			if o == "" {
				problems = append(problems, errors.New("organizations: an empty one would allow events without organization; remove it"))
			}
			d.allowed[o] = struct{}{}
		}
	}
	return d, errors.Join(problems...)
}

func positive[T ~int64](v, otherwise T) T {
	if v > 0 {
		return v
	}
	return otherwise
}
