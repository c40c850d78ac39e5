// Package server is the gRPC and REST surface of the bridge. Each RPC has a file of its own; it checks the request, asks a
// contract of package bridge, and nothing else. Errors of the domain become statuses in one place (status.go).
//
// REST is a gateway that dials the gRPC server over an in-memory connection, so that both go through the same interceptors.
// A check of our own stands in front of it: routes, methods, parameters and their values. Streams and exact bodies are
// written by handlers of our own over the same connection.
package server
