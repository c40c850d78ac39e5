package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

const maxMessage = 16 << 20

// clientFlags say which bridge to talk to.
type clientFlags struct{ server string }

func (f *clientFlags) register(fs *pflag.FlagSet) {
	fs.StringVar(&f.server, "server", "127.0.0.1:9090", "gRPC address of the bridge")
}

func (f *clientFlags) dial() (*grpc.ClientConn, error) {
	return grpc.NewClient(f.server,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 20 * time.Second, Timeout: 10 * time.Second}))
}

// filterFlags are the EventFilter's fields, the same for every command.
type filterFlags struct{ msg pb.EventFilter }

func (f *filterFlags) register(fs *pflag.FlagSet) {
	m := &f.msg
	fs.StringSliceVar(&m.EventTypes, "type", nil, "event types, for example PNR_V3")
	fs.StringSliceVar(&m.Operations, "operation", nil, "operations, for example BOOKING_TICKETED")
	fs.StringSliceVar(&m.ExcludeOperations, "exclude-operation", nil, "operations to leave out")
	fs.StringSliceVar(&m.OrganizationIds, "org", nil, "organization ids")
	fs.StringSliceVar(&m.Sources, "source", nil, "source names")
	fs.StringSliceVar(&m.EntityIds, "entity", nil, "entity ids")
	fs.StringSliceVar(&m.PnrIds, "pnr", nil, "PNR ids")
	fs.StringSliceVar(&m.TripIds, "trip", nil, "trip ids")
	fs.StringSliceVar(&m.TravelerIds, "traveler", nil, "traveler ids")
	fs.BoolVar(&m.ExcludeStale, "exclude-stale", false, "leave out events that a newer one of their entity overtook")
}

func (f *filterFlags) filter() *pb.EventFilter {
	if proto.Size(&f.msg) == 0 {
		return nil
	}
	return &f.msg
}

// parseEnum reads an enum value by its full or short name, in any case.
func parseEnum(flag, text, prefix string, values map[string]int32) (int32, error) {
	name := strings.ToUpper(strings.ReplaceAll(text, "-", "_"))
	for _, n := range []string{name, prefix + name} {
		if v, ok := values[n]; ok && v != 0 {
			return v, nil
		}
	}
	var known []string
	for i := int32(1); ; i++ {
		found := ""
		for n, v := range values {
			if v == i {
				found = strings.ToLower(strings.TrimPrefix(n, prefix))
			}
		}
		if found == "" {
			break
		}
		known = append(known, found)
	}
	return 0, fmt.Errorf("--%s: %q is none of %s", flag, text, strings.Join(known, ", "))
}

func parseView(text string) (pb.EventView, error) {
	if text == "" {
		return pb.EventView_EVENT_VIEW_UNSPECIFIED, nil
	}
	v, err := parseEnum("view", text, "EVENT_VIEW_", pb.EventView_value)
	return pb.EventView(v), err
}

// parseTime reads an RFC 3339 time, or a duration before now such as 15m.
func parseTime(flag, text string) (*timestamppb.Timestamp, error) {
	if text == "" {
		return nil, nil
	}
	if d, err := time.ParseDuration(text); err == nil {
		return timestamppb.New(time.Now().Add(-d.Abs())), nil
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04", "2006-01-02"} {
		if t, err := time.ParseInLocation(layout, text, time.Local); err == nil {
			return timestamppb.New(t), nil
		}
	}
	return nil, fmt.Errorf("--%s: %q is no time: write 2026-01-31T09:00:00Z, 2026-01-31, or 15m for a quarter of an hour ago", flag, text)
}

// printer writes events and deliveries, for people or as JSON lines.
type printer struct {
	w    io.Writer
	json bool
}

func (p *printer) register(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&p.json, "json", false, "print JSON lines instead of text")
	cmd.PreRun = func(cmd *cobra.Command, _ []string) { p.w = cmd.OutOrStdout() }
}

func (p *printer) message(m proto.Message) error {
	b, err := protojson.Marshal(m)
	if err != nil {
		return err
	}
	// protojson puts random blanks between tokens on purpose; lines for scripts are the same each time.
	return writeLine(p.w, compactJSON(b))
}

func (p *printer) event(e *pb.Event) error {
	if p.json {
		return p.message(e)
	}
	entity := "-"
	if x := e.GetEntity(); x != nil {
		entity = strings.TrimPrefix(x.GetKind().String(), "ENTITY_KIND_") + ":" + x.GetId()
		if x.Version != nil {
			entity += fmt.Sprintf("@%d", x.GetVersion())
		}
	}
	line := fmt.Sprintf("%-8d %s  %-18s %-28s %-36s %-28s %s", e.GetSequence(), clock(e.GetAppendTime()), e.GetEventType(), orDash(e.GetOperation()),
		orDash(e.GetOrganizationId()), entity, strings.TrimPrefix(e.GetOrdering().String(), "ORDERING_"))
	return writeLine(p.w, []byte(strings.TrimRight(line, " ")+"  "+e.GetId()))
}

func (p *printer) delivery(d *pb.Delivery) error {
	if p.json {
		return p.message(d)
	}
	outcome := strings.TrimPrefix(d.GetOutcome().String(), "DELIVERY_OUTCOME_")
	if c := d.GetCause(); c != pb.DeliveryCause_DELIVERY_CAUSE_UNSPECIFIED && c != pb.DeliveryCause_DELIVERY_CAUSE_CONFLICT {
		outcome += " " + strings.TrimPrefix(c.String(), "DELIVERY_CAUSE_")
	}
	count := ""
	if d.GetCount() > 1 {
		count = fmt.Sprintf(" ×%d", d.GetCount())
	}
	return writeLine(p.w, fmt.Appendf(nil, "%-10s %s  %-10s %d %-36s %8d B  %s%s", d.GetId(), clock(d.GetReceiveTime()), d.GetSource(),
		d.GetHttpStatus(), outcome, d.GetBodyBytes(), d.GetWebhookId(), count))
}

func writeLine(w io.Writer, b []byte) error {
	_, err := w.Write(append(b, '\n'))
	return err
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func clock(t *timestamppb.Timestamp) string {
	if t == nil {
		return "-"
	}
	return t.AsTime().Local().Format("2006-01-02 15:04:05.000")
}
