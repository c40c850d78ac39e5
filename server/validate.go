package server

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/spotbridge/spotbridge/bridge"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

const (
	defaultPageSize = 50
	maxPageSize     = 1000
	maxIDBytes      = 1024
)

// known reports whether an enum has the number.
func known[E interface {
	~int32
	fmt.Stringer
}](names map[int32]string, e E) bool {
	_, ok := names[int32(e)]
	return ok
}

func checkView(v pb.EventView) (pb.EventView, error) {
	if v == pb.EventView_EVENT_VIEW_UNSPECIFIED {
		return pb.EventView_EVENT_VIEW_TYPED, nil
	}
	if !known(pb.EventView_name, v) {
		return 0, bridge.InvalidField("view", "is not a view; use ENVELOPE, TYPED, RAW or FULL")
	}
	return v, nil
}

func checkPageSize(n int32) (int, error) {
	switch {
	case n < 0:
		return 0, bridge.InvalidField("page_size", "is negative; leave it out for 50, the most is 1000")
	case n == 0:
		return defaultPageSize, nil
	}
	return min(int(n), maxPageSize), nil
}

func checkID(field, id string) error {
	switch {
	case id == "":
		return bridge.InvalidField(field, "is empty")
	case len(id) > maxIDBytes:
		return bridge.InvalidField(field, fmt.Sprintf("is longer than %d bytes", maxIDBytes))
	}
	return nil
}

// Times are kept where they can be counted in nanoseconds. No event is older or newer.
var (
	firstTime = time.Unix(0, 0).UTC()
	lastTime  = time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC)
)

// checkTime returns zero for a time that is not set.
func checkTime(field string, t *timestamppb.Timestamp) (time.Time, error) {
	if t == nil {
		return time.Time{}, nil
	}
	if err := t.CheckValid(); err != nil {
		return time.Time{}, bridge.InvalidField(field, "is not a valid timestamp")
	}
	at := t.AsTime()
	if at.Before(firstTime) {
		return firstTime, nil
	}
	if at.After(lastTime) {
		return lastTime, nil
	}
	return at, nil
}

func checkTimes(start, end *timestamppb.Timestamp) (from, to time.Time, err error) {
	if from, err = checkTime("start_time", start); err != nil {
		return from, to, err
	}
	if to, err = checkTime("end_time", end); err != nil {
		return from, to, err
	}
	if start != nil && end != nil && !start.AsTime().Before(end.AsTime()) {
		return from, to, bridge.InvalidField("end_time", "is not after start_time; start_time is inclusive, end_time exclusive")
	}
	return from, to, nil
}
