package conformance

import "github.com/spf13/cobra"

// New returns the command "conformance".
func New() *cobra.Command {
	cmd := &cobra.Command{
		Use: "conformance", Short: "Try clients and front doors against everything that can go wrong",
		Long: `conformance tries what others have built: a client of the streams against a bridge that misbehaves on script, and a front
door for webhooks, ours or anybody's, against deliveries of every kind. docs/conformance.md has the contracts.`,
		Example: `  spotbridge conformance run --client './feed run' --processed './feed processed'
  spotbridge conformance door --url http://127.0.0.1:8080/webhooks/sandbox --secret env:SECRET`,
	}
	cmd.AddCommand(newRun(), newServe(), newDoor())
	return cmd
}
