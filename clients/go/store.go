package main

import (
	"database/sql" //nolint:depguard // a client is a program of its own and keeps its own tables
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"modernc.org/sqlite"             //nolint:depguard // the driver; as above
	sqlite3 "modernc.org/sqlite/lib" //nolint:depguard // as above

	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
	payload "github.com/spotbridge/spotbridge/gen/go/spotnana/payload/v1"
)

const schema = `
CREATE TABLE IF NOT EXISTS expenses (
  ticket_number TEXT PRIMARY KEY, pnr_id TEXT NOT NULL, organization_id TEXT NOT NULL, traveler_id TEXT NOT NULL,
  currency TEXT NOT NULL, amount_milli INTEGER NOT NULL, refund_milli INTEGER NOT NULL, net_milli INTEGER NOT NULL,
  state TEXT NOT NULL, version INTEGER NOT NULL, event_id TEXT NOT NULL,
  issued INTEGER NOT NULL, voided INTEGER NOT NULL, refunded INTEGER NOT NULL,
  refund_version INTEGER NOT NULL, refund_event TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS processed (event_id TEXT PRIMARY KEY);
CREATE TABLE IF NOT EXISTS position (id INTEGER PRIMARY KEY CHECK (id = 1), cursor TEXT NOT NULL);`

// busy is how long a database that is in use is waited for.
const (
	busy     = 5 * time.Second
	busyPoll = 20 * time.Millisecond
)

// store keeps the expenses, the ids of the processed events and the cursor in one SQLite file.
type store struct{ db *sql.DB }

func openStore(path string) (*store, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	// The table names travelers. SQLite gives its other files the mode of this one.
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY, 0o600)
	if err != nil {
		return nil, err
	}
	if err := f.Close(); err != nil {
		return nil, err
	}
	dsn := url.URL{Scheme: "file", Path: filepath.ToSlash(path), RawQuery: url.Values{
		"_pragma": {fmt.Sprintf("busy_timeout(%d)", busy.Milliseconds()), "journal_mode(wal)", "synchronous(full)"},
		"_txlock": {"immediate"}, // a transaction that reads first must not find out later that it may not write
	}.Encode()}
	db, err := sql.Open("sqlite", dsn.String())
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1)
	if err := prepare(db); err != nil {
		return nil, errors.Join(fmt.Errorf("open %s: %w", path, err), db.Close())
	}
	return &store{db}, nil
}

// prepare makes the tables. SQLite does not wait by itself for another process that makes the file at the same moment.
func prepare(db *sql.DB) error {
	for deadline := time.Now().Add(busy); ; time.Sleep(busyPoll) {
		_, err := db.Exec(schema)
		if e, ok := errors.AsType[*sqlite.Error](err); !ok || e.Code()&0xff != sqlite3.SQLITE_BUSY || time.Now().After(deadline) {
			return err
		}
	}
}

func (s *store) close() error { return s.db.Close() }

// cursor returns the position, empty before the first message.
func (s *store) cursor() (cursor string, err error) {
	err = s.db.QueryRow("SELECT cursor FROM position").Scan(&cursor)
	if errors.Is(err, sql.ErrNoRows) {
		err = nil
	}
	return cursor, err
}

// move stores the position of a message that is not an event.
func (s *store) move(cursor string) error {
	return s.write(func(tx *sql.Tx) error { return move(tx, cursor) })
}

// seen reports whether an event was processed.
func (s *store) seen(eventID string) (bool, error) {
	var n int
	err := s.db.QueryRow("SELECT count(*) FROM processed WHERE event_id = ?", eventID).Scan(&n)
	return n > 0, err
}

// process stores what an event means, that it was processed, and the position after it: all of it or nothing. Of an event
// that was processed before only the position is stored.
func (s *store) process(e *pb.Event, booking *payload.PnrData, cursor string) error {
	return s.write(func(tx *sql.Tx) error {
		r, err := tx.Exec("INSERT INTO processed VALUES (?) ON CONFLICT DO NOTHING", e.GetId())
		if err != nil {
			return err
		}
		isNew, err := r.RowsAffected()
		if err != nil {
			return err
		}
		if isNew > 0 && counts(e) {
			for c, numbers := range tickets(e) {
				for _, number := range numbers {
					x, err := load(tx, number)
					if err != nil {
						return err
					}
					x.apply(c, e, booking)
					if err := save(tx, x); err != nil {
						return err
					}
				}
			}
		}
		return move(tx, cursor)
	})
}

func (s *store) write(f func(*sql.Tx) error) error {
	tx, err := s.db.Begin()
	if err != nil {
		return fmt.Errorf("store: %w", err)
	}
	defer tx.Rollback()
	if err := f(tx); err != nil {
		return fmt.Errorf("store: %w", err)
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("store: %w", err)
	}
	return nil
}

func move(tx *sql.Tx, cursor string) error {
	if cursor == "" {
		return nil
	}
	_, err := tx.Exec("INSERT INTO position VALUES (1, ?) ON CONFLICT DO UPDATE SET cursor = excluded.cursor", cursor)
	return err
}

func load(tx *sql.Tx, ticket string) (*expense, error) {
	x := &expense{ticket: ticket}
	err := tx.QueryRow(`SELECT pnr_id, organization_id, traveler_id, currency, amount_milli, refund_milli, version, event_id,
		issued, voided, refunded, refund_version, refund_event FROM expenses WHERE ticket_number = ?`, ticket).Scan(
		&x.pnrID, &x.organizationID, &x.travelerID, &x.currency, &x.amount, &x.refund, &x.latest.version, &x.latest.eventID,
		&x.issued, &x.voided, &x.refunded, &x.latestRefund.version, &x.latestRefund.eventID)
	if errors.Is(err, sql.ErrNoRows) {
		err = nil
	}
	return x, err
}

func save(tx *sql.Tx, x *expense) error {
	_, err := tx.Exec(`INSERT OR REPLACE INTO expenses (ticket_number, pnr_id, organization_id, traveler_id, currency,
		amount_milli, refund_milli, net_milli, state, version, event_id, issued, voided, refunded, refund_version, refund_event)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		x.ticket, x.pnrID, x.organizationID, x.travelerID, x.currency, x.amount, x.refund, x.net(), x.state(),
		x.latest.version, x.latest.eventID, x.issued, x.voided, x.refunded, x.latestRefund.version, x.latestRefund.eventID)
	return err
}

// dump writes the table of expenses, a line each.
func (s *store) dump(w io.Writer) error {
	return s.print(w, `SELECT ticket_number || char(9) || pnr_id || char(9) || organization_id || char(9) || traveler_id || char(9) ||
		currency || char(9) || amount_milli || char(9) || refund_milli || char(9) || net_milli || char(9) || state || char(9) ||
		version || char(9) || event_id FROM expenses ORDER BY ticket_number`)
}

// processed writes the ids of the processed events, a line each.
func (s *store) processed(w io.Writer) error {
	return s.print(w, "SELECT event_id FROM processed ORDER BY event_id")
}

func (s *store) print(w io.Writer, query string) error {
	rows, err := s.db.Query(query)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var line string
		if err := rows.Scan(&line); err != nil {
			return err
		}
		if _, err := fmt.Fprintln(w, line); err != nil {
			return err
		}
	}
	return rows.Err()
}
