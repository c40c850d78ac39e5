package server

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

// routeKind says who serves a route.
type routeKind uint8

const (
	unaryRoute routeKind = iota // the gateway
	streamRoute
	eventBodyRoute
	deliveryBodyRoute
)

// route is an RPC's place in REST.
type route struct {
	method string
	path   string
	rpc    protoreflect.FullName
	kind   routeKind
	// body says that the request is the body.
	body bool

	segments []string
	input    protoreflect.MessageType
	params   map[string]param
	names    []string // of params, as they are shown
}

// newRoutes returns the routes: proto/http.yaml, which a test compares. The generated gateway has them too, but tells
// nobody.
func newRoutes() ([]*route, error) {
	routes := []*route{
		{method: http.MethodGet, path: "/v1/events:subscribe", rpc: "spotbridge.v1.SubscriptionService.Subscribe", kind: streamRoute},
		{method: http.MethodGet, path: "/v1/subscriptions", rpc: "spotbridge.v1.SubscriptionService.ListSubscriptions"},
		{method: http.MethodGet, path: "/v1/events/{event_id}", rpc: "spotbridge.v1.EventService.GetEvent"},
		{method: http.MethodGet, path: "/v1/events/{event_id}/body", rpc: "spotbridge.v1.EventService.GetEventBody", kind: eventBodyRoute},
		{method: http.MethodGet, path: "/v1/events", rpc: "spotbridge.v1.EventService.ListEvents"},
		{method: http.MethodGet, path: "/v1/events:count", rpc: "spotbridge.v1.EventService.CountEvents"},
		{method: http.MethodGet, path: "/v1/deliveries", rpc: "spotbridge.v1.DeliveryService.ListDeliveries"},
		{method: http.MethodGet, path: "/v1/deliveries/{delivery_id}", rpc: "spotbridge.v1.DeliveryService.GetDelivery"},
		{method: http.MethodGet, path: "/v1/deliveries/{delivery_id}/body", rpc: "spotbridge.v1.DeliveryService.GetDeliveryBody", kind: deliveryBodyRoute},
		{method: http.MethodPost, path: "/v1/deliveries:reprocess", rpc: "spotbridge.v1.DeliveryService.ReprocessDeliveries", body: true},
		{method: http.MethodGet, path: "/v1/eventTypes", rpc: "spotbridge.v1.CatalogService.ListEventTypes"},
		{method: http.MethodGet, path: "/v1/schemaDrift", rpc: "spotbridge.v1.CatalogService.ListSchemaDrift"},
		{method: http.MethodPost, path: "/v1/groups", rpc: "spotbridge.v1.ConsumerGroupService.CreateConsumerGroup", body: true},
		{method: http.MethodGet, path: "/v1/groups", rpc: "spotbridge.v1.ConsumerGroupService.ListConsumerGroups"},
		{method: http.MethodGet, path: "/v1/groups/{group}", rpc: "spotbridge.v1.ConsumerGroupService.GetConsumerGroup"},
		{method: http.MethodPatch, path: "/v1/groups/{group}", rpc: "spotbridge.v1.ConsumerGroupService.UpdateConsumerGroup", body: true},
		{method: http.MethodDelete, path: "/v1/groups/{group}", rpc: "spotbridge.v1.ConsumerGroupService.DeleteConsumerGroup"},
		{method: http.MethodPost, path: "/v1/groups/{group}:pause", rpc: "spotbridge.v1.ConsumerGroupService.PauseConsumerGroup", body: true},
		{method: http.MethodPost, path: "/v1/groups/{group}:resume", rpc: "spotbridge.v1.ConsumerGroupService.ResumeConsumerGroup", body: true},
		{method: http.MethodPost, path: "/v1/groups/{group}:seek", rpc: "spotbridge.v1.ConsumerGroupService.SeekConsumerGroup", body: true},
		{method: http.MethodPost, path: "/v1/groups/{group}:pull", rpc: "spotbridge.v1.ConsumerGroupService.Pull", body: true},
		{method: http.MethodPost, path: "/v1/groups/{group}:acknowledge", rpc: "spotbridge.v1.ConsumerGroupService.Acknowledge", body: true},
		{method: http.MethodGet, path: "/v1/groups/{group}/deadLetters", rpc: "spotbridge.v1.ConsumerGroupService.ListDeadLetters"},
		{method: http.MethodPost, path: "/v1/groups/{group}/deadLetters:redrive", rpc: "spotbridge.v1.ConsumerGroupService.RedriveDeadLetters", body: true},
		{method: http.MethodPost, path: "/v1/groups/{group}/deadLetters:delete", rpc: "spotbridge.v1.ConsumerGroupService.DeleteDeadLetters", body: true},
	}
	for _, rt := range routes {
		d, err := protoregistry.GlobalFiles.FindDescriptorByName(rt.rpc)
		if err != nil {
			return nil, fmt.Errorf("route %s: %w", rt.path, err)
		}
		m, ok := d.(protoreflect.MethodDescriptor)
		if !ok {
			return nil, fmt.Errorf("route %s: %s is no RPC", rt.path, rt.rpc)
		}
		if rt.input, err = protoregistry.GlobalTypes.FindMessageByName(m.Input().FullName()); err != nil {
			return nil, fmt.Errorf("route %s: %w", rt.path, err)
		}
		rt.segments = strings.Split(rt.path[1:], "/")
		if err := rt.findParams(); err != nil {
			return nil, fmt.Errorf("route %s: %w", rt.path, err)
		}
	}
	return routes, nil
}

// variable returns the name of a path segment that is a variable, without the verb that may follow it.
func variable(segment string) (string, bool) {
	name, ok := strings.CutPrefix(segment, "{")
	name, _, _ = strings.Cut(name, "}")
	return name, ok
}

// verb returns what follows the variable of a segment, with its colon; empty when nothing does.
func verb(segment string) string {
	_, v, _ := strings.Cut(segment, "}")
	return v
}

// hasVerb reports whether a verb follows the variable that the path ends with.
func (rt *route) hasVerb() bool { return verb(rt.segments[len(rt.segments)-1]) != "" }

// match returns the values of the path's variables.
func (rt *route) match(segments []string) (map[string]string, bool) {
	if len(segments) != len(rt.segments) {
		return nil, false
	}
	var params map[string]string
	for i, want := range rt.segments {
		name, isVar := variable(want)
		if !isVar {
			if segments[i] != want {
				return nil, false
			}
			continue
		}
		text, ok := strings.CutSuffix(segments[i], verb(want))
		value, err := url.PathUnescape(text)
		if err != nil || !ok || value == "" || !utf8.ValidString(value) {
			return nil, false
		}
		if params == nil {
			params = map[string]string{}
		}
		params[name] = value
	}
	return params, true
}

// find returns the route of a request with the variables of its path, or the methods that the path has. Where the path
// ends with the verb of a route, those without one do not count: /v1/groups/a:pause is not a group of the name a:pause.
func (h *rest) find(r *http.Request) (rt *route, params map[string]string, allow []string) {
	path, ok := strings.CutPrefix(r.URL.EscapedPath(), "/")
	if !ok {
		return nil, nil, nil
	}
	segments := strings.Split(path, "/")
	withVerb := slices.ContainsFunc(h.routes, func(rt *route) bool {
		_, ok := rt.match(segments)
		return ok && rt.hasVerb()
	})
	for _, rt := range h.routes {
		params, ok := rt.match(segments)
		if !ok || withVerb && !rt.hasVerb() {
			continue
		}
		// The server leaves the body of an answer to HEAD out by itself.
		head := rt.method == http.MethodGet && rt.kind == unaryRoute
		if r.Method == rt.method || head && r.Method == http.MethodHead {
			return rt, params, nil
		}
		allow = append(allow, rt.method)
		if head {
			allow = append(allow, http.MethodHead)
		}
	}
	slices.Sort(allow)
	return nil, nil, slices.Compact(allow)
}

// message returns a new request message.
func (rt *route) message() proto.Message { return rt.input.New().Interface() }
