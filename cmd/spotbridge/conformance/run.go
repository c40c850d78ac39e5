package conformance

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
)

const (
	defaultPatience = 20 * time.Second
	// scenarioLimit ends a scenario that goes on without end, which none should.
	scenarioLimit = 5 * time.Minute
)

// result is how a scenario, or a delivery to a door, ended.
type result struct {
	Scenario string   `json:"scenario"`
	Protocol protocol `json:"protocol,omitempty"`
	Result   string   `json:"result"` // PASS or FAIL
	Reason   string   `json:"reason,omitempty"`
	Seconds  float64  `json:"seconds"`
	// Output is the end of what the client printed, when it failed.
	Output string `json:"output,omitempty"`
}

const (
	pass = "PASS"
	fail = "FAIL"
)

// summary is the last line.
type summary struct {
	Passed int      `json:"passed"`
	Failed int      `json:"failed"`
	Names  []string `json:"failures,omitempty"`
}

// reporter prints results as they come.
type reporter struct {
	mu   sync.Mutex
	out  io.Writer
	json bool
	summary
}

func (r *reporter) add(x result) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if x.Result == pass {
		r.Passed++
	} else {
		r.Failed++
		r.Names = append(r.Names, x.Scenario)
	}
	if r.json {
		r.line(x)
		return
	}
	fmt.Fprintf(r.out, "%s  %-19s %5.1fs\n", x.Result, x.Scenario, x.Seconds)
	if x.Reason != "" {
		fmt.Fprintln(r.out, "      "+strings.ReplaceAll(x.Reason, "\n", "\n      "))
	}
	if x.Output != "" {
		fmt.Fprintln(r.out, "      the client's last words:\n        "+strings.ReplaceAll(x.Output, "\n", "\n        "))
	}
}

func (r *reporter) line(v any) {
	if b, err := json.Marshal(v); err == nil { // they are plain structs
		fmt.Fprintln(r.out, string(b))
	}
}

// end prints the summary. The error says what failed.
func (r *reporter) end() error {
	if r.json {
		r.line(r.summary)
	} else {
		fmt.Fprintf(r.out, "%d passed, %d failed\n", r.Passed, r.Failed)
	}
	if r.Failed > 0 {
		return fmt.Errorf("%d of %d failed: %s", r.Failed, r.Passed+r.Failed, strings.Join(r.Names, ", "))
	}
	return nil
}

// runOptions say which client to try, and how.
type runOptions struct {
	client, processed string
	protocol          string
	only              []string
	list, json        bool
	verbose           bool
	patience          time.Duration
	parallel          int
}

func newRun() *cobra.Command {
	o := &runOptions{}
	cmd := &cobra.Command{
		Use: "run --client COMMAND", Short: "Try a client against a bridge that misbehaves", Args: cobra.NoArgs,
		Long: `run starts a scripted bridge and the client for each scenario, and reports what the client does that the contract does not
allow: when and where it resumes, what it acknowledges, how it ends, and with --processed whether it has processed each
event exactly once. docs/conformance.md has the contract and all scenarios.

The command runs in a shell, in a process group of its own. It finds the bridge in SPOTBRIDGE_GRPC, SPOTBRIDGE_REST,
SPOTBRIDGE_GROUP and SPOTBRIDGE_HEARTBEAT, and keeps what it keeps in EXPENSES_DB (a file) or in CONFORMANCE_DIR (a folder), which are
new for each scenario. SIGTERM goes to the whole group: a launcher in between must exec the client.`,
		Example: `  spotbridge conformance run --client './feed run' --processed './feed processed'
  spotbridge conformance run --protocol group --client 'java -jar feed.jar' --processed 'java -jar feed.jar processed' --only kill,leave --verbose
  spotbridge conformance run --protocol sse --list`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return o.run(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&o.client, "client", "", "command that runs the client until SIGTERM")
	fs.StringVar(&o.processed, "processed", "", "command that prints the ids of all processed events, one a line")
	fs.StringVar(&o.protocol, "protocol", string(subscribe), "how the client reads: subscribe, sse or group")
	fs.StringSliceVar(&o.only, "only", nil, "scenarios to play; all others are left out")
	fs.BoolVar(&o.list, "list", false, "list the scenarios with what each demands, and end")
	fs.BoolVar(&o.json, "json", false, "print JSON lines instead of text")
	fs.BoolVar(&o.verbose, "verbose", false, "print what happens, and what the client prints, as it comes")
	fs.DurationVar(&o.patience, "timeout", defaultPatience, "how long the client may take for a step, beside the waits that the contract allows")
	fs.IntVar(&o.parallel, "parallel", 4, "scenarios at a time; each has a bridge, a client and a folder of its own")
	return cmd
}

func (o *runOptions) run(ctx context.Context, out, notices io.Writer) error {
	list, err := choose(o.protocol, o.only)
	if err != nil {
		return err
	}
	if o.list {
		return printList(out, list)
	}
	if o.client == "" {
		return errors.New("give the command that runs the client with --client")
	}
	if o.parallel < 1 || o.patience <= 0 {
		return errors.New("--parallel is at least 1, and --timeout more than zero")
	}
	r := &reporter{out: out, json: o.json}
	var g errgroup.Group
	g.SetLimit(o.parallel)
	for _, s := range list {
		g.Go(func() error {
			if ctx.Err() != nil {
				return nil
			}
			x, err := o.play(ctx, s, &prefixed{w: notices, prefix: s.name + ": "})
			if err == nil && ctx.Err() == nil {
				r.add(x)
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return errors.New("interrupted: not all scenarios were played to their end")
	}
	if o.processed == "" && !o.json {
		fmt.Fprintln(out, "without --processed nobody has looked whether each event was processed exactly once")
	}
	return r.end()
}

// choose returns the scenarios of a protocol.
func choose(name string, only []string) ([]scenario, error) {
	for _, p := range protocols {
		if string(p) != name {
			continue
		}
		list, unknown := scenariosOf(p, only)
		if len(unknown) > 0 {
			return nil, fmt.Errorf("--only: the protocol %s has no scenario %s; --list shows those that it has", p, strings.Join(unknown, ", "))
		}
		return list, nil
	}
	return nil, fmt.Errorf("--protocol: %q is none of subscribe, sse, group", name)
}

func printList(out io.Writer, list []scenario) error {
	for _, s := range list {
		if _, err := fmt.Fprintf(out, "%-18s %s (%s)\n", s.name, s.demand, s.protocols()); err != nil {
			return err
		}
	}
	return nil
}

// play plays one scenario. An error says that it could not be played at all.
func (o *runOptions) play(ctx context.Context, s scenario, notices io.Writer) (result, error) {
	began := time.Now()
	dir, err := os.MkdirTemp("", "conformance-*")
	if err != nil {
		return result{}, err
	}
	defer os.RemoveAll(dir)
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		return result{}, err
	}
	b, err := startBridge(ctx, "127.0.0.1:0", "127.0.0.1:0")
	if err != nil {
		return result{}, err
	}
	defer b.close()
	c := &process{command: o.client, processedCommand: o.processed, env: clientEnv(b.grpcAddr(), b.restURL(), dir)}
	defer c.kill()
	var trace func(string)
	if o.verbose {
		c.output = notices
		trace = func(line string) { fmt.Fprintln(notices, line) }
	}
	x := result{Scenario: s.name, Protocol: protocol(o.protocol), Result: pass}
	if err := perform(ctx, s, x.Protocol, b, c, o.patience, trace); err != nil {
		c.kill() // its last words must be complete
		x.Result, x.Reason, x.Output = fail, err.Error(), c.words()
	}
	x.Seconds = time.Since(began).Seconds()
	return x, nil
}

// perform plays a scenario with a bridge and a client, and returns what the client did wrong.
func perform(ctx context.Context, s scenario, on protocol, b *scripted, c client, patience time.Duration, trace func(string)) error {
	ctx, cancel := context.WithTimeout(ctx, scenarioLimit)
	defer cancel()
	n := s.events
	if n == 0 {
		n = defaultEvents
	}
	p := &play{
		ctx: ctx, cancel: cancel, protocol: on, bridge: b, group: b.group, client: c, patience: patience, trace: trace, began: time.Now(),
		cursors: map[string]place{},
	}
	b.group.tell(p.failf, p.logf)
	for _, e := range tickets(n) {
		p.events = append(p.events, realEvent(e))
		b.history.add(e)
	}
	return p.run(func(p *play) {
		if !s.late {
			p.start()
		}
		s.script(p)
		p.compare()
	})
}

// prefixed writes whole lines with a word in front, from several goroutines.
type prefixed struct {
	mu     sync.Mutex
	w      io.Writer
	prefix string
	part   []byte
}

// printing keeps the lines of several scenarios whole.
var printing sync.Mutex

// Write implements io.Writer.
func (p *prefixed) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.part = append(p.part, b...)
	for {
		at := strings.IndexByte(string(p.part), '\n')
		if at < 0 {
			return len(b), nil
		}
		printing.Lock()
		_, err := p.w.Write(append([]byte(p.prefix), p.part[:at+1]...))
		printing.Unlock()
		if p.part = p.part[at+1:]; err != nil {
			return len(b), err
		}
	}
}
