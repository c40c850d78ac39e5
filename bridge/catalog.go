package bridge

import (
	_ "embed"
	"encoding/json"
	"sync"
)

// catalogJSON is the public catalogue of event types and operations. It is a lower bound: unknown values are normal.
//
//go:embed catalog.json
var catalogJSON []byte

// CatalogOperation is an operation that the public catalogue names.
type CatalogOperation struct {
	Name string `json:"name"`
	When string `json:"when"`
}

// CatalogType is an event type that the public catalogue names.
type CatalogType struct {
	Name       string             `json:"name"`
	Complete   bool               `json:"complete"`
	Operations []CatalogOperation `json:"operations"`
}

var catalog = sync.OnceValue(func() []CatalogType {
	var c struct {
		EventTypes []CatalogType `json:"event_types"`
	}
	if err := json.Unmarshal(catalogJSON, &c); err != nil {
		panic("bridge: embedded catalog.json: " + err.Error()) // cannot happen: a test reads it
	}
	return c.EventTypes
})

// Catalog returns the event types of the public catalogue.
func Catalog() []CatalogType { return catalog() }

var knownOperations = sync.OnceValue(func() map[string]map[string]bool {
	out := map[string]map[string]bool{}
	for _, t := range catalog() {
		ops := map[string]bool{}
		for _, op := range t.Operations {
			ops[op.Name] = true
		}
		out[t.Name] = ops
	}
	return out
})

// KnownEventType reports whether the catalogue has the event type.
func KnownEventType(name string) bool {
	_, ok := knownOperations()[name]
	return ok
}

// KnownOperation reports whether the catalogue has the operation for any of the event types, or for any at all when none
// is given. A type whose operations are not published knows every operation.
func KnownOperation(eventTypes []string, operation string) bool {
	known := knownOperations()
	if len(eventTypes) == 0 {
		for _, ops := range known {
			if ops[operation] {
				return true
			}
		}
		return false
	}
	for _, t := range eventTypes {
		ops, ok := known[t]
		if !ok || len(ops) == 0 || ops[operation] {
			return true
		}
	}
	return false
}
