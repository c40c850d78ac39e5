package app

import (
	"math"
	"os"
	"runtime"
	"runtime/debug"
)

// heapReserve is how much the collector believes to be alive beside what is. A bridge that has just begun has about 9 MiB
// alive, and with many events a second it would collect 50 times a second: the garbage of 20 ms.
const heapReserve = 64 << 20

// ReserveHeap makes the collector wait until the heap has grown by at least 64 MiB, until release is called: that much is
// reserved and never touched, so it costs addresses and no memory, and the heap may have up to 64 MiB more of garbage. Nothing
// is reserved when the operator has set GOGC or a memory limit, which then say how the collector is to work.
func ReserveHeap() (release func()) {
	_, set := os.LookupEnv("GOGC")
	if set || debug.SetMemoryLimit(-1) != math.MaxInt64 {
		return func() {}
	}
	reserve := make([]byte, heapReserve)
	return func() { runtime.KeepAlive(reserve) }
}
