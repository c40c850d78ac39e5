package projection

import (
	"fmt"
	"strings"
	"testing"

	"github.com/spotbridge/spotbridge/bridge"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

// TestPlansNeverSort looks at SQLite's plans: every listing is driven by an index, in order, and nothing is sorted.
func TestPlansNeverSort(t *testing.T) {
	log := newFakeLog()
	for i := range 400 {
		e := event(fmt.Sprint("w", i), pnr(fmt.Sprint("OP", i%100), fmt.Sprint("org", i%90), fmt.Sprint(i%50), i, ""), t0)
		if i%7 == 0 {
			e.Body = []byte(fmt.Sprintf(`{"event_type":"X","audience":[{"organizationId":"org%d"},{"organizationId":"org%d"}],"payload":{"pnrTravelers":[]}}`, i%90, i%3))
		}
		log.append(e)
	}
	p := projected(t, Config{}, log)
	several := func(prefix string, n int) (out []string) {
		for i := range n {
			out = append(out, fmt.Sprint(prefix, i))
		}
		return out
	}
	for name, x := range map[string]struct {
		f    *pb.EventFilter
		want []string
	}{
		"op":         {&pb.EventFilter{Operations: []string{"OP1"}}, []string{"COVERING INDEX events_op (op=? AND rowid>? AND rowid<?)"}},
		"ops":        {&pb.EventFilter{Operations: several("OP", 40), ExcludeStale: true}, []string{"MERGE (UNION ALL)", "events_op", "CO-ROUTINE"}},
		"org":        {&pb.EventFilter{OrganizationIds: []string{"org5"}}, []string{"events_org (org=? AND rowid>? AND rowid<?)"}},
		"multi org":  {&pb.EventFilter{OrganizationIds: []string{"org1"}}, []string{"events_org (org=? AND rowid>?", "other_org USING PRIMARY KEY (org=? AND seq>? AND seq<?)", "MERGE (UNION)"}},
		"org and op": {&pb.EventFilter{OrganizationIds: []string{"org5", "org6"}, Operations: []string{"OP5", "OP6"}}, []string{"events_org_op (org=? AND op=? AND rowid>? AND rowid<?)"}},
		"pnr":        {&pb.EventFilter{PnrIds: several("", 60), EventTypes: []string{"PNR_V3"}}, []string{"ent USING PRIMARY KEY (kind=? AND id=? AND seq>? AND seq<?)", "CO-ROUTINE"}},
		"traveler":   {&pb.EventFilter{TravelerIds: several("", 60)}, []string{"ent USING PRIMARY KEY (kind=? AND id=? AND seq>? AND seq<?)", "MERGE (UNION)"}},
		"entity":     {&pb.EventFilter{EntityIds: several("", 20)}, []string{"events_eid (eid=? AND rowid>? AND rowid<?)"}},
		"common":     {&pb.EventFilter{EventTypes: []string{"PNR_V3"}}, []string{"events USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)", "CO-ROUTINE"}},
		"all ids":    {&pb.EventFilter{EntityIds: []string{"1"}, PnrIds: []string{"1"}, TripIds: []string{"T1"}, TravelerIds: []string{"1"}}, []string{"events_eid (eid=? AND rowid>? AND rowid<?)"}},
	} {
		t.Run(name, func(t *testing.T) {
			f, err := bridge.CompileFilter(x.f, "filter")
			if err != nil {
				t.Fatal(err)
			}
			st := p.st
			pl, err := p.plan(t.Context(), st, f, 400)
			if err != nil {
				t.Fatal(err)
			}
			for _, desc := range []bool{true, false} {
				text, args := pl.statement(pl.arms, 10, 300, desc, 50, maxLooked)
				plan := explain(t, st, text, args)
				if strings.Contains(plan, "TEMP B-TREE") || strings.Contains(plan, "MATERIALIZE") {
					t.Errorf("sorts:\n%s\n%s", text, plan)
				}
				for _, w := range x.want {
					if !strings.Contains(plan, w) {
						t.Errorf("%q is not in the plan of\n%s\n%s", w, text, plan)
					}
				}
			}
		})
	}
	t.Run("load", func(t *testing.T) {
		st := p.st
		plan := explain(t, st, loadFrom(true)+" WHERE w.seq IN (?,?,?) ORDER BY w.seq DESC", []any{1, 2, 3})
		if strings.Contains(plan, "TEMP B-TREE") || strings.Contains(plan, "SCAN") {
			t.Error(plan)
		}
	})
}

func explain(t *testing.T, st *store, text string, args []any) string {
	t.Helper()
	rows, err := st.read.QueryContext(t.Context(), "EXPLAIN QUERY PLAN "+text, args...)
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	defer rows.Close()
	var b strings.Builder
	for rows.Next() {
		var id, parent, unused int
		var detail string
		if err := rows.Scan(&id, &parent, &unused, &detail); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintln(&b, detail)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}
