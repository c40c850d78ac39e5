//go:build clients

package compare

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Every process is the leader of a group of its own, so that what a launcher starts ends with it. A reaper, which is this
// test's binary once more, knows the groups: when the test is gone, for whatever reason, its end of a pipe closes, and the
// reaper kills what is left and removes the folder.

const reaperVariable = "SPOTBRIDGE_CLIENTS_REAPER"

func TestMain(m *testing.M) {
	if dir := os.Getenv(reaperVariable); dir != "" {
		reap(os.Stdin, dir)
		return
	}
	os.Exit(m.Run())
}

// reap reads "+<group>" and "-<group>" until the end, kills the groups that are left and removes the folder.
func reap(in io.Reader, dir string) {
	groups := map[int]bool{}
	for lines := bufio.NewScanner(in); lines.Scan(); {
		if n, err := strconv.Atoi(lines.Text()); err == nil && n != 0 {
			groups[max(n, -n)] = n > 0
		}
	}
	for group, lives := range groups {
		if lives {
			_ = syscall.Kill(-group, syscall.SIGKILL)
		}
	}
	_ = os.RemoveAll(dir)
}

type reaper struct {
	mu sync.Mutex
	w  io.WriteCloser
}

func startReaper(t testing.TB, dir string) *reaper {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), reaperVariable+"="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // an interrupt of the terminal is not for it
	w, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		w.Close()
		_ = cmd.Wait()
	})
	return &reaper{w: w}
}

// tell says that a group lives, or with its negative number that it has ended.
func (r *reaper) tell(group int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	fmt.Fprintf(r.w, "%+d\n", group)
}

// program is something that is started, killed and started again.
type program struct {
	name, path string
	args, env  []string
	dir        string
	log        *os.File
	reaper     *reaper

	cmd  *exec.Cmd
	done chan struct{}
	err  error // how it ended, when done is closed
}

// start runs the program. What it writes goes to its log, that of all its runs.
func (p *program) start() error {
	p.note("started")
	p.cmd = exec.Command(p.path, p.args...)
	p.cmd.Dir, p.cmd.Env = p.dir, p.environment()
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log // a file: Wait does not wait for others who hold it
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := p.cmd.Start(); err != nil {
		return fmt.Errorf("%s: %w", p.name, err)
	}
	cmd, done := p.cmd, make(chan struct{})
	p.done = done
	p.reaper.tell(cmd.Process.Pid)
	go func() {
		p.err = cmd.Wait()
		close(done)
	}()
	return nil
}

// environment is the test's own, without what configures the test or could configure a bridge or client.
func (p *program) environment() []string {
	own := slices.DeleteFunc(os.Environ(), func(v string) bool {
		return strings.HasPrefix(v, "SPOTBRIDGE_") || strings.HasPrefix(v, "EXPENSES_")
	})
	return append(own, p.env...)
}

func (p *program) note(what string) {
	fmt.Fprintf(p.log, "--- %s %s\n", time.Now().Format("15:04:05.000"), what)
}

// ended reports whether the program ended by itself.
func (p *program) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// kill ends the program and what it started, at once.
func (p *program) kill() {
	p.note("killed")
	p.signal(syscall.SIGKILL)
	<-p.done
	p.reaper.tell(-p.cmd.Process.Pid)
}

func (p *program) signal(s syscall.Signal) { _ = syscall.Kill(-p.cmd.Process.Pid, s) }

// terminate sends SIGTERM to the program alone, as a supervisor does, and wants it to end in order and in time, and nothing
// that it started to be left.
func (p *program) terminate(within time.Duration) error {
	p.note("terminated")
	begun := time.Now()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("%s: %w", p.name, err)
	}
	select {
	case <-p.done:
	case <-time.After(within):
		p.kill()
		return fmt.Errorf("%s still runs %v after SIGTERM", p.name, within)
	}
	p.note(fmt.Sprintf("ended after %v: %v", time.Since(begun).Round(time.Millisecond), p.cmd.ProcessState))
	left := members(p.cmd.Process.Pid)
	p.signal(syscall.SIGKILL)
	p.reaper.tell(-p.cmd.Process.Pid)
	switch {
	case p.err != nil:
		return fmt.Errorf("%s: %w after SIGTERM; the exit code is to be 0", p.name, p.err)
	case len(left) > 0:
		return fmt.Errorf("%s has left processes behind: %s", p.name, strings.Join(left, ", "))
	}
	return nil
}

// members are the processes of a group that still run, where /proc tells.
func members(group int) (out []string) {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, file := range stats {
		b, err := os.ReadFile(file)
		if err != nil {
			continue // it ended meanwhile
		}
		// pid (name) state parent group ...; the name may hold anything.
		name, rest, _ := strings.Cut(string(b[:max(strings.LastIndexByte(string(b), ')'), 0)]), "(")
		fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
		if len(fields) > 2 && fields[2] == strconv.Itoa(group) && fields[0] != "Z" {
			out = append(out, strings.TrimSpace(name)+" "+rest)
		}
	}
	return out
}

// tail returns the end of the program's log.
func (p *program) tail(lines int) string {
	b, err := os.ReadFile(p.log.Name())
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimRight(string(b), "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// output runs the program once with other arguments and returns what it prints.
func (p *program) output(t testing.TB, args ...string) (string, error) {
	t.Helper()
	var out, problems strings.Builder
	cmd := exec.CommandContext(t.Context(), p.path, args...)
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = p.dir, p.environment(), &out, &problems
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	timer := time.AfterFunc(commandTime, func() { _ = cmd.Cancel() })
	defer timer.Stop()
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", p.name, strings.Join(args, " "), err, strings.TrimSpace(problems.String()))
	}
	return out.String(), nil
}
