package io.github.spotbridge.feed;

import static org.junit.jupiter.api.Assertions.assertDoesNotThrow;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import io.github.spotbridge.client.Bridge;
import io.github.spotbridge.client.GroupConsumer;
import io.github.spotbridge.client.Outcome;
import io.github.spotbridge.v1.ConsumerGroupServiceGrpc;
import io.github.spotbridge.v1.ConsumerGroupState;
import io.github.spotbridge.v1.Event;
import io.github.spotbridge.v1.EventServiceGrpc;
import io.github.spotbridge.v1.GetConsumerGroupRequest;
import io.github.spotbridge.v1.ListEventsRequest;
import io.github.spotbridge.v1.ListEventsResponse;
import io.github.spotbridge.v1.Order;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Set;
import java.util.concurrent.Callable;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** The feed as people run it, a process, against the bridge's own program. */
class AgainstTheBridgeTest {
    private static final long PATIENCE_SECONDS = 60;

    @TempDir
    private Path folder;

    private RealBridge bridge;
    private final List<Process> feeds = new ArrayList<>();

    @BeforeEach
    void start() throws IOException {
        String program = System.getenv("SPOTBRIDGE_BIN");
        assumeTrue(program != null, "SPOTBRIDGE_BIN, the path of a built spotbridge, is not set");
        bridge = new RealBridge(program, folder.resolve("data"));
    }

    @AfterEach
    void end() {
        feeds.forEach(Process::destroyForcibly);
        if (bridge != null) {
            bridge.close();
        }
    }

    private String db() {
        return folder.resolve("expenses.db").toString();
    }

    private Process feed(String... arguments) throws IOException {
        List<String> command = new ArrayList<>(List.of(
                Path.of(System.getProperty("java.home"), "bin", "java").toString(), "-XX:TieredStopAtLevel=1",
                "-Dorg.sqlite.tmpdir=" + folder, "-cp", System.getProperty("java.class.path"), ExpenseFeed.class.getName()));
        command.addAll(List.of(arguments));
        ProcessBuilder builder = new ProcessBuilder(command);
        builder.environment().put("SPOTBRIDGE_GRPC", bridge.grpc());
        builder.environment().put("EXPENSES_DB", db());
        builder.environment().put("SPOTBRIDGE_HEARTBEAT", "5s");
        builder.redirectError(ProcessBuilder.Redirect.appendTo(folder.resolve("notices").toFile()));
        Process process = builder.start();
        feeds.add(process);
        return process;
    }

    private int exitOf(Process process) throws InterruptedException {
        assertTrue(process.waitFor(PATIENCE_SECONDS, TimeUnit.SECONDS), "it did not end");
        return process.exitValue();
    }

    private static void await(String what, Callable<Boolean> condition) throws Exception {
        long end = System.nanoTime() + TimeUnit.SECONDS.toNanos(PATIENCE_SECONDS);
        while (!condition.call()) {
            assertTrue(System.nanoTime() < end, what + " did not come to be");
            TimeUnit.MILLISECONDS.sleep(20);
        }
    }

    private int processed() throws Exception {
        try (Ledger ledger = Ledger.open(db())) {
            return ledger.processed().size();
        }
    }

    /** The table as the bridge's history has it, read without the group. */
    private List<String> expected() throws Exception {
        List<Event> events = new ArrayList<>();
        try (Bridge history = Bridge.connect(bridge.grpc()); Ledger ledger = Ledger.open(folder.resolve("expected.db").toString())) {
            ListEventsRequest.Builder request = ListEventsRequest.newBuilder().setOrder(Order.ORDER_OLDEST_FIRST).setPageSize(1000);
            ListEventsResponse page;
            do {
                page = EventServiceGrpc.newBlockingStub(history.channel()).listEvents(request.build());
                events.addAll(page.getEventsList());
                request.setPageToken(page.getNextPageToken());
            } while (!page.getNextPageToken().isEmpty());
            for (Event event : events) {
                Set<String> tickets = Expense.ticketsOf(event);
                if (!tickets.isEmpty()) {
                    ledger.process(event, tickets, event.getPnrV3());
                }
            }
            return ledger.dump();
        }
    }

    private List<String> lines(String command) throws Exception {
        Process process = feed(command);
        String output = new String(process.getInputStream().readAllBytes(), StandardCharsets.UTF_8);
        assertEquals(0, exitOf(process));
        return output.lines().toList();
    }

    private ConsumerGroupState group() {
        try (Bridge admin = Bridge.connect(bridge.grpc())) {
            return ConsumerGroupServiceGrpc.newBlockingStub(admin.channel())
                    .getConsumerGroup(GetConsumerGroupRequest.newBuilder().setGroup("expenses").build())
                    .getGroup()
                    .getState();
        }
    }

    @Test
    void nothingIsLostOrCountedTwiceWhenEitherSideIsKilled() throws Exception {
        bridge.createGroup("expenses");
        bridge.trigger("--lifecycle", "air-void", "--count", "10");
        bridge.trigger("--lifecycle", "air-refund", "--count", "10");

        Process feed = feed();
        await("a part of the table", () -> processed() >= 3);
        feed.destroyForcibly();
        exitOf(feed);

        feed = feed();
        int before = processed();
        await("more of the table", () -> processed() > before || processed() == 40);
        bridge.kill();
        bridge.start();
        bridge.trigger("--lifecycle", "air-refund", "--count", "3");
        await("the whole table", () -> processed() == 46);
        await("the last ack", () -> group().getLagEvents() == 0);

        feed.destroy();
        assertEquals(0, exitOf(feed));
        assertEquals(expected(), lines("dump"));
        assertEquals(2, lines("dump").size()); // the stories are all of the same two tickets
        assertEquals(46, lines("processed").size());
        assertEquals(0, group().getInFlightEvents());
        assertEquals(0, group().getDeadLetters());
        assertEquals(0, group().getMembersCount());
    }

    @Test
    void whatAStoppedFeedHeldIsFinishedAndNothingComesTwice() throws Exception {
        bridge.createGroup("expenses");
        bridge.trigger("--lifecycle", "air-void", "--count", "40");
        Process feed = feed();
        await("a part of the table", () -> processed() >= 1);
        feed.destroy();
        assertEquals(0, exitOf(feed));
        int done = processed();

        List<Integer> attempts = new CopyOnWriteArrayList<>();
        try (Bridge channel = Bridge.connect(bridge.grpc())) {
            GroupConsumer rest = new GroupConsumer(channel, "expenses", GroupConsumer.Options.named("rest"), delivery -> {
                attempts.add(delivery.getAttempt());
                return Outcome.done();
            }, line -> { });
            CompletableFuture<Void> running = CompletableFuture.runAsync(() -> assertDoesNotThrow(rest::run));
            await("the rest", () -> attempts.size() + done >= 80 && group().getLagEvents() == 0);
            rest.stop();
            running.get(PATIENCE_SECONDS, TimeUnit.SECONDS);
        }
        assertEquals(80 - done, attempts.size());
        assertEquals(Set.of(1), Set.copyOf(attempts), "delivered again");
    }

    @Test
    void anEventThatIsTooLargeForTheStreamIsReadByItsBody() throws Exception {
        String body = """
                {"eventType": "PNR_V3", "operation": "BOOKING_TICKETED", "timestamp": "2026-03-09T02:02:22.947Z",
                 "operationSummary": {"ticketsIssued": ["0017777777777"]}, "audience": {"organizationId": "org-1"},
                 "payload": {"pnrId": "4711", "data": {"version": 3, "pnrId": "4711", "totalFare": {"amount": 12.34, "currencyCode": "EUR"},
                 "airPnr": {"travelerInfos": [{"userId": {"id": "u-1"}, "tickets": [{"ticketNumber": "0017777777777"}]}]},
                 "preBookAnswers": {"preBookQuestionResponseId": "%s"}}}}
                """.formatted("x".repeat(5 << 20));
        Path file = Files.writeString(folder.resolve("large.json"), body);
        bridge.createGroup("expenses");
        bridge.trigger("--file", file.toString());
        Process feed = feed();
        await("the expense", () -> processed() == 1);
        feed.destroy();
        assertEquals(0, exitOf(feed));
        String row = lines("dump").get(0);
        assertTrue(row.startsWith("0017777777777\t4711\torg-1\tu-1\tEUR\t12340\t0\t12340\tISSUED\t3\tsandbox."), row);
    }

    @Test
    void theExitCodeSaysWhatHappened() throws Exception {
        assertEquals(1, exitOf(feed())); // there is no group
        assertTrue(Files.readString(folder.resolve("notices")).contains("NOT_FOUND GROUP_NOT_FOUND"));
        assertEquals(2, exitOf(feed("eat")));
        assertEquals(2, exitOf(feed("run", "dump")));

        bridge.createGroup("expenses");
        Process feed = feed();
        await("a member", () -> group().getMembersCount() == 1);
        bridge.kill(); // also while it has no connection
        await("a notice", () -> Files.readString(folder.resolve("notices")).contains("trying again"));
        feed.destroy();
        assertEquals(0, exitOf(feed));
        assertFalse(Files.readString(folder.resolve("notices")).contains("Exception"));
    }
}
