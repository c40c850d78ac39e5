// Package group delivers the events of consumer groups: it gives each to one member at a time, again until it is settled,
// and moves those that nobody can handle to the dead letters.
//
// What is waiting, held and due again is kept by the store's queues, so it survives this process and is shared by all
// replicas. This package decides: who gets how much (credits and limits), whose a delivery is (leases), when an event comes
// again and when it is given up, and that a position that fell below the log's floor is said aloud. The bytes of events come
// from the projection, or from what it has just published.
//
// A delivery is a lease. It ends with the first of: ack, nack, its deadline, the end of its member, a seek. Whoever comes
// later is told that the delivery is stale. The store's own deadline is a little longer than the lease, so it never gives an
// event to somebody else while an ack of the lease would still be accepted here.
package group
