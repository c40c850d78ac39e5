package main

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"
	"golang.org/x/sync/errgroup"

	"github.com/spotbridge/spotbridge/app"
)

// configFlags are --config and one flag for each key.
type configFlags struct {
	file   string
	values map[string]*string
	cmd    *cobra.Command
}

func (f *configFlags) register(cmd *cobra.Command) {
	f.cmd, f.values = cmd, map[string]*string{}
	cmd.Flags().StringVar(&f.file, "config", "", "YAML configuration file")
	for _, k := range app.Keys() {
		if k.Path == "sources" {
			continue // a list with secrets belongs into the file or the environment
		}
		f.values[k.Path] = cmd.Flags().String(k.Flag, "", fmt.Sprintf("sets %s (default %s)", k.Path, k.Default))
	}
}

func (f *configFlags) load() (app.Config, error) {
	set := map[string]string{}
	for _, k := range app.Keys() {
		if v, ok := f.values[k.Path]; ok && f.cmd.Flags().Changed(k.Flag) {
			set[k.Path] = *v
		}
	}
	return app.Load(f.file, os.Environ(), set)
}

func newServe() *cobra.Command {
	var flags configFlags
	cmd := &cobra.Command{
		Use: "serve", Short: "Run the bridge", Args: cobra.NoArgs,
		Long: `serve runs the bridge until SIGTERM or SIGINT, then drains: the door closes with 503, streams get their goodbye, and
what was taken is finished. Values come from defaults, the file, the environment (SPOTBRIDGE_ and the key's path in
upper case, joined by _) and flags, the last one wins. See docs/configuration.md.`,
		Example: `  spotbridge serve --config spotbridge.yaml
  SPOTBRIDGE_LISTEN_WEBHOOK=0.0.0.0:8080 spotbridge serve --config spotbridge.yaml`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := flags.load()
			if err != nil {
				return err
			}
			return serve(cmd.Context(), cfg, cmd.ErrOrStderr(), nil)
		},
	}
	flags.register(cmd)
	return cmd
}

// serve runs the bridge, and beside it what the caller wants to do once it is ready.
func serve(ctx context.Context, cfg app.Config, logTo io.Writer, ready func(context.Context, *app.App) error) error {
	if err := cfg.Validate(); err != nil {
		return fmt.Errorf("the configuration has problems:\n%w", err)
	}
	defer app.ReserveHeap()()
	a, err := app.New(ctx, cfg, app.Options{Logger: app.NewLogger(logTo, cfg.Logging), Version: buildVersion()})
	if err != nil {
		return err
	}
	// What runs beside ends when the bridge does, and the bridge when that fails.
	g, ctx := errgroup.WithContext(ctx)
	side, stop := context.WithCancel(ctx)
	g.Go(func() error {
		defer stop()
		return a.Run(ctx)
	})
	if ready != nil {
		g.Go(func() error {
			select {
			case <-a.Ready():
				return ready(side, a)
			case <-side.Done():
				return nil
			}
		})
	}
	return g.Wait()
}

func newConfig() *cobra.Command {
	cmd := &cobra.Command{Use: "config", Short: "Look at the configuration"}
	var flags configFlags
	check := &cobra.Command{
		Use: "check", Short: "Check the configuration and print the effective one, secrets hidden", Args: cobra.NoArgs,
		Example: "  spotbridge config check --config spotbridge.yaml",
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := flags.load()
			if err != nil {
				return err
			}
			b, err := yaml.Marshal(cfg)
			if err != nil {
				return err
			}
			if _, err := cmd.OutOrStdout().Write(b); err != nil {
				return err
			}
			if err := cfg.Validate(); err != nil {
				return fmt.Errorf("the configuration has problems:\n%w", err)
			}
			_, err = fmt.Fprintln(cmd.ErrOrStderr(), "the configuration is good")
			return err
		},
	}
	flags.register(check)
	cmd.AddCommand(check)
	return cmd
}
