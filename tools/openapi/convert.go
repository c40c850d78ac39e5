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
			answer.Content[sseType] = openapi3.NewMediaType().WithSchema(openapi3.NewStringSchema())
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
	components, _ := tree["components"].(map[string]any)
	schemas, _ := components["schemas"].(map[string]any)
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
	visit(tree["paths"])
	for name := range schemas {
		if !reached[name] {
			delete(schemas, name)
		}
	}
}
