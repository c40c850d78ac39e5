package realbridge

import (
	"bytes"
	"sync"
	"testing"
	"time"
)

// Output collects what a process writes, and tells who waits for something in it.
type Output struct {
	mu      sync.Mutex
	buf     bytes.Buffer
	ended   bool
	changed chan struct{}
}

// Write implements io.Writer.
func (o *Output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.tell()
	return o.buf.Write(b)
}

// End says that nothing more comes: the process has ended.
func (o *Output) End() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.ended = true
	o.tell()
}

func (o *Output) tell() {
	if o.changed != nil {
		close(o.changed)
		o.changed = nil
	}
}

func (o *Output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// next returns what there is, whether that is all, and a channel that is closed when something changes.
func (o *Output) next() (text string, ended bool, changed <-chan struct{}) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.changed == nil {
		o.changed = make(chan struct{})
	}
	return o.buf.String(), o.ended, o.changed
}

// Await waits until done is true of everything that was written. It fails the test when the process ends before, or after
// a minute.
func (o *Output) Await(t testing.TB, what string, done func(string) bool) {
	t.Helper()
	timeout := time.After(time.Minute)
	for {
		text, ended, changed := o.next()
		if done(text) {
			return
		}
		if ended {
			t.Fatalf("the process ended before: %s. It wrote:\n%s", what, text)
		}
		select {
		case <-changed:
		case <-timeout:
			t.Fatalf("it does not come true: %s. There is:\n%s", what, text)
		}
	}
}
