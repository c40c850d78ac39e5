package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"

	"github.com/getkin/kin-openapi/openapi2"
	"github.com/getkin/kin-openapi/openapi2conv"
	"github.com/getkin/kin-openapi/openapi3"
)

const (
	jsonType   = "application/json"
	ndjsonType = "application/x-ndjson"
	sseType    = "text/event-stream"
	bytesType  = "application/octet-stream"

	// streamTitle begins the title that protoc-gen-openapiv2 gives to the answer of a server-streaming RPC.
	streamTitle = "Stream result of "
)

// convert returns the OpenAPI 3.0 document for a Swagger 2.0 file of protoc-gen-openapiv2, and says of it what the
// bridge does and Swagger 2.0 or the plugin cannot say: see the functions that it calls.
func convert(swagger []byte) ([]byte, error) {
	var doc2 openapi2.T
	if err := json.Unmarshal(swagger, &doc2); err != nil {
		return nil, fmt.Errorf("read swagger: %w", err)
	}
	doc, err := openapi2conv.ToV3(&doc2)
	if err != nil {
		return nil, fmt.Errorf("convert: %w", err)
	}
	for _, server := range doc.Servers {
		server.URL = strings.TrimSuffix(server.URL, "/")
	}
	paths := openapi3.NewPaths()
	for path, item := range doc.Paths.Map() {
		for _, op := range item.Operations() {
			splitSummary(op)
			namesAsInProto(op)
			if err := setAnswers(op); err != nil {
				return nil, fmt.Errorf("%s: %w", op.OperationID, err)
			}
			if err := setStatuses(op); err != nil {
				return nil, fmt.Errorf("%s: %w", op.OperationID, err)
			}
		}
		paths.Set(placeholder.ReplaceAllStringFunc(path, snake), item)
	}
	doc.Paths = paths

	text, err := json.Marshal(doc)
	if err != nil {
		return nil, fmt.Errorf("encode: %w", err)
	}
	return finish(text)
}

// splitSummary keeps the first sentence of a long summary; the rest becomes the beginning of the description.
func splitSummary(op *openapi3.Operation) {
	summary, rest, found := strings.Cut(op.Summary, ". ")
	if !found {
		summary, rest, _ = strings.Cut(op.Summary, ".\n")
	}
	op.Summary = strings.TrimSuffix(strings.ReplaceAll(summary, "\n", " "), ".")
	op.Description = strings.TrimSpace(strings.TrimSpace(rest) + "\n\n" + op.Description)
}

var (
	placeholder = regexp.MustCompile(`\{[^}]*\}`)
	upper       = regexp.MustCompile(`[A-Z]`)
)

func snake(camel string) string {
	return upper.ReplaceAllStringFunc(camel, func(s string) string { return "_" + strings.ToLower(s) })
}

// namesAsInProto spells parameters as in the proto, start_time, which is how people type them; the gateway reads both.
// Names in JSON bodies stay startTime: the answers have them so.
func namesAsInProto(op *openapi3.Operation) {
	for _, parameter := range op.Parameters {
		if p := parameter.Value; p != nil && (p.In == openapi3.ParameterInQuery || p.In == openapi3.ParameterInPath) {
			p.Name = snake(p.Name)
		}
	}
}

// setAnswers gives every answer the content type that it really has. The conversion gives all answers of an operation
// those of "produces", errors too.
func setAnswers(op *openapi3.Operation) error {
	for status, response := range op.Responses.Map() {
		answer := response.Value
		if answer == nil || len(answer.Content) == 0 {
			continue
		}
		schema := anyContent(answer.Content).Schema
		switch {
		case status == "204":
			answer.Content = nil
		case status != "200":
			answer.Content = openapi3.NewContentWithSchemaRef(schema, []string{jsonType})
		case answer.Content[bytesType] != nil:
			describe(answer, "The exact bytes, as an attachment. No bytes at all is an empty body, not an error.")
			binary := openapi3.NewStringSchema().WithFormat("binary")
			answer.Content = openapi3.NewContentWithSchema(binary, []string{bytesType})
		case schema.Value != nil && strings.HasPrefix(schema.Value.Title, streamTitle):
			if schema.Value.Properties["result"] == nil {
				return fmt.Errorf("the lines of the stream have no %q", "result")
			}
			describe(answer, "One JSON object per line, each sent as soon as it is there. "+
				"With Accept: text/event-stream the same as server-sent events: the kind of the message is the event's name, "+
				"its cursor the id, and the data is what stands under result; Last-Event-ID wins over the start in the URL.")
			schema.Value.Description = `One line: {"result": ...}. A stream that breaks off ends with a line {"error": ...}.`
			answer.Content = openapi3.NewContentWithSchemaRef(schema, []string{ndjsonType})
			answer.Content[sseType] = openapi3.NewMediaType().WithSchema(eventSchema())
		}
	}
	return nil
}

// eventSchema is one server-sent event, as the schema beside it is one line.
func eventSchema() *openapi3.Schema {
	field := func(schema *openapi3.Schema, description string) *openapi3.SchemaRef {
		schema.Description = description
		return openapi3.NewSchemaRef("", schema)
	}
	schema := openapi3.NewObjectSchema().WithRequired([]string{"event", "data"})
	schema.Description = "One event. A block with nothing but retry may come before the first one."
	schema.Properties = openapi3.Schemas{
		"event": field(openapi3.NewStringSchema(), "The kind of the message in snake_case, or error."),
		"data":  field(openapi3.NewStringSchema(), "JSON on one line: what stands under result in a line, or under error."),
		"id":    field(openapi3.NewStringSchema(), "The cursor of the message. An error has none."),
		"retry": field(openapi3.NewIntegerSchema(), "Milliseconds to wait before the next connection."),
	}
	return schema
}

// setStatuses names the statuses that an operation answers errors with. The plugin's "default" would allow any, so that
// neither a reader nor a test of the bridge could tell a right one from a wrong one. Statuses that only some operations
// have stand in proto/openapi.yaml with their descriptions.
func setStatuses(op *openapi3.Operation) error {
	fallback := op.Responses.Default()
	if fallback == nil || fallback.Value == nil || fallback.Value.Content[jsonType] == nil {
		return fmt.Errorf("it has no default answer to take the schema of errors from")
	}
	op.Responses.Delete("default")
	schema := fallback.Value.Content[jsonType].Schema
	statuses := map[string]string{
		"400": "The request is not right. The detail has the reason and the field; do not retry.",
		"403": "PERMISSION_DENIED: without access control, the Host header names something beyond loopback.",
		"500": "INTERNAL: a bug or a damaged file. The server's log has it under the request_id of the detail.",
		"503": "STARTING, DRAINING, LOG_UNAVAILABLE or HISTORY_UNAVAILABLE: retry with backoff.",
	}
	for _, p := range op.Parameters {
		if p.Value != nil && p.Value.In == openapi3.ParameterInPath {
			statuses["404"] = "There is nothing of this name, or what was asked of it is not kept."
		}
	}
	if op.RequestBody != nil {
		statuses["413"] = "The body is larger than 1 MiB."
		statuses["415"] = "The content type of the body is not application/json."
	}
	for status, text := range statuses {
		if op.Responses.Value(status) == nil {
			op.Responses.Set(status, &openapi3.ResponseRef{Value: openapi3.NewResponse().WithDescription(text)})
		}
	}
	for status, response := range op.Responses.Map() {
		if status < "400" {
			continue
		}
		response.Value.Content = openapi3.NewContentWithSchemaRef(schema, []string{jsonType})
		if status == "429" || status == "503" {
			seconds := &openapi3.Header{Parameter: openapi3.Parameter{
				Description: "Seconds to wait at least.", Required: true, Schema: openapi3.NewSchemaRef("", openapi3.NewIntegerSchema()),
			}}
			response.Value.Headers = openapi3.Headers{"Retry-After": {Value: seconds}}
		}
	}
	return nil
}

// anyContent returns one entry; after the conversion all have the same schema.
func anyContent(content openapi3.Content) *openapi3.MediaType {
	for _, media := range content {
		return media
	}
	return nil
}

func describe(response *openapi3.Response, text string) { response.Description = &text }

// finish leaves out the schemas that nothing refers to any more, validates the document and writes it with sorted keys.
func finish(text []byte) ([]byte, error) {
	var tree map[string]any
	if err := json.Unmarshal(text, &tree); err != nil {
		return nil, err
	}
	prune(tree)
	closeRequests(tree)
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(tree); err != nil {
		return nil, fmt.Errorf("encode: %w", err)
	}
	doc, err := openapi3.NewLoader().LoadFromData(out.Bytes())
	if err != nil {
		return nil, fmt.Errorf("resolve: %w", err)
	}
	if err := doc.Validate(context.Background()); err != nil {
		return nil, fmt.Errorf("validate: %w", err)
	}
	return out.Bytes(), nil
}

const schemaRef = "#/components/schemas/"

// prune removes the schemas that cannot be reached from the paths.
func prune(tree map[string]any) {
	reached := reachable(tree, tree["paths"])
	schemas := schemasOf(tree)
	for name := range schemas {
		if !reached[name] {
			delete(schemas, name)
		}
	}
}

// closeRequests says of messages that occur in requests only that they have no other fields: the bridge refuses unknown
// ones. Messages of answers stay open, since a newer bridge may send more.
func closeRequests(tree map[string]any) {
	var requests, answers []any
	paths, _ := tree["paths"].(map[string]any)
	for _, item := range paths {
		operations, _ := item.(map[string]any)
		for _, op := range operations {
			if op, ok := op.(map[string]any); ok {
				requests = append(requests, op["requestBody"])
				answers = append(answers, op["responses"])
			}
		}
	}
	schemas := schemasOf(tree)
	answered := reachable(tree, answers)
	for name := range reachable(tree, requests) {
		if schema, ok := schemas[name].(map[string]any); ok && schema["type"] == "object" && !answered[name] {
			schema["additionalProperties"] = false
		}
	}
}

func schemasOf(tree map[string]any) map[string]any {
	components, _ := tree["components"].(map[string]any)
	schemas, _ := components["schemas"].(map[string]any)
	return schemas
}

// reachable returns the names of the schemas that a part of the document refers to, directly or through others.
func reachable(tree map[string]any, from any) map[string]bool {
	schemas := schemasOf(tree)
	reached := map[string]bool{}
	var visit func(node any)
	visit = func(node any) {
		switch node := node.(type) {
		case []any:
			for _, child := range node {
				visit(child)
			}
		case map[string]any:
			for _, child := range node {
				visit(child)
			}
			ref, _ := node["$ref"].(string)
			if name, ok := strings.CutPrefix(ref, schemaRef); ok && !reached[name] {
				reached[name] = true
				visit(schemas[name])
			}
		}
	}
	visit(from)
	return reached
}
