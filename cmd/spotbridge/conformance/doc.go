// Package conformance tries clients and receivers from the outside: a client against a bridge that misbehaves on script,
// a front door against deliveries of every kind.
//
// The scripted bridge is the real server, gRPC and REST with all its checks, over a hub, groups and a history that do what a
// scenario says; a listener beneath cuts, freezes and delays its connections. Each scenario is a function that reads like
// a test: it waits for what the client does, answers, and ends at the first thing that breaks the contract.
//
// What holds is docs/conformance.md. Nothing here knows how a client works: it sees the wire, exit codes, and the ids that
// the client says it has processed.
package conformance
