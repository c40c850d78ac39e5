package server

import (
	"cmp"
	"context"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/spotbridge/spotbridge/bridge"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

// ListEventTypes implements CatalogService: the published catalogue, merged with what came.
func (s *service) ListEventTypes(ctx context.Context, _ *pb.ListEventTypesRequest) (*pb.ListEventTypesResponse, error) {
	if err := s.ready(ctx); err != nil {
		return nil, err
	}
	seen, err := s.cfg.History.EventTypes(ctx)
	if err != nil {
		return nil, err
	}
	types := map[string]*pb.EventType{}
	operations := map[[2]string]*pb.Operation{}
	typeOf := func(name string) *pb.EventType {
		if types[name] == nil {
			types[name] = &pb.EventType{Name: name}
		}
		return types[name]
	}
	operationOf := func(t *pb.EventType, name string) *pb.Operation {
		key := [2]string{t.GetName(), name}
		if operations[key] == nil {
			operations[key] = &pb.Operation{Name: name}
			t.Operations = append(t.Operations, operations[key])
		}
		return operations[key]
	}
	for _, c := range bridge.Catalog() {
		t := typeOf(c.Name)
		t.Known = true
		for _, o := range c.Operations {
			op := operationOf(t, o.Name)
			op.Known, op.Description = true, o.When
		}
	}
	for _, x := range seen {
		t := typeOf(x.EventType)
		t.Count += x.Count
		t.LastSeenTime = later(t.GetLastSeenTime(), x.LastSeen)
		op := operationOf(t, x.Operation)
		op.Count += x.Count
		op.LastSeenTime = later(op.GetLastSeenTime(), x.LastSeen)
	}
	out := &pb.ListEventTypesResponse{}
	for _, t := range types {
		slices.SortFunc(t.Operations, func(a, b *pb.Operation) int { return cmp.Compare(a.GetName(), b.GetName()) })
		out.EventTypes = append(out.EventTypes, t)
	}
	slices.SortFunc(out.EventTypes, func(a, b *pb.EventType) int { return cmp.Compare(a.GetName(), b.GetName()) })
	return out, nil
}

func later(have *timestamppb.Timestamp, t time.Time) *timestamppb.Timestamp {
	if t.IsZero() || have != nil && !t.After(have.AsTime()) {
		return have
	}
	return timestamppb.New(t)
}
