package main

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

func newGroups() *cobra.Command {
	cmd := &cobra.Command{
		Use: "groups", Short: "Manage consumer groups, consume, and look after dead letters",
		Long: `A consumer group is a durable queue over the log: its members share the events, and each event comes again until
a member acknowledges it.`,
		Example: `  spotbridge groups create expenses --type PNR_V3 --start earliest
  spotbridge groups consume expenses -- ./book-expense   # the event as JSON on standard input, exit 0 acknowledges
  spotbridge groups dead list expenses`,
	}
	cmd.AddCommand(newGroupsCreate(), newGroupsGet(), newGroupsList(), newGroupsUpdate(), newGroupsDelete(), newGroupsPause(true), newGroupsPause(false),
		newGroupsSeek(), newGroupsConsume(), newGroupsDead())
	return cmd
}

// groupCall is what the commands share: they call the service and print a group.
type groupCall struct {
	client clientFlags
	out    printer
}

func (c *groupCall) register(cmd *cobra.Command) {
	c.client.register(cmd.Flags())
	c.out.register(cmd)
}

func (c *groupCall) call(f func(pb.ConsumerGroupServiceClient) error) error {
	conn, err := c.client.dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	return f(pb.NewConsumerGroupServiceClient(conn))
}

// settingFlags are what can be set of a group.
type settingFlags struct {
	filter        filterFlags
	description   string
	view          string
	ackDeadline   time.Duration
	maxDeliveries int32
}

func (f *settingFlags) register(fs *pflag.FlagSet) {
	f.filter.register(fs)
	fs.StringVar(&f.description, "description", "", "text for people")
	fs.StringVar(&f.view, "view", "", "parts of each event: envelope, typed, raw or full")
	fs.DurationVar(&f.ackDeadline, "ack-deadline", 0, "time to settle an event, 1s to 10m (default 30s)")
	fs.Int32Var(&f.maxDeliveries, "max-deliveries", 0, "deliveries after which an event becomes a dead letter (default 20)")
}

func (f *settingFlags) deadline() *durationpb.Duration {
	if f.ackDeadline == 0 {
		return nil
	}
	return durationpb.New(f.ackDeadline)
}

// positionFlags say where a group begins.
type positionFlags struct{ start, after, from string }

func (f *positionFlags) register(fs *pflag.FlagSet) {
	fs.StringVar(&f.start, "start", "", "latest or earliest")
	fs.StringVar(&f.after, "after", "", "begin after this cursor")
	fs.StringVar(&f.from, "from", "", "begin at this time, or this long ago (15m)")
}

func (f *positionFlags) parse() (start pb.Start, from *timestamppb.Timestamp, err error) {
	if f.start != "" {
		v, err := parseEnum("start", f.start, "START_", pb.Start_value)
		if err != nil {
			return 0, nil, err
		}
		start = pb.Start(v)
	}
	from, err = parseTime("from", f.from)
	return start, from, err
}

func newGroupsCreate() *cobra.Command {
	var c groupCall
	var set settingFlags
	var at positionFlags
	var paused bool
	cmd := &cobra.Command{
		Use: "create GROUP", Short: "Create a consumer group", Args: cobra.ExactArgs(1),
		Example: "  spotbridge groups create expenses --type PNR_V3 --operation BOOKING_TICKETED --from 24h",
		RunE: func(cmd *cobra.Command, args []string) error {
			view, err := parseView(set.view)
			if err != nil {
				return err
			}
			start, from, err := at.parse()
			if err != nil {
				return err
			}
			return c.call(func(s pb.ConsumerGroupServiceClient) error {
				r, err := s.CreateConsumerGroup(cmd.Context(), &pb.CreateConsumerGroupRequest{
					Group: args[0], Description: set.description, Filter: set.filter.filter(), View: view, AckDeadline: set.deadline(),
					MaxDeliveries: set.maxDeliveries, Start: start, AfterCursor: at.after, FromTime: from, Paused: paused,
				})
				if err != nil {
					return err
				}
				warn(cmd, r.GetWarnings())
				return c.out.group(r.GetGroup())
			})
		},
	}
	c.register(cmd)
	set.register(cmd.Flags())
	at.register(cmd.Flags())
	cmd.Flags().BoolVar(&paused, "paused", false, "create it paused")
	return cmd
}

func warn(cmd *cobra.Command, ws []*pb.Warning) {
	for _, w := range ws {
		fmt.Fprintf(cmd.ErrOrStderr(), "# warning: %s: %s\n", w.GetField(), w.GetMessage())
	}
}

func newGroupsGet() *cobra.Command {
	var c groupCall
	cmd := &cobra.Command{
		Use: "get GROUP", Short: "Show a group: settings, lag, members", Args: cobra.ExactArgs(1),
		Example: "  spotbridge groups get expenses --json",
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.call(func(s pb.ConsumerGroupServiceClient) error {
				r, err := s.GetConsumerGroup(cmd.Context(), &pb.GetConsumerGroupRequest{Group: args[0]})
				if err != nil {
					return err
				}
				return c.out.group(r.GetGroup())
			})
		},
	}
	c.register(cmd)
	return cmd
}

func newGroupsList() *cobra.Command {
	var c groupCall
	cmd := &cobra.Command{
		Use: "list", Short: "List the groups", Args: cobra.NoArgs, Example: "  spotbridge groups list",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.call(func(s pb.ConsumerGroupServiceClient) error {
				req := &pb.ListConsumerGroupsRequest{}
				for {
					p, err := s.ListConsumerGroups(cmd.Context(), req)
					if err != nil {
						return err
					}
					for _, g := range p.GetGroups() {
						if err := c.out.group(g); err != nil {
							return err
						}
					}
					if req.PageToken = p.GetNextPageToken(); req.PageToken == "" {
						return nil
					}
				}
			})
		},
	}
	c.register(cmd)
	return cmd
}

func newGroupsUpdate() *cobra.Command {
	var c groupCall
	var set settingFlags
	var all bool
	cmd := &cobra.Command{
		Use: "update GROUP", Short: "Change settings; the position stays", Args: cobra.ExactArgs(1),
		Example: "  spotbridge groups update expenses --type PNR_V3 --type SERVICE_CHARGE\n  spotbridge groups update expenses --no-filter",
		RunE: func(cmd *cobra.Command, args []string) error {
			view, err := parseView(set.view)
			if err != nil {
				return err
			}
			req := &pb.UpdateConsumerGroupRequest{Group: args[0], Filter: set.filter.filter(), View: view, AckDeadline: set.deadline(), MaxDeliveries: set.maxDeliveries}
			if cmd.Flags().Changed("description") {
				req.Description = &set.description
			}
			if all {
				if req.Filter != nil {
					return errors.New("--no-filter cannot be given together with a filter")
				}
				req.Filter = &pb.EventFilter{}
			}
			return c.call(func(s pb.ConsumerGroupServiceClient) error {
				r, err := s.UpdateConsumerGroup(cmd.Context(), req)
				if err != nil {
					return err
				}
				warn(cmd, r.GetWarnings())
				return c.out.group(r.GetGroup())
			})
		},
	}
	c.register(cmd)
	set.register(cmd.Flags())
	cmd.Flags().BoolVar(&all, "no-filter", false, "deliver all events")
	return cmd
}

func newGroupsDelete() *cobra.Command {
	var c groupCall
	var force bool
	cmd := &cobra.Command{
		Use: "delete GROUP", Short: "Delete a group with its position", Args: cobra.ExactArgs(1),
		Example: "  spotbridge groups delete expenses",
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.call(func(s pb.ConsumerGroupServiceClient) error {
				_, err := s.DeleteConsumerGroup(cmd.Context(), &pb.DeleteConsumerGroupRequest{Group: args[0], Force: force})
				return err
			})
		},
	}
	c.register(cmd)
	cmd.Flags().BoolVar(&force, "force", false, "even though it has dead letters")
	return cmd
}

func newGroupsPause(pause bool) *cobra.Command {
	var c groupCall
	use, short := "resume", "Take deliveries up again"
	if pause {
		use, short = "pause", "Stop deliveries; members stay connected"
	}
	cmd := &cobra.Command{
		Use: use + " GROUP", Short: short, Args: cobra.ExactArgs(1), Example: "  spotbridge groups " + use + " expenses",
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.call(func(s pb.ConsumerGroupServiceClient) error {
				if pause {
					r, err := s.PauseConsumerGroup(cmd.Context(), &pb.PauseConsumerGroupRequest{Group: args[0]})
					if err != nil {
						return err
					}
					return c.out.group(r.GetGroup())
				}
				r, err := s.ResumeConsumerGroup(cmd.Context(), &pb.ResumeConsumerGroupRequest{Group: args[0]})
				if err != nil {
					return err
				}
				return c.out.group(r.GetGroup())
			})
		},
	}
	c.register(cmd)
	return cmd
}

func newGroupsSeek() *cobra.Command {
	var c groupCall
	var at positionFlags
	cmd := &cobra.Command{
		Use: "seek GROUP", Short: "Move a group forwards or back", Args: cobra.ExactArgs(1),
		Example: "  spotbridge groups seek expenses --from 2h\n  spotbridge groups seek expenses --start earliest",
		RunE: func(cmd *cobra.Command, args []string) error {
			start, from, err := at.parse()
			if err != nil {
				return err
			}
			return c.call(func(s pb.ConsumerGroupServiceClient) error {
				r, err := s.SeekConsumerGroup(cmd.Context(), &pb.SeekConsumerGroupRequest{Group: args[0], Start: start, AfterCursor: at.after, FromTime: from})
				if err != nil {
					return err
				}
				fmt.Fprintf(cmd.ErrOrStderr(), "# goes on after sequence %d\n", r.GetAfterSequence())
				return c.out.group(r.GetGroup())
			})
		},
	}
	c.register(cmd)
	at.register(cmd.Flags())
	return cmd
}

func newGroupsDead() *cobra.Command {
	cmd := &cobra.Command{
		Use: "dead", Short: "List, redrive and delete dead letters",
		Example: "  spotbridge groups dead list expenses\n  spotbridge groups dead redrive expenses --dry-run",
	}
	cmd.AddCommand(newDeadList(), newDeadChange(true), newDeadChange(false))
	return cmd
}

func parseCauses(texts []string) (out []pb.DeadLetterCause, err error) {
	for _, t := range texts {
		v, err := parseEnum("cause", t, "DEAD_LETTER_CAUSE_", pb.DeadLetterCause_value)
		if err != nil {
			return nil, err
		}
		out = append(out, pb.DeadLetterCause(v))
	}
	return out, nil
}

func newDeadList() *cobra.Command {
	var c groupCall
	var filter filterFlags
	var causes []string
	var view string
	var limit int
	cmd := &cobra.Command{
		Use: "list GROUP", Short: "List dead letters, oldest first", Args: cobra.ExactArgs(1),
		Example: "  spotbridge groups dead list expenses --cause parked",
		RunE: func(cmd *cobra.Command, args []string) error {
			req := &pb.ListDeadLettersRequest{Group: args[0], Filter: filter.filter()}
			var err error
			if req.Causes, err = parseCauses(causes); err != nil {
				return err
			}
			if req.View, err = parseView(view); err != nil {
				return err
			}
			return c.call(func(s pb.ConsumerGroupServiceClient) error {
				for left := limit; left > 0; {
					req.PageSize = int32(min(left, 1000))
					p, err := s.ListDeadLetters(cmd.Context(), req)
					if err != nil {
						return err
					}
					for _, l := range p.GetDeadLetters() {
						if err := c.out.letter(l); err != nil {
							return err
						}
					}
					left -= len(p.GetDeadLetters())
					if req.PageToken = p.GetNextPageToken(); req.PageToken == "" {
						break
					}
				}
				return nil
			})
		},
	}
	c.register(cmd)
	filter.register(cmd.Flags())
	cmd.Flags().StringSliceVar(&causes, "cause", nil, "exhausted, parked, undeliverable")
	cmd.Flags().StringVar(&view, "view", "", "parts of each event: envelope (default), typed, raw or full")
	cmd.Flags().IntVar(&limit, "limit", 50, "how many at most")
	return cmd
}

// newDeadChange returns redrive or delete. Both repeat their call until everything that matched at the start is handled.
func newDeadChange(redrive bool) *cobra.Command {
	var c groupCall
	var filter filterFlags
	var causes, ids []string
	var dryRun, all bool
	use, short, done := "delete", "Delete dead letters for good", "deleted"
	if redrive {
		use, short, done = "redrive", "Put dead letters back for delivery to this group", "redriven"
	}
	cmd := &cobra.Command{
		Use: use + " GROUP", Short: short, Args: cobra.ExactArgs(1),
		Example: "  spotbridge groups dead " + use + " expenses --cause parked --dry-run\n  spotbridge groups dead " + use + " expenses --id 17",
		RunE: func(cmd *cobra.Command, args []string) error {
			parsed, err := parseCauses(causes)
			if err != nil {
				return err
			}
			before := timestamppb.Now()
			return c.call(func(s pb.ConsumerGroupServiceClient) error {
				total := int64(0)
				for {
					var matched, handled int64
					var finished bool
					if redrive {
						r, err := s.RedriveDeadLetters(cmd.Context(), &pb.RedriveDeadLettersRequest{
							Group: args[0], Filter: filter.filter(), Causes: parsed, Ids: ids, DryRun: dryRun, Before: before,
						})
						if err != nil {
							return err
						}
						matched, handled, finished = r.GetMatched(), r.GetRedriven(), r.GetDone()
					} else {
						r, err := s.DeleteDeadLetters(cmd.Context(), &pb.DeleteDeadLettersRequest{
							Group: args[0], Filter: filter.filter(), Causes: parsed, Ids: ids, DryRun: dryRun, All: all, Before: before,
						})
						if err != nil {
							return err
						}
						matched, handled, finished = r.GetMatched(), r.GetDeleted(), r.GetDone()
					}
					total += handled
					if finished || dryRun {
						break
					}
					fmt.Fprintf(cmd.ErrOrStderr(), "# %d %s, %d to go\n", total, done, matched-handled)
				}
				would := ""
				if dryRun {
					would = "would be "
				}
				_, err := fmt.Fprintf(cmd.OutOrStdout(), "%d dead letters %s%s\n", total, would, done)
				return err
			})
		},
	}
	c.register(cmd)
	filter.register(cmd.Flags())
	fs := cmd.Flags()
	fs.StringSliceVar(&causes, "cause", nil, "exhausted, parked, undeliverable")
	fs.StringSliceVar(&ids, "id", nil, "ids of dead letters")
	fs.BoolVar(&dryRun, "dry-run", false, "count what would happen, and do nothing")
	if !redrive {
		fs.BoolVar(&all, "all", false, "delete all dead letters of the group")
	}
	return cmd
}

func (p *printer) group(g *pb.ConsumerGroup) error {
	if p.json {
		return p.message(g)
	}
	line := fmt.Sprintf("%-24s ack deadline %v, %d deliveries", g.GetGroup(), g.GetAckDeadline().AsDuration(), g.GetMaxDeliveries())
	if g.GetPaused() {
		line += ", PAUSED"
	}
	if st := g.GetState(); st != nil {
		line += fmt.Sprintf(", %d members, lag %d events %v, %d in flight, %d dead letters", len(st.GetMembers()), st.GetLagEvents(),
			st.GetLag().AsDuration().Round(time.Millisecond), st.GetInFlightEvents(), st.GetDeadLetters())
		for _, m := range st.GetMembers() {
			if m.GetUnresponsive() {
				line += fmt.Sprintf(", member %s (%s) UNRESPONSIVE", m.GetMemberId(), m.GetClientName())
			}
		}
		if l := st.GetLastLost(); l != nil {
			line += fmt.Sprintf(", LOST %d to %d at %s", l.GetFromSequence(), l.GetToSequence(), clock(l.GetTime()))
		}
	}
	return writeLine(p.w, []byte(line))
}

func (p *printer) letter(l *pb.DeadLetter) error {
	if p.json {
		return p.message(l)
	}
	cause := strings.ToLower(strings.TrimPrefix(l.GetCause().String(), "DEAD_LETTER_CAUSE_"))
	return writeLine(p.w, fmt.Appendf(nil, "%-8s %s  %-14s %2d attempts  %-18s %-28s %s  %s", l.GetId(), clock(l.GetTime()), cause, l.GetAttempts(),
		l.GetEvent().GetEventType(), orDash(l.GetEvent().GetOperation()), l.GetEvent().GetId(), l.GetReason()))
}
