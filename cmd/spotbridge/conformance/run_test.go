package conformance

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
)

// feedCommand runs this test binary as a feed.
func feedCommand(t *testing.T, p protocol, fault string) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%s=%s %s=%s exec '%s'", feedEnv, p, faultEnv, fault, self)
}

// processedCommand prints what a feed has stored.
const processedCommand = `awk '$1 == "E" { print $2 }' "$CONFORMANCE_DIR/store"`

// faults are the ways in which the feed can be wrong, with the scenarios that must find out: exactly these.
var faults = []struct {
	name string
	on   protocol
	// what is wrong, in words
	what  string
	fails []string
}{
	{"early", subscribe, "comes back before retry_after", []string{"goodbye-drain"}},
	{"restarts", subscribe, "begins anew at EARLIEST when its cursor has expired", []string{"cursor-expired", "stop-codes"}},
	{"deaf", subscribe, "waits for ever on a stream that says nothing", []string{"half-open", "silent", "silent-start"}},
	{"cursor-first", subscribe, "stores the cursor before the result", []string{"batches", "kill"}},
	{"batch-cursor-first", subscribe, "stores the cursor of a batch with its first event", []string{"batches"}},
	{"first-of-batch", subscribe, "handles the first event of a batch only", []string{"batches"}},
	{"forgets", subscribe, "keeps ids and no cursor over its end", []string{"batches", "cursor-expired", "kill", "sigterm", "stop-codes"}},
	{"busy", subscribe, "comes back at once after each failure", []string{"crash-loop", "slow-start", "unreachable"}},
	{"drops-unknown", subscribe, "does not process events that it does not know", []string{"nesting", "unknown-events"}},
	{"id-at-once", sse, "takes an id for the cursor before its event is complete", []string{"cut-mid-event", "omitted-later"}},
	{"short-lines", sse, "reads lines of up to 64 KiB", []string{"large"}},
	{"first-of-batch", grouped, "handles the first event of a batch only", []string{"batches"}},
	{"never-acks", grouped, "never acknowledges", nil}, // all that deliver; see below
	{"acks-first", grouped, "acknowledges before it processes", []string{"ack-after-result", "batches", "kill", "omitted-later"}},
	{"dies-on-refused", grouped, "takes refused for the end", []string{"deadline", "refused"}},
}

// job is one scenario to play for a feed.
type job struct {
	s     scenario
	on    protocol
	fault string
}

// TestTheRightFeedPassesAndEachFaultFailsItsScenarios plays everything at once, since scenarios mostly wait. The -short run
// leaves out most of what faulty feeds must pass.
func TestTheRightFeedPassesAndEachFaultFailsItsScenarios(t *testing.T) {
	t.Parallel()
	stop := []string{"permission-denied", "group-not-found"} // nothing is delivered
	want := map[string][]string{}
	var jobs []job
	for _, f := range faults {
		list, _ := scenariosOf(f.on, nil)
		if f.name == "never-acks" {
			for _, s := range list {
				if !slices.Contains(stop, s.name) {
					f.fails = append(f.fails, s.name)
				}
			}
			slices.Sort(f.fails)
		}
		want[string(f.on)+" "+f.name] = f.fails
		for _, s := range list {
			if !testing.Short() || slices.Contains(f.fails, s.name) && f.name != "never-acks" || slices.Contains([]string{"plain", "cut-between", "permission-denied"}, s.name) {
				jobs = append(jobs, job{s, f.on, f.name})
			}
		}
		if testing.Short() && f.name == "never-acks" {
			want[string(f.on)+" "+f.name] = []string{"cut-between", "plain"}
		}
	}
	// The longest ones first: those that wait until nothing has come for long enough.
	slices.SortStableFunc(jobs, func(a, b job) int { return slowness(b) - slowness(a) })
	for _, p := range protocols {
		list, _ := scenariosOf(p, nil)
		want[string(p)+" "] = nil
		for _, s := range list {
			jobs = append(jobs, job{s, p, ""})
		}
	}

	got := map[string][]string{}
	var mu sync.Mutex
	var g errgroup.Group
	g.SetLimit(24)
	for _, j := range jobs {
		g.Go(func() error {
			o := &runOptions{client: feedCommand(t, j.on, j.fault), processed: processedCommand, protocol: string(j.on), patience: 10 * time.Second}
			if j.fault == "never-acks" {
				o.patience = 3 * time.Second
			}
			x, err := o.play(t.Context(), j.s, io.Discard)
			mu.Lock()
			defer mu.Unlock()
			if x.Result == fail {
				key := string(j.on) + " " + j.fault
				got[key] = append(got[key], j.s.name)
				t.Logf("%s %s %s, %.1fs: %s\n%s", j.on, j.fault, j.s.name, x.Seconds, x.Reason, x.Output)
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	for _, feed := range slices.Sorted(maps.Keys(want)) {
		slices.Sort(got[feed])
		if !slices.Equal(got[feed], want[feed]) {
			t.Errorf("feed %q fails %v, want %v", feed, got[feed], want[feed])
		}
	}
}

func slowness(j job) int {
	n := 0
	for i, name := range []string{"deadline", "silent-start", "half-open"} {
		if j.s.name == name {
			n += i + 1
		}
	}
	if j.fault == "deaf" || j.fault == "never-acks" {
		n *= 10
	}
	return n
}

func TestTheReportNamesWhatFailed(t *testing.T) {
	t.Parallel()
	run := func(args ...string) (string, error) {
		t.Helper()
		var out bytes.Buffer
		cmd := New()
		cmd.SetArgs(append([]string{"run", "--client", feedCommand(t, subscribe, "restarts"), "--processed", processedCommand}, args...))
		cmd.SetOut(&out)
		cmd.SetErr(io.Discard)
		cmd.SilenceUsage = true
		err := cmd.ExecuteContext(t.Context())
		return out.String(), err
	}
	out, err := run("--only", "plain,cursor-expired")
	if err == nil || err.Error() != "1 of 2 failed: cursor-expired" {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{"PASS  plain", "FAIL  cursor-expired", "the client opened another stream; CURSOR_EXPIRED means stop", "the client's last words", "1 passed, 1 failed"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	if out, err := run("--only", "plain", "--json"); err != nil || !strings.HasPrefix(out, `{"scenario":"plain","protocol":"subscribe","result":"PASS","seconds":`) || !strings.HasSuffix(out, "\n{\"passed\":1,\"failed\":0}\n") {
		t.Errorf("%v %s", err, out)
	}
	if out, err := run("--list", "--protocol", "group"); err != nil || !strings.Contains(out, "\nleave ") || strings.Contains(out, "cursor-expired") {
		t.Errorf("%v %s", err, out)
	}
	for want, args := range map[string][]string{
		"--only: the protocol subscribe has no scenario leave, nonsense": {"--only", "leave,plain,nonsense"},
		`--protocol: "carrier-pigeon" is none of`:                        {"--protocol", "carrier-pigeon"},
		"--parallel is at least 1":                                       {"--parallel", "0"},
		"give the command that runs the client":                          {"--client", ""},
	} {
		if _, err := run(args...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, want something with %q", args, err, want)
		}
	}
}

// TestClientsThatAreNone tries commands that end at once, cannot say what they have processed, or say too much.
func TestClientsThatAreNone(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ client, processed, want string }{
		{"exit 3", "true", "the client ended by itself (exit status 3)"},
		{feedCommand(t, subscribe, ""), "exit 4", "the command that prints the processed ids failed: exit status 4"},
		{feedCommand(t, subscribe, ""), "true", "of the processed events 12 are missing"},
		{feedCommand(t, subscribe, ""), processedCommand + "; " + processedCommand, "12 were processed more than once"},
		{feedCommand(t, subscribe, ""), processedCommand + "; echo nobody.sent-this", "1 were never sent, nobody.sent-this for one"},
		{feedCommand(t, grouped, ""), "true", "the client opened a stream of the other kind"},
	} {
		o := &runOptions{client: tt.client, processed: tt.processed, protocol: string(subscribe), patience: 10 * time.Second}
		list, err := choose(o.protocol, []string{"plain"})
		if err != nil {
			t.Fatal(err)
		}
		x, err := o.play(t.Context(), list[0], io.Discard)
		if err != nil || x.Result != fail || !strings.Contains(x.Reason, tt.want) {
			t.Errorf("%s: %v %+v, want %q", tt.client, err, x, tt.want)
		}
	}
}
