package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"

	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

func newEvents() *cobra.Command {
	cmd := &cobra.Command{
		Use: "events", Short: "Look events up in the history",
		Example: `  spotbridge events list --pnr 6789533589
  spotbridge events list --type PNR_V3 --since 1h --oldest-first
  spotbridge events get sandbox.msg_XfQv8Nymdq48z8IHhUmnoH7kjbV
  spotbridge events body sandbox.msg_XfQv8Nymdq48z8IHhUmnoH7kjbV > body.json`,
	}
	cmd.AddCommand(newEventsList(), newEventsGet(), newEventsBody())
	return cmd
}

func newEventsList() *cobra.Command {
	var client clientFlags
	var filter filterFlags
	var out printer
	var since, until, view string
	var limit int
	var oldest, latest bool
	cmd := &cobra.Command{
		Use: "list", Short: "List events, newest first", Args: cobra.NoArgs,
		Example: `  spotbridge events list --trip 5359173356 --json | jq .operation
  spotbridge events list --latest-per-entity --type PNR_V3 --org 1f03c874-6731-46aa-96cb-8672785de903`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if view == "" && !out.json {
				view = "envelope"
			}
			v, err := parseView(view)
			if err != nil {
				return err
			}
			req := &pb.ListEventsRequest{Filter: filter.filter(), View: v, LatestPerEntity: latest}
			if oldest {
				req.Order = pb.Order_ORDER_OLDEST_FIRST
			}
			if req.StartTime, err = parseTime("since", since); err != nil {
				return err
			}
			if req.EndTime, err = parseTime("until", until); err != nil {
				return err
			}
			conn, err := client.dial()
			if err != nil {
				return err
			}
			defer conn.Close()
			warned := false
			for left := limit; left > 0; {
				req.PageSize = int32(min(left, 200))
				page, err := pb.NewEventServiceClient(conn).ListEvents(cmd.Context(), req)
				if err != nil {
					return err
				}
				for _, w := range page.GetWarnings() {
					if !warned {
						fmt.Fprintf(cmd.ErrOrStderr(), "# warning: %s: %s\n", w.GetField(), w.GetMessage())
					}
				}
				warned = true
				for _, e := range page.GetEvents() {
					if err := out.event(e); err != nil {
						return err
					}
				}
				left -= len(page.GetEvents())
				if req.PageToken = page.GetNextPageToken(); req.PageToken == "" {
					return nil
				}
			}
			return nil
		},
	}
	fs := cmd.Flags()
	client.register(fs)
	filter.register(fs)
	out.register(cmd)
	fs.StringVar(&since, "since", "", "only events since this time, or this long ago (1h)")
	fs.StringVar(&until, "until", "", "only events before this time, or this long ago")
	fs.StringVar(&view, "view", "", "parts of each event: envelope, typed, raw or full")
	fs.IntVar(&limit, "limit", 50, "how many events at most")
	fs.BoolVar(&oldest, "oldest-first", false, "from the oldest on")
	fs.BoolVar(&latest, "latest-per-entity", false, "only the newest event of each entity")
	return cmd
}

func newEventsGet() *cobra.Command {
	var client clientFlags
	var view string
	cmd := &cobra.Command{
		Use: "get EVENT_ID", Short: "Print one event as JSON", Args: cobra.ExactArgs(1),
		Example: "  spotbridge events get sandbox.msg_XfQv8Nymdq48z8IHhUmnoH7kjbV --view envelope",
		RunE: func(cmd *cobra.Command, args []string) error {
			v, err := parseView(view)
			if err != nil {
				return err
			}
			conn, err := client.dial()
			if err != nil {
				return err
			}
			defer conn.Close()
			got, err := pb.NewEventServiceClient(conn).GetEvent(cmd.Context(), &pb.GetEventRequest{EventId: args[0], View: v})
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), protojson.MarshalOptions{Multiline: true}.Format(got.GetEvent()))
			return err
		},
	}
	client.register(cmd.Flags())
	cmd.Flags().StringVar(&view, "view", "", "parts: envelope, typed (default), raw or full")
	return cmd
}

func newEventsBody() *cobra.Command {
	var client clientFlags
	var file string
	cmd := &cobra.Command{
		Use: "body EVENT_ID", Short: "Write the exact bytes that came", Args: cobra.ExactArgs(1),
		Example: "  spotbridge events body sandbox.msg_XfQv8Nymdq48z8IHhUmnoH7kjbV --output body.json",
		RunE: func(cmd *cobra.Command, args []string) error {
			conn, err := client.dial()
			if err != nil {
				return err
			}
			defer conn.Close()
			stream, err := pb.NewEventServiceClient(conn).GetEventBody(cmd.Context(), &pb.GetEventBodyRequest{EventId: args[0]})
			if err != nil {
				return err
			}
			return writeChunks(cmd.OutOrStdout(), file, func() ([]byte, error) {
				m, err := stream.Recv()
				return m.GetChunk(), err
			})
		},
	}
	client.register(cmd.Flags())
	cmd.Flags().StringVarP(&file, "output", "o", "", "file to write instead of standard output")
	return cmd
}

// writeChunks writes a streamed body to w, or to a file that is there only when it is whole.
func writeChunks(w io.Writer, file string, next func() ([]byte, error)) (err error) {
	if file != "" {
		f, err := os.Create(file)
		if err != nil {
			return err
		}
		defer func() {
			if err = errors.Join(err, f.Close()); err != nil {
				_ = os.Remove(file)
			}
		}()
		w = f
	}
	for {
		b, err := next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if _, err := w.Write(b); err != nil {
			return err
		}
	}
}

func newDeliveries() *cobra.Command {
	var client clientFlags
	var out printer
	var outcomes, causes, sources []string
	var webhookID, since, until string
	var limit int
	cmd := &cobra.Command{
		Use: "deliveries", Short: "Show what came to the door, refused attempts too", Args: cobra.NoArgs,
		Example: `  spotbridge deliveries --outcome refused --since 1h
  spotbridge deliveries --webhook-id msg_XfQv8Nymdq48z8IHhUmnoH7kjbV
  spotbridge deliveries reprocess --dry-run`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			req := &pb.ListDeliveriesRequest{Sources: sources, WebhookId: webhookID}
			for _, s := range outcomes {
				v, err := parseEnum("outcome", s, "DELIVERY_OUTCOME_", pb.DeliveryOutcome_value)
				if err != nil {
					return err
				}
				req.Outcomes = append(req.Outcomes, pb.DeliveryOutcome(v))
			}
			for _, s := range causes {
				v, err := parseEnum("cause", s, "DELIVERY_CAUSE_", pb.DeliveryCause_value)
				if err != nil {
					return err
				}
				req.Causes = append(req.Causes, pb.DeliveryCause(v))
			}
			var err error
			if req.StartTime, err = parseTime("since", since); err != nil {
				return err
			}
			if req.EndTime, err = parseTime("until", until); err != nil {
				return err
			}
			conn, err := client.dial()
			if err != nil {
				return err
			}
			defer conn.Close()
			for left := limit; left > 0; {
				req.PageSize = int32(min(left, 200))
				page, err := pb.NewDeliveryServiceClient(conn).ListDeliveries(cmd.Context(), req)
				if err != nil {
					return err
				}
				for _, d := range page.GetDeliveries() {
					if err := out.delivery(d); err != nil {
						return err
					}
				}
				left -= len(page.GetDeliveries())
				if req.PageToken = page.GetNextPageToken(); req.PageToken == "" {
					return nil
				}
			}
			return nil
		},
	}
	fs := cmd.Flags()
	client.register(fs)
	out.register(cmd)
	fs.StringSliceVar(&outcomes, "outcome", nil, "accepted, duplicate, conflict, quarantined, refused")
	fs.StringSliceVar(&causes, "cause", nil, "causes, for example wrong_signature")
	fs.StringSliceVar(&sources, "source", nil, "source names")
	fs.StringVar(&webhookID, "webhook-id", "", "a webhook id, exactly")
	fs.StringVar(&since, "since", "", "only deliveries since this time, or this long ago (1h)")
	fs.StringVar(&until, "until", "", "only deliveries before this time, or this long ago")
	fs.IntVar(&limit, "limit", 50, "how many at most")
	cmd.AddCommand(newDeliveriesBody(), newDeliveriesReprocess())
	return cmd
}

func newDeliveriesBody() *cobra.Command {
	var client clientFlags
	var file string
	cmd := &cobra.Command{
		Use: "body DELIVERY_ID", Short: "Write the exact bytes of an accepted or quarantined delivery", Args: cobra.ExactArgs(1),
		Example: "  spotbridge deliveries body l-42 --output body.bin",
		RunE: func(cmd *cobra.Command, args []string) error {
			conn, err := client.dial()
			if err != nil {
				return err
			}
			defer conn.Close()
			stream, err := pb.NewDeliveryServiceClient(conn).GetDeliveryBody(cmd.Context(), &pb.GetDeliveryBodyRequest{DeliveryId: args[0]})
			if err != nil {
				return err
			}
			return writeChunks(cmd.OutOrStdout(), file, func() ([]byte, error) {
				m, err := stream.Recv()
				return m.GetChunk(), err
			})
		},
	}
	client.register(cmd.Flags())
	cmd.Flags().StringVarP(&file, "output", "o", "", "file to write instead of standard output")
	return cmd
}

func newDeliveriesReprocess() *cobra.Command {
	var client clientFlags
	var causes, sources, ids []string
	var dryRun bool
	cmd := &cobra.Command{
		Use: "reprocess", Short: "Read quarantined bodies again with today's rules", Args: cobra.NoArgs,
		Example: "  spotbridge deliveries reprocess --cause no_event_type --dry-run",
		RunE: func(cmd *cobra.Command, _ []string) error {
			req := &pb.ReprocessDeliveriesRequest{Sources: sources, DeliveryIds: ids, DryRun: dryRun}
			for _, s := range causes {
				v, err := parseEnum("cause", s, "DELIVERY_CAUSE_", pb.DeliveryCause_value)
				if err != nil {
					return err
				}
				req.Causes = append(req.Causes, pb.DeliveryCause(v))
			}
			conn, err := client.dial()
			if err != nil {
				return err
			}
			defer conn.Close()
			r, err := pb.NewDeliveryServiceClient(conn).ReprocessDeliveries(cmd.Context(), req)
			if err != nil {
				return err
			}
			verb := "became events"
			if dryRun {
				verb = "would become events"
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%d quarantined: %d %s, %d are events already, %d are still not readable\n",
				r.GetMatched(), r.GetAppended(), verb, r.GetAlreadyEvents(), r.GetStillUnreadable())
			return err
		},
	}
	fs := cmd.Flags()
	client.register(fs)
	fs.StringSliceVar(&causes, "cause", nil, "only these causes, for example no_event_type")
	fs.StringSliceVar(&sources, "source", nil, "only these sources")
	fs.StringSliceVar(&ids, "id", nil, "only these deliveries")
	fs.BoolVar(&dryRun, "dry-run", false, "count what would happen, and do nothing")
	return cmd
}
