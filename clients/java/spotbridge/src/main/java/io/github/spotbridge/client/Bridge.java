package io.github.spotbridge.client;

import io.github.spotbridge.v1.EventServiceGrpc;
import io.github.spotbridge.v1.GetEventBodyRequest;
import io.grpc.ChannelCredentials;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.StatusRuntimeException;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.util.concurrent.TimeUnit;

/** A channel to a bridge, with settings that suit streams which last for days. */
public final class Bridge implements AutoCloseable {
    /** What a default client of gRPC accepts, less room for the server to be wrong by a little. */
    public static final int DEFAULT_MAX_MESSAGE_BYTES = (4 << 20) - (64 << 10);

    private static final int MIN_MAX_MESSAGE_BYTES = 64 << 10;
    private static final int MAX_MAX_MESSAGE_BYTES = 16 << 20;
    private static final int BODY_SECONDS = 60;

    private final ManagedChannel channel;
    private final int maxMessageBytes;

    private Bridge(ManagedChannel channel, int maxMessageBytes) {
        this.channel = channel;
        this.maxMessageBytes = maxMessageBytes;
    }

    /** Connects in plain text, when the first call is made. */
    public static Bridge connect(String target) {
        return connect(target, InsecureChannelCredentials.create(), DEFAULT_MAX_MESSAGE_BYTES);
    }

    /**
     * Connects when the first call is made. Events larger than {@code maxMessageBytes}, 64 KiB to 16 MiB, come as their envelope
     * with {@code omitted} set; the streams ask for this limit and the channel accepts it, so the two cannot disagree.
     */
    public static Bridge connect(String target, ChannelCredentials credentials, int maxMessageBytes) {
        if (maxMessageBytes < MIN_MAX_MESSAGE_BYTES || maxMessageBytes > MAX_MAX_MESSAGE_BYTES) {
            throw new IllegalArgumentException("maxMessageBytes must be 64 KiB to 16 MiB");
        }
        ManagedChannel channel = Grpc.newChannelBuilder(target, credentials)
                .maxInboundMessageSize(Math.max(maxMessageBytes, DEFAULT_MAX_MESSAGE_BYTES))
                // Finds a dead connection under calls that are not watched, and keeps middleboxes from forgetting it. The bridge
                // ends connections that ping more often than every 10 s.
                .keepAliveTime(30, TimeUnit.SECONDS)
                .keepAliveTimeout(10, TimeUnit.SECONDS)
                .build();
        return new Bridge(channel, maxMessageBytes);
    }

    /** The channel, for stubs of every other method. */
    public ManagedChannel channel() {
        return channel;
    }

    int maxMessageBytes() {
        return maxMessageBytes;
    }

    /**
     * Makes the next stream open a connection of its own. A connection that broke without a word still looks usable, and after
     * refused ones the channel waits for up to two minutes by itself; neither is to stand in the way of an attempt.
     */
    void forgetConnection() {
        channel.enterIdle();
    }

    /** Reads the exact body of an event, for example of one that was too large for the stream. */
    public byte[] eventBody(String eventId) {
        GetEventBodyRequest request = GetEventBodyRequest.newBuilder().setEventId(eventId).build();
        ByteArrayOutputStream body = new ByteArrayOutputStream();
        try {
            EventServiceGrpc.newBlockingStub(channel)
                    .withDeadlineAfter(BODY_SECONDS, TimeUnit.SECONDS)
                    .getEventBody(request)
                    .forEachRemaining(piece -> {
                        try {
                            piece.getChunk().writeTo(body);
                        } catch (IOException e) { // it does not happen in memory
                            throw new UncheckedIOException(e);
                        }
                    });
        } catch (StatusRuntimeException e) {
            throw BridgeException.of(e.getStatus(), e.getTrailers());
        }
        return body.toByteArray();
    }

    /** Ends all calls at once. */
    @Override
    public void close() {
        channel.shutdownNow();
    }
}
