package io.github.spotbridge.client;

import static io.github.spotbridge.client.FakeBridge.PATIENCE_SECONDS;
import static io.github.spotbridge.client.FakeBridge.failure;
import static io.github.spotbridge.client.FakeBridge.take;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertInstanceOf;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import io.github.spotbridge.client.FakeBridge.Stream;
import io.github.spotbridge.v1.CaughtUp;
import io.github.spotbridge.v1.Confirmation;
import io.github.spotbridge.v1.Event;
import io.github.spotbridge.v1.Goodbye;
import io.github.spotbridge.v1.Heartbeat;
import io.github.spotbridge.v1.Start;
import io.github.spotbridge.v1.SubscribeRequest;
import io.github.spotbridge.v1.SubscribeResponse;
import io.grpc.Status;
import java.io.IOException;
import java.time.Duration;
import java.util.Map;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

class SubscriberTest {
    private static final SubscribeRequest EVERYTHING = SubscribeRequest.newBuilder().setStart(Start.START_EARLIEST).build();

    private final Notes notes = new Notes();
    private final BlockingQueue<SubscribeResponse> handled = new LinkedBlockingQueue<>();
    private FakeBridge server;
    private Bridge bridge;
    private Subscriber subscriber;
    private CompletableFuture<Void> running;

    @BeforeEach
    void serve() throws IOException {
        server = new FakeBridge();
        bridge = Bridge.connect(server.target());
    }

    @AfterEach
    void stop() throws Exception {
        subscriber.stop();
        running.handle((done, failed) -> null).get(PATIENCE_SECONDS, TimeUnit.SECONDS);
        bridge.close();
        server.stop();
    }

    private void subscribe(SubscribeRequest request, Subscriber.Handler handler) {
        subscriber = new Subscriber(bridge, request, handler, notes);
        running = CompletableFuture.runAsync(() -> {
            try {
                subscriber.run();
            } catch (InterruptedException e) {
                throw new IllegalStateException(e);
            }
        });
    }

    private static SubscribeResponse confirmation(Duration heartbeat) {
        return SubscribeResponse.newBuilder()
                .setCursor("c0")
                .setConfirmation(Confirmation.newBuilder().setHeartbeatInterval(Session.duration(heartbeat)))
                .build();
    }

    private static SubscribeResponse event(String cursor) {
        return SubscribeResponse.newBuilder().setCursor(cursor).setEvent(Event.newBuilder().setId("e-" + cursor)).build();
    }

    @Test
    void resumesWithTheCursorOfTheLastMessage() throws Exception {
        subscribe(EVERYTHING, handled::add);
        Stream<SubscribeRequest, SubscribeResponse> first = server.nextSubscriber();
        assertEquals(Start.START_EARLIEST, first.next().getStart());
        first.send(confirmation(Duration.ofSeconds(15)));
        first.send(event("c1"));
        first.send(SubscribeResponse.newBuilder().setCursor("c2").setHeartbeat(Heartbeat.getDefaultInstance()).build());
        first.fail(failure(Status.Code.RESOURCE_EXHAUSTED, "SLOW_CONSUMER", Map.of()));
        SubscribeRequest second = server.nextSubscriber().next();
        assertEquals("c2", second.getAfterCursor());
        assertEquals(Start.START_UNSPECIFIED, second.getStart());
        assertEquals("e-c1", handled.stream().filter(SubscribeResponse::hasEvent).findFirst().orElseThrow().getEvent().getId());
    }

    @Test
    void whatTheHandlerDidNotTakeIsNotSkipped() throws Exception {
        subscribe(EVERYTHING, message -> {
            if (message.getCursor().equals("c2")) {
                throw new IllegalStateException("the disk is full");
            }
        });
        Stream<SubscribeRequest, SubscribeResponse> stream = server.nextSubscriber();
        stream.send(event("c1"));
        stream.send(event("c2"));
        ExecutionException end = assertThrows(ExecutionException.class, () -> running.get(PATIENCE_SECONDS, TimeUnit.SECONDS));
        assertEquals("the disk is full", end.getCause().getMessage());
    }

    @Test
    void aLostPositionIsForAPerson() throws Exception {
        subscribe(SubscribeRequest.newBuilder().setAfterCursor("old").build(), handled::add);
        server.nextSubscriber().fail(failure(Status.Code.OUT_OF_RANGE, "CURSOR_EXPIRED", Map.of("earliest_cursor", "c9")));
        ExecutionException end = assertThrows(ExecutionException.class, () -> running.get(PATIENCE_SECONDS, TimeUnit.SECONDS));
        BridgeException failure = assertInstanceOf(BridgeException.class, end.getCause());
        assertEquals("CURSOR_EXPIRED", failure.reason());
        assertEquals("c9", failure.metadata().get("earliest_cursor"));
        assertFalse(failure.isRetryable());
    }

    @Test
    void aSilentStreamIsResumed() throws Exception {
        subscribe(EVERYTHING, handled::add);
        server.nextSubscriber().send(confirmation(Duration.ofMillis(100)));
        assertEquals("c0", server.nextSubscriber().next().getAfterCursor());
        notes.awaitLine("no message for 3 heartbeat intervals");
    }

    @Test
    void aSlowHandlerIsNoSilence() throws Exception {
        BlockingQueue<Boolean> gate = new LinkedBlockingQueue<>();
        subscribe(EVERYTHING, message -> {
            if (message.hasEvent()) {
                try {
                    gate.take();
                } catch (InterruptedException e) {
                    throw new IllegalStateException(e);
                }
            }
            handled.add(message);
        });
        Stream<SubscribeRequest, SubscribeResponse> stream = server.nextSubscriber();
        stream.send(confirmation(Duration.ofMillis(100)));
        stream.send(event("c1"));
        stream.send(event("c2"));
        TimeUnit.MILLISECONDS.sleep(600); // longer than three intervals
        gate.add(true);
        gate.add(true);
        take(handled, "the confirmation");
        assertEquals("c1", take(handled, "an event").getCursor());
        assertEquals("c2", take(handled, "the next one, of the same stream").getCursor());
        assertTrue(notes.lines.isEmpty());
    }

    @Test
    void stopAtHeadIsDoneAfterCaughtUpAndNotAfterGoodbye() throws Exception {
        subscribe(EVERYTHING.toBuilder().setStopAtHead(true).build(), handled::add);
        Stream<SubscribeRequest, SubscribeResponse> first = server.nextSubscriber();
        first.send(event("c1"));
        first.send(SubscribeResponse.newBuilder().setCursor("c1").setGoodbye(Goodbye.getDefaultInstance()).build());
        first.end();
        Stream<SubscribeRequest, SubscribeResponse> second = server.nextSubscriber();
        assertEquals("c1", second.next().getAfterCursor());
        second.send(SubscribeResponse.newBuilder().setCursor("c1").setCaughtUp(CaughtUp.getDefaultInstance()).build());
        second.end();
        running.get(PATIENCE_SECONDS, TimeUnit.SECONDS);
    }
}
