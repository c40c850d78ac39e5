package webhook_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spotbridge/spotbridge/bridge/webhook"
)

// writeCertificate makes a certificate for 127.0.0.1 and writes it, with a modification time that differs for every name.
func writeCertificate(t *testing.T, dir, name string, changed time.Time) (certFile, keyFile string, pool *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	write(t, certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), changed)
	write(t, keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), changed)
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool = x509.NewCertPool()
	pool.AddCert(cert)
	return certFile, keyFile, pool
}

func write(t *testing.T, file string, b []byte, changed time.Time) {
	t.Helper()
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(file, changed, changed); err != nil {
		t.Fatal(err)
	}
}

// serveTLS serves a front door over TLS and returns its URL.
func (f *front) serveTLS(cfg *tls.Config) (url string) {
	f.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		f.t.Fatal(err)
	}
	srv := webhook.NewServer(f.handler, cfg, slog.New(slog.NewJSONHandler(f.lines, nil)))
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.ServeTLS(webhook.LimitConnections(l, 100), "", "") }()
	f.t.Cleanup(func() { srv.Close(); <-done })
	return "https://" + l.Addr().String()
}

func TestTLSServesTheCertificateFromItsFilesAndReloadsIt(t *testing.T) {
	dir, start := t.TempDir(), time.Now().Add(-time.Hour)
	certFile, keyFile, pool := writeCertificate(t, dir, "first", start)
	f := newFront(t)
	cfg, err := webhook.TLSConfig(certFile, keyFile, slog.New(slog.NewJSONHandler(f.lines, nil)))
	if err != nil {
		t.Fatal(err)
	}
	url := f.serveTLS(cfg)
	send := func(id string, pool *x509.CertPool, change func(*tls.Config)) (string, error) {
		clientTLS := &tls.Config{RootCAs: pool}
		if change != nil {
			change(clientTLS)
		}
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: clientTLS, ForceAttemptHTTP2: true, DisableKeepAlives: true}}
		res, err := client.Do(post{id: id, body: padded(100_000)}.request(t, url))
		if err != nil {
			return "", err
		}
		a, err := readReply(res)
		return res.TLS.PeerCertificates[0].Subject.CommonName + " " + a.status, err
	}
	want := func(id string, pool *x509.CertPool, want string) {
		t.Helper()
		if got, err := send(id, pool, nil); err != nil || got != want {
			t.Errorf("%q, %v; want %q", got, err, want)
		}
	}
	want("one", pool, "first accepted")
	if got, err := send("two", pool, func(c *tls.Config) { c.MaxVersion = tls.VersionTLS11; c.MinVersion = tls.VersionTLS10 }); err == nil {
		t.Errorf("TLS 1.1 was served: %s", got)
	}
	if got, err := send("three", pool, func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }); err != nil || got != "first accepted" {
		t.Errorf("TLS 1.2: %q, %v", got, err)
	}
	_, _, second := writeCertificate(t, dir, "second", start.Add(time.Minute))
	want("four", second, "second accepted")
	// Damaged and missing files leave the old certificate in place, and say so once.
	write(t, keyFile, []byte("CanaryKey"), start.Add(2*time.Minute))
	want("five", second, "second accepted")
	want("six", second, "second accepted")
	if n := strings.Count(f.lines.String(), "the old one stays"); n != 1 {
		t.Errorf("told %d times", n)
	}
	if strings.Contains(f.lines.String(), "CanaryKey") {
		t.Error("a line holds the key file's text")
	}
	if err := os.Remove(certFile); err != nil {
		t.Fatal(err)
	}
	want("seven", second, "second accepted")
	_, _, third := writeCertificate(t, dir, "third", start.Add(3*time.Minute))
	want("eight", third, "third accepted")

	for _, bad := range [][2]string{{"", ""}, {certFile, ""}, {certFile, filepath.Join(dir, "nothing.pem")}, {keyFile, certFile}} {
		if _, err := webhook.TLSConfig(bad[0], bad[1], nil); err == nil {
			t.Errorf("accepted %v", bad)
		}
	}
}

func TestServerHasLimits(t *testing.T) {
	s := webhook.NewServer(http.NotFoundHandler(), &tls.Config{MinVersion: tls.VersionTLS10}, nil)
	if s.ReadHeaderTimeout <= 0 || s.ReadTimeout <= 0 || s.WriteTimeout <= s.ReadTimeout || s.IdleTimeout <= 0 || s.MaxHeaderBytes != 64<<10 {
		t.Errorf("%+v", s)
	}
	if s.TLSConfig.MinVersion != tls.VersionTLS12 {
		t.Errorf("TLS from version %x", s.TLSConfig.MinVersion)
	}
}
