// Package eventlog keeps the log in one JetStream stream, on a server inside this process or on one given by URL. After
// connecting there is one code path, but for the journal in front of an embedded server.
//
// It promises: an append that returned without error is durable (embedded: synced to the journal, from which the stream
// gets what a crash kept from it; external: what the operator declares with log.durability); readers see entries in log
// order, without gap or repeat; hostile values in an entry do no harm. It does not deduplicate beyond a short window of
// message ids: that one is for replicas that race one another, the memory of webhook ids lies elsewhere.
//
// This is the only package that knows NATS.
package eventlog
