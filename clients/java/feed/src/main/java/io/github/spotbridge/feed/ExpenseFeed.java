package io.github.spotbridge.feed;

import io.github.spotbridge.client.Bridge;
import io.github.spotbridge.client.BridgeException;
import io.github.spotbridge.client.GroupConsumer;
import io.github.spotbridge.client.GroupConsumer.Options;
import io.github.spotbridge.client.Outcome;
import io.github.spotbridge.payload.v1.PnrData;
import io.github.spotbridge.v1.Event;
import io.github.spotbridge.v1.EventView;
import io.github.spotbridge.v1.GroupDelivery;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.sql.SQLException;
import java.time.Duration;
import java.util.List;
import java.util.Set;
import java.util.concurrent.CompletableFuture;
import sun.misc.Signal;

/** Keeps a table of expenses by the tickets that a consumer group delivers. */
final class ExpenseFeed {
    private final Bridge bridge;
    private final Ledger ledger;

    ExpenseFeed(Bridge bridge, Ledger ledger) {
        this.bridge = bridge;
        this.ledger = ledger;
    }

    /** Handles a delivery: what it changes is committed before it is acknowledged. */
    Outcome handle(GroupDelivery delivery) throws SQLException {
        Event event = delivery.getEvent();
        if (!ledger.hasProcessed(event.getId())) {
            Set<String> tickets = Expense.ticketsOf(event);
            ledger.process(event, tickets, tickets.isEmpty() ? PnrData.getDefaultInstance() : payload(event));
        }
        return Outcome.done();
    }

    private PnrData payload(Event event) {
        return event.hasOmitted() ? BodyReader.booking(bridge.eventBody(event.getId())) : event.getPnrV3();
    }

    public static void main(String[] args) throws InterruptedException {
        System.exit(command(args));
    }

    private static int command(String[] args) throws InterruptedException {
        String command = args.length == 0 ? "run" : args[0];
        if (args.length > 1 || !List.of("run", "dump", "processed").contains(command)) {
            return complain("usage: expense-feed [run|dump|processed]", 2);
        }
        String heartbeat = env("SPOTBRIDGE_HEARTBEAT", "15s");
        if (!heartbeat.matches("([5-9]|[1-5][0-9]|60)s")) {
            return complain("SPOTBRIDGE_HEARTBEAT must be 5s to 60s, in whole seconds", 2);
        }
        // Not a shutdown hook: after SIGTERM the JVM exits with 143, whatever its hooks have done.
        CompletableFuture<GroupConsumer> running = new CompletableFuture<>();
        if (command.equals("run")) {
            for (String name : List.of("TERM", "INT")) {
                Signal.handle(new Signal(name), signal -> running.thenAccept(GroupConsumer::stop));
            }
        }
        try (Ledger ledger = Ledger.open(env("EXPENSES_DB", "expenses.db"))) {
            switch (command) {
                case "dump" -> print(ledger.dump());
                case "processed" -> print(ledger.processed());
                default -> {
                    try (Bridge bridge = Bridge.connect(env("SPOTBRIDGE_GRPC", "127.0.0.1:9090"))) {
                        Options options = Options.named("expense-feed in Java")
                                .withView(EventView.EVENT_VIEW_TYPED)
                                .withHeartbeat(Duration.parse("PT" + heartbeat));
                        GroupConsumer consumer = new GroupConsumer(
                                bridge, env("SPOTBRIDGE_GROUP", "expenses"), options,
                                new ExpenseFeed(bridge, ledger)::handle, line -> complain(line, 0));
                        running.complete(consumer);
                        consumer.run();
                    }
                }
            }
            return 0;
        } catch (BridgeException | SQLException e) {
            return complain(e.getMessage(), 1);
        }
    }

    private static void print(List<String> lines) {
        PrintStream out = new PrintStream(System.out, false, StandardCharsets.UTF_8);
        lines.forEach(line -> out.print(line + "\n"));
        out.flush();
    }

    private static int complain(String line, int exitCode) {
        System.err.println("expense-feed: " + line);
        return exitCode;
    }

    private static String env(String name, String otherwise) {
        return System.getenv().getOrDefault(name, otherwise);
    }
}
