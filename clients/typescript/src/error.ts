import { BinaryReader } from "@bufbuild/protobuf/wire";
import { Code, ConnectError } from "@connectrpc/connect";

/** An answer of the bridge that means stop: asking again in the same way does not help. */
export class BridgeError extends Error {
  override readonly name = "BridgeError";
  /** Status code of gRPC. */
  readonly code: Code;
  /** Reason of google.rpc.ErrorInfo, for example CURSOR_EXPIRED; empty when there was none. The values are those of ErrorReason. */
  readonly reason: string;
  /** Metadata of google.rpc.ErrorInfo: `earliest_cursor` and `earliest_time` of CURSOR_EXPIRED, `field` of INVALID_FIELD, ... */
  readonly metadata: Readonly<Record<string, string>>;

  constructor(answer: ConnectError) {
    const { reason, metadata } = errorInfo(answer);
    super(reason === "" ? answer.message : `${reason}: ${answer.message}`, { cause: answer });
    this.code = answer.code;
    this.reason = reason;
    this.metadata = metadata;
  }
}

const stops: ReadonlySet<Code> = new Set([
  Code.InvalidArgument,
  Code.NotFound,
  Code.OutOfRange,
  Code.PermissionDenied,
  Code.Unauthenticated,
  Code.FailedPrecondition,
  Code.Unimplemented,
  Code.DataLoss,
]);

/** Reports whether a call ended with an answer that means stop. Everything else means: wait, and resume. */
export function meansStop(error: ConnectError): boolean {
  // The transport uses the same codes for what it finds wrong by itself: a stream that is cut in the middle of a message is
  // INVALID_ARGUMENT to it. Only an answer of the server comes with headers or trailers.
  const answered = !error.metadata.keys().next().done;
  return answered && stops.has(error.code);
}

/** Takes google.rpc.ErrorInfo from the details, by hand: its three fields do not merit a dependency on googleapis. */
function errorInfo(error: ConnectError): { reason: string; metadata: Record<string, string> } {
  const info = { reason: "", metadata: {} as Record<string, string> };
  for (const detail of error.details) {
    if (!("type" in detail) || detail.type !== "google.rpc.ErrorInfo") continue;
    readFields(detail.value, (field, reader) => {
      if (field === 1) info.reason = reader.string();
      else if (field === 3) {
        let key = "";
        let value = "";
        readFields(reader.bytes(), (part, entry) => {
          if (part === 1) key = entry.string();
          else if (part === 2) value = entry.string();
          else return false;
          return true;
        });
        info.metadata[key] = value;
      } else return false;
      return true;
    });
  }
  return info;
}

/** Reads the fields of an encoded message, and skips those that `take` does not. */
function readFields(bytes: Uint8Array, take: (field: number, reader: BinaryReader) => boolean): void {
  const reader = new BinaryReader(bytes);
  while (reader.pos < reader.len) {
    const [field, type] = reader.tag();
    if (!take(field, reader)) reader.skip(type, field);
  }
}
