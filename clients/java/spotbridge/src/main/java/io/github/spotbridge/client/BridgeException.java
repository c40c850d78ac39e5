package io.github.spotbridge.client;

import com.google.protobuf.Any;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.rpc.ErrorInfo;
import io.grpc.Metadata;
import io.grpc.Status;
import io.grpc.protobuf.StatusProto;
import java.util.Map;

/** What the bridge answered instead of doing what it was asked. */
public final class BridgeException extends RuntimeException {
    private static final long serialVersionUID = 1;

    private final Status.Code code;
    private final String reason;
    private final transient Map<String, String> metadata;

    private BridgeException(Status status, ErrorInfo info) {
        super(describe(status, info), status.getCause());
        this.code = status.getCode();
        this.reason = info.getReason();
        this.metadata = Map.copyOf(info.getMetadataMap());
    }

    static BridgeException of(Status status, Metadata trailers) {
        return new BridgeException(status, errorInfo(status, trailers));
    }

    /** The status code. */
    public Status.Code code() {
        return code;
    }

    /** The reason, a name of {@code ErrorReason} without its prefix; empty when the answer had none. */
    public String reason() {
        return reason;
    }

    /** What belongs to the reason, for example {@code field} or {@code earliest_cursor}. */
    public Map<String, String> metadata() {
        return metadata == null ? Map.of() : metadata; // null after deserialization
    }

    /** Whether the same may work later. */
    public boolean isRetryable() {
        return retryable(code);
    }

    /** Whether the end of a stream with this code means resume. Every other one but OK is for a person to look at. */
    static boolean retryable(Status.Code code) {
        return switch (code) {
            case UNAVAILABLE, RESOURCE_EXHAUSTED, DEADLINE_EXCEEDED, CANCELLED, INTERNAL, UNKNOWN, ABORTED -> true;
            default -> false;
        };
    }

    private static ErrorInfo errorInfo(Status status, Metadata trailers) {
        try {
            for (Any detail : StatusProto.fromStatusAndTrailers(status, trailers).getDetailsList()) {
                if (detail.is(ErrorInfo.class)) {
                    return detail.unpack(ErrorInfo.class);
                }
            }
        } catch (InvalidProtocolBufferException | IllegalArgumentException e) {
            // Details that cannot be read are no reason to lose the status.
        }
        return ErrorInfo.getDefaultInstance();
    }

    private static String describe(Status status, ErrorInfo info) {
        StringBuilder text = new StringBuilder(status.getCode().name());
        if (!info.getReason().isEmpty()) {
            text.append(' ').append(info.getReason());
        }
        if (status.getDescription() != null) {
            text.append(": ").append(status.getDescription());
        }
        return text.toString();
    }
}
