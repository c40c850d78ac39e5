package main

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/spotbridge/spotbridge/app"
	"github.com/spotbridge/spotbridge/bridge/bridgetest/samples"
	"github.com/spotbridge/spotbridge/bridge/webhook"
)

func randomHex(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails since Go 1.24
	return hex.EncodeToString(b)
}

func defaultDevDir() string { return filepath.Join(".data", "dev") }

func devSecretFile(dir string) string { return filepath.Join(dir, "secret") }

func newDev() *cobra.Command {
	var flags configFlags
	var rate float64
	var once, noTraffic bool
	cmd := &cobra.Command{
		Use: "dev", Short: "Run everything in one process, with sample deliveries", Args: cobra.NoArgs,
		Long: `dev runs the whole bridge with one source, "sandbox", and a signing secret of its own that it keeps in the data
folder. It sends the sample deliveries to its own door at a small rate, and prints commands to try.`,
		Example: `  spotbridge dev
  spotbridge dev --rate 20
  SPOTBRIDGE_LISTEN_GRPC=127.0.0.1:19090 spotbridge dev --no-traffic`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			cfg, err := flags.load()
			if err != nil {
				return err
			}
			if cfg.DataDir == app.DefaultConfig().DataDir {
				cfg.DataDir = defaultDevDir()
			}
			secret, err := devSecret(cfg.DataDir)
			if err != nil {
				return err
			}
			if len(cfg.Sources) == 0 {
				cfg.Sources = []app.Source{{Name: "sandbox", Secrets: []app.Secret{app.Secret("file:" + devSecretFile(cfg.DataDir))}}}
			}
			return serve(ctx, cfg, cmd.ErrOrStderr(), func(ctx context.Context, a *app.App) error {
				printHints(cmd.OutOrStdout(), a, cfg.DataDir)
				if noTraffic {
					return nil
				}
				path := cfg.Sources[0].Path
				if path == "" {
					path = "/webhooks/" + cfg.Sources[0].Name
				}
				return sendSamples(ctx, "http://"+a.WebhookAddr()+path, secret, rate, once, cmd.OutOrStdout())
			})
		},
	}
	flags.register(cmd)
	cmd.Flags().Float64Var(&rate, "rate", 2, "sample deliveries a second")
	cmd.Flags().BoolVar(&once, "once", false, "send each sample once, then only serve")
	cmd.Flags().BoolVar(&noTraffic, "no-traffic", false, "send nothing")
	return cmd
}

// devSecret reads the data folder's signing secret, or makes one.
func devSecret(dir string) (webhook.Secret, error) {
	file := devSecretFile(dir)
	b, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		key := make([]byte, 32)
		_, _ = rand.Read(key) // never fails since Go 1.24
		b = []byte("whsec_" + base64.StdEncoding.EncodeToString(key) + "\n")
		if err = os.MkdirAll(dir, 0o700); err == nil {
			err = os.WriteFile(file, b, 0o600)
		}
	}
	if err != nil {
		return webhook.Secret{}, fmt.Errorf("the data folder's signing secret: %w", err)
	}
	s, err := webhook.ParseSecret(strings.TrimSpace(string(b)))
	if err != nil {
		return webhook.Secret{}, fmt.Errorf("%s: %w; delete it to get a new one", file, err)
	}
	return s, nil
}

func printHints(w io.Writer, a *app.App, dir string) {
	self := "spotbridge"
	if exe, err := os.Executable(); err == nil {
		self = exe
		if wd, err := os.Getwd(); err == nil {
			if rel, err := filepath.Rel(wd, exe); err == nil && !strings.HasPrefix(rel, "..") {
				self = rel
			}
		}
	}
	fmt.Fprintf(w, `
spotbridge runs, and sends sample deliveries to its own door. In another terminal:

  # follow events, through gRPC and through REST
  %[1]s tail --server %[2]s --start earliest
  curl -N 'http://%[3]s/v1/events:subscribe?start=EARLIEST&view=ENVELOPE'
  grpcurl -plaintext -d '{"start":"START_EARLIEST","view":"EVENT_VIEW_ENVELOPE"}' %[2]s spotbridge.v1.SubscriptionService/Subscribe

  # ask the history
  curl 'http://%[3]s/v1/events?filter.event_types=PNR_V3&page_size=3&view=ENVELOPE'
  curl 'http://%[3]s/v1/deliveries?outcomes=DUPLICATE&page_size=3'

  # send one yourself, then one with a wrong signature, and see both
  %[1]s trigger PNR_V3 BOOKING_TICKETED --url http://%[4]s/webhooks/sandbox --data-dir %[6]s
  curl -i -X POST http://%[4]s/webhooks/sandbox -H 'x-spotnana-webhook-id: x' -H 'x-spotnana-webhook-timestamp: 1' -H 'x-spotnana-webhook-signature: x' -d '{}'
  curl 'http://%[3]s/v1/deliveries?outcomes=REFUSED'

  # health and metrics
  curl http://%[5]s/readyz
  curl http://%[5]s/metrics

`, self, a.GRPCAddr(), a.RESTAddr(), a.WebhookAddr(), a.AdminAddr(), dir)
}

// sendSamples posts the recorded deliveries in their order. Each round gives them new webhook ids; within a round the
// recorded re-sends stay re-sends, so that duplicates can be seen.
func sendSamples(ctx context.Context, url string, secret webhook.Secret, rate float64, once bool, out io.Writer) error {
	if rate <= 0 {
		return errors.New("--rate must be more than zero")
	}
	p := newPoster(url, secret, nil, 1)
	tick := time.NewTicker(time.Duration(float64(time.Second) / rate))
	defer tick.Stop()
	run := randomHex(4)
	for round := 0; ; round++ {
		// From the second round on they are other bookings and travelers: the same ones again would all be stale.
		ids := idRewriter{}
		if round > 0 {
			ids = newIDs(allSteps())
		}
		for _, d := range samples.Deliveries() {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return nil
			}
			id := fmt.Sprintf("%s-%s-%d", d.WebhookID(), run, round)
			answer, err := p.post(ctx, delivery{d.File, id, ids.rewrite(d.Body)})
			switch {
			case ctx.Err() != nil:
				return nil
			case err != nil:
				return err
			case !strings.HasPrefix(answer, "200"):
				fmt.Fprintf(out, "%s: %s\n", d.File, answer)
			}
		}
		if once {
			fmt.Fprintln(out, "all samples sent")
			return nil
		}
	}
}
