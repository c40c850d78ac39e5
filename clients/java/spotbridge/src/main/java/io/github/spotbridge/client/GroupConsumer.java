package io.github.spotbridge.client;

import io.github.spotbridge.v1.Ack;
import io.github.spotbridge.v1.ConsumeRequest;
import io.github.spotbridge.v1.ConsumeResponse;
import io.github.spotbridge.v1.ConsumerGroupServiceGrpc;
import io.github.spotbridge.v1.Credit;
import io.github.spotbridge.v1.EventView;
import io.github.spotbridge.v1.Extend;
import io.github.spotbridge.v1.GroupDelivery;
import io.github.spotbridge.v1.Join;
import io.github.spotbridge.v1.Joined;
import io.github.spotbridge.v1.Leave;
import io.github.spotbridge.v1.Nack;
import io.github.spotbridge.v1.Refused;
import io.grpc.Status;
import io.grpc.stub.ClientResponseObserver;
import java.time.Duration;
import java.time.Instant;
import java.time.temporal.ChronoUnit;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.Objects;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;

/**
 * A member of a consumer group. The bridge keeps the position; each event is given to the handler until the handler says that it
 * is done, so it may come twice: make handlers idempotent by the event's id.
 *
 * <p>What a handler takes long for is extended, an ack is repeated when the log could not take it, and {@link #stop} leaves the
 * group in good order, so that nothing comes twice because of a deploy. When a stream breaks, handlers that run are waited for
 * before the group is joined again: one member does not handle an event twice at a time.
 */
public final class GroupConsumer extends ResumingStream {
    /** Handles one delivery. It is called by {@code concurrency} threads; what it throws is {@code Outcome.retry}. */
    @FunctionalInterface
    public interface Handler {
        Outcome handle(GroupDelivery delivery) throws Exception;
    }

    /**
     * How to consume.
     *
     * @param clientName for people, at most 128 bytes
     * @param view parts of each event; UNSPECIFIED is the group's view
     * @param window events to hold at a time, 1 to 1,000; more than {@code concurrency} hides the way to the bridge
     * @param concurrency events to handle at a time
     * @param heartbeat interval to ask for, 5 s to 60 s
     * @param drain how long {@link #stop} waits for what is in hand
     */
    public record Options(String clientName, EventView view, int window, int concurrency, Duration heartbeat, Duration drain) {
        public Options {
            if (concurrency < 1 || window < concurrency || window > 1000) {
                throw new IllegalArgumentException("concurrency must be at least 1, and window from there to 1,000");
            }
        }

        public static Options named(String clientName) {
            return new Options(clientName, EventView.EVENT_VIEW_UNSPECIFIED, 16, 1, Duration.ofSeconds(15), Duration.ofSeconds(8));
        }

        public Options withView(EventView view) {
            return new Options(clientName, view, window, concurrency, heartbeat, drain);
        }

        public Options withWindow(int window, int concurrency) {
            return new Options(clientName, view, window, concurrency, heartbeat, drain);
        }

        public Options withHeartbeat(Duration heartbeat) {
            return new Options(clientName, view, window, concurrency, heartbeat, drain);
        }

        public Options withDrain(Duration drain) {
            return new Options(clientName, view, window, concurrency, heartbeat, drain);
        }
    }

    private static final long SHORTEST_LEASE = Duration.ofSeconds(1).toNanos();
    private static final long LONGEST_LEASE = Duration.ofMinutes(10).toNanos();
    private static final long AGAIN = Duration.ofSeconds(1).toNanos();

    private final String group;
    private final Options options;
    private final Handler handler;
    private final ExecutorService handlers;

    public GroupConsumer(Bridge bridge, String group, Options options, Handler handler, Notices notices) {
        super(bridge, notices);
        this.group = group;
        this.options = options;
        this.handler = handler;
        this.handlers = Executors.newFixedThreadPool(options.concurrency(), task -> {
            Thread thread = new Thread(task, "spotbridge-" + group);
            thread.setDaemon(true);
            return thread;
        });
    }

    @Override
    Session<?, ?> newSession() {
        return new Membership();
    }

    @Override
    boolean endsWithOk() {
        return false;
    }

    @Override
    void release() {
        handlers.shutdownNow(); // only those that outlasted the drain, or an interruption of run, are still at work
    }

    /** Handles a delivery; whatever goes wrong is told by its kind alone, since texts of exceptions may quote payloads. */
    private Outcome handle(GroupDelivery delivery) {
        try {
            return Objects.requireNonNull(handler.handle(delivery), "the handler returned no outcome");
        } catch (Exception | Error e) {
            return Outcome.retry(e.getClass().getName());
        }
    }

    /** A delivery that is not settled yet. */
    private static final class Held {
        final GroupDelivery delivery;
        final long lease;
        Outcome outcome; // null while it is handled
        long dueAt; // when to extend it, or to repeat its ack

        Held(GroupDelivery delivery, long lease) {
            this.delivery = delivery;
            this.lease = lease;
            extended();
        }

        void extended() {
            dueAt = Session.now() + lease / 3;
        }
    }

    /** One stream as a member. */
    private final class Membership extends Session<ConsumeRequest, ConsumeResponse> {
        private final Map<String, Held> held = new LinkedHashMap<>();
        private Joined joined;
        private long joinedAt;
        private int handling;
        private long drainUntil = NEVER;

        Membership() {
            super(options.heartbeat());
        }

        @Override
        void open(ClientResponseObserver<ConsumeRequest, ConsumeResponse> observer) {
            ConsumerGroupServiceGrpc.newStub(bridge.channel()).consume(observer);
            send(ConsumeRequest.newBuilder()
                    .setJoin(Join.newBuilder()
                            .setGroup(group)
                            .setClientName(options.clientName())
                            .setView(options.view())
                            .setCredit(Credit.newBuilder().setEvents(options.window()))
                            .setAutoCredit(true) // settling gives credits back: the first ones are a window
                            .setMaxBatchEvents(options.window()) // what fits into it may come at once
                            .setMaxMessageBytes(bridge.maxMessageBytes())
                            .setHeartbeatInterval(duration(options.heartbeat())))
                    .build());
        }

        @Override
        void received(ConsumeResponse message) {
            if (!message.hasJoined()) {
                progress();
            }
            switch (message.getContentCase()) {
                case JOINED -> joined(message.getJoined());
                case DELIVERY -> delivered(message.getDelivery());
                case DELIVERIES -> message.getDeliveries().getDeliveriesList().forEach(this::delivered);
                case SETTLED -> message.getSettled().getDeliveryIdsList().forEach(held::remove);
                case REFUSED -> refused(message.getRefused());
                case LOST -> notices.lost(message.getLost());
                case GOODBYE -> goodbye(message.getGoodbye().getRetryAfter());
                default -> { } // heartbeats, and what a newer bridge may say
            }
        }

        private void joined(Joined confirmation) {
            joined = confirmation;
            joinedAt = now();
            if (confirmation.hasHeartbeatInterval()) {
                watch(duration(confirmation.getHeartbeatInterval()));
            }
            notices.notice("joined " + group + " as member " + confirmation.getMemberId());
        }

        private void delivered(GroupDelivery delivery) {
            Held it = new Held(delivery, lease(delivery));
            held.put(delivery.getDeliveryId(), it);
            handling++;
            handlers.execute(() -> {
                // When the stream is over, others have the event already.
                Outcome outcome = hasEnded() ? null : handle(delivery);
                post(() -> handled(it, outcome));
            });
        }

        /** How long a delivery is ours: its deadline is told by the server's clock, and so was the time of the confirmation. */
        private long lease(GroupDelivery delivery) {
            if (joined == null) {
                return SHORTEST_LEASE;
            }
            Instant serverTime = instant(joined.getServerTime()).plusNanos(now() - joinedAt);
            long lease = serverTime.until(instant(delivery.getAckDeadlineTime()), ChronoUnit.NANOS);
            return Math.min(Math.max(lease, SHORTEST_LEASE), LONGEST_LEASE);
        }

        private void handled(Held it, Outcome outcome) {
            handling--;
            if (outcome == null || hasEnded()) {
                return;
            }
            if (!outcome.isDone()) {
                notices.notice(it.delivery.getEvent().getId() + ", attempt " + it.delivery.getAttempt() + ": "
                        + outcome.action().name().replace("NACK_ACTION_", "") + ": " + outcome.reason());
            }
            String id = it.delivery.getDeliveryId();
            if (held.get(id) != it) {
                return; // an extension was refused: it has become somebody else's
            }
            it.outcome = outcome;
            if (outcome.isDone()) {
                ack(it);
            } else {
                held.remove(id); // a nack is not confirmed; one that gets lost is a retry after the deadline
                send(nack(id, outcome));
            }
        }

        private void ack(Held it) {
            it.dueAt = NEVER;
            send(ConsumeRequest.newBuilder()
                    .setAck(Ack.newBuilder().addDeliveryIds(it.delivery.getDeliveryId()).setConfirm(true))
                    .build());
        }

        private ConsumeRequest nack(String id, Outcome outcome) {
            Nack.Builder nack = Nack.newBuilder().addDeliveryIds(id).setAction(outcome.action()).setReason(outcome.reason());
            if (outcome.retryAfter() != null) {
                nack.setRetryAfter(duration(outcome.retryAfter()));
            }
            return ConsumeRequest.newBuilder().setNack(nack).build();
        }

        private void refused(Refused refusal) {
            Held it = held.get(refusal.getDeliveryId());
            if (it != null && refusal.getReason().equals("LOG_UNAVAILABLE")) {
                it.dueAt = now() + AGAIN; // nothing was changed: the same ack or extension again
                return;
            }
            held.remove(refusal.getDeliveryId());
            notices.refused(refusal);
        }

        @Override
        long tick() {
            long now = now();
            if (now >= drainUntil) {
                end(Status.CANCELLED, null);
                return now;
            }
            long next = drainUntil;
            Extend.Builder extend = Extend.newBuilder();
            for (Held it : held.values()) {
                if (it.dueAt <= now) {
                    if (it.outcome == null) {
                        extend.addDeliveryIds(it.delivery.getDeliveryId());
                        it.extended();
                    } else {
                        ack(it);
                    }
                }
                next = Math.min(next, it.dueAt);
            }
            if (extend.getDeliveryIdsCount() > 0) {
                send(ConsumeRequest.newBuilder().setExtend(extend).build());
            }
            return next;
        }

        @Override
        void stop() {
            if (drainUntil != NEVER) {
                return;
            }
            drainUntil = now() + options.drain().toNanos();
            if (joined == null) {
                end(Status.CANCELLED, null); // it holds nothing
            }
            // The bridge ends the stream when everything that it gave to this member is settled.
            send(ConsumeRequest.newBuilder().setLeave(Leave.getDefaultInstance()).build());
        }

        @Override
        void ended() throws InterruptedException {
            held.clear();
            while (handling > 0 && now() < drainUntil) {
                step(drainUntil);
            }
        }

        private static Instant instant(com.google.protobuf.Timestamp t) {
            return Instant.ofEpochSecond(t.getSeconds(), t.getNanos());
        }
    }
}
