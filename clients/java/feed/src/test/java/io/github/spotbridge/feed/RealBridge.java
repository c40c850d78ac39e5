package io.github.spotbridge.feed;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.BufferedReader;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.TimeUnit;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/** The bridge's own program, with data in a folder of the test. A killed one comes back at the same addresses. */
final class RealBridge implements AutoCloseable {
    private static final Pattern LISTENING = Pattern.compile("webhook=(\\S+) rest=(\\S+) grpc=(\\S+) admin=(\\S+)");

    private final String program;
    private final Path data;
    private List<String> addresses = List.of("127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0");
    private Process process;

    RealBridge(String program, Path data) throws IOException {
        this.program = program;
        this.data = data;
        start();
    }

    void start() throws IOException {
        ProcessBuilder builder = builder(List.of("dev", "--no-traffic"));
        Map<String, String> env = builder.environment();
        env.put("SPOTBRIDGE_DATA_DIR", data.toString());
        env.put("SPOTBRIDGE_LISTEN_WEBHOOK", addresses.get(0));
        env.put("SPOTBRIDGE_LISTEN_REST", addresses.get(1));
        env.put("SPOTBRIDGE_LISTEN_GRPC", addresses.get(2));
        env.put("SPOTBRIDGE_LISTEN_ADMIN", addresses.get(3));
        process = builder.start();
        BufferedReader output = process.inputReader();
        for (String line = output.readLine(); line != null; line = output.readLine()) {
            Matcher listening = LISTENING.matcher(line);
            if (listening.find()) {
                addresses = List.of(listening.group(1), listening.group(2), listening.group(3), listening.group(4));
            }
            if (line.contains("the door is open")) {
                Thread reader = new Thread(() -> output.lines().forEach(ignored -> { })); // a full pipe would stop it
                reader.setDaemon(true);
                reader.start();
                return;
            }
        }
        throw new IOException("the bridge ended");
    }

    String grpc() {
        return addresses.get(2);
    }

    /** Sends deliveries, as {@code spotbridge trigger} does with these arguments. */
    void trigger(String... arguments) throws Exception {
        List<String> all = new ArrayList<>(List.of("trigger", "--data-dir", data.toString(),
                "--url", "http://" + addresses.get(0) + "/webhooks/sandbox"));
        all.addAll(List.of(arguments));
        command(all);
    }

    void createGroup(String name) throws Exception {
        command(List.of("groups", "create", name, "--server", grpc(), "--type", "PNR_V3",
                "--operation", "BOOKING_TICKETED,TICKET_VOIDED,TICKET_REFUNDED", "--start", "earliest", "--ack-deadline", "3s"));
    }

    private void command(List<String> arguments) throws Exception {
        Process command = builder(arguments).start();
        String output = new String(command.getInputStream().readAllBytes(), StandardCharsets.UTF_8);
        assertTrue(command.waitFor(1, TimeUnit.MINUTES));
        assertEquals(0, command.exitValue(), output);
    }

    private ProcessBuilder builder(List<String> arguments) {
        List<String> command = new ArrayList<>(List.of(program));
        command.addAll(arguments);
        ProcessBuilder builder = new ProcessBuilder(command).redirectErrorStream(true);
        builder.environment().keySet().removeIf(name -> name.startsWith("SPOTBRIDGE_")); // it refuses those that it does not know
        return builder;
    }

    void kill() throws InterruptedException {
        process.destroyForcibly().waitFor();
    }

    @Override
    public void close() {
        process.destroyForcibly();
    }
}
