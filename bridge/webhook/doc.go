// Package webhook is the front door: it takes Spotnana's signed deliveries over HTTP and puts them on the log.
//
// It promises: 200 is answered only after the log has the exact body durably; an authentic delivery is never refused for
// its content; one webhook id of one source becomes at most one event, however often and however concurrently it is sent;
// nothing is read of a body whose headers are wrong or when the door is closed; secrets, signatures and payloads never
// appear in logs, metrics or errors. 503 means "unknown", not "not stored": the source sends again, and then finds out.
//
// It does not promise the memory of ids: that is bridge.IDs, which this package asks, and bridges only the time until it
// has caught up with the log.
package webhook
