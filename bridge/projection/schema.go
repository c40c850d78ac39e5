package projection

import "github.com/spotbridge/spotbridge/bridge"

// schemaVersion is the version of the tables and of how they are filled. When it or bridge.EnvelopeVersion changes,
// projection.db is made anew from the log.
const schemaVersion = 1

const projectionVersion = schemaVersion<<16 | bridge.EnvelopeVersion

// Numbers instead of texts: typ, op, org and src are ids of dict (0 = empty), eid is an id of entity. Ids begin at 2:
// since SQLite 3.54 a statement is planned anew whenever a bound value changes to or from 0 or 1.
//
// events is narrow, so that conditions are checked on few pages; wide has the envelope (E), body the compressed body. A
// sequence is the row id, so every index is ordered by sequence within a value. ts is the append time, non-decreasing
// along seq; time ranges are translated to sequences by two look-ups in events_ts and never compared row by row. et is the
// event time; ver, et and eid are NULL where there is none.
//
// entity outlives the rows (at about 60 bytes per entity, for ever): the ordering marks are a fold over the whole log.
const projectionSchema = `
CREATE TABLE state (
  id INTEGER PRIMARY KEY CHECK (id = 1),
  log BLOB NOT NULL,             -- identity of the log; empty = not bound yet
  begun INTEGER NOT NULL,        -- first sequence that the ordering marks can rely on
  floor INTEGER NOT NULL,        -- oldest sequence held
  watermark INTEGER NOT NULL,    -- newest sequence applied
  last_ts INTEGER NOT NULL,      -- append time of the watermark
  clean INTEGER NOT NULL         -- 1 = was closed in order
);
INSERT INTO state VALUES (1, x'', 1, 1, 0, 0, 1);
CREATE TABLE dict (
  id INTEGER PRIMARY KEY,
  kind INTEGER NOT NULL,         -- 1 type, 2 operation, 3 organization, 4 source
  value TEXT NOT NULL,
  n INTEGER NOT NULL,            -- events with it (organizations: as the first one)
  extra INTEGER NOT NULL         -- events with it as a further organization
);
CREATE TABLE events (
  seq INTEGER PRIMARY KEY,
  ts INTEGER NOT NULL,
  typ INTEGER NOT NULL, op INTEGER NOT NULL, org INTEGER NOT NULL, src INTEGER NOT NULL,
  flags INTEGER NOT NULL,        -- 1 stale, 2 several organizations
  idh BLOB NOT NULL,             -- first 16 bytes of the SHA-256 of the event id
  eid INTEGER, ver INTEGER, et INTEGER
);
CREATE INDEX events_ts ON events (ts);
CREATE INDEX events_idh ON events (idh);
CREATE INDEX events_typ ON events (typ);
CREATE INDEX events_op ON events (op);
CREATE INDEX events_org ON events (org);
CREATE INDEX events_org_op ON events (org, op);
CREATE INDEX events_src ON events (src);
CREATE INDEX events_eid ON events (eid) WHERE eid IS NOT NULL;
CREATE TABLE wide (
  seq INTEGER PRIMARY KEY,
  size INTEGER NOT NULL,         -- length and SHA-256 of the body
  sha BLOB NOT NULL,
  stamp TEXT NOT NULL,           -- timestamp header as sent
  e BLOB NOT NULL
);
CREATE TABLE body (seq INTEGER PRIMARY KEY, z BLOB NOT NULL); -- of events and of quarantined bodies
CREATE TABLE other_org (org INTEGER NOT NULL, seq INTEGER NOT NULL, PRIMARY KEY (org, seq)) WITHOUT ROWID;
CREATE INDEX other_org_seq ON other_org (seq);
CREATE TABLE ent (
  kind INTEGER NOT NULL,         -- 2 PNR, 3 trip, 4 traveler
  id BLOB NOT NULL,              -- the id when it has at most 15 bytes, else 16 bytes of its SHA-256
  seq INTEGER NOT NULL,
  PRIMARY KEY (kind, id, seq)
) WITHOUT ROWID;
CREATE TABLE entity (
  eid INTEGER PRIMARY KEY,
  kind INTEGER NOT NULL,
  id BLOB NOT NULL,              -- as in ent
  ver INTEGER, et INTEGER,       -- highest version and latest event time seen
  proven INTEGER NOT NULL        -- 1 = its beginning was seen
);
CREATE UNIQUE INDEX entity_id ON entity (id, kind);
CREATE TABLE rollup (
  hour INTEGER NOT NULL, src INTEGER NOT NULL, typ INTEGER NOT NULL, op INTEGER NOT NULL,
  org INTEGER NOT NULL,          -- -1 = several
  stale INTEGER NOT NULL,
  n INTEGER NOT NULL,
  PRIMARY KEY (hour, src, typ, op, org, stale)
) WITHOUT ROWID;
CREATE TABLE seen (typ INTEGER NOT NULL, op INTEGER NOT NULL, n INTEGER NOT NULL, ts INTEGER NOT NULL,
  PRIMARY KEY (typ, op)) WITHOUT ROWID;
CREATE TABLE quarantine (
  seq INTEGER PRIMARY KEY,
  ts INTEGER NOT NULL,
  src TEXT NOT NULL, event_id TEXT NOT NULL, webhook_id TEXT NOT NULL,
  cause INTEGER NOT NULL,
  receive INTEGER NOT NULL,
  stamp TEXT NOT NULL, trace TEXT NOT NULL, span TEXT NOT NULL, api TEXT NOT NULL,
  typ TEXT NOT NULL, op TEXT NOT NULL, org TEXT NOT NULL, -- of a body that is readable
  sha BLOB NOT NULL, size INTEGER NOT NULL
);
CREATE INDEX quarantine_ts ON quarantine (ts);
CREATE INDEX quarantine_webhook ON quarantine (webhook_id);
`

// Values of flags.
const (
	flagStale = 1
	flagMulti = 2
)

// orgMany stands in rollup for events with several organizations.
const orgMany = -1

// hour is the width of a rollup row in nanoseconds.
const hour = int64(3600e9)
