package io.github.spotbridge.client;

import io.github.spotbridge.v1.SubscribeRequest;
import io.github.spotbridge.v1.SubscribeResponse;
import io.github.spotbridge.v1.SubscriptionServiceGrpc;
import io.grpc.Status;
import io.grpc.stub.ClientResponseObserver;
import java.time.Duration;

/**
 * A subscription, resumed with its cursor. The handler gets every message, those that are no events too, and stores the message's
 * cursor together with its own result; the next program begins with that cursor as {@code after_cursor}.
 */
public final class Subscriber extends ResumingStream {
    /** Handles a message, on the thread in {@code run}. What it throws ends {@code run}. */
    @FunctionalInterface
    public interface Handler {
        void handle(SubscribeResponse message);
    }

    private static final Duration DEFAULT_HEARTBEAT = Duration.ofSeconds(15);

    private final Handler handler;
    private SubscribeRequest request;
    private boolean complete;

    public Subscriber(Bridge bridge, SubscribeRequest request, Handler handler, Notices notices) {
        super(bridge, notices);
        this.handler = handler;
        this.request = request.getMaxMessageBytes() != 0
                ? request
                : request.toBuilder().setMaxMessageBytes(bridge.maxMessageBytes()).build();
    }

    @Override
    Session<?, ?> newSession() {
        return new Reading();
    }

    @Override
    boolean endsWithOk() {
        return complete;
    }

    @Override
    void release() {}

    private Duration requestedHeartbeat() {
        return request.hasHeartbeatInterval() ? Session.duration(request.getHeartbeatInterval()) : DEFAULT_HEARTBEAT;
    }

    /** One stream of it. */
    private final class Reading extends Session<SubscribeRequest, SubscribeResponse> {
        Reading() {
            super(requestedHeartbeat());
        }

        @Override
        void open(ClientResponseObserver<SubscribeRequest, SubscribeResponse> observer) {
            SubscriptionServiceGrpc.newStub(bridge.channel()).subscribe(request, observer);
        }

        @Override
        void received(SubscribeResponse message) {
            switch (message.getContentCase()) {
                case CONFIRMATION -> {
                    if (message.getConfirmation().hasHeartbeatInterval()) {
                        watch(duration(message.getConfirmation().getHeartbeatInterval()));
                    }
                    message.getConfirmation().getWarningsList()
                            .forEach(w -> notices.notice("warning: " + w.getField() + ": " + w.getMessage()));
                }
                case CAUGHT_UP -> complete = request.getStopAtHead();
                case GOODBYE -> goodbye(message.getGoodbye().getRetryAfter());
                default -> { }
            }
            if (!message.hasConfirmation()) {
                progress();
            }
            handler.handle(message);
            if (!message.getCursor().isEmpty()) {
                request = request.toBuilder().clearStart().clearFromTime().setAfterCursor(message.getCursor()).build();
            }
        }

        @Override
        long tick() {
            return NEVER;
        }

        @Override
        void stop() {
            end(Status.CANCELLED, null);
        }
    }
}
