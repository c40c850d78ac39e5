package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime/debug"

	"github.com/spf13/cobra"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/spotbridge/spotbridge/cmd/spotbridge/conformance"
)

// version is set by the linker; a plain go build takes the module's.
var version = ""

func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	root := newRoot()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil || errors.Is(err, errInterrupted) {
		return 0
	}
	fmt.Fprintln(stderr, "spotbridge: "+explain(err))
	return 1
}

// errInterrupted ends a command that runs until it is interrupted.
var errInterrupted = errors.New("interrupted")

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "spotbridge",
		Short: "Spotnana webhooks in, a durable log, filtered gRPC streams and REST history out",
		Long: `spotbridge takes Spotnana's signed webhooks, stores them durably before it answers 200, and streams
them as typed protobuf over gRPC to services in any language.`,
		Example: `  spotbridge dev                                  # everything in one process, with sample deliveries
  spotbridge serve --config spotbridge.yaml       # for real
  spotbridge tail --type PNR_V3 --cursor-file pos # follow events, resume after a restart`,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(newServe(), newDev(), newTail(), newTrigger(), newEvents(), newDeliveries(), newDrift(), newGroups(), newSubscriptions(), conformance.New(), newConfig(), newVersion())
	return root
}

func newVersion() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintln(cmd.OutOrStdout(), "spotbridge "+buildVersion())
			return err
		},
	}
}

func buildVersion() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}

// explain makes a sentence for people of an error, with the machine-readable reason of a status.
func explain(err error) string {
	s, ok := status.FromError(err)
	if !ok || s.Code() == codes.OK {
		return err.Error()
	}
	text := s.Message()
	for _, d := range s.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			text += " (" + info.GetReason() + ")"
			for _, k := range []string{"earliest_cursor", "earliest_time", "head_cursor"} {
				if v := info.GetMetadata()[k]; v != "" {
					text += "\n  " + k + ": " + v
				}
			}
		}
	}
	if s.Code() == codes.Unavailable {
		text += "\n  is the bridge running, and is --server its gRPC address?"
	}
	return text
}
