package server

import (
	"encoding/json"
	"maps"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/spotbridge/spotbridge/gen/openapi"
)

// documentedAnswer is an answer as the OpenAPI document has it.
type documentedAnswer struct {
	Content map[string]any
	Headers map[string]any
}

// document returns the answers of each operation by path, method in lower case and status. "default" would allow anything.
var document = sync.OnceValue(func() map[string]map[string]map[string]documentedAnswer {
	var doc struct {
		Paths map[string]map[string]struct {
			Responses map[string]documentedAnswer
		}
	}
	if err := json.Unmarshal(openapi.JSON, &doc); err != nil {
		panic(err)
	}
	out := map[string]map[string]map[string]documentedAnswer{}
	for path, item := range doc.Paths {
		out[path] = map[string]map[string]documentedAnswer{}
		for method, op := range item {
			out[path][method] = op.Responses
		}
	}
	return out
})

// checkDocumented holds an answer to the OpenAPI document. Every request of a fixture goes through it.
func checkDocumented(t testing.TB, req *http.Request, resp *http.Response) {
	t.Helper()
	routes, err := newRoutes()
	if err != nil {
		t.Fatal(err)
	}
	rt, _, _ := (&rest{routes: routes}).find(req)
	if rt == nil || req.Method != rt.method {
		return // no operation of the document; HEAD goes without saying
	}
	if resp.StatusCode == http.StatusBadRequest && resp.Header.Get("Content-Type") == "text/plain; charset=utf-8" {
		return // net/http itself, before any handler
	}
	op := document()[rt.path][strings.ToLower(rt.method)]
	want, ok := op[strconv.Itoa(resp.StatusCode)]
	if !ok {
		t.Errorf("%s %s answers %d; documented are %v", rt.method, rt.path, resp.StatusCode, slices.Sorted(maps.Keys(op)))
		return
	}
	media, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if _, ok := want.Content[media]; len(want.Content) > 0 && (err != nil || !ok) {
		t.Errorf("%s %s answers %d with content type %q; documented are %v", rt.method, rt.path, resp.StatusCode, media, slices.Sorted(maps.Keys(want.Content)))
	}
	for name := range want.Headers {
		if resp.Header.Get(name) == "" {
			t.Errorf("%s %s answers %d without the header %s", rt.method, rt.path, resp.StatusCode, name)
		}
	}
}

func TestTheDocumentNamesEveryStatus(t *testing.T) {
	routes, err := newRoutes()
	if err != nil {
		t.Fatal(err)
	}
	if len(document()) == 0 {
		t.Fatal("no paths")
	}
	for _, rt := range routes {
		op := document()[rt.path][strings.ToLower(rt.method)]
		if op == nil {
			t.Errorf("%s %s is not in the document", rt.method, rt.path)
			continue
		}
		if _, ok := op["default"]; ok {
			t.Errorf("%s %s allows every status", rt.method, rt.path)
		}
		// What the REST handler answers by itself, whatever the method.
		want := []string{"200", "400", "403", "500", "503"}
		if rt.body {
			want = append(want, "413", "415")
		}
		for _, status := range want {
			if _, ok := op[status]; !ok {
				t.Errorf("%s %s may answer %s, which is not in the document", rt.method, rt.path, status)
			}
		}
	}
}
