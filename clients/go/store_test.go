package main

import (
	"fmt"
	"path/filepath"
	"sync"
	"testing"
)

func TestSeveralMayMakeTheFileAtTheSameMoment(t *testing.T) {
	dir := t.TempDir()
	for round := range 50 {
		path := filepath.Join(dir, fmt.Sprint(round))
		var wg sync.WaitGroup
		start := make(chan struct{})
		for range 4 {
			wg.Go(func() {
				<-start
				s, err := openStore(path)
				if err != nil {
					t.Error(err)
					return
				}
				if err := s.close(); err != nil {
					t.Error(err)
				}
			})
		}
		close(start)
		wg.Wait()
	}
}
