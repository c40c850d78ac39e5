// Package bridgetest helps tests: a real embedded log in a temporary folder, event builders, and the contract suite
// that every Log must pass. It is imported from tests only; its samples serve the command line too.
package bridgetest
