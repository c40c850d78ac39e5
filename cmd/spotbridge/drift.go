package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

func newDrift() *cobra.Command {
	var client clientFlags
	var out printer
	var types, kinds []string
	var since string
	var limit int
	cmd := &cobra.Command{
		Use: "drift", Short: "Show in what payloads differ from the published schema", Args: cobra.NoArgs,
		Example: `  spotbridge drift
  spotbridge drift --type PNR_V3 --kind unknown_field,type_mismatch
  spotbridge drift --since 24h --json | jq -r .path   # what is new since a release`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			req := &pb.ListSchemaDriftRequest{EventTypes: types}
			for _, s := range kinds {
				v, err := parseEnum("kind", s, "ISSUE_KIND_", pb.IssueKind_value)
				if err != nil {
					return err
				}
				req.Kinds = append(req.Kinds, pb.IssueKind(v))
			}
			var err error
			if req.FirstSeenSince, err = parseTime("since", since); err != nil {
				return err
			}
			conn, err := client.dial()
			if err != nil {
				return err
			}
			defer conn.Close()
			var last *pb.ListSchemaDriftResponse
			for left := limit; left > 0; {
				req.PageSize = int32(min(left, 200))
				page, err := pb.NewCatalogServiceClient(conn).ListSchemaDrift(cmd.Context(), req)
				if err != nil {
					return err
				}
				if err := out.drift(page, last == nil); err != nil {
					return err
				}
				last = page
				left -= len(page.GetEntries())
				if req.PageToken = page.GetNextPageToken(); req.PageToken == "" {
					break
				}
			}
			// Not among the lines that scripts read.
			for _, line := range inspected(last) {
				fmt.Fprintln(cmd.ErrOrStderr(), "# "+line)
			}
			return nil
		},
	}
	fs := cmd.Flags()
	client.register(fs)
	out.register(cmd)
	fs.StringSliceVar(&types, "type", nil, "event types, for example PNR_V3")
	fs.StringSliceVar(&kinds, "kind", nil, "unknown_field, unknown_enum_value, type_mismatch, out_of_range, deprecated_field")
	fs.StringVar(&since, "since", "", "only what was first seen since this time, or this long ago (24h)")
	fs.IntVar(&limit, "limit", 200, "how many entries at most")
	return cmd
}

// driftLine is a row of the table.
const driftLine = "%-18s  %-18s  %6s  %-16s  %-16s  %s  %s"

func (p *printer) drift(page *pb.ListSchemaDriftResponse, first bool) error {
	if first && !p.json && len(page.GetEntries()) > 0 {
		if err := writeLine(p.w, fmt.Appendf(nil, driftLine, "EVENT TYPE", "KIND", "EVENTS", "FIRST SEEN", "LAST SEEN", "PATH", "(EXAMPLE)")); err != nil {
			return err
		}
	}
	for _, e := range page.GetEntries() {
		if p.json {
			if err := p.message(e); err != nil {
				return err
			}
			continue
		}
		const minutes = "2006-01-02 15:04"
		if err := writeLine(p.w, fmt.Appendf(nil, driftLine, e.GetEventType(), strings.TrimPrefix(e.GetKind().String(), "ISSUE_KIND_"), fmt.Sprint(e.GetEventCount()),
			e.GetFirstSeenTime().AsTime().Local().Format(minutes), e.GetLastSeenTime().AsTime().Local().Format(minutes), e.GetPath(), "("+e.GetExampleEventId()+")")); err != nil {
			return err
		}
	}
	return nil
}

// inspected says how complete the entries are.
func inspected(r *pb.ListSchemaDriftResponse) (lines []string) {
	i := r.GetInspection()
	if i == nil {
		return []string{"no event was inspected yet"}
	}
	state := "complete"
	if i.GetWatermark() < r.GetHead() && r.GetNextInspection() == nil {
		state = fmt.Sprintf("up to sequence %d of %d", i.GetWatermark(), r.GetHead())
	}
	lines = append(lines, fmt.Sprintf("%d events inspected by schema revision %s, %s", i.GetEventCount(), i.GetSchemaRevision(), state))
	if n := r.GetNextInspection(); n != nil {
		lines[0] = fmt.Sprintf("%d events inspected by schema revision %s, up to sequence %d", i.GetEventCount(), i.GetSchemaRevision(), i.GetWatermark())
		lines = append(lines, fmt.Sprintf("revision %s takes its place when it has caught up: sequence %d of %d", n.GetSchemaRevision(), n.GetWatermark(), r.GetHead()))
	}
	if n := i.GetSkippedCount(); n > 0 {
		lines = append(lines, fmt.Sprintf("not complete: %d were gone or could not be converted", n))
	}
	if n := i.GetOverflowCount(); n > 0 {
		lines = append(lines, fmt.Sprintf("not complete: %d more occurrences, of things that there were too many of", n))
	}
	if r.GetNextPageToken() != "" {
		lines = append(lines, "there are more entries; raise --limit")
	}
	return lines
}
