import { once } from "node:events";
import http from "node:http";
import type net from "node:net";

/** A web server of one origin: a page, and /v1 of a bridge passed through without buffering. */
export class Proxy {
  /** Last-Event-ID of each request for a stream; undefined where a browser sent none. */
  readonly lastEventIds: (string | undefined)[] = [];
  readonly #sockets = new Set<net.Socket>();
  readonly #answers = new Set<http.IncomingMessage>();
  readonly #server: http.Server;

  /** @param rest tells host:port of the bridge's REST. */
  constructor(private readonly rest: () => string) {
    this.#server = http.createServer((request, response) => {
      if (request.url?.startsWith("/v1/")) this.#pass(request, response);
      else response.setHeader("content-type", "text/html").end("<!doctype html><title>events</title>");
    });
    this.#server.on("connection", (socket) => {
      this.#sockets.add(socket);
      socket.on("close", () => this.#sockets.delete(socket));
    });
  }

  async start(): Promise<string> {
    this.#server.listen(0, "127.0.0.1");
    await once(this.#server, "listening");
    return `http://127.0.0.1:${(this.#server.address() as net.AddressInfo).port}`;
  }

  /** Cuts all connections of browsers. */
  cut(): void {
    for (const socket of this.#sockets) socket.destroy();
  }

  /** Stops to read from the bridge, or goes on. */
  pause(paused: boolean): void {
    for (const answer of this.#answers) {
      if (paused) answer.pause();
      else answer.resume();
    }
  }

  async stop(): Promise<void> {
    this.#server.close();
    this.cut();
    await once(this.#server, "close");
  }

  #pass(request: http.IncomingMessage, response: http.ServerResponse): void {
    const id = request.headers["last-event-id"];
    this.lastEventIds.push(Array.isArray(id) ? id[0] : id);
    const onward = http.request(`http://${this.rest()}${request.url}`, {
      method: request.method,
      headers: request.headers,
      agent: false,
    });
    onward.on("response", (answer) => {
      this.#answers.add(answer);
      response.writeHead(answer.statusCode ?? 502, answer.headers);
      response.flushHeaders(); // an idle stream has headers, too
      answer.on("data", (chunk: Buffer) => response.write(chunk));
      answer.on("end", () => response.end());
      answer.on("close", () => {
        this.#answers.delete(answer);
        if (!answer.complete) response.destroy();
      });
      answer.on("error", () => response.destroy());
    });
    onward.on("error", () => (response.headersSent ? response.destroy() : response.writeHead(502).end()));
    response.on("close", () => onward.destroy());
    request.pipe(onward);
  }
}
