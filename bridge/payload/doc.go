// Package payload turns the JSON payload of an event into protobuf wire bytes, in one pass over the body and without a
// tree in between.
//
// It promises: the same message as protojson wherever protojson accepts the payload; a field that does not fit is left
// unset and named by path and kind, and the rest goes on; no event is ever lost or refused here; no value appears in an
// issue. It does not promise more than protojson about numbers: they become doubles where the schema says number, or
// says nothing.
package payload
