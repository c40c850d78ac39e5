package main

import (
	"bytes"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
)

// swagger is what protoc-gen-openapiv2 writes, cut down to one operation of each kind.
const swagger = `{
  "swagger": "2.0",
  "info": {"title": "demo", "version": "v1"},
  "host": "127.0.0.1:8081",
  "schemes": ["http"],
  "consumes": ["application/json"],
  "produces": ["application/json"],
  "paths": {
    "/v1/things/{thingId}": {"get": {
      "summary": "Returns one thing,\nquickly. NOT_FOUND when there is none.",
      "operationId": "Demo_GetThing",
      "responses": {
        "200": {"description": "A successful response.", "schema": {"$ref": "#/definitions/Thing"}},
        "default": {"description": "Error.", "schema": {"$ref": "#/definitions/Status"}}
      },
      "parameters": [
        {"name": "thingId", "in": "path", "required": true, "type": "string"},
        {"name": "filter.startTime", "in": "query", "required": false, "type": "string", "format": "date-time"}
      ]
    }},
    "/v1/things/{thingId}/body": {"get": {
      "summary": "Streams the bytes.",
      "operationId": "Demo_GetBody",
      "produces": ["application/octet-stream"],
      "responses": {
        "200": {"description": "A successful response.(streaming responses)", "schema": {
          "type": "object", "title": "Stream result of Chunk", "properties": {
            "result": {"$ref": "#/definitions/Chunk"}, "error": {"$ref": "#/definitions/Status"}}}},
        "default": {"description": "Error.", "schema": {"$ref": "#/definitions/Status"}}
      },
      "parameters": [{"name": "thingId", "in": "path", "required": true, "type": "string"}]
    }},
    "/v1/things": {"post": {
      "summary": "Makes a thing.",
      "operationId": "Demo_MakeThing",
      "responses": {
        "200": {"description": "A successful response.", "schema": {"$ref": "#/definitions/Thing"}},
        "409": {"description": "THING_EXISTS: there is one already.", "schema": {}},
        "429": {"description": "TOO_MANY_THINGS.", "schema": {}},
        "default": {"description": "Error.", "schema": {"$ref": "#/definitions/Status"}}
      },
      "parameters": [{"name": "body", "in": "body", "required": true, "schema": {"$ref": "#/definitions/MakeThingRequest"}}]
    }},
    "/v1/things:watch": {"get": {
      "summary": "Streams things.",
      "operationId": "Demo_Watch",
      "responses": {
        "204": {"description": "Nothing more.", "schema": {}},
        "200": {"description": "A successful response.(streaming responses)", "schema": {
          "type": "object", "title": "Stream result of Thing", "properties": {
            "result": {"$ref": "#/definitions/Thing"}, "error": {"$ref": "#/definitions/Status"}}}},
        "default": {"description": "Error.", "schema": {"$ref": "#/definitions/Status"}}
      }
    }}
  },
  "definitions": {
    "Any": {"type": "object", "properties": {"@type": {"type": "string"}}, "additionalProperties": {}},
    "Chunk": {"type": "object", "properties": {"chunk": {"type": "string", "format": "byte"}}},
    "MakeThingRequest": {"type": "object", "properties": {"part": {"$ref": "#/definitions/Part"}, "like": {"$ref": "#/definitions/Thing"}}},
    "Part": {"type": "object", "properties": {"name": {"type": "string"}}},
    "Status": {"type": "object", "properties": {
      "code": {"type": "integer", "format": "int32"},
      "details": {"type": "array", "items": {"type": "object", "$ref": "#/definitions/Any"}}}},
    "Thing": {"type": "object", "properties": {"startTime": {"type": "string", "format": "date-time"}}}
  }
}`

func converted(t *testing.T) *openapi3.T {
	t.Helper()
	text, err := convert([]byte(swagger))
	if err != nil {
		t.Fatal(err)
	}
	doc, err := openapi3.NewLoader().LoadFromData(text)
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

func TestAnswersHaveTheirContentTypes(t *testing.T) {
	doc := converted(t)
	for _, tc := range []struct {
		path string
		want []string
	}{
		{"/v1/things/{thing_id}", []string{jsonType}},
		{"/v1/things/{thing_id}/body", []string{bytesType}},
		{"/v1/things:watch", []string{ndjsonType, sseType}},
	} {
		t.Run(tc.path, func(t *testing.T) {
			item := doc.Paths.Value(tc.path)
			if item == nil {
				t.Fatalf("no such path; there are %v", doc.Paths.InMatchingOrder())
			}
			for status, want := range map[string][]string{"200": tc.want, "400": {jsonType}, "503": {jsonType}} {
				content := item.Get.Responses.Value(status).Value.Content
				if got := slices.Sorted(maps.Keys(content)); !slices.Equal(got, want) {
					t.Errorf("%s: content types %v, want %v alone", status, got, want)
				}
			}
			if ref := item.Get.Responses.Value("400").Value.Content[jsonType].Schema.Ref; ref != schemaRef+"Status" {
				t.Errorf("400: schema %q", ref)
			}
		})
	}
}

func TestStatusesAreNamed(t *testing.T) {
	doc := converted(t)
	for _, tc := range []struct {
		op   *openapi3.Operation
		want []string
	}{
		{doc.Paths.Value("/v1/things/{thing_id}").Get, []string{"200", "400", "403", "404", "500", "503"}},
		{doc.Paths.Value("/v1/things").Post, []string{"200", "400", "403", "409", "413", "415", "429", "500", "503"}},
		{doc.Paths.Value("/v1/things:watch").Get, []string{"200", "204", "400", "403", "500", "503"}},
	} {
		t.Run(tc.op.OperationID, func(t *testing.T) {
			answers := tc.op.Responses.Map()
			if got := slices.Sorted(maps.Keys(answers)); !slices.Equal(got, tc.want) {
				t.Errorf("statuses %v, want %v", got, tc.want)
			}
			for status, answer := range answers {
				if answer.Value.Description == nil || *answer.Value.Description == "" {
					t.Errorf("%s has no description", status)
				}
				if status == "204" && len(answer.Value.Content) > 0 {
					t.Error("204 has content")
				}
				if status >= "400" && answer.Value.Content[jsonType].Schema.Ref != schemaRef+"Status" {
					t.Errorf("%s is no Status", status)
				}
				if wait := answer.Value.Headers["Retry-After"] != nil; wait != (status == "429" || status == "503") {
					t.Errorf("%s has Retry-After: %v", status, wait)
				}
			}
		})
	}
	if got := doc.Paths.Value("/v1/things").Post.Responses.Value("409").Value.Description; *got != "THING_EXISTS: there is one already." {
		t.Errorf("409: %q", *got)
	}
}

// TestOnlyMessagesOfRequestsAreClosed: Thing occurs in an answer, too, where a newer bridge may send more.
func TestOnlyMessagesOfRequestsAreClosed(t *testing.T) {
	doc := converted(t)
	for name, closed := range map[string]bool{"MakeThingRequest": true, "Part": true, "Thing": false, "Status": false} {
		if has := doc.Components.Schemas[name].Value.AdditionalProperties.Has; (has != nil && !*has) != closed {
			t.Errorf("%s: closed %v", name, !closed)
		}
	}
}

func TestStreamAnswerIsOneLine(t *testing.T) {
	line := converted(t).Paths.Value("/v1/things:watch").Get.Responses.Value("200").Value.Content[ndjsonType].Schema.Value
	if got := line.Properties["result"].Ref; got != schemaRef+"Thing" {
		t.Errorf("result is %q", got)
	}
	if got := line.Properties["error"].Ref; got != schemaRef+"Status" {
		t.Errorf("error is %q", got)
	}
}

func TestEventStreamAnswerIsOneEvent(t *testing.T) {
	event := converted(t).Paths.Value("/v1/things:watch").Get.Responses.Value("200").Value.Content[sseType].Schema.Value
	if got := slices.Sorted(maps.Keys(event.Properties)); !event.Type.Is("object") || !slices.Equal(got, []string{"data", "event", "id", "retry"}) {
		t.Errorf("an event is %v with %v", event.Type, got)
	}
	if !slices.Contains(event.Required, "data") || slices.Contains(event.Required, "id") {
		t.Errorf("required are %v; an error has no id", event.Required)
	}
}

func TestBodyAnswerIsBinary(t *testing.T) {
	doc := converted(t)
	body := doc.Paths.Value("/v1/things/{thing_id}/body").Get.Responses.Value("200").Value.Content[bytesType].Schema.Value
	if !body.Type.Is("string") || body.Format != "binary" {
		t.Errorf("schema is %v %q, want string binary", body.Type, body.Format)
	}
	if doc.Components.Schemas["Chunk"] != nil {
		t.Error("Chunk is not referred to any more and is still there")
	}
	if doc.Components.Schemas["Any"] == nil {
		t.Error("Any is referred to by Status and was removed")
	}
}

func TestNames(t *testing.T) {
	doc := converted(t)
	op := doc.Paths.Value("/v1/things/{thing_id}").Get
	if op.OperationID != "Demo_GetThing" {
		t.Errorf("operation id %q", op.OperationID)
	}
	if op.Parameters.GetByInAndName("path", "thing_id") == nil || op.Parameters.GetByInAndName("query", "filter.start_time") == nil {
		t.Error("parameters are not spelt as in the proto")
	}
	if doc.Components.Schemas["Thing"].Value.Properties["startTime"] == nil {
		t.Error("fields of bodies are not spelt as in JSON")
	}
	if op.Summary != "Returns one thing, quickly" || op.Description != "NOT_FOUND when there is none." {
		t.Errorf("summary %q, description %q", op.Summary, op.Description)
	}
	if len(doc.Servers) != 1 || doc.Servers[0].URL != "http://127.0.0.1:8081" {
		t.Errorf("servers %v", doc.Servers)
	}
}

func TestConvertIsDeterministic(t *testing.T) {
	first, err := convert([]byte(swagger))
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		again, err := convert([]byte(swagger))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(first, again) {
			t.Fatal("the same input gave other bytes")
		}
	}
}

func TestConvertRefuses(t *testing.T) {
	for name, input := range map[string]string{
		"what is not JSON":     `{`,
		"a dangling reference": strings.Replace(swagger, `"Status": {`, `"Other": {`, 1),
		"a parameter that the path lacks": strings.ReplaceAll(swagger,
			`{"name": "thingId", "in": "path", "required": true, "type": "string"}`, `{"name": "other", "in": "path", "required": true, "type": "string"}`),
		"an operation without the schema of errors": strings.ReplaceAll(swagger, `"default"`, `"4XX"`),
		"a stream without result":                   strings.ReplaceAll(swagger, `"result":`, `"value":`),
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := convert([]byte(input)); err == nil {
				t.Error("converted, want an error")
			}
		})
	}
}
