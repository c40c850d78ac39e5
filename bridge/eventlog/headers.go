package eventlog

import (
	"bytes"
	"net"

	"github.com/nats-io/nats.go"
)

// withoutHeaders gives connections whose client does not want headers. Of an entry that a queue gives out only its reply
// subject is read; the client library would make a map of its ten headers, which is more than a quarter of what a delivery of
// 1 KB costs, and it has no option against it: it wants headers when the server says that it has them. So the server's first
// words say null there. Statuses, which are headers, come as empty messages.
func withoutHeaders(p nats.InProcessConnProvider) nats.InProcessConnProvider { return headerless{p} }

type headerless struct{ nats.InProcessConnProvider }

func (h headerless) InProcessConn() (net.Conn, error) {
	c, err := h.InProcessConnProvider.InProcessConn()
	if err != nil {
		return nil, err
	}
	return &headerlessConn{Conn: c}, nil
}

type headerlessConn struct {
	net.Conn
	told bool
}

// Read implements net.Conn. One goroutine reads.
func (c *headerlessConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if !c.told {
		yes, no := []byte(`"headers":true`), []byte(`"headers":null`)
		if i := bytes.Index(b[:n], yes); i >= 0 {
			copy(b[i:], no)
		}
		c.told = bytes.IndexByte(b[:n], '\n') >= 0
	}
	return n, err
}
