package io.github.spotbridge.client;

import java.time.Duration;
import java.util.random.RandomGenerator;

/** The wait before each attempt: it doubles from 250 ms to 15 s, with full jitter on its upper half. */
final class Backoff {
    private static final long FIRST_MILLIS = 250;
    private static final long MOST_MILLIS = 15_000;

    private final RandomGenerator random;
    private long base = FIRST_MILLIS;

    Backoff(RandomGenerator random) {
        this.random = random;
    }

    Duration next() {
        long half = base / 2;
        base = Math.min(2 * base, MOST_MILLIS);
        return Duration.ofMillis(half + random.nextLong(half + 1));
    }

    void reset() {
        base = FIRST_MILLIS;
    }
}
