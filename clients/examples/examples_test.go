//go:build clients

// Package examples runs the commands that the pages show: what a reader pastes first must work.
package examples

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/spotbridge/spotbridge/clients/internal/realbridge"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
	"github.com/spotbridge/spotbridge/gen/openapi"
)

// pages are the pages with the fewest examples of each tool that they must have, so that none gets lost unseen.
var pages = []struct {
	page  string
	least map[string]int
}{
	{"README.md", map[string]int{"curl": 5, "grpcurl": 1, "buf": 2, "spotbridge": 6}},
	{"docs/streams.md", map[string]int{"curl": 2, "grpcurl": 1, "spotbridge": 2}},
	{"docs/groups.md", map[string]int{"curl": 4, "grpcurl": 4, "spotbridge": 6}},
}

func TestExamplesOfThePages(t *testing.T) {
	b := realbridge.Start(t)
	for _, p := range pages {
		t.Run(p.page, func(t *testing.T) {
			found := map[string]int{}
			for _, block := range readBlocks(t, p.page) {
				b.Forget(t, "expenses")
				r := runner{Bridge: b, work: workFolder(t)}
				for _, c := range block.commands {
					found[c.tool]++
					if c.tool != "make" { // CI calls the targets themselves
						t.Run(fmt.Sprintf("line %d", c.line), func(t *testing.T) { r.run(t, c) })
					}
				}
			}
			for tool, n := range p.least {
				if found[tool] < n {
					t.Errorf("%d examples of %s were found, there should be %d", found[tool], tool, n)
				}
			}
		})
	}
}

// workFolder is a folder with the program that the examples of consumer groups call.
func workFolder(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "book-expense"), []byte("#!/bin/sh\nwc -c\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// runner runs the commands of a block, one after the other.
type runner struct {
	*realbridge.Bridge
	work string
	// delivery is the id of the delivery that was pulled last.
	delivery string
}

// run runs a command as it stands, but for the addresses and what stands for an id, and checks what it prints.
func (r *runner) run(t *testing.T, c command) {
	text := strings.NewReplacer(
		"127.0.0.1:8080", r.Webhook, "127.0.0.1:8081", r.REST, "127.0.0.1:9090", r.GRPC, "127.0.0.1:9091", r.Admin, `"..."`, `"`+r.delivery+`"`,
	).Replace(c.text)
	if c.tool == "spotbridge" {
		text = r.addressed(text)
	}
	bin, err := filepath.Abs(filepath.Join(realbridge.Root(), ".bin"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-c", "exec "+text)
	cmd.Dir = r.work
	cmd.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"))
	var stdout, stderr realbridge.Output
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		err := cmd.Wait()
		stdout.End()
		ended <- err
	}()
	until := endOf(c)
	if until != nil {
		stdout.Await(t, "it prints what is expected", until)
		if err := cmd.Process.Signal(os.Interrupt); err != nil {
			t.Error(err)
		}
	}
	err = <-ended
	if asked := until != nil && c.tool == "curl" && interrupted(err); err != nil && !asked {
		t.Fatalf("%s\n%v\n%s%s", text, err, stderr.String(), stdout.String())
	}
	if err := r.check(c, stdout.String()); err != nil {
		t.Errorf("%s\n%v\n%s", text, err, shorten(stdout.String()))
	}
}

// addressed tells a command of ours where the bridge is.
func (r *runner) addressed(text string) string {
	flags := " --server " + r.GRPC
	if strings.Contains(text, " trigger ") {
		flags = " --url http://" + r.Webhook + "/webhooks/sandbox --data-dir " + r.Dir
	}
	own, program, has := strings.Cut(text, " -- ")
	own = strings.TrimPrefix(own, ".bin/") + flags
	if has {
		own += " -- " + program
	}
	return own
}

// endOf returns when a command that goes on by itself has shown what it is to show; nil for those that end.
func endOf(c command) func(string) bool {
	switch {
	case strings.Contains(c.text, "spotbridge tail"):
		return func(out string) bool { return strings.Count(out, "\n") >= 5 }
	case strings.Contains(c.text, "groups consume"):
		return func(out string) bool { return strings.Count(out, "\n") >= 1 }
	case strings.Contains(c.text, "events:subscribe") && !strings.Contains(c.text, "stop_at_head"):
		return func(out string) bool { return strings.Contains(out, "caught_up") || strings.Contains(out, "caughtUp") }
	}
	return nil
}

func interrupted(err error) bool {
	e, ok := errors.AsType[*exec.ExitError](err)
	if !ok {
		return false
	}
	status, ok := e.Sys().(syscall.WaitStatus)
	return ok && status.Signaled() && status.Signal() == syscall.SIGINT
}

func shorten(s string) string {
	if len(s) > 2000 {
		return s[:2000] + "..."
	}
	return s
}

// mayBeEmpty are the commands that show a list which has nothing in it here.
var mayBeEmpty = []string{"spotbridge subscriptions", "groups dead list", "deadLetters?"}

func (r *runner) check(c command, out string) error {
	empty := false
	for _, text := range mayBeEmpty {
		empty = empty || strings.Contains(c.text, text)
	}
	switch {
	case strings.TrimSpace(out) == "" && !empty:
		return errors.New("it prints nothing")
	case strings.Contains(c.text, "--list-methods"):
		if !strings.Contains(out, "spotbridge.v1.SubscriptionService/Subscribe\n") {
			return errors.New("it does not list Subscribe")
		}
		return nil
	case c.tool == "spotbridge":
		if strings.Contains(c.text, "--json") {
			return eachJSON(out, func(text json.RawMessage) error { return protojson.Unmarshal(text, &pb.Event{}) })
		}
		return nil
	}
	method, err := methodOf(c)
	if err != nil {
		return err
	}
	messages, err := messagesOf(method, c, out)
	if err != nil {
		return err
	}
	return r.meaning(c, messages, empty)
}

var (
	rpcName  = regexp.MustCompile(`spotbridge\.v1\.\w+/\w+`)
	restPath = regexp.MustCompile(`127\.0\.0\.1:8081(/[^\s'?]*)`)
	httpVerb = regexp.MustCompile(`-X (\w+)`)
)

// methodOf returns the RPC that a command calls, over REST by way of the OpenAPI document.
func methodOf(c command) (protoreflect.MethodDescriptor, error) {
	name := strings.ReplaceAll(rpcName.FindString(c.text), "/", ".")
	if c.tool == "curl" {
		path, verb := restPath.FindStringSubmatch(c.text), "get"
		if m := httpVerb.FindStringSubmatch(c.text); m != nil {
			verb = strings.ToLower(m[1])
		}
		if path == nil {
			return nil, errors.New("no path")
		}
		var doc struct {
			Paths map[string]map[string]struct{ OperationID string }
		}
		if err := json.Unmarshal(openapi.JSON, &doc); err != nil {
			return nil, err
		}
		placeholder := regexp.MustCompile(`\\\{\w+\\\}`)
		for template, item := range doc.Paths {
			if regexp.MustCompile("^"+placeholder.ReplaceAllString(regexp.QuoteMeta(template), `[^/:]+`)+"$").MatchString(path[1]) && item[verb].OperationID != "" {
				name = "spotbridge.v1." + strings.Replace(item[verb].OperationID, "_", ".", 1)
			}
		}
	}
	d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(name))
	if err != nil {
		return nil, fmt.Errorf("which method is it: %w", err)
	}
	method, ok := d.(protoreflect.MethodDescriptor)
	if !ok {
		return nil, fmt.Errorf("%s is no method", name)
	}
	return method, nil
}

// messagesOf reads the answers of a method strictly: what is no such message, an error for example, has other fields.
func messagesOf(method protoreflect.MethodDescriptor, c command, out string) ([]proto.Message, error) {
	t, err := protoregistry.GlobalTypes.FindMessageByName(method.Output().FullName())
	if err != nil {
		return nil, err
	}
	overREST := c.tool == "curl" && method.IsStreamingServer()
	if overREST && strings.Contains(c.text, "text/event-stream") {
		var data []string
		for line := range strings.SplitSeq(out, "\n") {
			if text, ok := strings.CutPrefix(line, "data: "); ok {
				data = append(data, `{"result":`+text+`}`)
			}
		}
		out = strings.Join(data, "\n")
	}
	var messages []proto.Message
	return messages, eachJSON(out, func(text json.RawMessage) error {
		if overREST {
			var line struct{ Result json.RawMessage }
			if err := json.Unmarshal(text, &line); err != nil || line.Result == nil {
				return fmt.Errorf("no result: %s %w", text, err)
			}
			text = line.Result
		}
		m := t.New().Interface()
		messages = append(messages, m)
		return protojson.Unmarshal(text, m)
	})
}

// eachJSON reads the values of a stream of JSON.
func eachJSON(out string, f func(json.RawMessage) error) error {
	d := json.NewDecoder(bytes.NewReader([]byte(out)))
	for {
		var text json.RawMessage
		switch err := d.Decode(&text); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		if err := f(text); err != nil {
			return err
		}
	}
}

// meaning checks that the answers say what the page promises.
func (r *runner) meaning(c command, messages []proto.Message, empty bool) error {
	if len(messages) == 0 {
		return errors.New("no message")
	}
	first, last := messages[0], messages[len(messages)-1]
	switch m := first.(type) {
	case *pb.SubscribeResponse:
		events := 0
		for _, m := range messages {
			if m.(*pb.SubscribeResponse).GetEvent() != nil {
				events++
			}
		}
		if m.GetConfirmation() == nil || events == 0 || last.(*pb.SubscribeResponse).GetCaughtUp() == nil {
			return fmt.Errorf("confirmation %v, %d events, at the end %v", m.GetConfirmation(), events, last)
		}
	case *pb.ConsumeResponse:
		if m.GetJoined() == nil {
			return errors.New("the first message is not joined")
		}
	case *pb.ListEventsResponse:
		if len(m.GetEvents()) == 0 {
			return errors.New("no events")
		}
	case *pb.ListDeliveriesResponse:
		if len(m.GetDeliveries()) == 0 {
			return errors.New("no deliveries")
		}
	case *pb.PullResponse:
		if len(m.GetDeliveries()) == 0 {
			return errors.New("no deliveries")
		}
		r.delivery = m.GetDeliveries()[0].GetDeliveryId()
	case *pb.AcknowledgeResponse:
		if len(m.GetSettled()) != 1 || m.GetSettled()[0] != r.delivery {
			return fmt.Errorf("%s is not settled", r.delivery)
		}
	default:
		if proto.Size(m) == 0 && !empty {
			return fmt.Errorf("an empty %T", m)
		}
	}
	return nil
}
