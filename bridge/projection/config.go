package projection

import (
	"log/slog"
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/spotbridge/spotbridge/bridge"
)

// Config is what the three files have in common. Zero values mean the defaults that the fields name.
type Config struct {
	// Dir is the folder of the files. It is made when it is not there, with access for the owner only.
	Dir string
	// Logger defaults to one that discards; Registerer may be nil.
	Logger     *slog.Logger
	Registerer prometheus.Registerer
	// Converter makes the typed view of events; nil = there is none.
	Converter bridge.Converter
	// HistoryMaxAge and HistoryMaxBytes (of projection.db) say how long events are held; 0 = as long as the log holds them.
	HistoryMaxAge   time.Duration
	HistoryMaxBytes int64
	// IDsMaxAge says how long webhook ids are remembered; 0 = for ever. It should be the larger one of the sources' max_age
	// and history.max_age, and a day more.
	IDsMaxAge time.Duration
	// DeliveriesMaxAge and DeliveriesMaxRows bound deliveries.db; 0 = 7 days and 100,000.
	DeliveriesMaxAge  time.Duration
	DeliveriesMaxRows int
	// BatchEntries is the most log entries in one transaction of projection.db; 0 = 256.
	BatchEntries int
	// ReadConns is the size of the pool of read connections of each file; 0 = twice the cores, at least 4. Each caches up
	// to 8 MiB.
	ReadConns int
	// Now is the clock for retention; nil = time.Now.
	Now func() time.Time
}

func (c Config) withDefaults() Config {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.DeliveriesMaxAge <= 0 {
		c.DeliveriesMaxAge = 7 * 24 * time.Hour
	}
	if c.DeliveriesMaxRows <= 0 {
		c.DeliveriesMaxRows = 100_000
	}
	if c.BatchEntries <= 0 {
		c.BatchEntries = 256
	}
	if c.ReadConns <= 0 {
		c.ReadConns = max(4, 2*runtime.GOMAXPROCS(0))
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return c
}
