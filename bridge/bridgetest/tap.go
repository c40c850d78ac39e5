package bridgetest

import (
	"context"
	"net"
	"sync"
)

// Tap stops and starts the reading of connections: bytes then pile up in the sockets' buffers, as with a client whose process
// stands still.
type Tap struct {
	mu   sync.Mutex
	open chan struct{} // closed while reading is allowed
}

// NewTap returns a tap that lets bytes through.
func NewTap() *Tap {
	open := make(chan struct{})
	close(open)
	return &Tap{open: open}
}

// Stop stops reading. A read that is under way may still return.
func (p *Tap) Stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.open = make(chan struct{})
}

// Start lets bytes through again, if they were stopped.
func (p *Tap) Start() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.open:
	default:
		close(p.open)
	}
}

// Dial connects by TCP, behind the tap. It fits grpc.WithContextDialer.
func (p *Tap) Dial(ctx context.Context, addr string) (net.Conn, error) {
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	return &tapped{Conn: c, tap: p}, nil
}

type tapped struct {
	net.Conn
	tap *Tap
}

// Read implements net.Conn.
func (c *tapped) Read(b []byte) (int, error) {
	c.tap.mu.Lock()
	open := c.tap.open
	c.tap.mu.Unlock()
	<-open
	return c.Conn.Read(b)
}
