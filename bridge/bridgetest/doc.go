// Package bridgetest helps tests: a real embedded log in a temporary folder, a wrapper that fails or stalls on demand,
// event builders, the sample deliveries, and the contract suite that every Log must pass. It is imported from tests only.
package bridgetest
