// Package drift finds out in what payloads differ from the published schema.
//
// Its worker inspects every event that history holds once per revision of the schema, also when nobody subscribes to typed
// payloads, and keeps what it finds, with its own watermark, in a bridge.DriftStore. It stands between the follower and the
// live ring, so that an event that comes is converted once for both; what is no longer at hand is read from history.
//
// It promises to hold nobody up: it works beside the follower, in batches, for at most a tenth of the time of one core, and
// a fault of its own ends nothing. It does not promise to see an event that history has dropped
// before it came to it; it counts those.
package drift
