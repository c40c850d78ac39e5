package webhook

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"golang.org/x/net/netutil"
)

// Limits of the server. Spotnana gives a delivery 40 s in all.
const (
	readHeaderTimeout = 10 * time.Second
	readTimeout       = 30 * time.Second // of headers and body together
	writeTimeout      = 60 * time.Second // from the end of the headers: the body, the log and the answer
	idleTimeout       = 2 * time.Minute
	maxHeaderBytes    = 64 << 10
)

// NewServer returns a server for the front door with its time and size limits. tlsConfig may be nil, for plain HTTP behind
// a proxy; with one, call ServeTLS with empty file names.
func NewServer(handler http.Handler, tlsConfig *tls.Config, logger *slog.Logger) *http.Server {
	if tlsConfig != nil {
		tlsConfig = tlsConfig.Clone()
		tlsConfig.MinVersion = max(tlsConfig.MinVersion, tls.VersionTLS12)
	}
	s := &http.Server{
		Handler: handler, TLSConfig: tlsConfig,
		ReadHeaderTimeout: readHeaderTimeout, ReadTimeout: readTimeout, WriteTimeout: writeTimeout, IdleTimeout: idleTimeout,
		MaxHeaderBytes: maxHeaderBytes,
	}
	if logger != nil {
		s.ErrorLog = slog.NewLogLogger(logger.Handler(), slog.LevelWarn)
	}
	return s
}

// LimitConnections lets at most n connections be open at once; others wait to be accepted.
func LimitConnections(l net.Listener, n int) net.Listener { return netutil.LimitListener(l, n) }

// TLSConfig returns a configuration with the certificate in two PEM files. They are read again when they have changed;
// while the new ones cannot be used, the old certificate goes on being served and the logger is told, once per change.
func TLSConfig(certFile, keyFile string, logger *slog.Logger) (*tls.Config, error) {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	c := &certificate{certFile: certFile, keyFile: keyFile, logger: logger}
	if err := c.load(); err != nil {
		return nil, err
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: c.get}, nil
}

type certificate struct {
	certFile, keyFile string
	logger            *slog.Logger

	mu      sync.Mutex
	stamp   [2]stamp
	current *tls.Certificate
}

// stamp tells one state of a file from another.
type stamp struct {
	changed time.Time
	size    int64
}

func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now, err := c.stamps()
	if err == nil && now == c.stamp {
		return c.current, nil
	}
	// A file that is being replaced may be missing for a moment: look again at the next handshake.
	if err != nil {
		return c.current, nil
	}
	if err := c.load(); err != nil {
		c.stamp = now
		c.logger.Warn("the changed TLS certificate cannot be used; the old one stays", "error", err)
	} else {
		c.logger.Info("TLS certificate loaded again", "file", c.certFile)
	}
	return c.current, nil
}

func (c *certificate) load() error {
	now, err := c.stamps()
	if err != nil {
		return fmt.Errorf("TLS certificate: %w", err)
	}
	cert, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err != nil {
		return fmt.Errorf("TLS certificate: %w", err)
	}
	c.stamp, c.current = now, &cert
	return nil
}

func (c *certificate) stamps() ([2]stamp, error) {
	a, errA := os.Stat(c.certFile)
	b, errB := os.Stat(c.keyFile)
	if err := errors.Join(errA, errB); err != nil {
		return [2]stamp{}, err
	}
	return [2]stamp{{a.ModTime(), a.Size()}, {b.ModTime(), b.Size()}}, nil
}
