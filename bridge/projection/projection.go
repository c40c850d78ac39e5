package projection

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spotbridge/spotbridge/bridge"
)

// Projection is projection.db: a bridge.History over the log, and its follower.
type Projection struct {
	cfg   Config
	log   *slog.Logger
	m     *metrics
	codec *codec
	// looked is maxLooked and minFree is minFreePages; tests lower them.
	looked  int
	minFree int64

	// mu is held by readers while they use st and dict, and by renew while it puts new ones in their place.
	mu   sync.RWMutex
	st   *store
	dict *dict

	// wmu admits one write transaction at a time and guards w and nextEID.
	wmu     sync.Mutex
	w       *writer
	nextEID int64

	// retaining admits one retention at a time.
	retaining sync.Mutex

	// published is what the sink has had, lostBelow where a gap ends that it has not been told of; closed says that renew
	// did not succeed; unwritten counts the transactions since the last checkpoint. All belong to Run.
	published, lostBelow uint64
	closed               bool
	unwritten            int

	pos     atomic.Pointer[position]
	head    atomic.Uint64
	ready   atomic.Bool
	failing atomic.Pointer[error]
	// damaged wakes the follower when a reader has found the file damaged; lastDamage is when one did so before.
	damaged    chan error
	lastDamage time.Time
}

var _ bridge.History = (*Projection)(nil)

// quickCheckBytes is the largest file that is checked in full after an unclean end; it takes about a second. Damage in a
// larger one is found when it is read.
const quickCheckBytes = 64 << 20

// Open opens projection.db, or makes it. A damaged file is moved aside, one of another version deleted; both are then
// rebuilt by Run. It does not need the log.
func Open(ctx context.Context, cfg Config) (*Projection, error) {
	cfg = cfg.withDefaults()
	p := &Projection{cfg: cfg, log: cfg.Logger, m: newMetrics(cfg.Registerer), codec: newCodec(), looked: maxLooked, minFree: minFreePages, damaged: make(chan error, 1)}
	if err := p.open(ctx); err != nil {
		return nil, err
	}
	return p, nil
}

func (p *Projection) path() string { return filepath.Join(p.cfg.Dir, "projection.db") }

// open opens the file, after removing one that is of no use.
func (p *Projection) open(ctx context.Context) error {
	err := p.load(ctx)
	switch {
	case errors.Is(err, errVersion):
		p.log.Warn("projection.db was written by other rules; it is rebuilt from the log", "path", p.path(), "cause", err)
		p.m.rebuilds.WithLabelValues("version").Inc()
		if err := removeStore(p.path()); err != nil {
			return fmt.Errorf("remove %s, so that it can be rebuilt: %w", p.path(), err)
		}
		return p.load(ctx)
	case isCorrupt(err):
		if err := p.setAside(err); err != nil {
			return err
		}
		return p.load(ctx)
	case err != nil:
		return fmt.Errorf("open %s: %w; %s", p.path(), err, remedy(err, p.path()))
	}
	return nil
}

func (p *Projection) setAside(cause error) error {
	to, err := moveAside(p.path(), "corrupt", p.cfg.Now())
	if err != nil {
		return fmt.Errorf("%s is damaged (%w) and cannot be moved aside: %w; delete it, it is rebuilt from the log", p.path(), cause, err)
	}
	p.m.rebuilds.WithLabelValues("corrupt").Inc()
	p.log.Error("projection.db is damaged; it was moved aside and is rebuilt from the log. Delete the damaged file when it is of no interest; check the disk",
		"path", p.path(), "moved_to", to, "cause", cause)
	return nil
}

// load opens the file and reads what is kept in memory.
func (p *Projection) load(ctx context.Context) (err error) {
	st, err := openStore(ctx, storeOptions{
		path: p.path(), schema: projectionSchema, version: projectionVersion, readConns: p.cfg.ReadConns, incremental: true,
	})
	if err != nil {
		return err
	}
	var w *writer
	defer func() {
		if err != nil {
			if w != nil {
				err = errors.Join(err, w.close())
			}
			err = errors.Join(err, st.Close())
		}
	}()
	var pos position
	var log []byte
	var clean bool
	if err := st.write.QueryRowContext(ctx, "SELECT log, begun, floor, watermark, last_ts, clean FROM state").
		Scan(&log, &pos.begun, &pos.floor, &pos.watermark, &pos.lastTS, &clean); err != nil {
		if errors.Is(err, sql.ErrNoRows) {
			err = fmt.Errorf("%w: table state is empty", errCorrupt)
		}
		return err
	}
	copy(pos.log[:], log)
	if !clean {
		if err := quickCheck(ctx, st); err != nil {
			return err
		}
	}
	if _, err := st.write.ExecContext(ctx, "UPDATE state SET clean = 0"); err != nil {
		return err
	}
	if _, err := st.write.ExecContext(ctx, driftSchema); err != nil {
		return err
	}
	d, err := loadDict(ctx, st.write)
	if err != nil {
		return err
	}
	var nextEID int64
	if err := st.write.QueryRowContext(ctx, "SELECT coalesce(max(eid) + 1, ?) FROM entity", firstID).Scan(&nextEID); err != nil {
		return err
	}
	if w, err = newWriter(ctx, st.write); err != nil {
		return err
	}
	p.st, p.dict, p.w, p.nextEID = st, d, w, nextEID
	p.pos.Store(&pos)
	p.m.watermark.Set(float64(pos.watermark))
	return nil
}

func quickCheck(ctx context.Context, st *store) error {
	if info, err := os.Stat(st.path); err != nil || info.Size() > quickCheckBytes {
		return err
	}
	var result string
	if err := st.write.QueryRowContext(ctx, "PRAGMA quick_check(1)").Scan(&result); err != nil {
		return err
	}
	if result != "ok" {
		return fmt.Errorf("%w: %s", errCorrupt, result)
	}
	return nil
}

// renew puts a new, empty file in the place of this one. remove removes the old one or moves it aside.
func (p *Projection) renew(ctx context.Context, remove func() error) error {
	p.ready.Store(false)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wmu.Lock()
	defer p.wmu.Unlock()
	if !p.closed {
		// Errors of a damaged file's end say nothing new.
		_ = p.w.close()
		_ = p.st.Close()
		p.closed = true
	}
	if err := remove(); err != nil {
		return err
	}
	if err := p.open(ctx); err != nil {
		return err
	}
	p.closed = false
	select {
	case <-p.damaged: //nolint:errcheck // was said of the old file
	default:
	}
	return nil
}

// reopen tries again what renew could not do.
func (p *Projection) reopen(ctx context.Context) error {
	if !p.closed {
		return nil
	}
	return p.renew(ctx, func() error { return nil })
}

// Close ends the use of the file. Run must have returned.
func (p *Projection) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wmu.Lock()
	defer p.wmu.Unlock()
	if p.closed {
		return nil
	}
	p.closed = true
	_, err := p.st.write.ExecContext(context.Background(), "UPDATE state SET clean = 1")
	return errors.Join(err, p.w.close(), p.st.Close())
}

// Watermark returns the highest sequence that was applied.
func (p *Projection) Watermark() uint64 { return p.pos.Load().watermark }

// Lag returns how many sequences the watermark is behind the head of the log, as far as the head is known: it is asked for
// every few seconds.
func (p *Projection) Lag() uint64 {
	head, watermark := p.head.Load(), p.Watermark()
	if head <= watermark {
		return 0
	}
	return head - watermark
}

// Ready reports whether everything was applied that the log held when Run began, or began anew.
func (p *Projection) Ready() bool { return p.ready.Load() }

// Health returns why the projection cannot be written or the log not be followed at the moment, with the remedy, or nil.
func (p *Projection) Health() error {
	if e := p.failing.Load(); e != nil {
		return *e
	}
	return nil
}

// read runs a reader with the file and the position, measures it, and translates its error. When the file is damaged it
// tells the follower.
func (p *Projection) read(ctx context.Context, what string, f func(st *store, pos *position) error) error {
	begin := time.Now()
	p.mu.RLock()
	defer p.mu.RUnlock()
	err := f(p.st, p.pos.Load())
	p.m.query.WithLabelValues(what).Observe(time.Since(begin).Seconds())
	if isCorrupt(err) {
		select {
		case p.damaged <- err:
		default:
		}
	}
	return unavailable(ctx, what, err)
}
