import type { Transport } from "@connectrpc/connect";
import { createGrpcTransport, Http2SessionManager } from "@connectrpc/connect-node";

export interface BridgeOptions {
  /**
   * Largest message to take, 64 KiB to 16 MiB; 4 MiB less 64 KiB when it is left out. The bridge is told of it: a larger
   * event comes as its envelope with `omitted`, see {@link eventBody}.
   */
  maxMessageBytes?: number;
  /** How long the connection may be silent before it is pinged; 20 s. The bridge ends clients that ping more often than every 10 s. */
  pingIntervalMs?: number;
  /** How long to wait for the answer to a ping before the connection counts as dead; 10 s. */
  pingTimeoutMs?: number;
}

/**
 * One HTTP/2 connection to a bridge. It is opened by the first call, and anew by the first call after it broke. For the
 * other services of spotbridge.v1 use `createClient` of @connectrpc/connect with the {@link transport}.
 */
export class Bridge {
  readonly transport: Transport;
  readonly maxMessageBytes: number;
  readonly #sessions: Http2SessionManager;

  /** @param address host:port for plaintext, or a URL: https:// where a proxy speaks TLS. */
  constructor(address: string, options: BridgeOptions = {}) {
    const baseUrl = address.includes("://") ? address : `http://${address}`;
    this.maxMessageBytes = options.maxMessageBytes ?? (4 << 20) - (64 << 10);
    this.#sessions = new Http2SessionManager(baseUrl, {
      pingIntervalMs: options.pingIntervalMs ?? 20_000,
      pingTimeoutMs: options.pingTimeoutMs ?? 10_000,
    });
    this.transport = createGrpcTransport({
      baseUrl,
      sessionManager: this.#sessions,
      // The limit that the bridge keeps is the event's. The message has its cursor, too.
      readMaxBytes: this.maxMessageBytes + (64 << 10),
    });
  }

  /** Ends the connection with every call on it. The next call opens a new one. */
  disconnect(): void {
    this.#sessions.abort();
  }
}
