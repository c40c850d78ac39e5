package samples

import (
	"crypto/sha256"
	"encoding/hex"
	"testing"
)

func TestBodiesAreTheOnesOfTheIndex(t *testing.T) {
	all := Deliveries()
	if len(all) != 49 || len(Secrets()) != 2 {
		t.Fatalf("%d deliveries, %d secrets", len(all), len(Secrets()))
	}
	for _, d := range all {
		if sum := sha256.Sum256(d.Body); hex.EncodeToString(sum[:]) != d.SHA256 || len(d.Body) != d.Bytes || d.WebhookID() == "" {
			t.Errorf("delivery %d differs from the index", d.Seq)
		}
	}
}
