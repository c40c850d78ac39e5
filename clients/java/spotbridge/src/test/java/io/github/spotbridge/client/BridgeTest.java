package io.github.spotbridge.client;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;

import io.grpc.InsecureChannelCredentials;
import io.grpc.Status;
import java.io.IOException;
import java.util.Random;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

class BridgeTest {
    private FakeBridge server;
    private Bridge bridge;

    @BeforeEach
    void serve() throws IOException {
        server = new FakeBridge();
        bridge = Bridge.connect(server.target());
    }

    @AfterEach
    void stop() throws InterruptedException {
        bridge.close();
        server.stop();
    }

    @ParameterizedTest
    @ValueSource(ints = {0, 1, 64 << 10, 5_000_000})
    void readsABodyByteForByte(int size) {
        byte[] body = new byte[size];
        new Random(size).nextBytes(body);
        server.hold("e1", body);
        assertArrayEquals(body, bridge.eventBody("e1"));
    }

    @Test
    void saysWhyThereIsNoBody() {
        BridgeException failure = assertThrows(BridgeException.class, () -> bridge.eventBody("gone"));
        assertEquals(Status.Code.NOT_FOUND, failure.code());
        assertEquals("EVENT_NOT_FOUND", failure.reason());
    }

    @ParameterizedTest
    @ValueSource(ints = {0, (64 << 10) - 1, (16 << 20) + 1})
    void refusesLimitsThatTheBridgeWouldRefuse(int limit) {
        assertThrows(IllegalArgumentException.class,
                () -> Bridge.connect(server.target(), InsecureChannelCredentials.create(), limit));
    }
}
