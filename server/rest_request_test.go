package server

import (
	"errors"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/spotbridge/spotbridge/bridge"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

func TestBodiesMayBeWrittenAsQueriesMay(t *testing.T) {
	t.Parallel()
	for _, q := range []struct{ body, same string }{
		{`{"group":"g","start":"EARLIEST"}`, `{"group":"g","start":"START_EARLIEST"}`},
		{`{"group":"g","start":"latest","ackDeadline":"1m30s","view":"raw"}`, `{"group":"g","start":"START_LATEST","ackDeadline":"90s","view":"EVENT_VIEW_RAW"}`},
		{`{"ack_deadline":"250ms", "filter" : {"event_types":["PNR_V3"],"excludeStale":true}}`, `{"ackDeadline":"0.250s","filter":{"eventTypes":["PNR_V3"],"excludeStale":true}}`},
		{`{"start":"earliest","description":"\u00e9\n\"EARLIEST\"","maxDeliveries":3,"fromTime":"2026-11-23T09:00:00+01:00","filter":null}`,
			`{"start":"START_EARLIEST","description":"é\n\"EARLIEST\"","maxDeliveries":3,"fromTime":"2026-11-23T08:00:00Z"}`},
	} {
		expectSame(t, q.body, q.same, &pb.CreateConsumerGroupRequest{}, &pb.CreateConsumerGroupRequest{})
	}
	expectSame(t, `{"group":"g","nacks":[{"deliveryIds":["a","b"],"action":"park"},{"deliveryIds":["c"],"action":"retry","retryAfter":"2h"}]}`,
		`{"group":"g","nacks":[{"deliveryIds":["a","b"],"action":"NACK_ACTION_PARK"},{"deliveryIds":["c"],"action":"NACK_ACTION_RETRY","retryAfter":"7200s"}]}`,
		&pb.AcknowledgeRequest{}, &pb.AcknowledgeRequest{})
	expectSame(t, `{"causes":["exhausted","DEAD_LETTER_CAUSE_PARKED",1],"dryRun":true}`, `{"causes":["DEAD_LETTER_CAUSE_EXHAUSTED","DEAD_LETTER_CAUSE_PARKED",1],"dryRun":true}`,
		&pb.RedriveDeadLettersRequest{}, &pb.RedriveDeadLettersRequest{})

	for _, q := range []struct{ body, field, says string }{
		{`{"start":"NEWEST"}`, "start", "LATEST, EARLIEST"},
		{`{"ackDeadline":"soon"}`, "ack_deadline", "5s"},
		{`{"start":"EARLIEST","start":"LATEST"}`, "body", "duplicate"},
		{`{"start":"EARLIEST","begin":1}`, "begin", "not a field"},
		{`{"start":"EARLIEST"} {}`, "body", ""},
		{`{"start":"EARLIEST",}`, "body", ""},
		{`{"start":`, "body", ""},
		{`[]`, "body", ""},
		{`{"filter":[]}`, "body", ""},
		{`{"start":["EARLIEST"]}`, "body", ""},
		{`"EARLIEST"`, "body", ""},
	} {
		_, err := (&route{input: (&pb.CreateConsumerGroupRequest{}).ProtoReflect().Type()}).normalBody([]byte(q.body))
		if e, ok := errors.AsType[*bridge.Error](err); !ok || e.Field != q.field || !strings.Contains(e.Message, q.says) {
			t.Errorf("%s: %v", q.body, err)
		}
	}
}

func expectSame(t *testing.T, body, same string, got, want proto.Message) {
	t.Helper()
	normal, err := (&route{input: got.ProtoReflect().Type()}).normalBody([]byte(body))
	if err != nil {
		t.Errorf("%s: %v", body, err)
		return
	}
	if err := errors.Join(protojson.Unmarshal(normal, got), protojson.Unmarshal([]byte(same), want)); err != nil || !proto.Equal(got, want) {
		t.Errorf("%s became %s: %v", body, normal, err)
	}
}

// FuzzBodies: whatever a stranger sends is refused with a field, or is what protobuf's JSON takes, and nothing that was taken as
// it is changes.
func FuzzBodies(f *testing.F) {
	for _, s := range []string{`{"start":"EARLIEST"}`, `{"ackDeadline":"1m","filter":{"sources":["a"]}}`, `{"group":"g"}`, `{"start":1}`, `{"a":[[{}]]}`, `{"start":"x"`, ``} {
		f.Add([]byte(s))
	}
	rt := &route{input: (&pb.CreateConsumerGroupRequest{}).ProtoReflect().Type()}
	f.Fuzz(func(t *testing.T, body []byte) {
		normal, err := rt.normalBody(body)
		var plain, got pb.CreateConsumerGroupRequest
		taken := protojson.Unmarshal(body, &plain) == nil
		if err != nil {
			if e, ok := errors.AsType[*bridge.Error](err); taken || !ok || e.Field == "" {
				t.Fatalf("%v", err)
			}
			return
		}
		if err := protojson.Unmarshal(normal, &got); err != nil || taken && !proto.Equal(&plain, &got) {
			t.Fatalf("%q became %q: %v", body, normal, err)
		}
	})
}
