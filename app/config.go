package app

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spotbridge/spotbridge/bridge"
	"github.com/spotbridge/spotbridge/bridge/webhook"
)

// Config is everything that can be set. DESIGN and docs/configuration.md name the keys; a test holds the document to this
// struct. Sources of values, weakest first: defaults, file, environment, flags.
type Config struct {
	// DataDir holds the embedded log, the projection and the memory of webhook ids. One process at a time.
	DataDir string        `yaml:"data_dir"`
	Listen  ListenConfig  `yaml:"listen"`
	Sources []Source      `yaml:"sources"`
	TLS     TLSConfig     `yaml:"tls"`
	Log     LogConfig     `yaml:"log"`
	History HistoryConfig `yaml:"history"`
	Streams StreamsConfig `yaml:"streams"`
	Groups  GroupsConfig  `yaml:"groups"`
	Auth    AuthConfig    `yaml:"auth"`
	// DrainTimeout bounds an orderly shutdown.
	DrainTimeout Duration      `yaml:"drain_timeout"`
	Logging      LoggingConfig `yaml:"logging"`
}

// ListenConfig holds the addresses. Port 0 takes a free one.
type ListenConfig struct {
	Webhook string `yaml:"webhook"`
	REST    string `yaml:"rest"`
	GRPC    string `yaml:"grpc"`
	Admin   string `yaml:"admin"`
}

// Source is one system that sends webhooks, with a door of its own.
type Source struct {
	Name string `yaml:"name"`
	// Path of its door; empty = /webhooks/<name>.
	Path string `yaml:"path"`
	// Secrets are the active signing secrets: literal whsec_..., env:NAME or file:PATH.
	Secrets []Secret `yaml:"secrets"`
	// RequireHeaders must be on every delivery, with these values (literal, env: or file:).
	RequireHeaders map[string]Secret `yaml:"require_headers"`
	// Organizations is an allow-list; empty = all.
	Organizations []string `yaml:"organizations"`
	// MaxAge of a delivery's timestamp; "off" switches the window off. Unset = 360h.
	MaxAge *Duration `yaml:"max_age"`
	// MaxBody is the largest body; unset = 8MiB.
	MaxBody *Size `yaml:"max_body"`
}

// TLSConfig holds certificates.
type TLSConfig struct {
	Webhook CertConfig `yaml:"webhook"`
}

// CertConfig names a certificate. Both files or none.
type CertConfig struct {
	CertFile string `yaml:"cert_file"`
	KeyFile  string `yaml:"key_file"`
}

// LogConfig says where the log is and how much it holds.
type LogConfig struct {
	URL             string   `yaml:"url"`
	CredentialsFile string   `yaml:"credentials_file"`
	Replicas        int      `yaml:"replicas"`
	Durability      string   `yaml:"durability"`
	MaxAge          Duration `yaml:"max_age"`
	MaxBytes        Size     `yaml:"max_bytes"`
	Reserve         Size     `yaml:"reserve"`
}

// HistoryConfig says how much the projection holds.
type HistoryConfig struct {
	MaxAge   Duration `yaml:"max_age"`
	MaxBytes Size     `yaml:"max_bytes"`
}

// StreamsConfig bounds subscriptions.
type StreamsConfig struct {
	RingEvents  int      `yaml:"ring_events"`
	RingBytes   Size     `yaml:"ring_bytes"`
	SendTimeout Duration `yaml:"send_timeout"`
	MaxAge      Duration `yaml:"max_age"`
}

// GroupsConfig bounds consumer groups.
type GroupsConfig struct {
	Max             int  `yaml:"max"`
	MaxMembers      int  `yaml:"max_members"`
	DeadLetterBytes Size `yaml:"dead_letter_bytes"`
}

// AuthConfig chooses access control.
type AuthConfig struct {
	Mode string `yaml:"mode"`
}

// LoggingConfig chooses what the process prints.
type LoggingConfig struct {
	Level  string `yaml:"level"`
	Format string `yaml:"format"`
}

const (
	defaultMaxAge  = 360 * time.Hour
	defaultMaxBody = 8 << 20
	// maxMaxBody keeps an entry below what the log can hold.
	maxMaxBody = 64 << 20
)

// DefaultConfig returns the configuration of an empty file.
func DefaultConfig() Config {
	return Config{
		DataDir: "./data",
		Listen:  ListenConfig{Webhook: "127.0.0.1:8080", REST: "127.0.0.1:8081", GRPC: "127.0.0.1:9090", Admin: "127.0.0.1:9091"},
		Log:     LogConfig{Replicas: 1, Durability: "synced", MaxAge: Duration(720 * time.Hour)},
		History: HistoryConfig{MaxAge: Duration(720 * time.Hour), MaxBytes: 20 << 30},
		Streams: StreamsConfig{
			RingEvents: 16384, RingBytes: 64 << 20, SendTimeout: Duration(15 * time.Minute), MaxAge: Duration(time.Hour),
		},
		Groups:       GroupsConfig{Max: 256, MaxMembers: 10_000, DeadLetterBytes: 4 << 30},
		Auth:         AuthConfig{Mode: "none"},
		DrainTimeout: Duration(8 * time.Second),
		Logging:      LoggingConfig{Level: "info", Format: "text"},
	}
}

// maxAge returns the window of a source; 0 = off.
func (s *Source) maxAge() time.Duration {
	if s.MaxAge == nil {
		return defaultMaxAge
	}
	return time.Duration(*s.MaxAge)
}

func (s *Source) maxBody() int64 {
	if s.MaxBody == nil {
		return defaultMaxBody
	}
	return int64(*s.MaxBody)
}

func (s *Source) path() string {
	if s.Path == "" {
		return "/webhooks/" + s.Name
	}
	return s.Path
}

// Validate reports everything that is wrong, each with its key and the remedy. It reads the secrets that the
// configuration names, and never prints them.
func (c *Config) Validate() error {
	var errs []error
	bad := func(key, format string, args ...any) {
		errs = append(errs, fmt.Errorf("%s: %s", key, fmt.Sprintf(format, args...)))
	}
	if c.DataDir == "" {
		bad("data_dir", "is empty; name a folder for the bridge's files")
	}
	for _, l := range []struct {
		key, addr string
		private   bool
	}{
		{"listen.webhook", c.Listen.Webhook, false}, {"listen.rest", c.Listen.REST, true},
		{"listen.grpc", c.Listen.GRPC, true}, {"listen.admin", c.Listen.Admin, true},
	} {
		host, _, err := net.SplitHostPort(l.addr)
		switch {
		case err != nil:
			bad(l.key, "is no host:port, for example 127.0.0.1:8080")
		case l.private && c.Auth.Mode == "none" && !loopback(host):
			bad(l.key, "without access control only loopback addresses are served: use 127.0.0.1, or put an authenticating proxy on this machine in front")
		}
	}
	if c.Auth.Mode != "none" {
		bad("auth.mode", "this version knows only none (loopback addresses only)")
	}
	c.validateSources(bad)
	if (c.TLS.Webhook.CertFile == "") != (c.TLS.Webhook.KeyFile == "") {
		bad("tls.webhook", "needs both cert_file and key_file, or neither")
	}
	switch {
	case c.Log.Replicas < 1 || c.Log.Replicas > 5:
		bad("log.replicas", "is 1 to 5")
	case c.Log.URL == "" && c.Log.Replicas != 1:
		bad("log.replicas", "the embedded log has one replica; set log.url to use a cluster")
	}
	if c.Log.Durability != "synced" && c.Log.Durability != "acked" {
		bad("log.durability", "is synced or acked")
	}
	if c.Log.URL == "" && c.Log.Durability == "acked" {
		bad("log.durability", "the embedded log is always synced; acked is for log.url")
	}
	for key, d := range map[string]Duration{"log.max_age": c.Log.MaxAge, "history.max_age": c.History.MaxAge} {
		if d < 0 {
			bad(key, "is negative")
		}
	}
	for key, d := range map[string]Duration{"streams.send_timeout": c.Streams.SendTimeout, "streams.max_age": c.Streams.MaxAge, "drain_timeout": c.DrainTimeout} {
		if d <= 0 {
			bad(key, "must be more than zero, for example 15m")
		}
	}
	if c.Log.MaxBytes < 0 || c.History.MaxBytes < 0 || c.Log.Reserve < 0 {
		bad("log.max_bytes, history.max_bytes, log.reserve", "must not be negative")
	}
	if c.Streams.RingEvents < 16 || c.Streams.RingBytes < 1<<20 {
		bad("streams.ring_events, streams.ring_bytes", "must be at least 16 and 1MiB")
	}
	if c.Groups.Max < 1 || c.Groups.MaxMembers < 1 {
		bad("groups.max, groups.max_members", "must be at least 1")
	}
	if c.Groups.DeadLetterBytes < 1<<20 {
		bad("groups.dead_letter_bytes", "must be at least 1MiB")
	}
	if _, err := logLevel(c.Logging.Level); err != nil {
		bad("logging.level", "is debug, info, warn or error")
	}
	if c.Logging.Format != "text" && c.Logging.Format != "json" {
		bad("logging.format", "is text or json")
	}
	return errors.Join(errs...)
}

func (c *Config) validateSources(bad func(key, format string, args ...any)) {
	if len(c.Sources) == 0 {
		bad("sources", "is empty; name at least one source with its signing secret")
	}
	names, paths := map[string]bool{}, map[string]bool{}
	for i := range c.Sources {
		s := &c.Sources[i]
		key := fmt.Sprintf("sources[%d]", i)
		switch {
		case !bridge.ValidSource(s.Name):
			bad(key+".name", "is 1 to 32 characters of a-z, 0-9 and -")
		case names[s.Name]:
			bad(key+".name", "%s is used twice", s.Name)
		}
		names[s.Name] = true
		switch p := s.path(); {
		case !strings.HasPrefix(p, "/") || strings.ContainsAny(p, "?#{} ") || filepath.Clean(p) != p:
			bad(key+".path", "is a plain path, for example /webhooks/%s", s.Name)
		case paths[p]:
			bad(key+".path", "%s is used twice", p)
		default:
			paths[p] = true
		}
		if len(s.Secrets) == 0 {
			bad(key+".secrets", "is empty; name the signing secret that Spotnana showed when the subscription was made")
		}
		for j, ref := range s.Secrets {
			k := fmt.Sprintf("%s.secrets[%d]", key, j)
			value, err := ref.Resolve()
			if err != nil {
				bad(k, "%v", err)
			} else if _, err := webhook.ParseSecret(value); err != nil {
				bad(k, "%v", err)
			}
		}
		for name, ref := range s.RequireHeaders {
			if _, err := ref.Resolve(); err != nil {
				bad(fmt.Sprintf("%s.require_headers.%s", key, name), "%v", err)
			}
		}
		for j, org := range s.Organizations {
			if org == "" {
				bad(fmt.Sprintf("%s.organizations[%d]", key, j), "is empty")
			}
		}
		if s.maxAge() < 0 {
			bad(key+".max_age", `is negative; "off" switches the window off`)
		}
		if b := s.maxBody(); b < 1<<10 || b > maxMaxBody {
			bad(key+".max_body", "is 1KiB to 64MiB")
		}
	}
}

func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

// Secret is a reference to a secret: the literal, env:NAME or file:PATH. It prints as ***.
type Secret string

// String hides the secret.
func (s Secret) String() string {
	if strings.HasPrefix(string(s), "env:") || strings.HasPrefix(string(s), "file:") {
		return string(s)
	}
	return "***"
}

// GoString hides the secret.
func (s Secret) GoString() string { return s.String() }

// MarshalText hides the secret wherever a configuration is printed.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// MarshalYAML hides the secret wherever a configuration is printed.
func (s Secret) MarshalYAML() (any, error) { return s.String(), nil }

// Resolve reads the secret.
func (s Secret) Resolve() (string, error) {
	text := string(s)
	if name, ok := strings.CutPrefix(text, "env:"); ok {
		v, ok := os.LookupEnv(name)
		if !ok || v == "" {
			return "", fmt.Errorf("the environment variable %s is not set", name)
		}
		return v, nil
	}
	if path, ok := strings.CutPrefix(text, "file:"); ok {
		b, err := os.ReadFile(path)
		if err != nil {
			return "", fmt.Errorf("read the file: %w", err)
		}
		v := strings.TrimSpace(string(b))
		if v == "" {
			return "", fmt.Errorf("the file %s is empty", path)
		}
		return v, nil
	}
	if text == "" {
		return "", errors.New("is empty")
	}
	return text, nil
}
