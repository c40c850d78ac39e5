package payload

import (
	"encoding/json"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"

	"github.com/spotbridge/spotbridge/bridge/bridgetest/samples"
)

// protoNames are the names that protojson takes beside the published ones.
var protoNames = func() map[string]bool {
	names := map[string]bool{}
	var add func(protoreflect.MessageDescriptors)
	add = func(ms protoreflect.MessageDescriptors) {
		for i := range ms.Len() {
			for j := range ms.Get(i).Fields().Len() {
				if f := ms.Get(i).Fields().Get(j); f.TextName() != f.JSONName() {
					names[f.TextName()] = true
				}
			}
			add(ms.Get(i).Messages())
		}
	}
	for _, f := range payloadFiles {
		add(f.Messages())
	}
	return names
}()

func hasProtoName(v any) bool {
	switch v := v.(type) {
	case map[string]any:
		for name, value := range v {
			if protoNames[name] || hasProtoName(value) {
				return true
			}
		}
	case []any:
		return slices.ContainsFunc(v, hasProtoName)
	}
	return false
}

func FuzzTyped(f *testing.F) {
	eventTypes := slices.Sorted(maps.Keys(newPayload))
	for _, d := range samples.Deliveries() {
		if len(d.Body) < 15_000 {
			f.Add(uint8(slices.Index(eventTypes, d.EventType)), []byte(payloadOf(f, d.Body)))
		}
	}
	for seed := range 60 {
		g := &generator{Rand: rand.New(rand.NewPCG(uint64(seed), 3)), density: 0.05}
		g.message(newPayload[eventTypes[seed%len(eventTypes)]]().ProtoReflect().Descriptor(), 5)
		f.Add(uint8(seed%len(eventTypes)), g.out.Bytes())
	}
	f.Add(uint8(slices.Index(eventTypes, "PNR_V3")), []byte(`{"version":"1e2","totalFare":{"amount":"Infinity","other":[1.0]},"data":{"version":5.0,"pnrId":""}}`))
	v := newTyped()
	f.Fuzz(func(t *testing.T, which uint8, payload []byte) {
		eventType := eventTypes[int(which)%len(eventTypes)]
		body := slices.Concat([]byte(`{"payload":`), payload, []byte(`}`))
		r := v.Inspect(eventType, body)
		c, got := typed(t, eventType, r.Wire) // reads whatever the body
		var tree any
		if json.Unmarshal(payload, &tree) != nil || hasProtoName(tree) {
			return
		}
		object, ok := tree.(map[string]any)
		if !ok {
			status(t, c, rawOnly)
			return
		}
		if data, ok := object["data"].(map[string]any); ok && eventType == "PNR_V3" {
			payload, _ = json.Marshal(data) // for protojson; what that loses, duplicate names, it would refuse
		}
		want, err := viaProtojson(eventType, payload)
		if err != nil || slices.ContainsFunc(r.Issues, func(i Issue) bool {
			return i.Kind == pb.IssueKind_ISSUE_KIND_TOO_DEEP || i.Kind == pb.IssueKind_ISSUE_KIND_DUPLICATE_KEY || i.Kind == pb.IssueKind_ISSUE_KIND_INVALID_UTF8
		}) {
			return
		}
		status(t, c, full)
		if !proto.Equal(got, want) {
			t.Fatalf("%s %s:\ngot %v\nprotojson says %v", eventType, payload, got, want)
		}
	})
}
