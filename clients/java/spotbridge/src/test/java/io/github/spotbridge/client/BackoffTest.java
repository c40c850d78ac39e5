package io.github.spotbridge.client;

import static org.junit.jupiter.api.Assertions.assertTrue;

import java.util.List;
import java.util.SplittableRandom;
import java.util.stream.IntStream;
import org.junit.jupiter.api.Test;

class BackoffTest {
    private static final List<Integer> BASES = List.of(250, 500, 1000, 2000, 4000, 8000, 15000, 15000, 15000);

    @Test
    void doublesUpToTheLimitWithJitterOnTheUpperHalf() {
        for (int seed = 0; seed < 1000; seed++) {
            Backoff backoff = new Backoff(new SplittableRandom(seed));
            for (int base : BASES) {
                long wait = backoff.next().toMillis();
                assertTrue(base / 2 <= wait && wait <= base, wait + " ms of " + base);
            }
        }
    }

    @Test
    void jitterUsesTheWholeHalf() {
        long[] first = IntStream.range(0, 1000).mapToLong(seed -> new Backoff(new SplittableRandom(seed)).next().toMillis()).toArray();
        assertTrue(IntStream.range(0, 1000).anyMatch(i -> first[i] < 135));
        assertTrue(IntStream.range(0, 1000).anyMatch(i -> first[i] > 240));
    }

    @Test
    void beginsAnew() {
        Backoff backoff = new Backoff(new SplittableRandom(1));
        BASES.forEach(base -> backoff.next());
        backoff.reset();
        assertTrue(backoff.next().toMillis() <= 250);
    }
}
