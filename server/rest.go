package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	"github.com/spotbridge/spotbridge/bridge"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

// maxBodyBytes is the largest body of a request.
const maxBodyBytes = 1 << 20

// rest is the REST surface.
type rest struct {
	open        bool
	log         *slog.Logger
	openapi     []byte
	sendTimeout time.Duration
	routes      []*route
	gateway     *runtime.ServeMux
	// unary and streams are connections to the gRPC server. Streams have one of their own, so that any number of them
	// leaves room for the rest.
	unary, streams *grpc.ClientConn
	running        atomic.Int64
	maxStreams     int64
}

func newREST(cfg Config, dial func(context.Context) (net.Conn, error)) (*rest, error) {
	h := &rest{
		open: cfg.Open, log: cfg.Logger, openapi: cfg.OpenAPI, sendTimeout: cfg.SendTimeout, maxStreams: int64(cfg.MaxStreams),
		gateway: runtime.NewServeMux(
			runtime.WithMarshalerOption(runtime.MIMEWildcard, &runtime.JSONPb{}),
			runtime.WithUnescapingMode(runtime.UnescapingModeAllExceptSlash),
			// Nothing of the client's headers is passed on, and nothing of gRPC's comes back.
			runtime.WithIncomingHeaderMatcher(noHeader), runtime.WithOutgoingHeaderMatcher(noHeader), runtime.WithOutgoingTrailerMatcher(noHeader),
			runtime.WithMetadata(func(_ context.Context, r *http.Request) metadata.MD { return metadata.Pairs(restPeer, r.RemoteAddr) }),
			runtime.WithErrorHandler(func(_ context.Context, _ *runtime.ServeMux, _ runtime.Marshaler, w http.ResponseWriter, _ *http.Request, err error) {
				writeStatus(w, statusOfCall(err))
			}),
			runtime.WithRoutingErrorHandler(func(_ context.Context, _ *runtime.ServeMux, _ runtime.Marshaler, w http.ResponseWriter, _ *http.Request, _ int) {
				noSuchRoute(w)
			}),
			runtime.WithDisableHTTPMethodOverride(),
			runtime.WithDisablePathLengthFallback(),
			runtime.WithDisableChunkedEncoding(),
		),
	}
	var err error
	if h.routes, err = newRoutes(); err != nil {
		return nil, err
	}
	for _, c := range []**grpc.ClientConn{&h.unary, &h.streams} {
		*c, err = grpc.NewClient("passthrough:///in-memory",
			grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return dial(ctx) }),
			grpc.WithTransportCredentials(insecure.NewCredentials()), // it never leaves the process
			grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessageBytes+1<<20)),
			grpc.WithIdleTimeout(0),
			grpc.WithDisableServiceConfig(),
		)
		if err != nil {
			return nil, errors.Join(err, h.close())
		}
	}
	for _, register := range []func(context.Context, *runtime.ServeMux, *grpc.ClientConn) error{
		pb.RegisterEventServiceHandler, pb.RegisterDeliveryServiceHandler, pb.RegisterCatalogServiceHandler,
		pb.RegisterConsumerGroupServiceHandler,
		pb.RegisterSubscriptionServiceHandler,
	} {
		if err := register(context.Background(), h.gateway, h.unary); err != nil {
			return nil, errors.Join(err, h.close())
		}
	}
	return h, nil
}

func noHeader(string) (string, bool) { return "", false }

func (h *rest) close() error {
	var errs []error
	for _, c := range []*grpc.ClientConn{h.unary, h.streams} {
		if c != nil {
			errs = append(errs, c.Close())
		}
	}
	return errors.Join(errs...)
}

// ServeHTTP implements http.Handler.
func (h *rest) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	secure(w.Header())
	if h.open && !loopbackHost(r.Host) {
		// A web page of someone else's reaches this machine by a name of its own.
		writeError(w, http.StatusForbidden, &bridge.Error{
			Reason:  pb.ErrorReason_ERROR_REASON_PERMISSION_DENIED,
			Message: "without access control only requests for localhost, 127.0.0.0/8 or [::1] are answered; the Host header names something else",
		})
		return
	}
	if r.URL.Path == "/openapi.json" && h.openapi != nil {
		h.serveOpenAPI(w, r)
		return
	}
	rt, params, allow := h.find(r)
	switch {
	case rt == nil && len(allow) > 0:
		w.Header().Set("Allow", strings.Join(allow, ", "))
		writeError(w, http.StatusMethodNotAllowed, &bridge.Error{
			Reason: pb.ErrorReason_ERROR_REASON_NO_SUCH_ROUTE, Message: "the path does not have this method; it has " + strings.Join(allow, ", "),
		})
		return
	case rt == nil:
		noSuchRoute(w)
		return
	}
	query, err := rt.query(r.URL.RawQuery)
	if err != nil {
		writeError(w, 0, err)
		return
	}
	asked := r.Header
	r, err = h.gatewayRequest(w, r, rt, query)
	if err != nil {
		code := 0
		if e, ok := errors.AsType[*httpError](err); ok {
			code, err = e.code, e.err
		}
		writeError(w, code, err)
		return
	}
	switch rt.kind {
	case unaryRoute:
		h.gateway.ServeHTTP(w, r)
	case streamRoute:
		h.serveStream(w, r, asked, query)
	case eventBodyRoute:
		h.serveEventBody(w, r, params)
	case deliveryBodyRoute:
		h.serveDeliveryBody(w, r, params)
	}
}

// httpError is an error with a status of HTTP's own.
type httpError struct {
	code int
	err  error
}

func (e *httpError) Error() string { return e.err.Error() }
func (e *httpError) Unwrap() error { return e.err }

// gatewayRequest returns the request as the gateway gets it: with the parameters in normal form, a body that was checked,
// and no headers but the content type.
func (h *rest) gatewayRequest(w http.ResponseWriter, r *http.Request, rt *route, query map[string][]string) (*http.Request, error) {
	out := r.Clone(r.Context())
	out.Method = rt.method
	out.Header = http.Header{}
	out.URL.RawQuery = encodeQuery(query)
	out.Body, out.ContentLength = http.NoBody, 0
	if !rt.body {
		return out, nil
	}
	if t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || t != "application/json" {
		return nil, &httpError{http.StatusUnsupportedMediaType, bridge.InvalidField("Content-Type", "must be application/json")}
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBodyBytes))
	if err != nil {
		if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
			return nil, &httpError{http.StatusRequestEntityTooLarge, bridge.InvalidField("body", fmt.Sprintf("is larger than %d bytes", maxBodyBytes))}
		}
		return nil, bridge.InvalidField("body", "did not come whole")
	}
	if body, err = rt.normalBody(body); err != nil {
		return nil, err
	}
	out.Header.Set("Content-Type", "application/json")
	out.Body, out.ContentLength = io.NopCloser(strings.NewReader(string(body))), int64(len(body))
	return out, nil
}

// secure sets the headers that every answer has. No CORS headers: pages of other origins read nothing.
func secure(h http.Header) {
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Referrer-Policy", "no-referrer")
}

// loopbackHost reports whether a Host header names this machine's loopback.
func loopbackHost(host string) bool {
	name, _, err := net.SplitHostPort(host)
	if err != nil {
		name = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	}
	if strings.EqualFold(strings.TrimSuffix(name, "."), "localhost") {
		return true
	}
	addr, err := netip.ParseAddr(name)
	return err == nil && addr.Zone() == "" && addr.Unmap().IsLoopback()
}

func (h *rest) serveOpenAPI(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		writeError(w, http.StatusMethodNotAllowed, &bridge.Error{Reason: pb.ErrorReason_ERROR_REASON_NO_SUCH_ROUTE, Message: "the path does not have this method; it has GET, HEAD"})
		return
	}
	if r.URL.RawQuery != "" {
		writeError(w, 0, unknownParameter(strings.SplitN(r.URL.RawQuery, "=", 2)[0], nil))
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(h.openapi)
}

func noSuchRoute(w http.ResponseWriter) {
	writeError(w, http.StatusNotFound, &bridge.Error{
		Reason: pb.ErrorReason_ERROR_REASON_NO_SUCH_ROUTE, Message: "there is no such path; /openapi.json lists those that there are",
	})
}
