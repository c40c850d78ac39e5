package app

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// Duration is a time.Duration that reads as 360h, 15m, 10d or "off" (zero).
type Duration time.Duration

// UnmarshalYAML reads a duration.
func (d *Duration) UnmarshalYAML(n *yaml.Node) error {
	v, err := parseDuration(n.Value)
	if err != nil {
		return fmt.Errorf("line %d: %w", n.Line, err)
	}
	*d = Duration(v)
	return nil
}

// MarshalYAML prints a duration as it is read.
func (d Duration) MarshalYAML() (any, error) { return d.String(), nil }

// String prints a duration as it is read.
func (d Duration) String() string {
	if d == 0 {
		return "off"
	}
	s := time.Duration(d).String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

func parseDuration(s string) (time.Duration, error) {
	if s == "off" {
		return 0, nil
	}
	if days, ok := strings.CutSuffix(s, "d"); ok {
		if n, err := strconv.Atoi(days); err == nil && n >= 0 && n < 100_000 {
			return time.Duration(n) * 24 * time.Hour, nil
		}
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		return 0, fmt.Errorf("%q is no duration: write 360h, 15m, 30s, 10d or off", s)
	}
	return d, nil
}

// Size is a number of bytes that reads as 8MiB, 20GiB, 512KiB or a plain number.
type Size int64

var sizeUnits = []struct {
	name string
	n    int64
}{{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"B", 1}}

// UnmarshalYAML reads a size.
func (s *Size) UnmarshalYAML(n *yaml.Node) error {
	text, unit := strings.TrimSpace(n.Value), int64(1)
	for _, u := range sizeUnits {
		if t, ok := strings.CutSuffix(text, u.name); ok {
			text, unit = strings.TrimSpace(t), u.n
			break
		}
	}
	v, err := strconv.ParseInt(text, 10, 64)
	if err != nil || v < 0 || v > (1<<62)/unit {
		return fmt.Errorf("line %d: %q is no size: write 8MiB, 20GiB, 512KiB or a number of bytes", n.Line, n.Value)
	}
	*s = Size(v * unit)
	return nil
}

// MarshalYAML prints a size as it is read.
func (s Size) MarshalYAML() (any, error) { return s.String(), nil }

// String prints a size as it is read.
func (s Size) String() string {
	if s == 0 {
		return "0"
	}
	for _, u := range sizeUnits {
		if int64(s)%u.n == 0 {
			return strconv.FormatInt(int64(s)/u.n, 10) + u.name
		}
	}
	return strconv.FormatInt(int64(s), 10)
}

// EnvPrefix begins every environment variable that sets a key.
const EnvPrefix = "SPOTBRIDGE_"

// Key is one setting.
type Key struct {
	// Path as in the file, for example listen.grpc.
	Path string
	// Env is the environment variable, for example SPOTBRIDGE_LISTEN_GRPC.
	Env string
	// Flag is the command-line flag, for example listen-grpc.
	Flag string
	// Default is the value without any configuration, as YAML.
	Default string
}

// Keys returns every setting that has a value of its own. Lists (sources) are set as YAML text.
func Keys() []Key {
	var keys []Key
	def := DefaultConfig()
	var walk func(prefix string, v reflect.Value)
	walk = func(prefix string, v reflect.Value) {
		for i := range v.NumField() {
			path := prefix + v.Type().Field(i).Tag.Get("yaml")
			f := v.Field(i)
			if f.Kind() == reflect.Struct {
				walk(path+".", f)
				continue
			}
			text, _ := yaml.Marshal(f.Interface())
			keys = append(keys, Key{
				Path: path, Env: EnvPrefix + strings.ToUpper(strings.ReplaceAll(path, ".", "_")),
				Flag: strings.NewReplacer(".", "-", "_", "-").Replace(path), Default: plainYAML(string(text)),
			})
		}
	}
	walk("", reflect.ValueOf(def))
	return keys
}

// plainYAML leaves the quotes of a non-empty scalar out.
func plainYAML(text string) string {
	text = strings.TrimSpace(text)
	if len(text) > 2 && text[0] == '"' {
		return strings.Trim(text, `"`)
	}
	return text
}

// Load reads the configuration: defaults, then the file (path may be empty), then the environment, then flags, which are
// given by key path. It does not validate.
func Load(path string, environ []string, flags map[string]string) (Config, error) {
	cfg := DefaultConfig()
	if path != "" {
		b, err := os.ReadFile(path)
		if err != nil {
			return cfg, fmt.Errorf("read the configuration: %w", err)
		}
		if err := decode(b, &cfg); err != nil {
			return cfg, fmt.Errorf("%s: %w", path, err)
		}
	}
	var errs []error
	keys := Keys()
	for _, kv := range environ {
		name, value, _ := strings.Cut(kv, "=")
		if !strings.HasPrefix(name, EnvPrefix) || foreign(name) {
			continue
		}
		i := slices.IndexFunc(keys, func(k Key) bool { return k.Env == name })
		if i < 0 {
			errs = append(errs, fmt.Errorf("environment: %s sets no key; see docs/configuration.md", name))
			continue
		}
		if err := set(&cfg, keys[i].Path, value); err != nil {
			errs = append(errs, fmt.Errorf("environment: %s: %w", name, err))
		}
	}
	for _, k := range keys {
		if value, ok := flags[k.Path]; ok {
			if err := set(&cfg, k.Path, value); err != nil {
				errs = append(errs, fmt.Errorf("--%s: %w", k.Flag, err))
			}
		}
	}
	return cfg, errors.Join(errs...)
}

// foreign reports whether a variable with our prefix is for somebody else: for clients (clients/README.md), for their tests,
// or from Kubernetes, which tells every pod about a service named spotbridge in this way. Any other name that sets no key is
// an error: a typo must not pass as a default.
func foreign(name string) bool {
	switch rest := strings.TrimPrefix(name, EnvPrefix); rest {
	case "GRPC", "REST", "GROUP", "HEARTBEAT", "BIN":
		return true
	default:
		return strings.HasPrefix(rest, "CLIENTS") || strings.HasPrefix(rest, "SERVICE_") || rest == "PORT" || strings.HasPrefix(rest, "PORT_")
	}
}

// set overlays one key, whose value is YAML text.
func set(cfg *Config, path, value string) error {
	var node yaml.Node
	if err := yaml.Unmarshal([]byte(value), &node); err != nil {
		return errors.New("the value is not YAML")
	}
	var leaf *yaml.Node
	if len(node.Content) == 0 {
		leaf = &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str"}
	} else {
		leaf = node.Content[0]
	}
	if path == "sources" {
		cfg.Sources = nil // the list is replaced, not merged
	}
	steps := strings.Split(path, ".")
	for _, step := range slices.Backward(steps) {
		leaf = &yaml.Node{Kind: yaml.MappingNode, Content: []*yaml.Node{{Kind: yaml.ScalarNode, Value: step}, leaf}}
	}
	b, err := yaml.Marshal(leaf)
	if err != nil {
		return err
	}
	return decode(b, cfg)
}

var quoted = regexp.MustCompile("`[^`]*`")

// decode reads YAML over cfg. Unknown keys are errors: a typo must not pass as a default.
func decode(b []byte, cfg *Config) error {
	d := yaml.NewDecoder(bytes.NewReader(b))
	d.KnownFields(true)
	if err := d.Decode(cfg); err != nil && !errors.Is(err, io.EOF) {
		// The decoder quotes the value, which may be a secret.
		return errors.New(quoted.ReplaceAllString(strings.ReplaceAll(err.Error(), "app.", ""), "the value"))
	}
	return nil
}

func logLevel(text string) (slog.Level, error) {
	var l slog.Level
	err := l.UnmarshalText([]byte(text))
	return l, err
}

// NewLogger returns the logger that the configuration asks for.
func NewLogger(w io.Writer, c LoggingConfig) *slog.Logger {
	level, _ := logLevel(c.Level)
	opts := &slog.HandlerOptions{Level: level}
	if c.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, opts))
	}
	return slog.New(slog.NewTextHandler(w, opts))
}
