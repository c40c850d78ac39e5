package conformance

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	// processedWithin is how long the command that prints the processed ids may take.
	processedWithin = 30 * time.Second
	// lastWords is how much of a client's output is kept for the report.
	lastWords = 4 << 10
)

// client is the client under test, as a script handles it. Its methods are called by the script's goroutine only, but for
// kill.
type client interface {
	start(ctx context.Context) error
	// kill ends it with SIGKILL, and everything that it has started.
	kill()
	// terminate ends it with SIGTERM. The error says what was wrong with how it ended.
	terminate(within time.Duration) error
	// expectEnd says that it should end by itself now.
	expectEnd()
	// exited is closed when it has ended; ending says how, and failed what is wrong when it was to end with an error.
	exited() <-chan struct{}
	ending() string
	failed() error
	// processed returns the ids that it says it has processed; nil when it cannot be asked.
	processed(ctx context.Context) ([]string, error)
	// words is the end of what it has printed.
	words() string
}

// process is a client that is a command, in a process group of its own.
type process struct {
	command, processedCommand string
	env                       []string
	output                    io.Writer // nil = only the end is kept
	last                      tail

	mu   sync.Mutex
	cmd  *exec.Cmd
	done chan struct{}
}

// clientEnv is the environment of a client: the caller's, without what is meant for a bridge or for another client, and what
// the contract promises.
func clientEnv(grpcAddr, restURL, dir string) []string {
	var env []string
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "SPOTBRIDGE_") && !strings.HasPrefix(kv, "EXPENSES_DB=") && !strings.HasPrefix(kv, "CONFORMANCE_DIR=") {
			env = append(env, kv)
		}
	}
	return append(env,
		"SPOTBRIDGE_GRPC="+grpcAddr, "SPOTBRIDGE_REST="+restURL, "SPOTBRIDGE_GROUP="+groupName, "SPOTBRIDGE_HEARTBEAT="+askedHeartbeat.String(),
		"CONFORMANCE_DIR="+dir, "EXPENSES_DB="+dir+"/expenses.db",
	)
}

// start implements client.
func (p *process) start(context.Context) error {
	// The shell gets SIGTERM as well, and must stay to tell how the client has ended. The client does not inherit the trap.
	cmd := exec.Command("/bin/sh", "-c", "trap : TERM\n"+p.command)
	cmd.Env = p.env
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Stdout, cmd.Stderr = p.sink(), p.sink()
	// What it leaves behind may hold its output open.
	cmd.WaitDelay = time.Second
	if err := cmd.Start(); err != nil {
		return err
	}
	done := make(chan struct{})
	p.mu.Lock()
	p.cmd, p.done = cmd, done
	p.mu.Unlock()
	go func() { // it ends with the process
		_ = cmd.Wait() // the state says it better
		close(done)
	}()
	return nil
}

func (p *process) sink() io.Writer {
	if p.output == nil {
		return &p.last
	}
	return io.MultiWriter(&p.last, p.output)
}

func (p *process) running() (*exec.Cmd, chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cmd, p.done
}

// kill implements client. It may be called by any goroutine, and when nothing runs.
func (p *process) kill() {
	cmd, done := p.running()
	if cmd == nil {
		return
	}
	// The group, also when its leader has ended: nothing is left behind.
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	<-done
}

// terminate implements client. The whole group gets the signal, as from a unit's manager.
func (p *process) terminate(within time.Duration) error {
	cmd, done := p.running()
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) // one that has ended is found below
	t := time.NewTimer(within)
	defer t.Stop()
	select {
	case <-done:
	case <-t.C:
		p.kill()
		return fmt.Errorf("the client has not ended within %v", within)
	}
	p.kill()
	if !cmd.ProcessState.Success() {
		return fmt.Errorf("the client ended with %s instead of exit code 0", cmd.ProcessState)
	}
	return nil
}

// expectEnd implements client. What a process does can be seen.
func (p *process) expectEnd() {}

// exited implements client.
func (p *process) exited() <-chan struct{} {
	_, done := p.running()
	return done
}

// ending implements client.
func (p *process) ending() string {
	cmd, _ := p.running()
	return cmd.ProcessState.String()
}

// failed implements client.
func (p *process) failed() error {
	cmd, _ := p.running()
	p.kill()
	if code := cmd.ProcessState.ExitCode(); code <= 0 {
		return fmt.Errorf("the client ended with %s", cmd.ProcessState)
	}
	return nil
}

// processed implements client.
func (p *process) processed(ctx context.Context) ([]string, error) {
	if p.processedCommand == "" {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, processedWithin)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", p.processedCommand)
	cmd.Env = p.env
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, p.sink()
	err := cmd.Run()
	switch {
	case ctx.Err() != nil:
		return nil, fmt.Errorf("the command that prints the processed ids has not ended within %v", processedWithin)
	case err != nil:
		return nil, fmt.Errorf("the command that prints the processed ids failed: %w", err)
	}
	ids := []string{}
	for line := range strings.Lines(out.String()) {
		if id := strings.TrimSpace(line); id != "" {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

// words implements client.
func (p *process) words() string { return p.last.String() }

// tail keeps the end of what is written to it.
type tail struct {
	mu sync.Mutex
	b  []byte
}

// Write implements io.Writer.
func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.b = append(t.b, b...); len(t.b) > 2*lastWords {
		t.b = append([]byte(nil), t.b[len(t.b)-lastWords:]...)
	}
	return len(b), nil
}

// String returns the end, from the beginning of a line.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	b := t.b
	if len(b) > lastWords {
		b = b[len(b)-lastWords:]
		if _, after, ok := bytes.Cut(b, []byte("\n")); ok {
			b = after
		}
	}
	return strings.TrimSpace(string(b))
}

// compareIDs says what is wrong with the ids that a client has processed. must is part of may.
func compareIDs(must, may, got []string) error {
	counts := map[string]int{}
	for _, id := range got {
		counts[id]++
	}
	sent := map[string]bool{}
	for _, id := range may {
		sent[id] = true
	}
	var missing, twice, invented []string
	for _, id := range must {
		if counts[id] == 0 {
			missing = append(missing, id)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(counts)) {
		switch {
		case !sent[id]:
			invented = append(invented, id)
		case counts[id] > 1:
			twice = append(twice, id)
		}
	}
	var problems []error
	for _, x := range []struct {
		what string
		ids  []string
	}{{"are missing", missing}, {"were processed more than once", twice}, {"were never sent", invented}} {
		if len(x.ids) > 0 {
			problems = append(problems, fmt.Errorf("of the processed events %d %s, %s for one", len(x.ids), x.what, x.ids[0]))
		}
	}
	return errors.Join(problems...)
}
