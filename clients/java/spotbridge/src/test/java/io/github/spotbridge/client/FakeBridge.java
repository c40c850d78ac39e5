package io.github.spotbridge.client;

import static org.junit.jupiter.api.Assertions.assertNotNull;

import com.google.protobuf.Any;
import com.google.protobuf.ByteString;
import com.google.protobuf.Timestamp;
import com.google.rpc.ErrorInfo;
import io.github.spotbridge.v1.ConsumeRequest;
import io.github.spotbridge.v1.ConsumeResponse;
import io.github.spotbridge.v1.ConsumerGroup;
import io.github.spotbridge.v1.ConsumerGroupServiceGrpc;
import io.github.spotbridge.v1.Event;
import io.github.spotbridge.v1.EventServiceGrpc;
import io.github.spotbridge.v1.GetEventBodyRequest;
import io.github.spotbridge.v1.GetEventBodyResponse;
import io.github.spotbridge.v1.GroupDelivery;
import io.github.spotbridge.v1.Joined;
import io.github.spotbridge.v1.SubscribeRequest;
import io.github.spotbridge.v1.SubscribeResponse;
import io.github.spotbridge.v1.SubscriptionServiceGrpc;
import io.grpc.Server;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.netty.shaded.io.grpc.netty.NettyServerBuilder;
import io.grpc.protobuf.StatusProto;
import io.grpc.stub.StreamObserver;
import java.io.IOException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.time.Duration;
import java.time.Instant;
import java.util.Map;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;

/** A real gRPC server on loopback that says and does exactly what a test tells it to. */
final class FakeBridge {
    /** Longer than anything here takes, so that a test which fails ends. */
    static final long PATIENCE_SECONDS = 20;

    /** The server's end of one stream: what the client sent, and what to send to it. */
    record Stream<Q, R>(BlockingQueue<Q> requests, StreamObserver<R> responses) {
        Q next() throws InterruptedException {
            return take(requests, "a message of the client");
        }

        void send(R message) {
            responses.onNext(message);
        }

        void end() {
            responses.onCompleted();
        }

        void fail(StatusRuntimeException why) {
            responses.onError(why);
        }
    }

    private final BlockingQueue<Stream<ConsumeRequest, ConsumeResponse>> members = new LinkedBlockingQueue<>();
    private final BlockingQueue<Stream<SubscribeRequest, SubscribeResponse>> subscribers = new LinkedBlockingQueue<>();
    private final Map<String, byte[]> bodies = new ConcurrentHashMap<>();
    private final Server server;

    FakeBridge() throws IOException {
        this(0);
    }

    FakeBridge(int port) throws IOException {
        server = NettyServerBuilder.forAddress(new InetSocketAddress(InetAddress.getLoopbackAddress(), port))
                .addService(new Groups())
                .addService(new Subscriptions())
                .addService(new Events())
                .build()
                .start();
    }

    int port() {
        return server.getPort();
    }

    String target() {
        return "127.0.0.1:" + port();
    }

    void hold(String eventId, byte[] body) {
        bodies.put(eventId, body);
    }

    /** The next stream of a member, which has sent its join. */
    Stream<ConsumeRequest, ConsumeResponse> nextMember() throws InterruptedException {
        return take(members, "a member");
    }

    /** For what must not happen: that can only be watched for a time. */
    boolean hasMemberWithin(Duration time) throws InterruptedException {
        return members.poll(time.toMillis(), TimeUnit.MILLISECONDS) != null;
    }

    Stream<SubscribeRequest, SubscribeResponse> nextSubscriber() throws InterruptedException {
        return take(subscribers, "a subscriber");
    }

    void stop() throws InterruptedException {
        server.shutdownNow().awaitTermination();
    }

    static <T> T take(BlockingQueue<T> queue, String what) throws InterruptedException {
        T taken = queue.poll(PATIENCE_SECONDS, TimeUnit.SECONDS);
        assertNotNull(taken, what + " did not come");
        return taken;
    }

    static ConsumeResponse joined(Duration heartbeat, Duration ackDeadline) {
        return ConsumeResponse.newBuilder()
                .setJoined(Joined.newBuilder()
                        .setMemberId("7")
                        .setGroup(ConsumerGroup.newBuilder().setGroup("g").setAckDeadline(Session.duration(ackDeadline)))
                        .setHeartbeatInterval(Session.duration(heartbeat))
                        .setServerTime(timestamp(Instant.now())))
                .build();
    }

    static ConsumeResponse joined() {
        return joined(Duration.ofSeconds(15), Duration.ofSeconds(30));
    }

    static ConsumeResponse delivery(String deliveryId, String eventId, int attempt, Duration lease) {
        return ConsumeResponse.newBuilder()
                .setDelivery(GroupDelivery.newBuilder()
                        .setDeliveryId(deliveryId)
                        .setAttempt(attempt)
                        .setAckDeadlineTime(timestamp(Instant.now().plus(lease)))
                        .setEvent(Event.newBuilder().setId(eventId)))
                .build();
    }

    static ConsumeResponse delivery(String deliveryId, String eventId) {
        return delivery(deliveryId, eventId, 1, Duration.ofSeconds(30));
    }

    static StatusRuntimeException failure(Status.Code code, String reason, Map<String, String> metadata) {
        return StatusProto.toStatusRuntimeException(com.google.rpc.Status.newBuilder()
                .setCode(code.value())
                .setMessage("as the test wants it")
                .addDetails(Any.pack(ErrorInfo.newBuilder()
                        .setDomain("spotbridge")
                        .setReason(reason)
                        .putAllMetadata(metadata)
                        .build()))
                .build());
    }

    private static Timestamp timestamp(Instant t) {
        return Timestamp.newBuilder().setSeconds(t.getEpochSecond()).setNanos(t.getNano()).build();
    }

    private final class Groups extends ConsumerGroupServiceGrpc.ConsumerGroupServiceImplBase {
        @Override
        public StreamObserver<ConsumeRequest> consume(StreamObserver<ConsumeResponse> responses) {
            Stream<ConsumeRequest, ConsumeResponse> member = new Stream<>(new LinkedBlockingQueue<>(), responses);
            return new StreamObserver<>() {
                @Override
                public void onNext(ConsumeRequest request) {
                    member.requests().add(request);
                    if (request.hasJoin()) {
                        members.add(member);
                    }
                }

                @Override
                public void onError(Throwable gone) {}

                @Override
                public void onCompleted() {}
            };
        }
    }

    private final class Subscriptions extends SubscriptionServiceGrpc.SubscriptionServiceImplBase {
        @Override
        public void subscribe(SubscribeRequest request, StreamObserver<SubscribeResponse> responses) {
            Stream<SubscribeRequest, SubscribeResponse> subscriber = new Stream<>(new LinkedBlockingQueue<>(), responses);
            subscriber.requests().add(request);
            subscribers.add(subscriber);
        }
    }

    private final class Events extends EventServiceGrpc.EventServiceImplBase {
        private static final int CHUNK = 64 << 10;

        @Override
        public void getEventBody(GetEventBodyRequest request, StreamObserver<GetEventBodyResponse> responses) {
            byte[] body = bodies.get(request.getEventId());
            if (body == null) {
                responses.onError(failure(Status.Code.NOT_FOUND, "EVENT_NOT_FOUND", Map.of()));
                return;
            }
            for (int i = 0; i < body.length; i += CHUNK) {
                ByteString chunk = ByteString.copyFrom(body, i, Math.min(CHUNK, body.length - i));
                responses.onNext(GetEventBodyResponse.newBuilder().setChunk(chunk).build());
            }
            responses.onCompleted();
        }
    }
}
