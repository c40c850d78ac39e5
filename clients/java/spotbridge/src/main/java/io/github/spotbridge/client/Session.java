package io.github.spotbridge.client;

import io.grpc.Metadata;
import io.grpc.Status;
import io.grpc.stub.ClientCallStreamObserver;
import io.grpc.stub.ClientResponseObserver;
import java.time.Duration;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;

/**
 * One stream. Whatever happens to it, messages, results of handlers, the wish to stop, is put into its mailbox and carried out by
 * the one thread in {@link #run}: what a session knows needs no locks, and the stream has one sender.
 */
abstract class Session<Q, R> {
    static final long NEVER = Long.MAX_VALUE;

    /** Messages that may wait in the mailbox; further ones wait in HTTP/2's window, and at last in the bridge. */
    private static final int INBOX = 16;
    private static final int MISSED_HEARTBEATS = 3;
    private static final long EPOCH = System.nanoTime();

    private final BlockingQueue<Runnable> mailbox = new LinkedBlockingQueue<>();
    private ClientCallStreamObserver<Q> call;
    private long silence; // how long a stream may be silent
    private long heard = now();
    private volatile Ending ending; // written by run's thread, read by handlers' as well
    private boolean progressed;
    private Duration retryAfter = Duration.ZERO;

    /** How a stream ended. */
    record Ending(Status status, Metadata trailers) {}

    Session(Duration requestedHeartbeat) {
        watch(requestedHeartbeat);
    }

    /** Begins the call with this observer, and sends what comes first. */
    abstract void open(ClientResponseObserver<Q, R> observer);

    /** Handles a message. */
    abstract void received(R message);

    /** Does what is due, and returns when it wants to be called again, at the latest. */
    abstract long tick();

    /** Ends the stream in good order. */
    abstract void stop();

    /** Called when the stream has ended, before {@link #run} returns. */
    void ended() throws InterruptedException {}

    /** Nanoseconds since the program began, so that times can be compared. */
    static long now() {
        return System.nanoTime() - EPOCH;
    }

    /** Has the thread in {@link #run} do something. */
    final void post(Runnable what) {
        mailbox.add(what);
    }

    /** Drives the stream until it has ended. */
    final Ending run() throws InterruptedException {
        open(new Observer());
        try {
            while (ending == null) {
                step(Math.min(tick(), heard + silence));
                // A message that came while this thread was busy is no silence: the mailbox was empty all the time.
                if (now() - heard >= silence && mailbox.isEmpty()) {
                    end(Status.UNAVAILABLE.withDescription("no message for " + MISSED_HEARTBEATS + " heartbeat intervals"), null);
                }
            }
        } finally {
            if (ending == null) {
                end(Status.CANCELLED, null);
            }
        }
        ended();
        return ending;
    }

    /** Waits for something to happen, until then. */
    final void step(long until) throws InterruptedException {
        Runnable next = mailbox.poll(Math.max(0, until - now()), TimeUnit.NANOSECONDS);
        if (next != null) {
            next.run();
        }
    }

    final void send(Q message) {
        if (ending == null) {
            call.onNext(message);
        }
    }

    /** Ends the stream from this side, whatever the server does. */
    final void end(Status status, Metadata trailers) {
        if (ending == null) {
            ending = new Ending(status, trailers);
            call.cancel("the session is over", null);
        }
    }

    /** Takes the stream for dead when heartbeats of this interval fail to come. */
    final void watch(Duration interval) {
        silence = MISSED_HEARTBEATS * interval.toNanos();
    }

    final void goodbye(com.google.protobuf.Duration wait) {
        retryAfter = duration(wait);
    }

    final boolean hasEnded() {
        return ending != null;
    }

    /** Whether there was a message beyond the confirmation. */
    final boolean progressed() {
        return progressed;
    }

    /** How long the server wants to be left alone. */
    final Duration retryAfter() {
        return retryAfter;
    }

    final void progress() {
        progressed = true;
    }

    static Duration duration(com.google.protobuf.Duration d) {
        return Duration.ofSeconds(d.getSeconds(), d.getNanos());
    }

    static com.google.protobuf.Duration duration(Duration d) {
        return com.google.protobuf.Duration.newBuilder().setSeconds(d.getSeconds()).setNanos(d.getNano()).build();
    }

    private final class Observer implements ClientResponseObserver<Q, R> {
        @Override
        public void beforeStart(ClientCallStreamObserver<Q> started) {
            call = started;
            call.disableAutoRequestWithInitial(INBOX);
        }

        @Override
        public void onNext(R message) {
            post(() -> {
                if (ending == null) {
                    received(message);
                    heard = now();
                }
                if (ending == null) {
                    call.request(1);
                }
            });
        }

        @Override
        public void onError(Throwable failure) {
            post(() -> end(Status.fromThrowable(failure), Status.trailersFromThrowable(failure)));
        }

        @Override
        public void onCompleted() {
            post(() -> end(Status.OK, null));
        }
    }
}
