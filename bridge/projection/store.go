package projection

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"time"

	_ "modernc.org/sqlite" // the driver
)

// store is one SQLite file. One connection writes and a pool of them reads, so that a reader never waits for the writer.
type store struct {
	path    string
	writeDB *sql.DB
	write   *sql.Conn // the one connection of writeDB
	read    *sql.DB

	mu    sync.Mutex
	stmts map[string]*statement
}

// maxStatements bounds the cache of prepared statements of a file; when it is full it starts anew.
const maxStatements = 256

// storeOptions describe a file. A file with another version is not opened but reported by errVersion.
type storeOptions struct {
	path      string
	schema    string
	version   int32
	readConns int
	// incremental lets the file shrink (auto_vacuum = incremental).
	incremental bool
}

var errVersion = errors.New("file has another version")

func dsn(path string, params url.Values) string {
	return (&url.URL{Scheme: "file", Path: filepath.ToSlash(path), RawQuery: params.Encode()}).String()
}

// openStore opens the file, or makes it.
func openStore(ctx context.Context, o storeOptions) (_ *store, err error) {
	if o.path, err = filepath.Abs(o.path); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(o.path), 0o700); err != nil {
		return nil, err
	}
	// The files have travelers' data. SQLite gives its other files the mode of this one.
	f, err := os.OpenFile(o.path, os.O_CREATE|os.O_RDONLY, 0o600)
	if err != nil {
		return nil, err
	}
	if err := f.Close(); err != nil {
		return nil, err
	}
	w := []string{"busy_timeout(10000)"}
	if o.incremental {
		w = append(w, "auto_vacuum(incremental)") // must come before the first page is written
	}
	// NORMAL syncs at checkpoints only: after a power cut the file is intact, and the log gives back what it lacks.
	w = append(w, "journal_mode(wal)", "synchronous(normal)", "journal_size_limit(67108864)", "wal_autocheckpoint(8000)", "cache_size(-32768)", "temp_store(memory)")
	s := &store{path: o.path, stmts: map[string]*statement{}}
	if s.writeDB, err = sql.Open("sqlite", dsn(o.path, url.Values{"_pragma": w})); err != nil {
		return nil, err
	}
	s.writeDB.SetMaxOpenConns(1)
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	if s.write, err = s.writeDB.Conn(ctx); err != nil {
		return nil, fmt.Errorf("open %s: %w", o.path, err)
	}
	var version int32
	var tables int
	if err := s.write.QueryRowContext(ctx, "PRAGMA user_version").Scan(&version); err != nil {
		return nil, fmt.Errorf("open %s: %w", o.path, err)
	}
	if err := s.write.QueryRowContext(ctx, "SELECT count(*) FROM sqlite_schema").Scan(&tables); err != nil {
		return nil, fmt.Errorf("open %s: %w", o.path, err)
	}
	switch {
	case tables == 0:
		if err := s.tx(ctx, func() error {
			_, err := s.write.ExecContext(ctx, o.schema+fmt.Sprintf(";PRAGMA user_version=%d", o.version))
			return err
		}); err != nil {
			return nil, fmt.Errorf("make %s: %w", o.path, err)
		}
	case version != o.version:
		return nil, fmt.Errorf("%s: %w: %d instead of %d", o.path, errVersion, version, o.version)
	}
	r := url.Values{"_pragma": {"busy_timeout(10000)", "query_only(1)", "cache_size(-8192)", "temp_store(memory)"}}
	if s.read, err = sql.Open("sqlite", dsn(o.path, r)); err != nil {
		return nil, err
	}
	s.read.SetMaxOpenConns(o.readConns)
	s.read.SetMaxIdleConns(o.readConns)
	return s, nil
}

// statement is a prepared reading statement. It is closed when it has left the cache and nobody uses it.
type statement struct {
	*sql.Stmt
	users   int
	dropped bool
}

func (s *store) acquire(ctx context.Context, text string) (*statement, error) {
	if st := s.cached(text, nil); st != nil {
		return st, nil
	}
	// Not under the lock: this may wait for a connection, whose user may wait for the lock.
	prepared, err := s.read.PrepareContext(ctx, text)
	if err != nil {
		return nil, err
	}
	return s.cached(text, prepared), nil
}

// cached returns the statement for a text, with one more user. When there is none, it is the one that was prepared, if any.
func (s *store) cached(text string, prepared *sql.Stmt) *statement {
	var unused []*sql.Stmt
	defer func() {
		for _, st := range unused {
			_ = st.Close()
		}
	}()
	s.mu.Lock()
	defer s.mu.Unlock()
	st, ok := s.stmts[text]
	switch {
	case ok && prepared != nil:
		unused = append(unused, prepared) // somebody else was faster
	case !ok && prepared == nil:
		return nil
	case !ok:
		if len(s.stmts) >= maxStatements {
			for _, old := range s.stmts {
				if old.dropped = true; old.users == 0 {
					unused = append(unused, old.Stmt)
				}
			}
			clear(s.stmts)
		}
		st = &statement{Stmt: prepared}
		s.stmts[text] = st
	}
	st.users++
	return st
}

func (s *store) release(st *statement) {
	s.mu.Lock()
	st.users--
	last := st.users == 0 && st.dropped
	s.mu.Unlock()
	if last {
		_ = st.Close()
	}
}

// rows runs a reading statement. The statement is prepared once.
func (s *store) rows(ctx context.Context, text string, args ...any) (*sql.Rows, error) {
	st, err := s.acquire(ctx, text)
	if err != nil {
		return nil, err
	}
	defer s.release(st)                  // open rows keep what they need
	return st.QueryContext(ctx, args...) //nolint:sqlclosecheck // the caller closes the rows
}

// row runs a reading statement that gives at most one row.
func (s *store) row(ctx context.Context, text string, args []any, dst ...any) error {
	st, err := s.acquire(ctx, text)
	if err != nil {
		return err
	}
	defer s.release(st)
	return st.QueryRowContext(ctx, args...).Scan(dst...)
}

// tx runs f in a write transaction. Only one may run at a time; callers see to that.
func (s *store) tx(ctx context.Context, f func() error) error {
	if _, err := s.write.ExecContext(ctx, "BEGIN IMMEDIATE"); err != nil {
		return err
	}
	err := f()
	if err == nil {
		_, err = s.write.ExecContext(ctx, "COMMIT")
	}
	if err != nil {
		// Fails when SQLite has rolled back by itself, as it does when the disk is full. Never with a context that ended:
		// the transaction would stay open.
		_, _ = s.write.ExecContext(context.WithoutCancel(ctx), "ROLLBACK")
	}
	return err
}

// checkpoint writes the WAL back, as far as readers allow.
func (s *store) checkpoint(ctx context.Context) error {
	_, err := s.write.ExecContext(ctx, "PRAGMA wal_checkpoint(PASSIVE)")
	return err
}

// Close closes the connections.
func (s *store) Close() error {
	var errs []error
	if s.read != nil {
		s.mu.Lock()
		for _, st := range s.stmts {
			errs = append(errs, st.Close())
		}
		clear(s.stmts)
		s.mu.Unlock()
		errs = append(errs, s.read.Close())
	}
	if s.write != nil {
		errs = append(errs, s.write.Close())
	}
	if s.writeDB != nil {
		errs = append(errs, s.writeDB.Close()) // the last connection to go writes the WAL back
	}
	return errors.Join(errs...)
}

var storeSuffixes = []string{"", "-wal", "-shm"}

// removeStore deletes a file and what belongs to it.
func removeStore(path string) error {
	for _, suffix := range storeSuffixes {
		if err := os.Remove(path + suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// moveAside renames a file to path.<why>-<time> and returns the new name. Only the newest one of a kind is kept, so that a
// file that breaks again and again does not fill the disk.
func moveAside(path, why string, now time.Time) (string, error) {
	to := path + "." + why + "-" + now.UTC().Format("20060102T150405.000000000Z")
	old, err := filepath.Glob(path + "." + why + "-*")
	if err != nil {
		return "", err
	}
	for _, suffix := range storeSuffixes {
		if err := os.Rename(path+suffix, to+suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
	}
	for _, o := range old {
		if err := os.Remove(o); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
	}
	return to, nil
}
