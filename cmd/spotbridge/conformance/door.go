package conformance

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/spotbridge/spotbridge/app"
	"github.com/spotbridge/spotbridge/bridge/webhook"
)

// answerWithin is how long Spotnana waits for an answer.
const answerWithin = 40 * time.Second

// doorOptions say which front door to try.
type doorOptions struct {
	url             string
	secrets         []string
	headers         []string
	maxAge, maxBody string
	only            []string
	strict, json    bool
	list            bool
}

func newDoor() *cobra.Command {
	o := &doorOptions{}
	cmd := &cobra.Command{
		Use: "door --url URL --secret SECRET", Short: "Try a front door with deliveries of every kind", Args: cobra.NoArgs,
		Long: `door posts deliveries as Spotnana sends them, and as nobody should, and compares the answers with what they must be. 200 is
what Spotnana takes for success; where its contract says no more, any answer will do that is not a failure of the server.
With --strict the answers must be those of spotbridge, status and body.

The deliveries are stored by the receiver: use a source of its own for that.`,
		Example: `  spotbridge conformance door --url http://127.0.0.1:8080/webhooks/sandbox --secret env:SECRET --strict
  spotbridge conformance door --url https://hooks.example.com/spotnana --secret file:secret --max-age 5m --max-body 1MiB --json`,
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd.Context(), cmd.OutOrStdout()) },
	}
	fs := cmd.Flags()
	fs.StringVar(&o.url, "url", "", "door to post to")
	fs.StringArrayVar(&o.secrets, "secret", nil, "signing secret: whsec_..., env:NAME or file:PATH; a second one when the receiver has another that is active")
	fs.StringArrayVar(&o.headers, "header", nil, "header that the receiver demands, name: value")
	fs.StringVar(&o.maxAge, "max-age", "360h", "how old a timestamp the receiver takes, or off")
	fs.StringVar(&o.maxBody, "max-body", "8MiB", "how large a body the receiver takes")
	fs.StringSliceVar(&o.only, "only", nil, "checks to make; all others are left out")
	fs.BoolVar(&o.strict, "strict", false, "demand the answers of spotbridge")
	fs.BoolVar(&o.list, "list", false, "list the checks with the answers that they want, and end")
	fs.BoolVar(&o.json, "json", false, "print JSON lines instead of text")
	return cmd
}

func (o *doorOptions) run(ctx context.Context, out io.Writer) error {
	d := &door{strict: o.strict, header: http.Header{}}
	if err := errors.Join(
		parseSetting("max-age", o.maxAge, &d.maxAge), parseSetting("max-body", o.maxBody, &d.maxBody), d.addHeaders(o.headers),
	); err != nil {
		return err
	}
	checks := doorChecks()
	if o.list {
		for _, c := range checks {
			if _, err := fmt.Fprintf(out, "%-20s %-9s %s\n", c.name, c.want, c.about); err != nil {
				return err
			}
		}
		return nil
	}
	for _, name := range o.only {
		if !slices.ContainsFunc(checks, func(c doorCheck) bool { return c.name == name }) {
			return fmt.Errorf("--only: there is no check %s; --list shows them", name)
		}
	}
	if u, err := url.Parse(o.url); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return errors.New("give the address of the door with --url, https://host/path")
	}
	d.url = o.url
	if err := d.addSecrets(o.secrets); err != nil {
		return err
	}
	r := &reporter{out: out, json: o.json}
	for _, c := range checks {
		if len(o.only) > 0 && !slices.Contains(o.only, c.name) || c.skip != nil && c.skip(d) {
			continue
		}
		began := time.Now()
		x := result{Scenario: c.name, Result: pass}
		if err := c.run(ctx, d); err != nil {
			x.Result, x.Reason = fail, err.Error()
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		x.Seconds = time.Since(began).Seconds()
		r.add(x)
	}
	return r.end()
}

// parseSetting reads a duration or a size as the configuration does.
func parseSetting(flag, text string, into any) error {
	if err := yaml.Unmarshal([]byte(text), into); err != nil {
		return fmt.Errorf("--%s: %w", flag, err)
	}
	return nil
}

// door is a front door under test.
type door struct {
	url     string
	secrets []webhook.Secret
	// text is the first secret as it was issued.
	text    string
	header  http.Header
	maxAge  app.Duration // 0 = any age
	maxBody app.Size
	strict  bool
}

func (d *door) addHeaders(headers []string) error {
	for _, h := range headers {
		name, value, ok := strings.Cut(h, ":")
		if !ok {
			return fmt.Errorf("--header %q: write name: value", name)
		}
		d.header.Set(strings.TrimSpace(name), strings.TrimSpace(value))
	}
	return nil
}

func (d *door) addSecrets(refs []string) error {
	if len(refs) == 0 {
		return errors.New("give the signing secret with --secret: whsec_..., env:NAME or file:PATH")
	}
	for i, ref := range refs {
		text, err := app.Secret(ref).Resolve()
		if err != nil {
			return fmt.Errorf("--secret: %w", err)
		}
		s, err := webhook.ParseSecret(text)
		if err != nil {
			return fmt.Errorf("--secret: %w", err)
		}
		if d.secrets = append(d.secrets, s); i == 0 {
			d.text = strings.TrimSpace(text)
		}
	}
	return nil
}

// shot is one delivery as it is sent. The zero value of a field is what a good delivery has.
type shot struct {
	method string
	path   string // added to the door's
	id     string
	at     time.Time
	stamp  string // in the timestamp's place
	body   []byte
	// signed is what the signature is made of, when that is not what is sent.
	signed *shot
	// signature replaces the right one, which it is given.
	signature func(right string) []string
	without   []string
	header    http.Header
	chunked   bool
	slowly    bool
}

// answer is what came back.
type answer struct {
	status int
	allow  string
	word   string // of {"status": word}
	body   string
}

func (a answer) String() string {
	if a.body == "" {
		return strconv.Itoa(a.status)
	}
	return fmt.Sprintf("%d %s", a.status, a.body)
}

func newID() string {
	b := make([]byte, 12)
	_, _ = rand.Read(b) // never fails since Go 1.24
	return "msg_conformance_" + hex.EncodeToString(b)
}

// fill sets what the delivery leaves to us.
func (s *shot) fill() {
	if s.id == "" {
		s.id = newID()
	}
	if s.at.IsZero() {
		s.at = time.Now()
	}
	if s.stamp == "" {
		s.stamp = strconv.FormatInt(s.at.Unix(), 10)
	}
	if s.body == nil {
		s.body = goodBody()
	}
}

// send sends a delivery and returns the answer, whatever it is.
func (d *door) send(ctx context.Context, s shot) (answer, error) {
	s.fill()
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	method := s.method
	if method == "" {
		method = http.MethodPost
	}
	var body io.Reader = bytes.NewReader(s.body)
	if s.slowly {
		body = &slowReader{ctx: ctx, b: s.body}
	}
	if s.chunked || s.slowly {
		body = io.MultiReader(body) // so that nobody can tell the length
	}
	req, err := http.NewRequestWithContext(ctx, method, d.url+s.path, body)
	if err != nil {
		return answer{}, err
	}
	if s.slowly && !s.chunked {
		req.ContentLength = int64(len(s.body))
	}
	of := &s
	if s.signed != nil {
		of = s.signed
		if of.id == "" {
			of.id = s.id
		}
		if of.stamp == "" {
			of.stamp = s.stamp
		}
		if of.body == nil {
			of.body = s.body
		}
	}
	signatures := []string{webhook.Sign(d.secrets[0], of.id, of.stamp, of.body)}
	if s.signature != nil {
		signatures = s.signature(signatures[0])
	}
	req.Header = d.header.Clone()
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set(webhook.HeaderID, s.id)
	req.Header.Set(webhook.HeaderTimestamp, s.stamp)
	req.Header[webhook.HeaderSignature] = signatures
	req.Header.Set(webhook.HeaderTraceID, "463ac35c9f6413ad48485a3953bb6124")
	req.Header.Set(webhook.HeaderSpanID, "a2fb4a1d1a96d312")
	for _, name := range s.without {
		req.Header.Del(name)
	}
	for name, values := range s.header {
		req.Header[name] = values // as it is written, in lower case too
	}
	resp, hangUp, err := roundTrip(ctx, req)
	if err != nil {
		return answer{}, err
	}
	defer hangUp()
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 4096))
	if err != nil {
		return answer{}, err
	}
	a := answer{status: resp.StatusCode, allow: resp.Header.Get("Allow"), body: strings.TrimSpace(string(b))}
	var said struct{ Status string }
	if json.Unmarshal(b, &said) == nil {
		a.word = said.Status
	}
	return a, nil
}

// roundTrip sends a request over a connection of its own and reads the answer, also when that comes before the request has been
// sent: a body that is refused is not read, and http.Client would tell of the broken connection only.
func roundTrip(ctx context.Context, req *http.Request) (resp *http.Response, hangUp func(), err error) {
	port := req.URL.Port()
	if port == "" {
		port = req.URL.Scheme // by its name
	}
	var dialer interface {
		DialContext(ctx context.Context, network, addr string) (net.Conn, error)
	} = &net.Dialer{}
	if req.URL.Scheme == "https" {
		dialer = &tls.Dialer{}
	}
	conn, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort(req.URL.Hostname(), port))
	if err != nil {
		return nil, nil, err
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	written := make(chan struct{})
	go func() { // it ends with the connection
		defer close(written)
		_ = req.Write(conn) // a broken connection says little; the answer says more
	}()
	hangUp = func() {
		stop()
		conn.Close()
		<-written
	}
	if resp, err = http.ReadResponse(bufio.NewReader(conn), req); err != nil {
		hangUp()
		return nil, nil, err
	}
	return resp, hangUp, nil
}

// slowReader gives a body in pieces, with a pause between them.
type slowReader struct {
	ctx   context.Context
	b     []byte
	piece int
}

// Read implements io.Reader.
func (r *slowReader) Read(b []byte) (int, error) {
	switch {
	case len(r.b) == 0:
		return 0, io.EOF
	case r.piece == 0:
		r.piece = len(r.b)/5 + 1
	default:
		select {
		case <-time.After(250 * time.Millisecond):
		case <-r.ctx.Done():
			return 0, r.ctx.Err()
		}
	}
	n := copy(b, r.b[:min(len(r.b), r.piece)])
	r.b = r.b[n:]
	return n, nil
}
