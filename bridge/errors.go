package bridge

import (
	"errors"

	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

// Error is an error that a caller may see: a reason from the contract and a message that names the field and the remedy
// and never holds a payload value or a secret. Every other error is internal, and its text stays in the server's log.
type Error struct {
	// Reason decides the status code.
	Reason pb.ErrorReason
	// Message is for people.
	Message string
	// Field is the path of the request field, if one is to blame.
	Field string
	// Metadata holds what the reason's comment in error.proto promises.
	Metadata map[string]string
	// Err is the cause, for the log only.
	Err error
}

// Error returns the message for people, and the cause.
func (e *Error) Error() string {
	msg := e.Message
	if e.Field != "" {
		msg = e.Field + ": " + msg
	}
	if e.Err != nil {
		msg += ": " + e.Err.Error()
	}
	return msg
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// ReasonOf returns the reason of the first Error in err's chain, or INTERNAL.
func ReasonOf(err error) pb.ErrorReason {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Reason
	}
	return pb.ErrorReason_ERROR_REASON_INTERNAL
}

// InvalidField says that a request field has a value that is not allowed.
func InvalidField(field, message string) *Error {
	return &Error{Reason: pb.ErrorReason_ERROR_REASON_INVALID_FIELD, Field: field, Message: message}
}

// LogUnavailable wraps an error of the log: it did not take or give what was asked, and trying again may help.
func LogUnavailable(err error) *Error {
	return &Error{Reason: pb.ErrorReason_ERROR_REASON_LOG_UNAVAILABLE, Message: "the log does not answer; retry with backoff", Err: err}
}

// HistoryUnavailable wraps an error of the projection: it cannot be read now.
func HistoryUnavailable(err error) *Error {
	return &Error{Reason: pb.ErrorReason_ERROR_REASON_HISTORY_UNAVAILABLE, Message: "history cannot be read now; the server's log has the cause; retry with backoff", Err: err}
}
