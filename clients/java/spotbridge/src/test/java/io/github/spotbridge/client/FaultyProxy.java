package io.github.spotbridge.client;

import java.io.IOException;
import java.net.InetAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.util.List;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.atomic.AtomicInteger;

/** Passes TCP connections on, until it is told to cut them, or to swallow what comes on them as a dead link does. */
final class FaultyProxy implements AutoCloseable {
    private final ServerSocket door = new ServerSocket(0, 50, InetAddress.getLoopbackAddress());
    private final int serverPort;
    private final List<Link> links = new CopyOnWriteArrayList<>();
    private final AtomicInteger connections = new AtomicInteger();

    private static final class Link {
        final Socket client;
        final Socket server;
        volatile boolean dead;

        Link(Socket client, Socket server) {
            this.client = client;
            this.server = server;
        }
    }

    FaultyProxy(int serverPort) throws IOException {
        this.serverPort = serverPort;
        start(this::accept);
    }

    String target() {
        return "127.0.0.1:" + door.getLocalPort();
    }

    int connections() {
        return connections.get();
    }

    /** Resets all connections. */
    void cut() throws IOException {
        for (Link link : links) {
            link.client.setSoLinger(true, 0);
            link.client.close();
            link.server.close();
        }
        links.clear();
    }

    /** From now on nothing passes on today's connections, and neither end is told. */
    void silence() {
        links.forEach(link -> link.dead = true);
    }

    @Override
    public void close() throws IOException {
        door.close();
        cut();
    }

    private void accept() {
        try {
            while (true) {
                Socket client = door.accept();
                Link link = new Link(client, new Socket(InetAddress.getLoopbackAddress(), serverPort));
                links.add(link);
                connections.incrementAndGet();
                start(() -> pump(link, client, link.server));
                start(() -> pump(link, link.server, client));
            }
        } catch (IOException closed) {
            // The test is over.
        }
    }

    private static void pump(Link link, Socket from, Socket to) {
        byte[] buffer = new byte[16 << 10];
        try {
            for (int n = from.getInputStream().read(buffer); n >= 0; n = from.getInputStream().read(buffer)) {
                if (!link.dead) {
                    to.getOutputStream().write(buffer, 0, n);
                }
            }
            if (!link.dead) {
                to.shutdownOutput();
            }
        } catch (IOException broken) {
            // Cut.
        }
    }

    private static void start(Runnable task) {
        Thread thread = new Thread(task, "faulty-proxy");
        thread.setDaemon(true);
        thread.start();
    }
}
