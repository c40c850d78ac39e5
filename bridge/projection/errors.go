package projection

import (
	"context"
	"errors"
	"fmt"

	sqlite "modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/spotbridge/spotbridge/bridge"
)

// ErrForeignLog says that ids.db remembers the ids of another log than the one that is followed. Its message has the
// remedy.
var ErrForeignLog = errors.New("ids.db belongs to another log")

// errCorrupt says that a file is damaged and must be made anew.
var errCorrupt = errors.New("damaged database file")

// code returns SQLite's primary result code of an error, or 0.
func code(err error) int {
	if e, ok := errors.AsType[*sqlite.Error](err); ok {
		return e.Code() & 0xff
	}
	return 0
}

func isCorrupt(err error) bool {
	if errors.Is(err, errCorrupt) {
		return true
	}
	c := code(err)
	return c == sqlite3.SQLITE_CORRUPT || c == sqlite3.SQLITE_NOTADB
}

// remedy tells an operator what to do about an error of a file.
func remedy(err error, path string) string {
	switch code(err) {
	case 0:
		return "it tries again by itself"
	case sqlite3.SQLITE_FULL:
		return "free disk space or lower history.max_bytes; writing goes on by itself"
	case sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_AUTH:
		return "make " + path + " and its folder writable for this process; writing goes on by itself"
	case sqlite3.SQLITE_IOERR:
		return "check the disk that holds " + path + " (space, quota, hardware); writing goes on by itself"
	case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED:
		return "end the other program that has " + path + " open"
	case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB:
		return "delete " + path + "; it is rebuilt from the log"
	default:
		return "if it stays, stop the service and delete " + path + "; it is rebuilt from the log"
	}
}

// unavailable translates an error for callers: the context's and those of the domain pass, all others mean that history
// cannot be read.
func unavailable(ctx context.Context, what string, err error) error {
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if _, ok := errors.AsType[*bridge.Error](err); ok {
		return err
	}
	return bridge.HistoryUnavailable(fmt.Errorf("%s: %w", what, err))
}
