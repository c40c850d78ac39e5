import { once } from "node:events";
import http2 from "node:http2";
import net from "node:net";
import { create, type DescMessage, fromBinary, type Message, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import { BinaryWriter } from "@bufbuild/protobuf/wire";
import {
  GetEventBodyRequestSchema,
  GetEventBodyResponseSchema,
  SubscribeRequestSchema,
  SubscribeResponseSchema,
} from "spotbridge/v1";

/** A call that a fake bridge got, to be answered in any way, wrong ones included. */
export class Call<Request extends Message = Message> {
  constructor(
    readonly request: Request,
    readonly stream: http2.ServerHttp2Stream,
    /** Counts calls of its method from 0. */
    readonly number: number,
    /** Cuts the connection. */
    readonly cut: () => void,
  ) {
    stream.on("error", () => undefined); // the client may go at any time
    stream.respond({ ":status": 200, "content-type": "application/grpc" }, { waitForTrailers: true });
  }

  send(message: MessageInitShape<typeof SubscribeResponseSchema>): void {
    this.sendBytes(toBinary(SubscribeResponseSchema, create(SubscribeResponseSchema, message)));
  }

  /** Confirms with a heartbeat interval. */
  confirm(heartbeatMs = 15_000): void {
    const heartbeatInterval = { seconds: BigInt(Math.floor(heartbeatMs / 1000)), nanos: (heartbeatMs % 1000) * 1e6 };
    this.send({ cursor: "c0", content: { case: "confirmation", value: { heartbeatInterval } } });
  }

  /** Sends an event whose cursor is "c" and its number. */
  event(number: number): void {
    this.send({ cursor: `c${number}`, content: { case: "event", value: { id: `sandbox.e${number}` } } });
  }

  chunk(chunk: Uint8Array): void {
    this.sendBytes(toBinary(GetEventBodyResponseSchema, create(GetEventBodyResponseSchema, { chunk })));
  }

  sendBytes(message: Uint8Array): void {
    this.stream.write(frame(message));
  }

  /** Sends the first part of a message, and no more of it. */
  halfAMessage(then: () => void): void {
    this.stream.write(frame(Buffer.alloc(300)).subarray(0, 100), then);
  }

  /** Ends the call with a status, and with google.rpc.ErrorInfo where there is a reason. */
  end(code = 0, reason?: string, metadata: Record<string, string> = {}): void {
    const trailers: http2.OutgoingHttpHeaders = { "grpc-status": String(code), "grpc-message": code ? "told by the fake" : "" };
    if (reason !== undefined)
      trailers["grpc-status-details-bin"] = Buffer.from(statusWith(code, reason, metadata)).toString("base64");
    this.stream.once("wantTrailers", () => this.stream.sendTrailers(trailers));
    this.stream.end();
  }

  /** Ends the stream without trailers. */
  endWithoutStatus(): void {
    this.stream.once("wantTrailers", () => this.stream.sendTrailers({})); // none: an empty frame that ends the stream
    this.stream.end();
  }

  async closed(): Promise<void> {
    if (!this.stream.closed) await once(this.stream, "close");
  }
}

type Handler<Request extends DescMessage> = (call: Call<Message & MessageType<Request>>) => void;
type MessageType<D extends DescMessage> = ReturnType<typeof create<D>>;

export interface Handlers {
  subscribe?: Handler<typeof SubscribeRequestSchema>;
  body?: Handler<typeof GetEventBodyRequestSchema>;
}

/** A server of gRPC in this process that answers as it is told. */
export class FakeBridge {
  readonly subscriptions: MessageType<typeof SubscribeRequestSchema>[] = [];
  #bodies = 0;
  readonly #server = http2.createServer();
  readonly #sockets: net.Socket[] = [];

  private constructor(private readonly handlers: Handlers) {
    this.#server.on("connection", (socket: net.Socket) => this.#sockets.push(socket));
    this.#server.on("session", (session) => session.on("error", () => undefined));
    this.#server.on("stream", (stream, headers) => {
      const parts: Buffer[] = [];
      stream.on("data", (part: Buffer) => parts.push(part));
      stream.on("end", () => this.#answer(headers[":path"] ?? "", Buffer.concat(parts).subarray(5), stream));
    });
  }

  static async start(handlers: Handlers, port = 0): Promise<FakeBridge> {
    const fake = new FakeBridge(handlers);
    fake.#server.listen(port, "127.0.0.1");
    await once(fake.#server, "listening");
    return fake;
  }

  /** Connections taken so far. */
  get connections(): number {
    return this.#sockets.length;
  }

  get port(): number {
    return (this.#server.address() as net.AddressInfo).port;
  }

  get address(): string {
    return `127.0.0.1:${this.port}`;
  }

  async stop(): Promise<void> {
    const closed = once(this.#server, "close");
    this.#server.close();
    this.#cut();
    await closed;
  }

  readonly #cut = (): void => {
    for (const socket of this.#sockets) socket.destroy();
  };

  #answer(path: string, bytes: Uint8Array, stream: http2.ServerHttp2Stream): void {
    if (path === "/spotbridge.v1.SubscriptionService/Subscribe") {
      const request = fromBinary(SubscribeRequestSchema, bytes);
      const number = this.subscriptions.push(request) - 1;
      this.handlers.subscribe?.(new Call(request, stream, number, this.#cut));
    } else {
      this.handlers.body?.(new Call(fromBinary(GetEventBodyRequestSchema, bytes), stream, this.#bodies++, this.#cut));
    }
  }
}

/** A way to a server that can stop passing anything on, in both directions, while its connections stay open. */
export class Wire {
  readonly #pairs: [net.Socket, net.Socket][] = [];
  readonly #server: net.Server;

  private constructor(port: number) {
    this.#server = net.createServer((client) => {
      const server = net.connect(port, "127.0.0.1");
      this.#pairs.push([client, server]);
      for (const socket of [client, server]) socket.on("error", () => undefined);
      client.pipe(server).pipe(client);
    });
  }

  static async to(port: number): Promise<Wire> {
    const wire = new Wire(port);
    wire.#server.listen(0, "127.0.0.1");
    await once(wire.#server, "listening");
    return wire;
  }

  get address(): string {
    return `127.0.0.1:${(this.#server.address() as net.AddressInfo).port}`;
  }

  /** Freezes the connections that there are. New ones work. */
  freeze(): void {
    for (const [client, server] of this.#pairs) {
      client.unpipe(server).pause();
      server.unpipe(client).pause();
    }
  }

  async stop(): Promise<void> {
    for (const socket of this.#pairs.flat()) socket.destroy();
    this.#server.close();
    await once(this.#server, "close");
  }
}

function frame(message: Uint8Array): Buffer {
  const header = Buffer.alloc(5);
  header.writeUInt32BE(message.length, 1);
  return Buffer.concat([header, message]);
}

/** Encodes a google.rpc.Status with one google.rpc.ErrorInfo, by hand as the library decodes it. */
function statusWith(code: number, reason: string, metadata: Record<string, string>): Uint8Array {
  const info = new BinaryWriter().uint32(0x0a).string(reason).uint32(0x12).string("spotbridge");
  for (const [key, value] of Object.entries(metadata))
    info.uint32(0x1a).fork().uint32(0x0a).string(key).uint32(0x12).string(value).join();
  info.uint32(0x22).string("a field of later"); // unknown to the library
  const any = new BinaryWriter()
    .uint32(0x0a)
    .string("type.googleapis.com/google.rpc.ErrorInfo")
    .uint32(0x12)
    .bytes(info.finish());
  return new BinaryWriter()
    .uint32(0x08)
    .int32(code)
    .uint32(0x12)
    .string("told by the fake")
    .uint32(0x1a)
    .bytes(any.finish())
    .finish();
}
