package server

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

// TestTheDocumentOfStreamsIsComplete holds docs/streams.md to the contract: kinds, starts, ends, and each reason's status.
func TestTheDocumentOfStreamsIsComplete(t *testing.T) {
	b, err := os.ReadFile("../docs/streams.md")
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	kinds := (&pb.SubscribeResponse{}).ProtoReflect().Descriptor().Oneofs().ByName("content").Fields()
	for i := range kinds.Len() {
		if !strings.Contains(text, fmt.Sprintf("\n| `%s` |", kinds.Get(i).Name())) {
			t.Errorf("kind %s is missing", kinds.Get(i).Name())
		}
	}
	for v, name := range pb.Start_name {
		if v != 0 && !strings.Contains(text, "\n| `start: "+strings.TrimPrefix(name, "START_")+"` |") {
			t.Errorf("start %s is missing", name)
		}
	}
	for v, name := range pb.GoodbyeReason_name {
		if v != 0 && !strings.Contains(text, strings.TrimPrefix(name, "GOODBYE_REASON_")+":") {
			t.Errorf("goodbye %s is missing", name)
		}
	}
	names := map[string]codes.Code{}
	for c := codes.OK; c <= codes.Unauthenticated; c++ {
		names[strings.ToUpper(regexp.MustCompile(`([a-z])([A-Z])`).ReplaceAllString(c.String(), "${1}_$2"))] = c
	}
	found := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^\| ([A-Z_]+) \| ([A-Z_]+), (\d+) \|`).FindAllStringSubmatch(text, -1) {
		found[m[1]] = true
		reason := pb.ErrorReason(pb.ErrorReason_value[reasonPrefix+m[1]])
		code, ok := codeOf[reason]
		if !ok || names[m[2]] != code || m[3] != fmt.Sprint(httpStatusOf(withReason(code, "", reason, "", nil))) {
			t.Errorf("%s %s %s: it is %v, %d", m[1], m[2], m[3], code, httpStatusOf(withReason(code, "", reason, "", nil)))
		}
	}
	// What only other methods say.
	other := map[string]bool{"EVENT_NOT_FOUND": true, "DELIVERY_NOT_FOUND": true, "BODY_NOT_KEPT": true, "LOG_UNAVAILABLE": true, "NO_SUCH_ROUTE": true}
	// Those of consumer groups are on their own page.
	groups, err := os.ReadFile("../docs/groups.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range regexp.MustCompile(`(?m)^\| ([A-Z_, ]+) \|`).FindAllStringSubmatch(string(groups), -1) {
		for _, name := range strings.Split(row[1], ", ") {
			other[name] = true
		}
	}
	for reason := range codeOf {
		if name := strings.TrimPrefix(reason.String(), reasonPrefix); !found[name] && !other[name] {
			t.Errorf("reason %s is missing", name)
		}
	}
}
