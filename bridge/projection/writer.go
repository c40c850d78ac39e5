package projection

import (
	"context"
	"database/sql"
	"errors"
)

// writer holds the prepared statements of projection.db's writing connection.
type writer struct {
	event, wide, body, otherOrg, ent       *sql.Stmt
	dictInsert, dictUpdate, dictDelete     *sql.Stmt
	entityGet, entityInsert, entityUpdate  *sql.Stmt
	rollup, rollupDelete, seen, seenDelete *sql.Stmt
	quarantine                             *sql.Stmt
	state                                  *sql.Stmt
	entDelete, otherOrgDelete              *sql.Stmt
	eventsDelete, wideDelete, bodyDelete   *sql.Stmt
	quarantineDelete, floor                *sql.Stmt
}

func (w *writer) each() map[**sql.Stmt]string {
	return map[**sql.Stmt]string{
		&w.event:    "INSERT INTO events (seq, ts, typ, op, org, src, flags, idh, eid, ver, et) VALUES (?,?,?,?,?,?,?,?,?,?,?)",
		&w.wide:     "INSERT INTO wide (seq, size, sha, stamp, e) VALUES (?,?,?,?,?)",
		&w.body:     "INSERT INTO body (seq, z) VALUES (?,?)",
		&w.otherOrg: "INSERT OR IGNORE INTO other_org (org, seq) VALUES (?,?)",
		&w.ent:      "INSERT OR IGNORE INTO ent (kind, id, seq) VALUES (?,?,?)",

		&w.dictInsert: "INSERT INTO dict (id, kind, value, n, extra) VALUES (?,?,?,?,?)",
		&w.dictUpdate: "UPDATE dict SET n = n + ?, extra = extra + ? WHERE id IN (?,?,?,?)",
		&w.dictDelete: "DELETE FROM dict WHERE id = ?",

		&w.entityGet:    "SELECT eid, ver, et, proven FROM entity WHERE id = ? AND kind = ?",
		&w.entityInsert: "INSERT INTO entity (eid, kind, id, ver, et, proven) VALUES (?,?,?,?,?,?)",
		&w.entityUpdate: "UPDATE entity SET ver = ?, et = ?, proven = ? WHERE eid = ?",

		&w.rollup: `INSERT INTO rollup (hour, src, typ, op, org, stale, n) VALUES (?,?,?,?,?,?,?)
			ON CONFLICT DO UPDATE SET n = n + excluded.n`,
		&w.rollupDelete: "DELETE FROM rollup WHERE hour = ? AND src = ? AND typ = ? AND op = ? AND org = ? AND stale = ? AND n <= 0",
		&w.seen: `INSERT INTO seen (typ, op, n, ts) VALUES (?,?,?,?)
			ON CONFLICT DO UPDATE SET n = n + excluded.n, ts = max(ts, excluded.ts)`,
		&w.seenDelete: "DELETE FROM seen WHERE typ = ? AND op = ? AND n <= 0",

		&w.quarantine: `INSERT INTO quarantine (seq, ts, src, event_id, webhook_id, cause, receive, stamp, trace, span, api, typ, op, org, sha, size)
			VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)`,

		&w.state: "UPDATE state SET begun = ?, floor = ?, watermark = ?, last_ts = ? WHERE id = 1",

		&w.entDelete:        "DELETE FROM ent WHERE kind = ? AND id = ? AND seq <= ?",
		&w.otherOrgDelete:   "DELETE FROM other_org WHERE seq <= ?",
		&w.eventsDelete:     "DELETE FROM events WHERE seq <= ?",
		&w.wideDelete:       "DELETE FROM wide WHERE seq <= ?",
		&w.bodyDelete:       "DELETE FROM body WHERE seq <= ?",
		&w.quarantineDelete: "DELETE FROM quarantine WHERE seq <= ?",
		&w.floor:            "UPDATE state SET floor = ? WHERE id = 1",
	}
}

func newWriter(ctx context.Context, conn *sql.Conn) (*writer, error) {
	w := &writer{}
	for st, text := range w.each() {
		var err error
		if *st, err = conn.PrepareContext(ctx, text); err != nil { //nolint:sqlclosecheck // close closes all
			return nil, errors.Join(err, w.close())
		}
	}
	return w, nil
}

func (w *writer) close() error {
	var errs []error
	for st := range w.each() {
		if *st != nil {
			errs = append(errs, (*st).Close())
		}
	}
	return errors.Join(errs...)
}
