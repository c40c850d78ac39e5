package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/spotbridge/spotbridge/app"
	"github.com/spotbridge/spotbridge/bridge/webhook"
)

type triggerOptions struct {
	url, secret, file, webhookID, lifecycle string
	headers, set                            []string
	count                                   int
	rate                                    float64
	parallel                                int
	dataDir                                 string
}

func newTrigger() *cobra.Command {
	o := &triggerOptions{}
	cmd := &cobra.Command{
		Use: "trigger [EVENT_TYPE [OPERATION]]", Short: "Sign and send a webhook, as Spotnana would", Args: cobra.MaximumNArgs(2),
		Long: `trigger signs a delivery and posts it. The body comes from the catalogue (made from a sample of that type, with new
ids and the present time), from a file, or from a lifecycle:

` + strings.Join(sortedLifecycles(), "\n") + `

Without --secret it takes the one that spotbridge dev keeps in its data folder.`,
		Example: `  spotbridge trigger PNR_V3 BOOKING_TICKETED
  spotbridge trigger PNR_V3 BOOKING_UPDATED --set payload.version=7 --set payload.pnrId=6789533589
  spotbridge trigger --lifecycle air-void
  spotbridge trigger --file body.json --secret env:SECRET --url https://bridge.example/webhooks/sandbox
  spotbridge trigger PNR_V3 --count 1000 --rate 100`,
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) == 0 {
				return fixtureTypes(), cobra.ShellCompDirectiveNoFileComp
			}
			var ops []string
			for _, e := range catalogueEvents() {
				if t, op, ok := strings.Cut(e, " "); ok && t == args[0] && len(args) == 1 {
					ops = append(ops, op)
				}
			}
			return ops, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.run(cmd.Context(), args, cmd.InOrStdin(), cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&o.url, "url", "http://127.0.0.1:8080/webhooks/sandbox", "door to post to")
	fs.StringVar(&o.secret, "secret", "", "signing secret: whsec_..., env:NAME or file:PATH")
	fs.StringVar(&o.dataDir, "data-dir", defaultDevDir(), "data folder of spotbridge dev, for its secret")
	fs.StringVar(&o.file, "file", "", "send this body as it is (- for standard input)")
	fs.StringVar(&o.webhookID, "webhook-id", "", "webhook id; the same one again is a duplicate (default: a new one each time)")
	fs.StringVar(&o.lifecycle, "lifecycle", "", "send a whole story, see above")
	fs.StringArrayVar(&o.headers, "header", nil, "further header, name: value")
	fs.StringArrayVar(&o.set, "set", nil, "override a member of the body, path=value; may be repeated")
	fs.IntVar(&o.count, "count", 1, "how many times")
	fs.Float64Var(&o.rate, "rate", 0, "deliveries a second; 0 = as fast as the door answers")
	fs.IntVar(&o.parallel, "parallel", 1, "deliveries in flight, up to 256")
	return cmd
}

// delivery is one body to send, under a webhook id.
type delivery struct {
	label, id string
	body      []byte
}

func (o *triggerOptions) run(ctx context.Context, args []string, stdin io.Reader, out, errw io.Writer) error {
	secret, err := o.resolveSecret()
	if err != nil {
		return err
	}
	if o.count < 1 || o.parallel < 1 || o.parallel > 256 || o.rate < 0 {
		return errors.New("--count and --parallel are at least 1, --parallel is at most 256, --rate is not negative")
	}
	next, err := o.maker(args, stdin)
	if err != nil {
		return err
	}
	p := newPoster(o.url, secret, o.headers, o.parallel)
	r := &report{out: out, progress: errw, answers: map[string]int{}, start: time.Now(), quiet: o.count > 20}
	var pace *time.Ticker
	if o.rate > 0 {
		pace = time.NewTicker(time.Duration(float64(time.Second) / o.rate))
		defer pace.Stop()
	}
	var wg sync.WaitGroup
	slots := make(chan struct{}, o.parallel)
	for i := 0; i < o.count && ctx.Err() == nil && r.err() == nil; i++ {
		// The steps of one story are sent in order; several stories may be under way.
		story, err := next()
		if err != nil {
			return err
		}
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			for _, d := range story {
				if pace != nil {
					select {
					case <-pace.C:
					case <-ctx.Done():
						return
					}
				}
				answer, err := p.post(ctx, d)
				if r.add(d, answer, err); err != nil {
					return
				}
			}
		})
	}
	wg.Wait()
	return r.end()
}

// maker returns what makes the deliveries of one round.
func (o *triggerOptions) maker(args []string, stdin io.Reader) (func() ([]delivery, error), error) {
	id := func() string {
		if o.webhookID != "" {
			return o.webhookID
		}
		return newWebhookID()
	}
	switch {
	case o.file != "":
		if len(args) > 0 || o.lifecycle != "" {
			return nil, errors.New("give one of an event type, --lifecycle and --file")
		}
		body, err := readBody(o.file, stdin)
		if err != nil {
			return nil, err
		}
		if len(o.set) > 0 {
			if body, err = override(body, o.set); err != nil {
				return nil, err
			}
		}
		return func() ([]delivery, error) { return []delivery{{o.file, id(), body}}, nil }, nil
	case o.lifecycle != "" && len(args) > 0:
		return nil, errors.New("give one of an event type, --lifecycle and --file")
	case o.lifecycle == "" && len(args) == 0:
		return nil, fmt.Errorf("name an event type (%s), a --lifecycle or a --file", strings.Join(fixtureTypes(), ", "))
	}
	var steps []step
	if o.lifecycle != "" {
		if o.webhookID != "" {
			return nil, errors.New("--webhook-id fits a single event: the steps of a lifecycle need ids of their own")
		}
		var err error
		if steps, err = lifecycle(o.lifecycle); err != nil {
			return nil, err
		}
	} else {
		operation := ""
		if len(args) == 2 {
			operation = args[1]
		}
		s, err := fixtureFor(args[0], operation)
		if err != nil {
			return nil, err
		}
		steps = []step{s}
	}
	return func() ([]delivery, error) {
		var out []delivery
		ids := newIDs(steps)
		for _, s := range steps {
			body, err := s.body(ids, time.Now(), o.set)
			if err != nil {
				return nil, err
			}
			label := strings.TrimSpace(s.eventType + " " + s.operation)
			out = append(out, delivery{label, id(), body})
		}
		return out, nil
	}, nil
}

func readBody(file string, stdin io.Reader) ([]byte, error) {
	if file == "-" {
		return io.ReadAll(stdin)
	}
	return os.ReadFile(file)
}

func (o *triggerOptions) resolveSecret() (webhook.Secret, error) {
	ref := app.Secret(o.secret)
	if ref == "" {
		ref = app.Secret("file:" + devSecretFile(o.dataDir))
		if _, err := os.Stat(devSecretFile(o.dataDir)); err != nil {
			return webhook.Secret{}, errors.New("name the signing secret with --secret (whsec_..., env:NAME or file:PATH), or start spotbridge dev, which keeps one in its data folder")
		}
	}
	text, err := ref.Resolve()
	if err != nil {
		return webhook.Secret{}, fmt.Errorf("--secret: %w", err)
	}
	s, err := webhook.ParseSecret(text)
	if err != nil {
		return webhook.Secret{}, fmt.Errorf("--secret: %w", err)
	}
	return s, nil
}

// report counts the answers and shows progress on long runs.
type report struct {
	out, progress io.Writer
	quiet         bool
	start         time.Time

	mu      sync.Mutex
	answers map[string]int
	sent    int
	last    time.Time
	first   error
}

func (r *report) add(d delivery, answer string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		if r.first == nil {
			r.first = err
		}
		return
	}
	r.sent++
	r.answers[answer]++
	if !r.quiet {
		fmt.Fprintf(r.out, "%-40s %-36s %s\n", d.label, d.id, answer)
	} else if time.Since(r.last) > time.Second {
		r.last = time.Now()
		fmt.Fprintf(r.progress, "# %d sent, %.0f/s\n", r.sent, float64(r.sent)/time.Since(r.start).Seconds())
	}
}

func (r *report) err() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.first
}

func (r *report) end() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	refused, remedy := 0, ""
	for a, n := range r.answers {
		if strings.HasPrefix(a, "401") {
			remedy = "; on 401 use one of the source's secrets (sources[].secrets) with --secret, and the headers that it requires with --header"
		}
		if !strings.HasPrefix(a, "200") {
			refused += n
		}
		if r.quiet {
			fmt.Fprintf(r.out, "%7d  %s\n", n, a)
		}
	}
	if r.quiet {
		fmt.Fprintf(r.out, "%7d  in %v, %.0f/s\n", r.sent, time.Since(r.start).Round(time.Millisecond), float64(r.sent)/time.Since(r.start).Seconds())
	}
	if r.first == nil && refused > 0 {
		return fmt.Errorf("%d of %d deliveries were not taken; spotbridge deliveries --outcome refused shows the causes%s", refused, r.sent, remedy)
	}
	return r.first
}

// poster signs and sends deliveries.
type poster struct {
	url     string
	secret  webhook.Secret
	headers []string
	client  *http.Client
}

func newPoster(url string, secret webhook.Secret, headers []string, parallel int) *poster {
	return &poster{url: url, secret: secret, headers: headers, client: &http.Client{
		Timeout: 40 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: parallel},
	}}
}

// post returns the answer, for example "200 accepted".
func (p *poster) post(ctx context.Context, d delivery) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, p.url, bytes.NewReader(d.body))
	if err != nil {
		return "", err
	}
	ts := strconv.FormatInt(time.Now().Unix(), 10)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-Spotnana-Webhook-Id", d.id)
	req.Header.Set("X-Spotnana-Webhook-Timestamp", ts)
	req.Header.Set("X-Spotnana-Webhook-Signature", webhook.Sign(p.secret, d.id, ts, d.body))
	req.Header.Set("X-B3-TraceId", randomHex(16))
	req.Header.Set("X-B3-SpanId", randomHex(8))
	for _, h := range p.headers {
		name, value, ok := strings.Cut(h, ":")
		if !ok {
			return "", fmt.Errorf("--header %q: write name: value", name)
		}
		req.Header.Set(strings.TrimSpace(name), strings.TrimSpace(value))
	}
	resp, err := p.client.Do(req)
	if err != nil {
		return "", fmt.Errorf("%w; does the bridge run, and is --url its door?", err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 4096))
	if err != nil {
		return "", err
	}
	text := strings.TrimSpace(string(b))
	if _, after, ok := strings.Cut(text, `{"status":"`); ok {
		text = strings.TrimSuffix(after, `"}`)
	}
	return fmt.Sprintf("%d %s", resp.StatusCode, text), nil
}

func newWebhookID() string { return "msg_" + randomHex(14) }
