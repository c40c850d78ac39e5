package live

import (
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/spotbridge/spotbridge/bridge"
)

// Config says what the hub may use. Zero values mean the defaults that the fields name.
type Config struct {
	// History serves subscriptions that are older than the ring.
	History bridge.History
	// Head returns the newest sequence of the log as far as it is known; nil = what the projection has applied. It decides
	// what stop_at_head waits for and which cursors lie beyond the head.
	Head func() uint64
	// RingEvents and RingBytes bound the ring; 0 = 16,384 and 64 MiB. An event counts with its envelope and twice its body,
	// since the converted payload is kept with it.
	RingEvents int
	RingBytes  int64
	// CatchUpReaders is how many subscriptions may read history at the same moment; 0 = 4. The others wait in line.
	CatchUpReaders int
	// PageEvents and PageBytes bound a page of history; 0 = 256 and 1 MiB. CatchUpBytes bounds the pages of all
	// subscriptions together, as far as pages of 64 KiB allow; 0 = 256 MiB.
	PageEvents   int
	PageBytes    int
	CatchUpBytes int
	// SendTimeout ends a stream whose client does not read for so long; 0 = 15 min.
	SendTimeout time.Duration
	// MaxAge ends a stream with goodbye, jittered by 10 %; 0 = 1 h.
	MaxAge time.Duration
	// MaxSubscriptions bounds the subscriptions; 0 = 20,000.
	MaxSubscriptions int
	// Logger defaults to one that discards; Registerer may be nil.
	Logger     *slog.Logger
	Registerer prometheus.Registerer

	// maxMatches bounds what a group remembers; 0 = 1,024. Who is further behind than that compares the ring's events itself.
	maxMatches int
}

const minPageBytes = 64 << 10

func (c Config) withDefaults() Config {
	def := func(v *int, d int) {
		if *v <= 0 {
			*v = d
		}
	}
	def(&c.RingEvents, 16384)
	def(&c.CatchUpReaders, 4)
	def(&c.PageEvents, 256)
	def(&c.PageBytes, 1<<20)
	def(&c.CatchUpBytes, 256<<20)
	def(&c.MaxSubscriptions, 20_000)
	def(&c.maxMatches, 1024)
	if c.RingBytes <= 0 {
		c.RingBytes = 64 << 20
	}
	if c.SendTimeout <= 0 {
		c.SendTimeout = 15 * time.Minute
	}
	if c.MaxAge <= 0 {
		c.MaxAge = time.Hour
	}
	if c.Head == nil {
		c.Head = func() uint64 { return 0 }
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}
