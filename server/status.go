package server

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"strings"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/spotbridge/spotbridge/bridge"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

const (
	errorDomain  = "spotbridge"
	reasonPrefix = "ERROR_REASON_"
)

// codeOf is the one table from reasons to codes. What is not in it is INTERNAL.
var codeOf = map[pb.ErrorReason]codes.Code{
	pb.ErrorReason_ERROR_REASON_INVALID_FIELD:       codes.InvalidArgument,
	pb.ErrorReason_ERROR_REASON_INVALID_FILTER:      codes.InvalidArgument,
	pb.ErrorReason_ERROR_REASON_INVALID_CURSOR:      codes.InvalidArgument,
	pb.ErrorReason_ERROR_REASON_CURSOR_FOREIGN:      codes.InvalidArgument,
	pb.ErrorReason_ERROR_REASON_CURSOR_AHEAD:        codes.InvalidArgument,
	pb.ErrorReason_ERROR_REASON_CURSOR_EXPIRED:      codes.OutOfRange,
	pb.ErrorReason_ERROR_REASON_INVALID_PAGE_TOKEN:  codes.InvalidArgument,
	pb.ErrorReason_ERROR_REASON_EVENT_NOT_FOUND:     codes.NotFound,
	pb.ErrorReason_ERROR_REASON_DELIVERY_NOT_FOUND:  codes.NotFound,
	pb.ErrorReason_ERROR_REASON_BODY_NOT_KEPT:       codes.FailedPrecondition,
	pb.ErrorReason_ERROR_REASON_DRAINING:            codes.Unavailable,
	pb.ErrorReason_ERROR_REASON_STARTING:            codes.Unavailable,
	pb.ErrorReason_ERROR_REASON_SLOW_CONSUMER:       codes.ResourceExhausted,
	pb.ErrorReason_ERROR_REASON_TOO_MANY_STREAMS:    codes.ResourceExhausted,
	pb.ErrorReason_ERROR_REASON_LOG_UNAVAILABLE:     codes.Unavailable,
	pb.ErrorReason_ERROR_REASON_HISTORY_UNAVAILABLE: codes.Unavailable,
	pb.ErrorReason_ERROR_REASON_INTERNAL:            codes.Internal,
	pb.ErrorReason_ERROR_REASON_UNKNOWN_PARAMETER:   codes.InvalidArgument,
	pb.ErrorReason_ERROR_REASON_NO_SUCH_ROUTE:       codes.NotFound,
	pb.ErrorReason_ERROR_REASON_PERMISSION_DENIED:   codes.PermissionDenied,
	pb.ErrorReason_ERROR_REASON_UNAUTHENTICATED:     codes.Unauthenticated,

	pb.ErrorReason_ERROR_REASON_GROUP_NOT_FOUND:        codes.NotFound,
	pb.ErrorReason_ERROR_REASON_GROUP_EXISTS:           codes.AlreadyExists,
	pb.ErrorReason_ERROR_REASON_GROUP_CONFLICT:         codes.Aborted,
	pb.ErrorReason_ERROR_REASON_GROUP_HAS_DEAD_LETTERS: codes.FailedPrecondition,
	pb.ErrorReason_ERROR_REASON_TOO_MANY_GROUPS:        codes.ResourceExhausted,
	pb.ErrorReason_ERROR_REASON_STALE_DELIVERY:         codes.FailedPrecondition,
	pb.ErrorReason_ERROR_REASON_INVALID_DELIVERY_ID:    codes.InvalidArgument,
}

// statusOf returns the status of an error. Only errors that are meant for callers show their text; the text of all others
// stays in the log, where the request's id finds it.
func statusOf(err error, requestID string) *status.Status {
	if err == nil {
		return status.New(codes.OK, "")
	}
	if e, ok := errors.AsType[*bridge.Error](err); ok {
		if code := codeOf[e.Reason]; code != codes.OK && code != codes.Internal {
			msg := e.Message
			if e.Field != "" {
				msg = e.Field + ": " + msg
			}
			return withReason(code, msg, e.Reason, e.Field, e.Metadata)
		}
	}
	switch {
	case errors.Is(err, context.Canceled):
		return status.New(codes.Canceled, "the call was canceled")
	case errors.Is(err, context.DeadlineExceeded):
		return status.New(codes.DeadlineExceeded, "the call's deadline has passed")
	}
	// Errors of gRPC itself, for example of a stream whose client has gone.
	if s, ok := err.(interface{ GRPCStatus() *status.Status }); ok {
		return s.GRPCStatus()
	}
	return withReason(codes.Internal, "internal error; the server's log has the cause under request "+requestID,
		pb.ErrorReason_ERROR_REASON_INTERNAL, "", map[string]string{"request_id": requestID})
}

func withReason(code codes.Code, msg string, reason pb.ErrorReason, field string, metadata map[string]string) *status.Status {
	info := &errdetails.ErrorInfo{Domain: errorDomain, Reason: strings.TrimPrefix(reason.String(), reasonPrefix), Metadata: maps.Clone(metadata)}
	if field != "" {
		if info.Metadata == nil {
			info.Metadata = map[string]string{}
		}
		info.Metadata["field"] = field
	}
	s := status.New(code, strings.ToValidUTF8(msg, "\ufffd"))
	if with, err := s.WithDetails(info); err == nil {
		return with
	}
	return s
}

// reasonOf returns the reason in a status, empty when it has none of ours.
func reasonOf(s *status.Status) string {
	for _, d := range s.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok && info.GetDomain() == errorDomain {
			return info.GetReason()
		}
	}
	return ""
}

// httpStatusOf returns the HTTP status: the gateway's, but for a body that is not there and a position that is gone.
func httpStatusOf(s *status.Status) int {
	switch reasonOf(s) {
	case "CURSOR_EXPIRED":
		return http.StatusGone
	case "BODY_NOT_KEPT":
		return http.StatusNotFound
	}
	return runtime.HTTPStatusFromCode(s.Code())
}
