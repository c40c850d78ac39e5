package projection

import (
	"context"
	"database/sql"
	"slices"
	"sync"
)

// dictKind says which vocabulary a value belongs to.
type dictKind uint8

const (
	dictType dictKind = 1 + iota
	dictOperation
	dictOrganization
	dictSource
)

// firstID is the first id of dict and entity; see schema.go for why it is not 1.
const firstID = 2

type dictKey struct {
	kind  dictKind
	value string
}

// dictEntry is a value that at least one event held has.
type dictEntry struct {
	id int64
	// n is the number of events with the value; extra the number of those that have it as a further organization.
	n, extra int64
}

// dict is the dictionary in memory: as committed, and never behind the watermark. So a value that it does not know is in
// no event up to the watermark. The empty value is 0 and not in it.
type dict struct {
	mu     sync.RWMutex
	byKey  map[dictKey]dictEntry
	byID   map[int64]dictKey
	nextID int64
}

func loadDict(ctx context.Context, db *sql.Conn) (*dict, error) {
	d := &dict{byKey: map[dictKey]dictEntry{}, byID: map[int64]dictKey{}, nextID: firstID}
	rows, err := db.QueryContext(ctx, "SELECT id, kind, value, n, extra FROM dict")
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var k dictKey
		var e dictEntry
		if err := rows.Scan(&e.id, &k.kind, &k.value, &e.n, &e.extra); err != nil {
			return nil, err
		}
		d.byKey[k], d.byID[e.id] = e, k
		d.nextID = max(d.nextID, e.id+1)
	}
	return d, rows.Err()
}

func (d *dict) get(kind dictKind, value string) (dictEntry, bool) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	e, ok := d.byKey[dictKey{kind, value}]
	return e, ok
}

// value returns the text of an id, empty for 0.
func (d *dict) value(id int64) string {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.byID[id].value
}

// dictChange is what a transaction does to the dictionary.
type dictChange struct {
	d      *dict
	fresh  map[dictKey]int64
	delta  map[dictKey]dictEntry
	nextID int64
}

// change begins a change. Only one may be under way.
func (d *dict) change() *dictChange {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return &dictChange{d: d, fresh: map[dictKey]int64{}, delta: map[dictKey]dictEntry{}, nextID: d.nextID}
}

// add counts n more (or, negative, fewer) events with a value and returns its id.
func (c *dictChange) add(kind dictKind, value string, n, extra int64) int64 {
	if value == "" {
		return 0
	}
	k := dictKey{kind, value}
	x, ok := c.delta[k]
	if !ok {
		if e, ok := c.d.get(kind, value); ok {
			x.id = e.id
		} else {
			x.id = c.nextID
			c.nextID++
			c.fresh[k] = x.id
		}
	}
	x.n += n
	x.extra += extra
	c.delta[k] = x
	return x.id
}

// addID is add for a known id.
func (c *dictChange) addID(id, n, extra int64) {
	c.d.mu.RLock()
	k, ok := c.d.byID[id]
	c.d.mu.RUnlock()
	if ok {
		c.add(k.kind, k.value, n, extra)
	}
}

// write writes the change. A value that no event has any more goes away, so that the dictionary stays bounded by what is
// held; its id is not used again while the process lives.
func (c *dictChange) write(ctx context.Context, w *writer) error {
	// Few different changes: of a single event most often one.
	raise := map[[2]int64][]any{}
	for k, x := range c.delta {
		if _, fresh := c.fresh[k]; fresh {
			if _, err := w.dictInsert.ExecContext(ctx, x.id, int64(k.kind), k.value, x.n, x.extra); err != nil {
				return err
			}
			continue
		}
		old, _ := c.d.get(k.kind, k.value)
		if old.n+x.n <= 0 && old.extra+x.extra <= 0 {
			if _, err := w.dictDelete.ExecContext(ctx, x.id); err != nil {
				return err
			}
			continue
		}
		by := [2]int64{x.n, x.extra}
		raise[by] = append(raise[by], x.id)
	}
	for by, ids := range raise {
		for part := range slices.Chunk(ids, dictUpdates) {
			args := []any{by[0], by[1]}
			for i := range dictUpdates {
				args = append(args, part[min(i, len(part)-1)]) // repeats do no harm
			}
			if _, err := w.dictUpdate.ExecContext(ctx, args...); err != nil {
				return err
			}
		}
	}
	return nil
}

// dictUpdates is how many values one statement updates.
const dictUpdates = 4

// committed makes the change visible.
func (c *dictChange) committed() {
	c.d.mu.Lock()
	defer c.d.mu.Unlock()
	for k, x := range c.delta {
		e := c.d.byKey[k]
		e.id, e.n, e.extra = x.id, e.n+x.n, e.extra+x.extra
		if e.n <= 0 && e.extra <= 0 {
			delete(c.d.byKey, k)
			delete(c.d.byID, x.id)
			continue
		}
		c.d.byKey[k], c.d.byID[e.id] = e, k
	}
	c.d.nextID = c.nextID
}

// values returns all values of a vocabulary.
func (d *dict) values(kind dictKind) []string {
	d.mu.RLock()
	defer d.mu.RUnlock()
	var out []string
	for k := range d.byKey {
		if k.kind == kind {
			out = append(out, k.value)
		}
	}
	return out
}
