// Package projection keeps what is derived from the log in three SQLite files, each with a life of its own.
//
//   - projection.db (Open): rows, envelopes, compressed bodies and ordering marks of the events, and the quarantined
//     bodies. It implements bridge.History. It holds only what the log can rebuild: it may be deleted at any time. Rows
//     and watermark are written in one transaction, applying an entry twice changes nothing, and a sink gets events only
//     after they were committed. Nothing is skipped: while the disk refuses writes the follower waits, and says so.
//   - ids.db (OpenIDs): the memory of webhook ids. It implements bridge.IDs and outlives the log's floor, so below the
//     floor it cannot be rebuilt.
//   - deliveries.db (OpenDeliveries): refused and duplicate deliveries, which leave nothing in the log. It is bounded and
//     best effort. Together with projection.db it implements bridge.Deliveries.
//
// The package does not promise that a listing is fast whatever its filter: a call looks at no more than 50,000 index rows
// and may return a short page. It does not lock its folder: one process at a time may have it open.
package projection
