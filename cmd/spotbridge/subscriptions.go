package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

func newSubscriptions() *cobra.Command {
	var client clientFlags
	var out printer
	var limit int
	cmd := &cobra.Command{
		Use: "subscriptions", Short: "List who is streaming from this replica, and how far behind", Args: cobra.NoArgs,
		Example: `  spotbridge subscriptions
  spotbridge subscriptions --json | jq 'select(.lagEvents != null)'`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			conn, err := client.dial()
			if err != nil {
				return err
			}
			defer conn.Close()
			req := &pb.ListSubscriptionsRequest{}
			for left, first := limit, true; left > 0; first = false {
				req.PageSize = int32(min(left, 1000))
				page, err := pb.NewSubscriptionServiceClient(conn).ListSubscriptions(cmd.Context(), req)
				if err != nil {
					return err
				}
				if err := out.subscriptions(page, first); err != nil {
					return err
				}
				left -= len(page.GetSubscriptions())
				if req.PageToken = page.GetNextPageToken(); req.PageToken == "" {
					break
				}
			}
			if req.PageToken != "" {
				fmt.Fprintln(cmd.ErrOrStderr(), "# there are more; raise --limit")
			}
			return nil
		},
	}
	fs := cmd.Flags()
	client.register(fs)
	out.register(cmd)
	fs.IntVar(&limit, "limit", 1000, "how many at most")
	return cmd
}

// subscriptionLine is a row of the table.
const subscriptionLine = "%-20s  %-24s  %-11s  %10s  %8s  %10s  %12s  %8s  %s"

func (p *printer) subscriptions(page *pb.ListSubscriptionsResponse, first bool) error {
	if first && !p.json && len(page.GetSubscriptions()) > 0 {
		if err := writeLine(p.w, fmt.Appendf(nil, subscriptionLine, "CLIENT", "PEER", "STATE", "LAG", "LAG TIME", "EVENTS", "BYTES", "AGE", "FILTER")); err != nil {
			return err
		}
	}
	for _, s := range page.GetSubscriptions() {
		if p.json {
			if err := p.message(s); err != nil {
				return err
			}
			continue
		}
		lag, filter := "-", "all"
		if s.GetLag() != nil {
			lag = s.GetLag().AsDuration().Round(time.Second).String()
		}
		if proto.Size(s.GetFilter()) > 0 {
			b, err := protojson.Marshal(s.GetFilter())
			if err != nil {
				return err
			}
			filter = string(compactJSON(b))
		}
		age := page.GetServerTime().AsTime().Sub(s.GetStartTime().AsTime()).Round(time.Second)
		if err := writeLine(p.w, fmt.Appendf(nil, subscriptionLine, orDash(s.GetClientName()), s.GetPeer(), strings.TrimPrefix(s.GetState().String(), "SUBSCRIPTION_STATE_"),
			fmt.Sprint(s.GetLagEvents()), lag, fmt.Sprint(s.GetEventsSent()), fmt.Sprint(s.GetBytesSent()), age.String(), filter)); err != nil {
			return err
		}
	}
	return nil
}
