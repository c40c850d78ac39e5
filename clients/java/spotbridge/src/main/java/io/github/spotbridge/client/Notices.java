package io.github.spotbridge.client;

import io.github.spotbridge.v1.Lost;
import io.github.spotbridge.v1.Refused;

/**
 * Hears what people should know. No text has payload values. The methods are called by the thread in {@code run} and by those of
 * handlers.
 */
@FunctionalInterface
public interface Notices {
    /** A line for the log. */
    void notice(String line);

    /** Events left the log before the group had them: whatever is built from this group has a hole now. */
    default void lost(Lost lost) {
        notice("LOST: the events from sequence " + Long.toUnsignedString(lost.getFromSequence()) + " to "
                + Long.toUnsignedString(lost.getToSequence()) + " left the log before this group had them"
                + (lost.hasEvents() ? ", at most " + lost.getEvents() + " that it selects" : ""));
    }

    /** The bridge refused something that this member sent. The stream goes on, and an event that is not settled comes again. */
    default void refused(Refused refused) {
        notice("refused: " + refused.getReason() + ": " + refused.getMessage());
    }
}
