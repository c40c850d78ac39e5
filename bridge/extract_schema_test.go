package bridge

import (
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

// beyondSchema are the places that the published schema does not have, and why they are looked at all the same. One that
// it has come to have must leave this list.
var beyondSchema = map[string]string{
	"TRIP_DETAILS_V3 payload.tripId":    "the plain form that other events have, should a trip come with it",
	"audience.organizationId":           "the envelope is not published",
	"audience[].organizationId":         "the envelope is not published",
	"payload.audience.organizationId":   "the envelope is not published",
	"payload.audience[].organizationId": "the envelope is not published",
	"organizationId":                    "the envelope is not published",
	"payload.organizationId":            "the plain form, for event types to come",
}

// payloadMessage returns the message of an event type's payload: that of the field of Event that is named after it.
func payloadMessage(t *testing.T, eventType string) protoreflect.MessageDescriptor {
	t.Helper()
	fd := (&pb.Event{}).ProtoReflect().Descriptor().Oneofs().ByName("payload").Fields().ByName(protoreflect.Name(strings.ToLower(eventType)))
	if fd == nil || fd.Message() == nil {
		t.Fatalf("Event has no typed payload for %s", eventType)
	}
	return fd.Message()
}

// find returns the field at a path below a message, or says why there is none. What is below a free-form object is not in
// the schema, and may be anything.
func find(d protoreflect.MessageDescriptor, path string) (fd protoreflect.FieldDescriptor, why string) {
	for _, step := range strings.Split(path, ".") {
		name, list := strings.CutSuffix(step, "[]")
		if d == nil {
			return nil, string(fd.FullName()) + " is no object"
		}
		if fd = d.Fields().ByJSONName(name); fd == nil {
			return nil, string(d.FullName()) + " has no " + name
		}
		if fd.IsList() != list {
			return nil, string(fd.FullName()) + ": a list must have [], and nothing else"
		}
		d = fd.Message()
	}
	return fd, ""
}

// findPlace is find for a place of the table, also in the wrapper that a booking may have.
func findPlace(t *testing.T, eventType, p string) (protoreflect.FieldDescriptor, string) {
	t.Helper()
	path, ok := strings.CutPrefix(p, "payload.")
	if !ok {
		return nil, "outside the payload"
	}
	fd, why := find(payloadMessage(t, eventType), path)
	if why != "" && eventType == "PNR_V3" && strings.HasPrefix(path, "data.") {
		wrapper, err := protoregistry.GlobalFiles.FindDescriptorByName("spotnana.payload.v1.PnrDetailsResponseWithId")
		if err != nil {
			t.Fatal(err)
		}
		return find(wrapper.(protoreflect.MessageDescriptor), path)
	}
	return fd, why
}

// isID reports whether a field is a string, or {"id": string}, or free-form.
func isID(fd protoreflect.FieldDescriptor) bool {
	if fd.Kind() != protoreflect.MessageKind {
		return fd.Kind() == protoreflect.StringKind
	}
	if fd.Message().FullName() == "google.protobuf.Struct" {
		return true
	}
	id := fd.Message().Fields().ByJSONName("id")
	return id != nil && id.Kind() == protoreflect.StringKind && !id.IsList()
}

// TestIDsStandWhereTheSchemaSays: every place of the table is in the published schema of its event type, with the type that
// it is read as; or it is known not to be.
func TestIDsStandWhereTheSchemaSays(t *testing.T) {
	used := map[string]bool{}
	check := func(eventType, p, key string, fits func(protoreflect.FieldDescriptor) bool) {
		t.Helper()
		fd, why := findPlace(t, eventType, p)
		if beyondSchema[key] != "" {
			if used[key] = true; why == "" {
				t.Errorf("%s: the schema has it now", key)
			}
			return
		}
		if why != "" {
			t.Errorf("%s: %s: %s", eventType, p, why)
		} else if !fits(fd) {
			t.Errorf("%s: %s is a %s", eventType, p, fd.Kind())
		}
	}
	isVersion := func(fd protoreflect.FieldDescriptor) bool { return fd.Kind() == protoreflect.Int32Kind }
	for eventType, x := range extractionTable {
		for _, p := range slices.Concat(x.id, x.pnr, x.trip, x.travelers) {
			check(eventType, p, eventType+" "+p, isID)
		}
		for _, p := range x.version {
			check(eventType, p, eventType+" "+p, isVersion)
		}
		// And the other way round: what a payload has at its top under the names that all use is looked at.
		for name, places := range map[string][]string{"pnrId": x.pnr, "tripId": x.trip, "version": x.version} {
			if _, why := find(payloadMessage(t, eventType), name); why == "" && !slices.Contains(places, "payload."+name) {
				t.Errorf("%s: the schema has %s, the table does not", eventType, name)
			}
		}
	}
	for s, want := range map[slot]string{slotEntityType: "$.payload.entity.entityType", slotEntityID: "$.payload.entity.entityId"} {
		if slotPath[s] != want {
			t.Errorf("slot %d is for %s", s, slotPath[s])
		}
		check("SERVICE_CHARGE", strings.TrimPrefix(slotPath[s], "$."), "", isID)
	}
	// A place of an organization serves all event types; one must have it.
	for _, p := range organizationPaths {
		found := ""
		for eventType := range extractionTable {
			if fd, why := findPlace(t, eventType, p); why == "" && isID(fd) {
				found = eventType
			}
		}
		switch {
		case beyondSchema[p] != "":
			if used[p] = true; found != "" {
				t.Errorf("%s: the schema of %s has it now", p, found)
			}
		case found == "":
			t.Errorf("%s: no payload has it", p)
		}
	}
	for key := range beyondSchema {
		if !used[key] {
			t.Errorf("%s: nobody looks there", key)
		}
	}
}

// TestEveryTypedEventHasPlaces: an event type that gets a payload of its own needs a row in the table.
func TestEveryTypedEventHasPlaces(t *testing.T) {
	fields := (&pb.Event{}).ProtoReflect().Descriptor().Oneofs().ByName("payload").Fields()
	for i := range fields.Len() {
		name := string(fields.Get(i).Name())
		if _, ok := extractionTable[strings.ToUpper(name)]; !ok && name != "other" {
			t.Errorf("extractionTable has no %s", strings.ToUpper(name))
		}
	}
}
