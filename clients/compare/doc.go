// Package compare runs the clients of this folder beside one another against a real bridge, kills them and the bridge
// again and again, and compares what they wrote with a reference that is computed from the deliveries alone.
//
//	go test -tags clients -count=1 -v ./clients/compare
//
// Each client is built by its own setup.sh before. One that is not there is skipped with the reason; SPOTBRIDGE_CLIENTS_REQUIRED=1
// makes that a failure. SPOTBRIDGE_CLIENTS=go,python chooses some, SPOTBRIDGE_CLIENTS_SEED repeats a run as far as a seed
// can, SPOTBRIDGE_BIN names a bridge that is built already.
package compare
