package conformance

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"
)

// serveOptions say what to play for a client that is started by hand.
type serveOptions struct {
	protocol, scenario string
	grpc, rest         string
	list               bool
	patience           time.Duration
}

func newServe() *cobra.Command {
	o := &serveOptions{}
	cmd := &cobra.Command{
		Use: "serve --scenario NAME", Short: "Play a scenario for a client that you start yourself, for example in a debugger", Args: cobra.NoArgs,
		Long: `serve plays one scenario and prints what it does and sees. What run does to the client, starting, killing and stopping it, it
asks you to do, and waits for Enter. At the end it prints the ids that the client must have processed.`,
		Example: `  spotbridge conformance serve --list
  spotbridge conformance serve --scenario cut-mid-event
  spotbridge conformance serve --protocol group --scenario leave --grpc 127.0.0.1:19090`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return o.run(cmd.Context(), cmd.InOrStdin(), cmd.OutOrStdout())
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&o.scenario, "scenario", "", "scenario to play")
	fs.StringVar(&o.protocol, "protocol", string(subscribe), "how the client reads: subscribe, sse or group")
	fs.StringVar(&o.grpc, "grpc", "127.0.0.1:9090", "address to serve gRPC at")
	fs.StringVar(&o.rest, "rest", "127.0.0.1:8081", "address to serve REST at")
	fs.BoolVar(&o.list, "list", false, "list all scenarios with what each demands and the protocols that it is for, and end")
	fs.DurationVar(&o.patience, "timeout", 10*time.Minute, "how long the client may take for a step")
	return cmd
}

func (o *serveOptions) run(ctx context.Context, in io.Reader, out io.Writer) error {
	if o.list {
		return printList(out, scenarios())
	}
	if o.scenario == "" {
		return errors.New("name a scenario with --scenario; --list shows all")
	}
	list, err := choose(o.protocol, []string{o.scenario})
	if err != nil {
		return err
	}
	s := list[0]
	b, err := startBridge(ctx, o.grpc, o.rest)
	if err != nil {
		return err
	}
	defer b.close()
	fmt.Fprintf(out, "%s: a client must %s.\n\n  %s\n\n", s.name, s.demand,
		fmt.Sprintf("SPOTBRIDGE_GRPC=%s SPOTBRIDGE_REST=%s SPOTBRIDGE_GROUP=%s SPOTBRIDGE_HEARTBEAT=%v", b.grpcAddr(), b.restURL(), groupName, askedHeartbeat))
	c := &byHand{in: bufio.NewScanner(in), out: out, done: make(chan struct{})}
	if err := perform(ctx, s, protocol(o.protocol), b, c, o.patience, func(line string) { fmt.Fprintln(out, line) }); err != nil {
		return fmt.Errorf("%s: %w", s.name, err)
	}
	fmt.Fprintln(out, "PASS, as far as can be seen from here")
	return nil
}

// byHand is a client that a person starts and ends.
type byHand struct {
	in   *bufio.Scanner
	out  io.Writer
	done chan struct{} // closed when somebody has said that it has ended by itself
}

// ask asks for something to be done and waits for Enter.
func (b *byHand) ask(what string) error {
	fmt.Fprintf(b.out, ">>> %s, then press Enter ", what)
	if !b.in.Scan() {
		return errors.New("the input has ended")
	}
	return nil
}

func (b *byHand) start(context.Context) error {
	b.done = make(chan struct{})
	fmt.Fprintln(b.out, ">>> start the client")
	return nil
}

func (b *byHand) expectEnd() {
	if b.ask("the client should end by itself now, with an exit code other than 0: wait for that") == nil {
		close(b.done)
	}
}

func (b *byHand) kill() { _ = b.ask("end the client with kill -9") } // without an answer the script goes on all the same

func (b *byHand) terminate(within time.Duration) error {
	if err := b.ask(fmt.Sprintf("send SIGTERM to the client; it must end with exit code 0 within %v", within)); err != nil {
		return fmt.Errorf("nobody said how the client ended: %w", err)
	}
	return nil
}

func (b *byHand) exited() <-chan struct{} { return b.done }
func (b *byHand) ending() string          { return "by hand" }
func (b *byHand) failed() error           { return nil }
func (b *byHand) words() string           { return "" }

func (b *byHand) processed(context.Context) ([]string, error) { return nil, nil }
