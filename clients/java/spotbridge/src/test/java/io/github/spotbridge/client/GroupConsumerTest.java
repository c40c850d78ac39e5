package io.github.spotbridge.client;

import static io.github.spotbridge.client.FakeBridge.PATIENCE_SECONDS;
import static io.github.spotbridge.client.FakeBridge.delivery;
import static io.github.spotbridge.client.FakeBridge.failure;
import static io.github.spotbridge.client.FakeBridge.joined;
import static io.github.spotbridge.client.FakeBridge.take;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertInstanceOf;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.google.protobuf.ByteString;
import com.google.protobuf.UnknownFieldSet;
import io.github.spotbridge.client.FakeBridge.Stream;
import io.github.spotbridge.client.GroupConsumer.Handler;
import io.github.spotbridge.client.GroupConsumer.Options;
import io.github.spotbridge.v1.ConsumeRequest;
import io.github.spotbridge.v1.ConsumeResponse;
import io.github.spotbridge.v1.EventView;
import io.github.spotbridge.v1.Goodbye;
import io.github.spotbridge.v1.GroupDelivery;
import io.github.spotbridge.v1.GroupDeliveryBatch;
import io.github.spotbridge.v1.GroupHeartbeat;
import io.github.spotbridge.v1.Join;
import io.github.spotbridge.v1.Lost;
import io.github.spotbridge.v1.NackAction;
import io.github.spotbridge.v1.Refused;
import io.github.spotbridge.v1.Settled;
import io.grpc.Status;
import java.io.IOException;
import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;
import org.junit.jupiter.params.provider.EnumSource.Mode;

class GroupConsumerTest {
    private static final Options OPTIONS = Options.named("test").withView(EventView.EVENT_VIEW_TYPED);

    private final Notes notes = new Notes();
    private FakeBridge server;
    private Bridge bridge;
    private GroupConsumer consumer;
    private CompletableFuture<Void> running;

    @BeforeEach
    void serve() throws IOException {
        server = new FakeBridge();
        bridge = Bridge.connect(server.target());
    }

    @AfterEach
    void stop() throws Exception {
        bridge.close(); // ends the stream
        if (consumer != null) {
            consumer.stop();
            running.handle((done, failed) -> null).get(PATIENCE_SECONDS, TimeUnit.SECONDS);
        }
        server.stop();
    }

    private void consume(Options options, Handler handler) {
        consumer = new GroupConsumer(bridge, "g", options, handler, notes);
        running = CompletableFuture.runAsync(() -> {
            try {
                consumer.run();
            } catch (InterruptedException e) {
                throw new IllegalStateException(e);
            }
        });
    }

    private void consume(Handler handler) {
        consume(OPTIONS, handler);
    }

    /** Waits for a member, and answers its join. */
    private Stream<ConsumeRequest, ConsumeResponse> join(ConsumeResponse answer) throws InterruptedException {
        Stream<ConsumeRequest, ConsumeResponse> member = server.nextMember();
        assertTrue(member.next().hasJoin());
        member.send(answer);
        return member;
    }

    private static void assertAcks(String deliveryId, Stream<ConsumeRequest, ConsumeResponse> member) throws InterruptedException {
        ConsumeRequest request = member.next();
        assertEquals(List.of(deliveryId), request.getAck().getDeliveryIdsList(), () -> "sent " + request);
        assertTrue(request.getAck().getConfirm());
    }

    private static ConsumeResponse settled(String deliveryId) {
        return ConsumeResponse.newBuilder().setSettled(Settled.newBuilder().addDeliveryIds(deliveryId)).build();
    }

    private static ConsumeResponse refused(String deliveryId, String reason) {
        return ConsumeResponse.newBuilder().setRefused(Refused.newBuilder().setDeliveryId(deliveryId).setReason(reason)).build();
    }

    private static ConsumeResponse goodbye(Duration retryAfter) {
        return ConsumeResponse.newBuilder().setGoodbye(Goodbye.newBuilder().setRetryAfter(Session.duration(retryAfter))).build();
    }

    @Test
    void joinsWithCreditsThatComeBack() throws Exception {
        consume(OPTIONS.withWindow(32, 2).withHeartbeat(Duration.ofSeconds(5)), d -> Outcome.done());
        Join join = server.nextMember().next().getJoin();
        assertEquals("g", join.getGroup());
        assertEquals(32, join.getCredit().getEvents());
        assertEquals(32, join.getMaxBatchEvents());
        assertTrue(join.getAutoCredit());
        assertEquals(EventView.EVENT_VIEW_TYPED, join.getView());
        assertEquals(5, join.getHeartbeatInterval().getSeconds());
        assertEquals(Bridge.DEFAULT_MAX_MESSAGE_BYTES, join.getMaxMessageBytes());
    }

    @Test
    void acknowledgesAfterTheHandlerAndAsksForConfirmation() throws Exception {
        CountDownLatch gate = new CountDownLatch(1);
        BlockingQueue<String> handled = new LinkedBlockingQueue<>();
        consume(d -> {
            gate.await();
            handled.add(d.getEvent().getId());
            return Outcome.done();
        });
        var member = join(joined());
        member.send(delivery("d1", "e1"));
        assertTrue(member.requests().isEmpty());
        gate.countDown();
        assertAcks("d1", member);
        assertEquals("e1", handled.poll());
    }

    @Test
    void eachOfThoseThatComeTogetherIsSettledByItself() throws Exception {
        consume(d -> d.getEvent().getId().equals("bad") ? Outcome.park("no amount") : Outcome.done());
        var member = join(joined());
        member.send(ConsumeResponse.newBuilder()
                .setDeliveries(GroupDeliveryBatch.newBuilder()
                        .addDeliveries(delivery("d1", "e1").getDelivery())
                        .addDeliveries(delivery("d2", "bad").getDelivery())
                        .addDeliveries(delivery("d3", "e3").getDelivery()))
                .build());
        assertAcks("d1", member);
        assertEquals(List.of("d2"), member.next().getNack().getDeliveryIdsList());
        assertAcks("d3", member);
        member.send(delivery("d4", "e4"));
        assertAcks("d4", member);
    }

    @Test
    void aFailureIsARetryWhoseReasonHasNoPayloadValues() throws Exception {
        consume(d -> {
            throw new IllegalArgumentException("ticket 0012422313303 of Jane Doe");
        });
        var member = join(joined());
        member.send(delivery("d1", "e1"));
        ConsumeRequest nack = member.next();
        assertEquals(NackAction.NACK_ACTION_RETRY, nack.getNack().getAction());
        assertEquals(List.of("d1"), nack.getNack().getDeliveryIdsList());
        assertEquals("java.lang.IllegalArgumentException", nack.getNack().getReason());
        assertFalse(nack.getNack().hasRetryAfter());
        assertFalse(notes.awaitLine("e1").contains("Jane"));
    }

    @Test
    void parksAndRetriesAsTheHandlerSays() throws Exception {
        consume(d -> d.getEvent().getId().equals("bad") ? Outcome.park("no amount") : Outcome.retry("later", Duration.ofMinutes(2)));
        var member = join(joined());
        member.send(delivery("d1", "bad"));
        member.send(delivery("d2", "busy"));
        ConsumeRequest park = member.next();
        assertEquals(NackAction.NACK_ACTION_PARK, park.getNack().getAction());
        assertEquals("no amount", park.getNack().getReason());
        ConsumeRequest retry = member.next();
        assertEquals(NackAction.NACK_ACTION_RETRY, retry.getNack().getAction());
        assertEquals(120, retry.getNack().getRetryAfter().getSeconds());
    }

    @Test
    void extendsWhatItHoldsWhileAHandlerIsSlow() throws Exception {
        CountDownLatch gate = new CountDownLatch(1);
        consume(d -> {
            gate.await();
            return Outcome.done();
        });
        var member = join(joined(Duration.ofSeconds(15), Duration.ofSeconds(1)));
        Duration lease = Duration.ofSeconds(1);
        member.send(delivery("slow", "e1", 1, lease));
        member.send(delivery("waiting", "e2", 1, lease)); // its lease runs, too
        for (int i = 0; i < 2; i++) {
            long start = System.nanoTime();
            List<String> extended = member.next().getExtend().getDeliveryIdsList();
            if (extended.size() == 1) { // the two came a moment apart
                extended = List.of(extended.get(0), member.next().getExtend().getDeliveryIds(0));
            }
            assertEquals(List.of("slow", "waiting"), extended);
            assertTrue(System.nanoTime() - start < lease.toNanos() * 2 / 3, "too late");
        }
        gate.countDown();
        ConsumeRequest next = member.next();
        while (next.hasExtend()) {
            next = member.next();
        }
        assertEquals(List.of("slow"), next.getAck().getDeliveryIdsList());
    }

    @Test
    void aRefusalDoesNotEndTheStream() throws Exception {
        consume(d -> Outcome.done());
        var member = join(joined());
        member.send(delivery("d1", "e1"));
        assertAcks("d1", member);
        member.send(refused("d1", "STALE_DELIVERY"));
        member.send(delivery("d2", "e2"));
        assertAcks("d2", member);
        assertEquals("STALE_DELIVERY", take(notes.refusals, "a refusal").getReason());
    }

    @Test
    void anAckThatTheLogCouldNotTakeIsRepeated() throws Exception {
        consume(d -> Outcome.done());
        var member = join(joined());
        member.send(delivery("d1", "e1"));
        assertAcks("d1", member);
        member.send(refused("d1", "LOG_UNAVAILABLE"));
        assertAcks("d1", member);
        member.send(settled("d1"));
        member.send(delivery("d2", "e2"));
        assertAcks("d2", member); // and d1 no more
    }

    @Test
    void whatWasTakenAwayWhileItWasHandledIsNotAcknowledged() throws Exception {
        CountDownLatch gate = new CountDownLatch(1);
        consume(d -> {
            gate.await();
            return Outcome.done();
        });
        var member = join(joined(Duration.ofSeconds(15), Duration.ofSeconds(1)));
        member.send(delivery("d1", "e1", 1, Duration.ofSeconds(1)));
        assertEquals(List.of("d1"), member.next().getExtend().getDeliveryIdsList());
        member.send(refused("d1", "STALE_DELIVERY"));
        take(notes.refusals, "a refusal");
        gate.countDown();
        member.send(delivery("d2", "e2"));
        assertAcks("d2", member);
    }

    @Test
    void aLossIsLoud() throws Exception {
        consume(d -> Outcome.done());
        var member = join(joined());
        member.send(ConsumeResponse.newBuilder().setLost(Lost.newBuilder().setFromSequence(3).setToSequence(9).setEvents(4)).build());
        assertEquals(9, take(notes.losses, "a loss").getToSequence());
        assertEquals("LOST: the events from sequence 3 to 9 left the log before this group had them, at most 4 that it selects",
                notes.awaitLine("LOST"));
    }

    @Test
    void messagesOfANewerBridgeAreIgnored() throws Exception {
        consume(d -> Outcome.done());
        var member = join(joined());
        UnknownFieldSet news = UnknownFieldSet.newBuilder()
                .addField(77, UnknownFieldSet.Field.newBuilder().addLengthDelimited(ByteString.copyFromUtf8("x")).build())
                .build();
        member.send(ConsumeResponse.newBuilder().setUnknownFields(news).build());
        GroupDelivery delivery = delivery("d1", "e1").getDelivery().toBuilder().setUnknownFields(news).build();
        member.send(ConsumeResponse.newBuilder().setDelivery(delivery).build());
        assertAcks("d1", member);
    }

    @ParameterizedTest
    @EnumSource(value = Status.Code.class, mode = Mode.INCLUDE,
            names = {"UNAVAILABLE", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED", "CANCELLED", "INTERNAL", "UNKNOWN", "ABORTED"})
    void joinsAgainAfter(Status.Code code) throws Exception {
        consume(d -> Outcome.done());
        join(joined()).fail(failure(code, "SOME_REASON", Map.of()));
        var member = join(joined());
        member.send(delivery("d1", "e1"));
        assertAcks("d1", member);
        assertTrue(notes.awaitLine("trying again").contains(code + " SOME_REASON"));
    }

    @ParameterizedTest
    @EnumSource(value = Status.Code.class, mode = Mode.INCLUDE,
            names = {"INVALID_ARGUMENT", "NOT_FOUND", "OUT_OF_RANGE", "PERMISSION_DENIED", "UNAUTHENTICATED", "FAILED_PRECONDITION",
                    "UNIMPLEMENTED", "DATA_LOSS", "ALREADY_EXISTS"})
    void stopsAfter(Status.Code code) throws Exception {
        consume(d -> Outcome.done());
        server.nextMember().fail(failure(code, "GROUP_NOT_FOUND", Map.of("field", "join.group")));
        ExecutionException end = assertThrows(ExecutionException.class, () -> running.get(PATIENCE_SECONDS, TimeUnit.SECONDS));
        BridgeException failure = assertInstanceOf(BridgeException.class, end.getCause());
        assertEquals(code, failure.code());
        assertEquals("GROUP_NOT_FOUND", failure.reason());
        assertEquals(Map.of("field", "join.group"), failure.metadata());
        assertEquals(code + " GROUP_NOT_FOUND: as the test wants it", failure.getMessage());
    }

    @Test
    void joinsAgainAfterACutAndHandlesWhatComesAgainInAnotherOrder() throws Exception {
        try (FaultyProxy proxy = new FaultyProxy(server.port()); Bridge cut = Bridge.connect(proxy.target())) {
            bridge.close();
            bridge = cut;
            BlockingQueue<String> handled = new LinkedBlockingQueue<>();
            consume(d -> {
                handled.add(d.getEvent().getId() + "#" + d.getAttempt());
                return Outcome.done();
            });
            var member = join(joined());
            member.send(delivery("d1", "e1"));
            assertAcks("d1", member);
            member.send(delivery("d2", "e2"));
            assertAcks("d2", member);
            proxy.cut(); // neither ack was confirmed
            var again = join(joined());
            again.send(delivery("d4", "e2", 2, Duration.ofSeconds(30)));
            again.send(delivery("d3", "e1", 2, Duration.ofSeconds(30)));
            assertAcks("d4", again);
            assertAcks("d3", again);
            assertEquals(List.of("e1#1", "e2#1", "e2#2", "e1#2"), List.copyOf(handled));
        }
    }

    @Test
    void aSilentConnectionIsLeftAfterThreeConfirmedIntervals() throws Exception {
        try (FaultyProxy proxy = new FaultyProxy(server.port()); Bridge halfOpen = Bridge.connect(proxy.target())) {
            bridge.close();
            bridge = halfOpen;
            consume(d -> Outcome.done());
            var member = join(joined(Duration.ofMillis(200), Duration.ofSeconds(30)));
            long joined = System.nanoTime();
            for (int i = 0; i < 4; i++) { // alive for longer than three intervals
                member.send(ConsumeResponse.newBuilder().setHeartbeat(GroupHeartbeat.getDefaultInstance()).build());
                TimeUnit.MILLISECONDS.sleep(200); // the server's pace
            }
            assertTrue(notes.lines.stream().noneMatch(line -> line.contains("ended")), "a living stream was left");
            proxy.silence();
            var again = join(joined()); // although the old connection looks open: over a new one
            assertTrue(System.nanoTime() - joined < Duration.ofSeconds(10).toNanos());
            assertEquals(2, proxy.connections());
            assertTrue(notes.awaitLine("trying again").contains("no message for 3 heartbeat intervals"));
            again.send(delivery("d1", "e1"));
            assertAcks("d1", again);
        }
    }

    @Test
    void waitsAfterGoodbyeForAsLongAsItWasAsked() throws Exception {
        consume(d -> Outcome.done());
        var member = join(joined());
        member.send(goodbye(Duration.ofMillis(1500)));
        long told = System.nanoTime();
        member.end();
        server.nextMember();
        assertTrue(System.nanoTime() - told >= Duration.ofMillis(1400).toNanos(), "too early");
    }

    @Test
    void findsABridgeThatWasAwayForSeveralAttempts() throws Exception {
        int port = server.port();
        consume(d -> Outcome.done());
        join(joined());
        server.stop();
        for (int i = 0; i < 4; i++) { // the stream's end, and three refused connections
            notes.awaitLine("trying again");
        }
        long back = System.nanoTime();
        server = new FakeBridge(port);
        server.nextMember();
        // Its next attempt finds it, at most 4 s later: the channel's own waits, which grow to 2 minutes, do not come on top.
        assertTrue(System.nanoTime() - back < Duration.ofSeconds(5).toNanos());
    }

    @Test
    void waitsForARunningHandlerBeforeItJoinsAgainAndForgetsWhatWaited() throws Exception {
        CountDownLatch started = new CountDownLatch(1);
        CountDownLatch gate = new CountDownLatch(1);
        BlockingQueue<String> handled = new LinkedBlockingQueue<>();
        consume(d -> {
            started.countDown();
            gate.await();
            handled.add(d.getDeliveryId());
            return Outcome.done();
        });
        var member = join(joined());
        member.send(delivery("d1", "e1"));
        member.send(delivery("d2", "e2"));
        assertTrue(started.await(PATIENCE_SECONDS, TimeUnit.SECONDS));
        member.fail(failure(Status.Code.UNAVAILABLE, "DRAINING", Map.of()));
        // The first wait is 250 ms at most.
        assertFalse(server.hasMemberWithin(Duration.ofMillis(600)), "it joined while the event was still being handled");
        gate.countDown();
        var again = join(joined());
        again.send(delivery("d3", "e2", 2, Duration.ofSeconds(30)));
        assertAcks("d3", again);
        assertEquals(List.of("d1", "d3"), List.copyOf(handled));
    }

    @Test
    void leavesInGoodOrder() throws Exception {
        CountDownLatch started = new CountDownLatch(1);
        CountDownLatch gate = new CountDownLatch(1);
        consume(d -> {
            started.countDown();
            gate.await();
            return Outcome.done();
        });
        var member = join(joined());
        member.send(delivery("d1", "e1"));
        member.send(delivery("d2", "e2"));
        assertTrue(started.await(PATIENCE_SECONDS, TimeUnit.SECONDS));
        consumer.stop();
        assertTrue(member.next().hasLeave());
        assertFalse(running.isDone());
        gate.countDown();
        assertAcks("d1", member);
        assertAcks("d2", member); // what it held is finished, nothing is given back
        member.send(settled("d1"));
        member.send(settled("d2"));
        member.end();
        running.get(PATIENCE_SECONDS, TimeUnit.SECONDS);
    }

    @Test
    void endsAfterTheDrainEvenIfAHandlerDoesNot() throws Exception {
        CountDownLatch interrupted = new CountDownLatch(1);
        CountDownLatch started = new CountDownLatch(1);
        consume(OPTIONS.withDrain(Duration.ofMillis(300)), d -> {
            started.countDown();
            try {
                new CountDownLatch(1).await();
            } catch (InterruptedException e) {
                interrupted.countDown();
                throw e;
            }
            return Outcome.done();
        });
        join(joined()).send(delivery("d1", "e1"));
        assertTrue(started.await(PATIENCE_SECONDS, TimeUnit.SECONDS));
        consumer.stop();
        running.get(PATIENCE_SECONDS, TimeUnit.SECONDS);
        assertTrue(interrupted.await(PATIENCE_SECONDS, TimeUnit.SECONDS));
    }

    @Test
    void stopsAtOnceWhileItWaitsForTheNextAttempt() throws Exception {
        consume(d -> Outcome.done());
        var member = join(joined());
        member.send(goodbye(Duration.ofMinutes(10)));
        member.end();
        notes.awaitLine("trying again");
        consumer.stop();
        running.get(PATIENCE_SECONDS, TimeUnit.SECONDS);
    }

    @Test
    void stopsAtOnceWhenItHasNotJoined() throws Exception {
        consume(d -> Outcome.done());
        server.nextMember(); // never answered
        consumer.stop();
        running.get(PATIENCE_SECONDS, TimeUnit.SECONDS);
    }
}
