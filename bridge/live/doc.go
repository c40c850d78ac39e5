// Package live fans events out to subscriptions. The projection's follower publishes into one ring of encoded events that
// all subscriptions share; a subscription that is older than the ring reads history until it can join.
//
// It promises each subscription every event of its filter after its start, once, in log order, and one ordered sequence of
// messages around them. A subscription that does not read costs the others nothing: there is no queue per subscriber, only
// a position in the ring, and whoever is overtaken by the ring goes back to history and is told so. An event is compared
// once with each distinct filter, and subscriptions without a match are not even woken.
//
// It does not know gRPC: bytes go out through a bridge.Sender.
package live
