package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/spotbridge/spotbridge/bridge/bridgetest/samples"
	"github.com/spotbridge/spotbridge/bridge/payload"
	payloadv1 "github.com/spotbridge/spotbridge/gen/go/spotnana/payload/v1"
)

var payloadMessages = map[string]func() proto.Message{
	"PNR_V3":             func() proto.Message { return &payloadv1.PnrData{} },
	"TRIP_DETAILS_V3":    func() proto.Message { return &payloadv1.TripV3DetailsResponse{} },
	"TRAVELER_V2":        func() proto.Message { return &payloadv1.UserProfile{} },
	"SERVICE_CHARGE":     func() proto.Message { return &payloadv1.ServiceChargeRecord{} },
	"PNR_APPROVAL":       func() proto.Message { return &payloadv1.PnrApproval{} },
	"AGENT_TASK_DETAILS": func() proto.Message { return &payloadv1.AgentTask{} },
}

// sampleBody is a body and, for the baseline, its payload cut out beforehand.
type sampleBody struct {
	eventType     string
	body, payload []byte
}

func sampleBodies() ([]sampleBody, error) {
	var out []sampleBody
	for _, d := range samples.Deliveries() {
		var b struct{ Payload json.RawMessage }
		if err := json.Unmarshal(d.Body, &b); err != nil {
			return nil, err
		}
		if d.Wrapped {
			var w struct{ Data json.RawMessage }
			if err := json.Unmarshal(b.Payload, &w); err != nil {
				return nil, err
			}
			b.Payload = w.Data
		}
		out = append(out, sampleBody{d.EventType, d.Body, b.Payload})
	}
	return out, nil
}

// scanTokens reads the tokens of a body with jsontext, and does nothing with them.
func scanTokens(r *bytes.Reader, dec *jsontext.Decoder, body []byte) error {
	r.Reset(body)
	dec.Reset(r)
	for {
		if _, err := dec.ReadToken(); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// convert: JSON to the typed payload's wire bytes, all samples, beside protojson into the same messages and their
// marshalling, and beside a bare scan of the tokens.
func (b *bench) convert(context.Context) error {
	c := payload.New()
	all, err := sampleBodies()
	if err != nil {
		return err
	}
	size := 0
	for _, s := range all {
		size += len(s.body)
	}
	run := func(one func(*sampleBody) error) func() (sample, error) {
		return func() (sample, error) {
			start, n := time.Now(), 0
			for time.Since(start) < b.duration {
				for i := range all {
					if err := one(&all[i]); err != nil {
						return sample{}, err
					}
				}
				n += size
			}
			return sample{rate: float64(n) / time.Since(start).Seconds()}, nil
		}
	}
	typed := run(func(s *sampleBody) error { c.Convert(s.eventType, s.body); return nil })
	lenient := protojson.UnmarshalOptions{DiscardUnknown: true}
	x, y, ratio, err := b.pair(typed,
		run(func(s *sampleBody) error {
			m := payloadMessages[s.eventType]()
			if err := lenient.Unmarshal(s.payload, m); err != nil {
				return err
			}
			_, err := proto.Marshal(m)
			return err
		}))
	if err != nil {
		return err
	}
	b.add(row{"JSON to typed protobuf, real-shaped samples (protojson)", fmt.Sprintf("%.0f MB/s", x.rate/1e6), fmt.Sprintf("%.0f MB/s", y.rate/1e6), fmt.Sprintf("%.1f", ratio), ">= 5"})

	r := bytes.NewReader(nil)
	dec := jsontext.NewDecoder(r)
	if x, y, ratio, err = b.pair(typed, run(func(s *sampleBody) error { return scanTokens(r, dec, s.body) })); err != nil {
		return err
	}
	b.add(row{"the same (reading the tokens with jsontext, no more)", fmt.Sprintf("%.0f MB/s", x.rate/1e6), fmt.Sprintf("%.0f MB/s", y.rate/1e6), fmt.Sprintf("%.2f", ratio), ">= 0.5"})
	return nil
}
