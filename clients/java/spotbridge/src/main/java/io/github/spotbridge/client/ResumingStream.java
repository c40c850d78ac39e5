package io.github.spotbridge.client;

import io.grpc.Status;
import java.time.Duration;
import java.util.SplittableRandom;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicBoolean;

/** A stream that is opened again whenever it ends in a way that means resume. */
abstract sealed class ResumingStream permits GroupConsumer, Subscriber {
    final Bridge bridge;
    final Notices notices;

    private final AtomicBoolean started = new AtomicBoolean();
    private final CountDownLatch stopping = new CountDownLatch(1);
    private volatile Session<?, ?> session;

    ResumingStream(Bridge bridge, Notices notices) {
        this.bridge = bridge;
        this.notices = notices;
    }

    abstract Session<?, ?> newSession();

    /** Whether the work is done when a stream ended with OK and without goodbye. */
    abstract boolean endsWithOk();

    /** Called once, at the end of {@link #run}. */
    abstract void release();

    /**
     * Consumes until {@link #stop} is called, and returns when what was in hand is finished. It may be called once.
     *
     * @throws BridgeException when the server's answer means that trying again is of no use
     * @throws InterruptedException when the thread was interrupted; what was in hand comes again
     */
    public final void run() throws InterruptedException {
        if (!started.compareAndSet(false, true)) {
            throw new IllegalStateException("run was called before");
        }
        Backoff backoff = new Backoff(new SplittableRandom());
        try {
            while (!isStopping()) {
                bridge.forgetConnection();
                session = newSession();
                if (isStopping()) {
                    return; // stop may not have seen this session
                }
                Session.Ending ending = session.run();
                Status status = ending.status();
                if (isStopping() || (status.isOk() && endsWithOk())) {
                    return;
                }
                if (!status.isOk() && !BridgeException.retryable(status.getCode())) {
                    throw BridgeException.of(status, ending.trailers());
                }
                if (session.progressed()) {
                    backoff.reset();
                }
                Duration wait = longer(backoff.next(), session.retryAfter());
                notices.notice("the stream ended" + why(ending) + "; trying again in " + wait.toMillis() + " ms");
                stopping.await(wait.toNanos(), TimeUnit.NANOSECONDS);
            }
        } finally {
            release();
        }
    }

    /** Has {@link #run} return: at once, or when what is in hand is finished. May be called by any thread, also before run. */
    public final void stop() {
        stopping.countDown();
        Session<?, ?> now = session;
        if (now != null) {
            now.post(now::stop);
        }
    }

    final boolean isStopping() {
        return stopping.getCount() == 0;
    }

    private static String why(Session.Ending ending) {
        return ending.status().isOk() ? "" : " (" + BridgeException.of(ending.status(), ending.trailers()).getMessage() + ")";
    }

    private static Duration longer(Duration a, Duration b) {
        return a.compareTo(b) > 0 ? a : b;
    }
}
