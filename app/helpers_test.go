package app_test

import (
	"os"
	"path/filepath"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

func unmarshalJSON(b []byte, m proto.Message) error { return protojson.Unmarshal(b, m) }

// removeProjection deletes the projection as the documents tell an operator to.
func removeProjection(t testing.TB, dir string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "projection.db*"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no projection in %s: %v", dir, err)
	}
	for _, f := range files {
		if err := os.Remove(f); err != nil {
			t.Fatal(err)
		}
	}
}
