// Package bridge is the domain of spotbridge: what an event is, how a body becomes one, which events a filter selects,
// how a position is written down, and the contracts between the parts that store and move events.
//
// It does no I/O. The adapters (webhook, eventlog, projection, live, payload) and the server know this package and not
// one another; only app knows them all.
package bridge
