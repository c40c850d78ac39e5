package main

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/spotbridge/spotbridge/bridge/bridgetest/samples"
	"github.com/spotbridge/spotbridge/bridge/payload"
)

// convert: JSON to the payload's protobuf, all samples, beside protojson into the same kind of message.
func (b *bench) convert(context.Context) error {
	c := payload.New()
	all := samples.Deliveries()
	bytes := 0
	for i := range all {
		bytes += len(all[i].Body)
	}
	run := func(one func(*samples.Delivery) error) func() (sample, error) {
		return func() (sample, error) {
			start, n := time.Now(), 0
			for time.Since(start) < b.duration {
				for i := range all {
					if err := one(&all[i]); err != nil {
						return sample{}, err
					}
				}
				n += bytes
			}
			return sample{rate: float64(n) / time.Since(start).Seconds()}, nil
		}
	}
	x, y, ratio, err := b.pair(
		run(func(d *samples.Delivery) error { c.Convert(d.EventType, d.Body); return nil }),
		run(func(d *samples.Delivery) error { return protojson.Unmarshal(d.Body, &structpb.Value{}) }))
	if err != nil {
		return err
	}
	b.add(row{"JSON to protobuf, real-shaped samples (protojson)", fmt.Sprintf("%.0f MB/s", x.rate/1e6), fmt.Sprintf("%.0f MB/s", y.rate/1e6), fmt.Sprintf("%.1f", ratio), ">= 5"})
	return nil
}
