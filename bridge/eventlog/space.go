package eventlog

import (
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	spaceInterval = 250 * time.Millisecond
	maxReserve    = 1 << 30
)

// spaceMonitor watches the free space of the disk under the embedded log. The engine shuts itself down when a write fails
// for want of space, so the door closes before that and opens again by itself.
type spaceMonitor struct {
	dir     string
	reserve uint64
	free    atomic.Uint64
	done    chan struct{}
	ended   chan struct{}
}

func newSpaceMonitor(dir string, reserve int64, ask func(string) (free, total uint64, err error), m *metrics) (*spaceMonitor, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the log's folder: %w", err)
	}
	s := &spaceMonitor{dir: dir, done: make(chan struct{}), ended: make(chan struct{})}
	free, total, err := ask(dir)
	if err != nil {
		return nil, fmt.Errorf("ask for the free space of %s: %w", dir, err)
	}
	if s.reserve = uint64(reserve); reserve == 0 {
		s.reserve = min(maxReserve, total/20)
	}
	s.free.Store(free)
	m.freeBytes.Set(float64(free))
	go func() {
		defer close(s.ended)
		tick := time.NewTicker(spaceInterval)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				if free, _, err := ask(dir); err == nil {
					s.free.Store(free)
					m.freeBytes.Set(float64(free))
				}
			case <-s.done:
				return
			}
		}
	}()
	return s, nil
}

func (s *spaceMonitor) check() error {
	if free := s.free.Load(); free < s.reserve {
		return fmt.Errorf("log: %d MiB are free on the disk of %s and %d MiB are kept in reserve: free some space, or lower log.max_bytes", free>>20, s.dir, s.reserve>>20)
	}
	return nil
}

// halfOfDisk is half of what is free plus what the log holds already, so that a restart does not shrink the limit.
func (s *spaceMonitor) halfOfDisk() int64 {
	return int64((s.free.Load() + folderBytes(s.dir)) / 2)
}

func (s *spaceMonitor) stop() {
	close(s.done)
	<-s.ended
}

func diskSpace(dir string) (free, total uint64, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, 0, err
	}
	return st.Bavail * uint64(st.Bsize), st.Blocks * uint64(st.Bsize), nil
}

func folderBytes(dir string) uint64 {
	var sum uint64
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if e.IsDir() {
			sum += folderBytes(dir + "/" + e.Name())
		} else if info, err := e.Info(); err == nil {
			sum += uint64(info.Size())
		}
	}
	return sum
}
