package projection

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spotbridge/spotbridge/bridge"
)

const idsVersion = 1

// Sequences rise with time, so the oldest ids are the first rows: retention needs no index of its own. About 130 bytes per
// id with the index.
const idsSchema = `
CREATE TABLE state (
  id INTEGER PRIMARY KEY CHECK (id = 1),
  log BLOB NOT NULL, watermark INTEGER NOT NULL, last_ts INTEGER NOT NULL
);
INSERT INTO state VALUES (1, x'', 0, 0);
CREATE TABLE ids (
  seq INTEGER PRIMARY KEY,
  id BLOB NOT NULL,              -- first 16 bytes of the SHA-256 of the event id
  kind INTEGER NOT NULL,         -- 2 event, 3 quarantined body
  body BLOB NOT NULL,            -- SHA-256 of the body
  ts INTEGER NOT NULL            -- append time, non-decreasing along seq
);
CREATE INDEX ids_id ON ids (id);
`

// Kinds in table ids.
const (
	idEvent      = 2
	idQuarantine = 3
)

// IDs is ids.db: the memory of webhook ids, and its follower. It holds the ids of events and of quarantined bodies for
// IDsMaxAge, also when the log does not hold the entries any more: below the log's floor it cannot be rebuilt.
type IDs struct {
	cfg Config
	log *slog.Logger
	m   *idMetrics

	mu sync.RWMutex // held by readers while they use st; by those who replace it
	st *store

	// wmu admits one write transaction at a time.
	wmu       sync.Mutex
	insert    *sql.Stmt
	pos       atomic.Pointer[idPosition]
	watermark atomic.Uint64
	failing   atomic.Pointer[error]
	ready     atomic.Bool
	closed    bool
}

type idPosition struct {
	log       bridge.LogID
	watermark uint64
	lastTS    int64
}

var _ bridge.IDs = (*IDs)(nil)

// OpenIDs opens ids.db, or makes it. A damaged file is moved aside, and rebuilt by Run as far as the log goes.
func OpenIDs(ctx context.Context, cfg Config) (*IDs, error) {
	cfg = cfg.withDefaults()
	x := &IDs{cfg: cfg, log: cfg.Logger, m: newIDMetrics(cfg.Registerer)}
	if err := x.open(ctx); err != nil {
		return nil, err
	}
	return x, nil
}

func (x *IDs) path() string { return filepath.Join(x.cfg.Dir, "ids.db") }

func (x *IDs) open(ctx context.Context) error {
	err := x.load(ctx)
	switch {
	case isCorrupt(err):
		to, err2 := moveAside(x.path(), "corrupt", x.cfg.Now())
		if err2 != nil {
			return fmt.Errorf("%s is damaged (%w) and cannot be moved aside: %w; move it away by hand, it is rebuilt from the log", x.path(), err, err2)
		}
		x.log.Error("ids.db is damaged; it was moved aside and is rebuilt from the log. Webhooks whose entries are below the log's floor are forgotten: a very late re-send of one would be stored again. Check the disk",
			"path", x.path(), "moved_to", to, "cause", err)
		return x.load(ctx)
	case errors.Is(err, errVersion):
		return fmt.Errorf("%w: it was written by another release. Move it away to have it rebuilt from the log; what is below the log's floor is then forgotten", err)
	case err != nil:
		return fmt.Errorf("open %s: %w; %s", x.path(), err, remedy(err, x.path()))
	}
	return nil
}

func (x *IDs) load(ctx context.Context) error {
	st, err := openStore(ctx, storeOptions{path: x.path(), schema: idsSchema, version: idsVersion, readConns: x.cfg.ReadConns, incremental: true})
	if err != nil {
		return err
	}
	var pos idPosition
	var log []byte
	if err := st.write.QueryRowContext(ctx, "SELECT log, watermark, last_ts FROM state").Scan(&log, &pos.watermark, &pos.lastTS); err != nil {
		return errors.Join(err, st.Close())
	}
	copy(pos.log[:], log)
	insert, err := st.write.PrepareContext(ctx, "INSERT INTO ids (seq, id, kind, body, ts) VALUES (?,?,?,?,?)")
	if err != nil {
		return errors.Join(err, st.Close())
	}
	x.st, x.insert = st, insert
	x.pos.Store(&pos)
	x.show(pos.watermark)
	return nil
}

func (x *IDs) show(watermark uint64) {
	x.watermark.Store(watermark)
	x.m.watermark.Set(float64(watermark))
}

// Lookup implements bridge.IDs.
func (x *IDs) Lookup(ctx context.Context, eventID string) (bridge.IDState, error) {
	begin := time.Now()
	defer func() { x.m.lookup.Observe(time.Since(begin).Seconds()) }()
	x.mu.RLock()
	defer x.mu.RUnlock()
	state, err := x.lookup(ctx, eventID)
	return state, unavailable(ctx, "look up webhook id", err)
}

func (x *IDs) lookup(ctx context.Context, eventID string) (bridge.IDState, error) {
	var out bridge.IDState
	if ctx.Err() != nil {
		return out, ctx.Err()
	}
	// A look-up takes microseconds; watching the context meanwhile would cost as much again.
	ctx = context.WithoutCancel(ctx)
	rows, err := x.st.rows(ctx, "SELECT kind, body, seq FROM ids WHERE id = ? ORDER BY seq", idHash(eventID))
	if err != nil {
		return out, err
	}
	defer rows.Close()
	for rows.Next() {
		var kind int
		var body []byte
		var seq uint64
		if err := rows.Scan(&kind, &body, &seq); err != nil {
			return out, err
		}
		if len(body) != 32 {
			return out, fmt.Errorf("%w: body hash of %d bytes", errCorrupt, len(body))
		}
		switch {
		case kind == idEvent && !out.Found: // the first one counts
			out.Found, out.Sequence, out.BodyHash = true, seq, [32]byte(body)
		case kind == idQuarantine:
			if out.Quarantined == nil {
				out.Quarantined = map[[32]byte]uint64{}
			}
			if _, ok := out.Quarantined[[32]byte(body)]; !ok {
				out.Quarantined[[32]byte(body)] = seq
			}
		}
	}
	return out, rows.Err()
}

// Watermark implements bridge.IDs.
func (x *IDs) Watermark() uint64 { return x.watermark.Load() }

// Ready reports whether the ids of everything are remembered that the log held when Run began, or began anew.
func (x *IDs) Ready() bool { return x.ready.Load() }

// Health returns why ids cannot be written or the log not be followed at the moment, with the remedy, or nil.
func (x *IDs) Health() error {
	if e := x.failing.Load(); e != nil {
		return *e
	}
	return nil
}

// Close ends the use of the file. Run must have returned.
func (x *IDs) Close() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.closed {
		return nil
	}
	x.closed = true
	return errors.Join(x.insert.Close(), x.st.Close())
}
