package projection

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"
)

// TestStatementsDoNotBlockEachOther: more kinds of statements than are cached, from more readers than connections.
func TestStatementsDoNotBlockEachOther(t *testing.T) {
	p := projected(t, Config{ReadConns: 2}, newFakeLog())
	st := p.st
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range maxStatements {
				var got int
				text := fmt.Sprintf("SELECT %d + ?", (g*37+i)%(maxStatements+50))
				if err := st.row(ctx, text, []any{1}, &got); err != nil || got != (g*37+i)%(maxStatements+50)+1 {
					t.Errorf("%d: %v", got, err)
					return
				}
				rows, err := st.rows(ctx, text+" UNION ALL SELECT 1", 1)
				if err != nil {
					t.Error(err)
					return
				}
				if seqs, err := scanSeqs(rows, nil); err != nil || len(seqs) != 2 {
					t.Error(seqs, err)
					return
				}
			}
		})
	}
	wg.Wait()
	if len(st.stmts) > maxStatements {
		t.Errorf("%d statements are kept", len(st.stmts))
	}
	for text, s := range st.stmts {
		if s.users != 0 {
			t.Errorf("%s has %d users", text, s.users)
		}
	}
}
