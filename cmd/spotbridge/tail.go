package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

func compactJSON(b []byte) []byte {
	var out bytes.Buffer
	if json.Compact(&out, b) != nil {
		return b
	}
	return out.Bytes()
}

type tailOptions struct {
	client     clientFlags
	filter     filterFlags
	out        printer
	cursorFile string
	start      string
	after      string
	from       string
	view       string
	heartbeat  time.Duration
	stop       bool
	quiet      bool
	once       bool
}

func newTail() *cobra.Command {
	o := &tailOptions{}
	cmd := &cobra.Command{
		Use: "tail", Short: "Follow events as they come, and resume where it stopped", Args: cobra.NoArgs,
		Long: `tail subscribes and prints events until it is interrupted. It reconnects by itself and resumes with its cursor.
With --cursor-file the cursor outlives the process: the file is read at the start and written after each event
was printed, so that nothing is missed between two runs.`,
		Example: `  spotbridge tail --type PNR_V3 --operation BOOKING_TICKETED
  spotbridge tail --start earliest --stop-at-head --json > events.jsonl
  spotbridge tail --cursor-file expenses.cursor --json
  spotbridge tail --from 15m --org 1f03c874-6731-46aa-96cb-8672785de903`,
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd.Context(), cmd.ErrOrStderr()) },
	}
	fs := cmd.Flags()
	o.client.register(fs)
	o.filter.register(fs)
	o.out.register(cmd)
	fs.StringVar(&o.cursorFile, "cursor-file", "", "file that keeps the position between runs")
	fs.StringVar(&o.start, "start", "", "where to begin without a cursor: latest (default), earliest, or snapshot (the latest event of each entity first)")
	fs.StringVar(&o.after, "after", "", "resume after this cursor")
	fs.StringVar(&o.from, "from", "", "begin at this time, or this long ago (15m)")
	fs.StringVar(&o.view, "view", "", "parts of each event: envelope, typed, raw or full (text output needs envelope only)")
	fs.DurationVar(&o.heartbeat, "heartbeat", 0, "time between heartbeats, 5s to 60s")
	fs.BoolVar(&o.stop, "stop-at-head", false, "end when everything up to now was printed")
	fs.BoolVar(&o.quiet, "quiet", false, "do not print notices (caught up, fell behind, reconnecting)")
	fs.BoolVar(&o.once, "no-reconnect", false, "end when the stream ends")
	return cmd
}

func (o *tailOptions) run(ctx context.Context, notices io.Writer) error {
	if o.quiet {
		notices = io.Discard
	}
	req := &pb.SubscribeRequest{Filter: o.filter.filter(), StopAtHead: o.stop, ClientName: "spotbridge tail", MaxMessageBytes: maxMessage}
	view := o.view
	if view == "" && !o.out.json {
		view = "envelope"
	}
	var err error
	if req.View, err = parseView(view); err != nil {
		return err
	}
	if o.start != "" {
		v, err := parseEnum("start", o.start, "START_", pb.Start_value)
		if err != nil {
			return err
		}
		req.Start = pb.Start(v)
	}
	if req.FromTime, err = parseTime("from", o.from); err != nil {
		return err
	}
	req.AfterCursor = o.after
	if o.heartbeat > 0 {
		req.HeartbeatInterval = durationpb.New(o.heartbeat)
	}
	if o.cursorFile != "" {
		b, err := os.ReadFile(o.cursorFile)
		switch {
		case err == nil && len(bytes.TrimSpace(b)) > 0:
			req.AfterCursor, req.FromTime, req.Start = string(bytes.TrimSpace(b)), nil, pb.Start_START_UNSPECIFIED
		case err != nil && !errors.Is(err, os.ErrNotExist):
			return fmt.Errorf("read the cursor file: %w", err)
		}
	}
	conn, err := o.client.dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	client := pb.NewSubscriptionServiceClient(conn)
	wait := 250 * time.Millisecond
	for {
		progress, err := o.stream(ctx, client, req, notices)
		if ctx.Err() != nil {
			return errInterrupted
		}
		if progress {
			wait = 250 * time.Millisecond
		}
		switch {
		case errors.Is(err, errCaughtUp):
			return nil
		case err != nil && !retryable(err), o.once:
			return err
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

var errCaughtUp = errors.New("caught up")

// stream prints one subscription until it ends. It moves req on, so that the next one resumes.
func (o *tailOptions) stream(ctx context.Context, client pb.SubscriptionServiceClient, req *pb.SubscribeRequest, notices io.Writer) (progress bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// No message for three intervals: the connection is dead, whatever TCP believes.
	interval := 15 * time.Second
	if d := req.GetHeartbeatInterval(); d != nil {
		interval = d.AsDuration()
	}
	watchdog := time.AfterFunc(3*interval, cancel)
	defer watchdog.Stop()
	stream, err := client.Subscribe(ctx, req)
	if err != nil {
		return false, err
	}
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return progress, nil
		}
		if err != nil {
			return progress, err
		}
		watchdog.Reset(3 * interval)
		switch c := m.GetContent().(type) {
		case *pb.SubscribeResponse_Confirmation:
			for _, w := range c.Confirmation.GetWarnings() {
				fmt.Fprintf(notices, "# warning: %s: %s\n", w.GetField(), w.GetMessage())
			}
		case *pb.SubscribeResponse_Event:
			if err := o.out.event(c.Event); err != nil {
				return progress, status.Error(codes.Aborted, err.Error())
			}
		case *pb.SubscribeResponse_CaughtUp:
			fmt.Fprintln(notices, "# caught up, following")
			if req.GetStopAtHead() {
				return true, errors.Join(errCaughtUp, o.keep(req, m.GetCursor()))
			}
		case *pb.SubscribeResponse_SnapshotEnd:
			fmt.Fprintf(notices, "# end of the snapshot: %d events\n", c.SnapshotEnd.GetEventCount())
		case *pb.SubscribeResponse_FellBehind:
			fmt.Fprintf(notices, "# fell behind by up to %d events, reading from history\n", c.FellBehind.GetBehindEvents())
		case *pb.SubscribeResponse_Goodbye:
			fmt.Fprintf(notices, "# goodbye: %s\n", strings.ToLower(strings.TrimPrefix(c.Goodbye.GetReason().String(), "GOODBYE_REASON_")))
		}
		progress = true
		if err := o.keep(req, m.GetCursor()); err != nil {
			return progress, status.Error(codes.Aborted, err.Error())
		}
	}
}

// keep remembers the position, in the file too.
func (o *tailOptions) keep(req *pb.SubscribeRequest, cursor string) error {
	if cursor == "" || cursor == req.GetAfterCursor() {
		return nil
	}
	req.AfterCursor, req.FromTime, req.Start = cursor, nil, pb.Start_START_UNSPECIFIED
	if o.cursorFile == "" {
		return nil
	}
	// A new file and a rename: a crash leaves the old position or the new one, never half of one.
	tmp, err := os.CreateTemp(filepath.Dir(o.cursorFile), ".cursor-*")
	if err == nil {
		_, err = tmp.WriteString(cursor + "\n")
		err = errors.Join(err, tmp.Close())
		if err == nil {
			err = os.Rename(tmp.Name(), o.cursorFile)
		}
		if err != nil {
			_ = os.Remove(tmp.Name())
		}
	}
	if err != nil {
		return fmt.Errorf("write the cursor file: %w", err)
	}
	return nil
}

// retryable: the contract says which ends of a stream mean resume.
func retryable(err error) bool {
	switch status.Code(err) {
	case codes.Unavailable, codes.ResourceExhausted, codes.Canceled, codes.DeadlineExceeded, codes.Internal, codes.Unknown:
		return true
	default:
		return false
	}
}

func explainShort(err error) string {
	s, _ := status.FromError(err)
	return strings.ToLower(s.Code().String()) + ": " + s.Message()
}
