package conformance

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// hand plays the person in front of serve: it does to the client what it is asked to.
type hand struct {
	t       *testing.T
	command string
	env     []string
	enter   io.Writer

	client atomic.Pointer[process]
}

// heard is called with each thing that serve says, one after the other.
func (h *hand) heard(text string) {
	client := h.client.Load()
	switch {
	case strings.Contains(text, "SPOTBRIDGE_GRPC="):
		h.env = append(strings.Fields(text), "CONFORMANCE_DIR="+h.t.TempDir())
	case strings.Contains(text, ">>> start the client"):
		client = &process{command: h.command, env: append(exec.Command("true").Environ(), h.env...)}
		if err := client.start(context.Background()); err != nil {
			h.t.Error(err)
			return
		}
		h.client.Store(client)
	case strings.Contains(text, ">>> end the client with kill -9"):
		client.kill()
		_, _ = io.WriteString(h.enter, "\n")
	case strings.Contains(text, ">>> send SIGTERM"):
		if err := client.terminate(stopWithin); err != nil {
			h.t.Error(err)
		}
		_, _ = io.WriteString(h.enter, "\n")
	case strings.Contains(text, ">>> the client should end by itself"):
		<-client.exited()
		if err := client.failed(); err != nil {
			h.t.Error(err)
		}
		_, _ = io.WriteString(h.enter, "\n")
	}
}

func TestAScenarioPlayedByHand(t *testing.T) {
	t.Parallel()
	for _, scenario := range []string{"kill", "cursor-expired"} {
		in, enter := io.Pipe()
		out, said := io.Pipe()
		h := &hand{t: t, command: feedCommand(t, subscribe, ""), enter: enter}
		var all bytes.Buffer
		var listening sync.WaitGroup
		// serve goes on talking while the hand is at work, and the hand does one thing after the other: a client that
		// is started before the line with its variables was read is started without them.
		texts := make(chan string, 1024)
		listening.Go(func() {
			for text := range texts {
				h.heard(text)
			}
		})
		listening.Go(func() {
			defer close(texts)
			r := bufio.NewReader(out)
			var line []byte
			for {
				b, err := r.ReadByte()
				if err != nil {
					return
				}
				all.WriteByte(b)
				// A question has no end of line.
				if line = append(line, b); b == '\n' || bytes.HasSuffix(line, []byte("press Enter ")) {
					text := string(line)
					line = nil
					texts <- text
				}
			}
		})
		cmd := New()
		cmd.SetArgs([]string{"serve", "--scenario", scenario, "--grpc", "127.0.0.1:0", "--rest", "127.0.0.1:0", "--timeout", (30 * time.Second).String()})
		cmd.SetIn(in)
		cmd.SetOut(said)
		cmd.SetErr(io.Discard)
		cmd.SilenceUsage = true
		err := cmd.ExecuteContext(t.Context())
		said.Close()
		// When it went wrong, the hand may still wait for somebody to take its Enter, or for the client to end.
		in.Close()
		words := "the client was never started"
		if client := h.client.Load(); client != nil {
			client.kill()
			words = client.words()
		}
		listening.Wait()
		if err != nil || !strings.Contains(all.String(), "PASS") || !strings.Contains(all.String(), "events must have been processed, once each:\nsandbox.conf_") {
			t.Errorf("%s: %v\n%s\nthe client's last words: %s", scenario, err, all.String(), words)
		}
	}
}
