package io.github.spotbridge.client;

import io.github.spotbridge.v1.NackAction;
import java.nio.charset.StandardCharsets;
import java.time.Duration;

/**
 * What became of an event. Reasons are stored by the bridge and read by people: leave personal data out.
 *
 * @param action null when the event is done
 * @param reason why it is not; what is beyond 1,024 bytes is cut off
 * @param retryAfter when it comes again; null leaves that to the bridge, which doubles the delay with each attempt
 */
public record Outcome(NackAction action, String reason, Duration retryAfter) {
    private static final int MAX_REASON_BYTES = 1024;
    private static final Outcome DONE = new Outcome(null, "", null);

    public Outcome {
        reason = cut(reason);
    }

    /** The event is done and does not come again. */
    public static Outcome done() {
        return DONE;
    }

    /** Deliver it again later. */
    public static Outcome retry(String reason) {
        return new Outcome(NackAction.NACK_ACTION_RETRY, reason, null);
    }

    /** Deliver it again after this time, at most 24 hours. */
    public static Outcome retry(String reason, Duration after) {
        return new Outcome(NackAction.NACK_ACTION_RETRY, reason, after);
    }

    /** Put it to the dead letters, for a person. */
    public static Outcome park(String reason) {
        return new Outcome(NackAction.NACK_ACTION_PARK, reason, null);
    }

    boolean isDone() {
        return action == null;
    }

    private static String cut(String reason) {
        byte[] bytes = reason.getBytes(StandardCharsets.UTF_8);
        if (bytes.length <= MAX_REASON_BYTES) {
            return reason;
        }
        int end = MAX_REASON_BYTES;
        while ((bytes[end] & 0xC0) == 0x80) { // not in the middle of a character
            end--;
        }
        return new String(bytes, 0, end, StandardCharsets.UTF_8);
    }
}
