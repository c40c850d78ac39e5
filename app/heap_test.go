package app_test

import (
	"math"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"testing"

	"github.com/spotbridge/spotbridge/app"
)

// heapGoal is the size at which the collector runs next.
func heapGoal() uint64 {
	runtime.GC()
	s := []metrics.Sample{{Name: "/gc/heap/goal:bytes"}}
	metrics.Read(s)
	return s[0].Value.Uint64()
}

func TestTheHeapMayGrowBeforeItIsCollected(t *testing.T) {
	before := heapGoal()
	release := app.ReserveHeap()
	if after := heapGoal(); after < before+100<<20 {
		t.Errorf("%d, and %d before", after, before)
	}
	release()
	if after := heapGoal(); after > before+32<<20 {
		t.Errorf("%d is left of it, and %d was there before", after, before)
	}
}

func TestTheOperatorsCollectorSettingsCount(t *testing.T) {
	before := heapGoal()
	check := func(t *testing.T) {
		defer app.ReserveHeap()()
		if after := heapGoal(); after > before+32<<20 {
			t.Errorf("%d, and %d before", after, before)
		}
	}
	t.Run("GOGC", func(t *testing.T) {
		t.Setenv("GOGC", "100")
		check(t)
	})
	t.Run("a memory limit", func(t *testing.T) {
		debug.SetMemoryLimit(4 << 30)
		defer debug.SetMemoryLimit(math.MaxInt64)
		check(t)
	})
}
