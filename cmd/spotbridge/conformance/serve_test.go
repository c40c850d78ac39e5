package conformance

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"
)

// hand plays the person in front of serve: it does to the client what it is asked to.
type hand struct {
	t       *testing.T
	command string
	env     []string
	enter   io.Writer

	mu     sync.Mutex
	client *process
}

// heard is called with each thing that serve says.
func (h *hand) heard(text string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case strings.Contains(text, "SPOTBRIDGE_GRPC="):
		h.env = append(strings.Fields(text), "CONFORMANCE_DIR="+h.t.TempDir())
	case strings.Contains(text, ">>> start the client"):
		h.client = &process{command: h.command, env: append(exec.Command("true").Environ(), h.env...)}
		if err := h.client.start(context.Background()); err != nil {
			h.t.Error(err)
		}
	case strings.Contains(text, ">>> end the client with kill -9"):
		h.client.kill()
		_, _ = io.WriteString(h.enter, "\n")
	case strings.Contains(text, ">>> send SIGTERM"):
		if err := h.client.terminate(stopWithin); err != nil {
			h.t.Error(err)
		}
		_, _ = io.WriteString(h.enter, "\n")
	case strings.Contains(text, ">>> the client should end by itself"):
		<-h.client.exited()
		if err := h.client.failed(); err != nil {
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
		listening.Go(func() {
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
					listening.Go(func() { h.heard(text) })
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
		listening.Wait()
		if h.client != nil {
			h.client.kill()
		}
		if err != nil || !strings.Contains(all.String(), "PASS") || !strings.Contains(all.String(), "events must have been processed, once each:\nsandbox.conf_") {
			t.Errorf("%s: %v\n%s", scenario, err, all.String())
		}
	}
}
