package io.github.spotbridge.client;

import static org.junit.jupiter.api.Assertions.assertEquals;

import java.nio.charset.StandardCharsets;
import org.junit.jupiter.api.Test;

class OutcomeTest {
    @Test
    void aLongReasonIsCutBetweenCharacters() {
        String reason = Outcome.park("x".repeat(1022) + "ü€").reason();
        assertEquals("x".repeat(1022) + "ü", reason);
        assertEquals(1024, reason.getBytes(StandardCharsets.UTF_8).length);
        assertEquals("x".repeat(1023), Outcome.park("x".repeat(1023) + "€").reason());
    }
}
