package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

// maxNackReason is the longest reason that the bridge takes.
const maxNackReason = 1024

type consumeOptions struct {
	client     clientFlags
	view       string
	parallel   int
	limit      int
	timeout    time.Duration
	onFailure  string
	retryAfter time.Duration
	quiet      bool
	command    []string
	group      string
}

func newGroupsConsume() *cobra.Command {
	o := &consumeOptions{}
	cmd := &cobra.Command{
		Use: "consume GROUP [flags] [-- COMMAND [ARG...]]", Short: "Run a command for each event, and acknowledge when it succeeds", Args: cobra.MinimumNArgs(1),
		Long: `consume joins a group and runs COMMAND for each event. The event is on the command's standard input as one line of
JSON; SPOTBRIDGE_EVENT_ID, SPOTBRIDGE_ATTEMPT and SPOTBRIDGE_DELIVERY_ID are in its environment. After exit 0 the event is
acknowledged, else it comes again later (or becomes a dead letter at once with --on-failure park). While a command runs its
event's deadline is extended. Without a command, events are printed and acknowledged.

It reconnects by itself. When it is interrupted it takes no more events, and ends once the commands that run have ended.`,
		Example: `  spotbridge groups consume expenses -- ./book-expense
  spotbridge groups consume expenses --parallel 8 --timeout 2m -- python3 handle.py
  spotbridge groups consume expenses --limit 1 -- jq .operation`,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.group, o.command = args[0], args[1:]
			return o.run(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	fs := cmd.Flags()
	o.client.register(fs)
	fs.StringVar(&o.view, "view", "", "parts of each event: envelope, typed, raw or full (default: the group's)")
	fs.IntVar(&o.parallel, "parallel", 1, "commands at a time")
	fs.IntVar(&o.limit, "limit", 0, "end after so many events; 0 = never")
	fs.DurationVar(&o.timeout, "timeout", 0, "end a command that runs for longer, as a failure; 0 = never")
	fs.StringVar(&o.onFailure, "on-failure", "retry", "what becomes of an event whose command fails: retry, park or skip")
	fs.DurationVar(&o.retryAfter, "retry-after", 0, "time until a retry (default: the bridge doubles it with each attempt)")
	fs.BoolVar(&o.quiet, "quiet", false, "print no notices")
	return cmd
}

func (o *consumeOptions) run(ctx context.Context, stdout, notices io.Writer) error {
	if o.quiet {
		notices = io.Discard
	}
	if o.parallel < 1 || o.parallel > 1000 {
		return errors.New("--parallel: must be 1 to 1000")
	}
	view, err := parseView(o.view)
	if err != nil {
		return err
	}
	action, err := parseEnum("on-failure", o.onFailure, "NACK_ACTION_", pb.NackAction_value)
	if err != nil {
		return err
	}
	conn, err := o.client.dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	c := &consumer{
		o: o, client: pb.NewConsumerGroupServiceClient(conn), view: view, action: pb.NackAction(action), stdout: stdout, notices: notices, left: -1,
	}
	if o.limit > 0 {
		c.left = o.limit
	}
	wait := 250 * time.Millisecond
	for {
		before := c.handled
		err := c.session(ctx)
		switch {
		case c.left == 0:
			return nil
		case ctx.Err() != nil:
			return errInterrupted
		case err != nil && !retryable(err):
			return err
		}
		if c.handled > before {
			wait = 250 * time.Millisecond
		}
		why := "the stream ended"
		if err != nil {
			why = explainShort(err)
		}
		fmt.Fprintf(notices, "# %s; reconnecting in %v\n", why, wait.Round(time.Millisecond))
		select {
		case <-time.After(wait + rand.N(wait)):
		case <-ctx.Done():
			return errInterrupted
		}
		wait = min(2*wait, 15*time.Second)
	}
}

// consumer is one consume command over its reconnections.
type consumer struct {
	o       *consumeOptions
	client  pb.ConsumerGroupServiceClient
	view    pb.EventView
	action  pb.NackAction
	stdout  io.Writer
	notices io.Writer

	mu      sync.Mutex
	left    int // events that may still be taken; -1 = any
	handled int
}

// session consumes until the stream ends.
func (c *consumer) session(ctx context.Context) error {
	// The stream outlives an interruption: what runs is finished and acknowledged.
	sctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	stream, err := c.client.Consume(sctx)
	if err != nil {
		return err
	}
	var sending sync.Mutex
	send := func(r *pb.ConsumeRequest) {
		sending.Lock()
		defer sending.Unlock()
		_ = stream.Send(r) // Recv tells of the end of the stream
	}
	credit := int64(c.o.parallel)
	if c.left > 0 {
		credit = min(credit, int64(c.left))
	}
	const heartbeat = 15 * time.Second
	send(&pb.ConsumeRequest{Content: &pb.ConsumeRequest_Join{Join: &pb.Join{
		Group: c.o.group, ClientName: "spotbridge groups consume", Credit: &pb.Credit{Events: credit}, View: c.view, MaxMessageBytes: maxMessage,
		HeartbeatInterval: durationpb.New(heartbeat),
	}}})
	granted := credit
	leave := sync.OnceFunc(func() { send(&pb.ConsumeRequest{Content: &pb.ConsumeRequest_Leave{Leave: &pb.Leave{}}}) })
	defer context.AfterFunc(ctx, leave)()
	watchdog := time.AfterFunc(3*heartbeat, cancel)
	defer watchdog.Stop()
	var running sync.WaitGroup
	defer running.Wait()
	deadline := 30 * time.Second
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		watchdog.Reset(3 * heartbeat)
		switch x := m.GetContent().(type) {
		case *pb.ConsumeResponse_Joined:
			deadline = x.Joined.GetGroup().GetAckDeadline().AsDuration()
			fmt.Fprintf(c.notices, "# joined %s as member %s\n", c.o.group, x.Joined.GetMemberId())
		case *pb.ConsumeResponse_Delivery:
			running.Go(func() {
				c.handle(ctx, x.Delivery, deadline, send)
				c.mu.Lock()
				defer c.mu.Unlock()
				c.handled++
				if c.left > 0 {
					c.left--
				}
				switch {
				case c.left == 0:
					leave()
				case ctx.Err() == nil && (c.left < 0 || granted < int64(c.o.limit)):
					granted++
					send(&pb.ConsumeRequest{Content: &pb.ConsumeRequest_Credit{Credit: &pb.Credit{Events: 1}}})
				}
			})
		case *pb.ConsumeResponse_Refused:
			fmt.Fprintf(c.notices, "# refused: %s (%s)\n", x.Refused.GetMessage(), x.Refused.GetReason())
		case *pb.ConsumeResponse_Lost:
			fmt.Fprintf(c.notices, "# LOST: events %d to %d left the log before this group had them\n", x.Lost.GetFromSequence(), x.Lost.GetToSequence())
		case *pb.ConsumeResponse_Goodbye:
			fmt.Fprintf(c.notices, "# goodbye: %s\n", strings.ToLower(strings.TrimPrefix(x.Goodbye.GetReason().String(), "GOODBYE_REASON_")))
		}
	}
}

// handle runs the command for an event and settles it.
func (c *consumer) handle(ctx context.Context, d *pb.GroupDelivery, deadline time.Duration, send func(*pb.ConsumeRequest)) {
	ids := []string{d.GetDeliveryId()}
	stop := make(chan struct{})
	var extending sync.WaitGroup
	extending.Go(func() {
		t := time.NewTicker(deadline / 3)
		defer t.Stop()
		for {
			select {
			case <-t.C:
				send(&pb.ConsumeRequest{Content: &pb.ConsumeRequest_Extend{Extend: &pb.Extend{DeliveryIds: ids}}})
			case <-stop:
				return
			}
		}
	})
	err := c.execute(ctx, d)
	close(stop)
	extending.Wait()
	if err == nil {
		send(&pb.ConsumeRequest{Content: &pb.ConsumeRequest_Ack{Ack: &pb.Ack{DeliveryIds: ids, Confirm: true}}})
		return
	}
	reason := err.Error()
	if len(reason) > maxNackReason {
		reason = strings.ToValidUTF8(reason[:maxNackReason], "")
	}
	n := &pb.Nack{DeliveryIds: ids, Action: c.action, Reason: reason}
	if c.o.retryAfter > 0 && c.action == pb.NackAction_NACK_ACTION_RETRY {
		n.RetryAfter = durationpb.New(c.o.retryAfter)
	}
	fmt.Fprintf(c.notices, "# %s attempt %d: %s\n", d.GetEvent().GetId(), d.GetAttempt(), reason)
	send(&pb.ConsumeRequest{Content: &pb.ConsumeRequest_Nack{Nack: n}})
}

func (c *consumer) execute(ctx context.Context, d *pb.GroupDelivery) error {
	b, err := protojson.Marshal(d.GetEvent())
	if err != nil {
		return fmt.Errorf("write the event as JSON: %w", err)
	}
	line := append(compactJSON(b), '\n')
	if len(c.o.command) == 0 {
		c.mu.Lock()
		defer c.mu.Unlock()
		_, err := c.stdout.Write(line)
		return err
	}
	ctx = context.WithoutCancel(ctx) // an interruption lets it finish
	if c.o.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.o.timeout)
		defer cancel()
	}
	cmd := exec.CommandContext(ctx, c.o.command[0], c.o.command[1:]...)
	cmd.WaitDelay = 5 * time.Second
	cmd.Stdin = bytes.NewReader(line)
	cmd.Stdout, cmd.Stderr = &sharedWriter{mu: &c.mu, w: c.stdout}, &sharedWriter{mu: &c.mu, w: c.notices}
	cmd.Env = append(os.Environ(), "SPOTBRIDGE_EVENT_ID="+d.GetEvent().GetId(), fmt.Sprintf("SPOTBRIDGE_ATTEMPT=%d", d.GetAttempt()), "SPOTBRIDGE_DELIVERY_ID="+d.GetDeliveryId())
	err = cmd.Run()
	// A command that does not read its input has still succeeded when it says so.
	if err != nil && cmd.ProcessState != nil && cmd.ProcessState.Success() && ctx.Err() == nil {
		return nil
	}
	if ctx.Err() != nil {
		return fmt.Errorf("the command ran for longer than %v", c.o.timeout)
	}
	if err != nil {
		return fmt.Errorf("the command failed: %w", err)
	}
	return nil
}

// sharedWriter is a writer that several commands write to.
type sharedWriter struct {
	mu *sync.Mutex
	w  io.Writer
}

func (s *sharedWriter) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.w.Write(b)
}
