// Package samples holds deliveries in the shape of real ones, all people, bookings and secrets made up: what dev and
// trigger send, and what tests compare against.
package samples

import (
	"embed"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
)

//go:embed *.json index.jsonl
var files embed.FS

// Delivery is one recorded delivery. Several may share a body: the source sent it again.
type Delivery struct {
	Seq          int               `json:"seq"`
	File         string            `json:"file"`
	EventType    string            `json:"event_type"`
	Operation    string            `json:"operation"`
	PNRID        string            `json:"pnrId"`
	TripID       string            `json:"tripId"`
	TravelerID   string            `json:"travelerId"`
	Version      int32             `json:"version"`
	Organization string            `json:"org"`
	Timestamp    string            `json:"timestamp"`
	SHA256       string            `json:"sha256"`
	Bytes        int               `json:"bytes"`
	Conforms     bool              `json:"conforms"`
	Wrapped      bool              `json:"wrapped"`
	RedeliveryOf int               `json:"redelivery_of"`
	Headers      map[string]string `json:"headers"`
	Body         []byte            `json:"-"`
}

// WebhookID returns the delivery's webhook id.
func (d *Delivery) WebhookID() string { return d.Headers["x-spotnana-webhook-id"] }

var load = sync.OnceValues(func() ([]Delivery, error) {
	index, err := files.ReadFile("index.jsonl")
	if err != nil {
		return nil, err
	}
	var out []Delivery
	for line := range strings.Lines(string(index)) {
		if strings.TrimSpace(line) == "" {
			continue
		}
		var d Delivery
		if err := json.Unmarshal([]byte(line), &d); err != nil {
			return nil, fmt.Errorf("samples: index.jsonl: %w", err)
		}
		if d.Body, err = files.ReadFile(d.File); err != nil {
			return nil, err
		}
		out = append(out, d)
	}
	return out, nil
})

// Deliveries returns all deliveries in sending order. The bodies are shared: do not change them.
func Deliveries() []Delivery {
	d, err := load()
	if err != nil {
		panic(err) // the files are part of the program; a test reads them
	}
	return d
}

// Secrets returns the test secrets that the recorded signatures were made with: the current one and the other one.
func Secrets() []string {
	var s struct {
		Secrets []string `json:"secrets"`
	}
	b, err := files.ReadFile("signing.json")
	if err == nil {
		err = json.Unmarshal(b, &s)
	}
	if err != nil {
		panic(err) // part of the program, as above
	}
	return s.Secrets
}
