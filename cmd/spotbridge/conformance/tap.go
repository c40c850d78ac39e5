package conformance

import (
	"bytes"
	"io"
	"net"
	"sync"
	"sync/atomic"
)

// tap is a listener whose connections can be made to misbehave.
type tap struct {
	net.Listener

	mu       sync.Mutex
	wires    map[string]*wire // by the client's address
	reset    bool
	accepted int
	first    chan struct{} // closed with the first connection
}

func newTap(l net.Listener) *tap {
	return &tap{Listener: l, wires: map[string]*wire{}, first: make(chan struct{})}
}

// Accept implements net.Listener.
func (t *tap) Accept() (net.Conn, error) {
	for {
		c, err := t.Listener.Accept()
		if err != nil {
			return nil, err
		}
		w := &wire{Conn: c, done: make(chan struct{}), broke: make(chan struct{})}
		t.mu.Lock()
		if t.accepted++; t.accepted == 1 {
			close(t.first)
		}
		reset := t.reset
		t.wires[c.RemoteAddr().String()] = w
		t.mu.Unlock()
		if !reset {
			return w, nil
		}
		w.abort()
	}
}

// setReset has every new connection reset at once, as if nobody listened. It returns how many connections there were.
func (t *tap) setReset(reset bool) (accepted int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.reset = reset
	return t.accepted
}

// wire returns the connection of a client's address; nil when there is none.
func (t *tap) wire(remote string) *wire {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.wires[remote]
}

// open returns the connections that are open, as far as the server can know.
func (t *tap) open() []*wire {
	t.mu.Lock()
	defer t.mu.Unlock()
	var ws []*wire
	for _, w := range t.wires {
		select {
		case <-w.done:
		default:
			if !w.frozen.Load() {
				ws = append(ws, w)
			}
		}
	}
	return ws
}

// breakage is how a connection ends.
type breakage uint8

const (
	byFIN    breakage = iota // as if the server had closed it
	byRST                    // as if the network had
	byFreeze                 // as if a cable had been pulled: it stays open, and nothing passes any more
)

// wire is a connection that does as it is told. What the server says goes through Write.
type wire struct {
	net.Conn
	done  chan struct{} // closed with the connection
	broke chan struct{} // closed when it breaks
	once  sync.Once

	// frozen: nothing passes in either direction. broken: the server's side has ended, in the middle of a word.
	frozen, broken atomic.Bool
	piece          atomic.Int64

	writing sync.Mutex // one Write at a time

	mu sync.Mutex
	// mark is what the connection breaks at, after so many bytes more; nil = it does not.
	mark []byte
	more int
	how  breakage
	// passed says that the mark was seen: left bytes pass after it. tail is the end of what was written before, where a mark
	// may have begun.
	passed bool
	left   int
	tail   []byte
}

// breakAt lets everything up to mark pass, and more bytes after it (fewer, when it is negative). Then the connection breaks
// in the middle of whatever is being said.
func (w *wire) breakAt(mark string, more int, how breakage) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.mark, w.more, w.how, w.passed, w.tail = []byte(mark), more, how, false, nil
}

// inPieces has everything written a few bytes at a time.
func (w *wire) inPieces(n int) { w.piece.Store(int64(n)) }

// abort resets the connection.
func (w *wire) abort() {
	if c, ok := w.Conn.(*net.TCPConn); ok {
		_ = c.SetLinger(0) // then Close resets
	}
	_ = w.Close()
}

// Close implements net.Conn.
func (w *wire) Close() error {
	w.once.Do(func() { close(w.done) })
	return w.Conn.Close()
}

// Read implements net.Conn.
func (w *wire) Read(b []byte) (int, error) {
	for {
		n, err := w.Conn.Read(b)
		switch {
		case !w.frozen.Load() && !w.broken.Load():
			return n, err
		case err == nil: // nobody hears it
		case w.broken.Load():
			return 0, io.EOF
		default:
			// The client has hung up, which the other end of a pulled cable cannot know.
			<-w.done
			return 0, net.ErrClosed
		}
	}
}

// Write implements net.Conn.
func (w *wire) Write(b []byte) (int, error) {
	w.writing.Lock()
	defer w.writing.Unlock()
	if w.frozen.Load() || w.broken.Load() {
		return len(b), nil
	}
	pass := w.passes(b)
	for rest := b[:pass]; len(rest) > 0; {
		n := len(rest)
		if p := int(w.piece.Load()); p > 0 {
			n = min(n, p)
		}
		if n, err := w.Conn.Write(rest[:n]); err != nil {
			return n, err
		}
		rest = rest[n:]
	}
	if pass < len(b) {
		w.breakNow(w.how)
	}
	return len(b), nil
}

// breakNow breaks the connection where it is.
func (w *wire) breakNow(how breakage) {
	if how == byFreeze {
		if !w.frozen.Swap(true) {
			close(w.broke)
		}
		return
	}
	if w.broken.Swap(true) {
		return
	}
	defer close(w.broke)
	if c, ok := w.Conn.(*net.TCPConn); ok && how == byFIN {
		_ = c.CloseWrite()
		return
	}
	w.abort()
}

// passes returns how many of the bytes pass before the break.
func (w *wire) passes(b []byte) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.mark == nil {
		return len(b)
	}
	if !w.passed {
		seen := append(w.tail, b...)
		at := bytes.Index(seen, w.mark)
		if at < 0 {
			w.tail = append([]byte(nil), seen[max(0, len(seen)-len(w.mark)+1):]...)
			return len(b)
		}
		// What was written before cannot be taken back.
		w.passed, w.left = true, max(0, at+len(w.mark)+w.more-len(w.tail))
	}
	if w.left < len(b) {
		return w.left
	}
	w.left -= len(b)
	return len(b)
}
