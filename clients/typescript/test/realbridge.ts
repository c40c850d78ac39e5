import { type ChildProcess, execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { promisify } from "node:util";

const run = promisify(execFile);
/** The bridge refuses variables that it does not know, and SPOTBRIDGE_BIN is one. */
const environment = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith("SPOTBRIDGE_")));
const secret = "whsec_dGhlIHNlY3JldCBvZiB0aGUgdGVzdHM=";

/** The binary to test against. */
export const binary = process.env["SPOTBRIDGE_BIN"];
export const skip = binary ? false : "SPOTBRIDGE_BIN is not set";

/** A bridge in a process of its own. Started again it has the same data and addresses. */
export class RealBridge {
  grpc = "127.0.0.1:0";
  rest = "127.0.0.1:0";
  #webhook = "127.0.0.1:0";
  #process: ChildProcess | undefined;

  constructor(private readonly dataDir: string) {}

  async start(env: NodeJS.ProcessEnv = {}): Promise<void> {
    const child = spawn(binary ?? "", ["serve"], {
      stdio: ["ignore", "ignore", "pipe"],
      env: {
        ...environment,
        SPOTBRIDGE_DATA_DIR: this.dataDir,
        SPOTBRIDGE_LISTEN_GRPC: this.grpc,
        SPOTBRIDGE_LISTEN_REST: this.rest,
        SPOTBRIDGE_LISTEN_WEBHOOK: this.#webhook,
        SPOTBRIDGE_LISTEN_ADMIN: "127.0.0.1:0",
        SPOTBRIDGE_LOGGING_FORMAT: "json",
        SPOTBRIDGE_SOURCES: `[{name: sandbox, secrets: ["${secret}"]}]`,
        ...env,
      },
    });
    this.#process = child;
    for await (const line of createInterface(child.stderr)) {
      if (!line.startsWith("{")) throw new Error(line);
      const entry = JSON.parse(line) as Record<string, string>;
      if (entry["msg"] === "listening") {
        this.grpc = entry["grpc"] ?? "";
        this.rest = entry["rest"] ?? "";
        this.#webhook = entry["webhook"] ?? "";
      }
      if (entry["msg"] === "the door is open") break;
    }
    child.stderr.resume();
    if (child.exitCode !== null) throw new Error(`the bridge ended with ${child.exitCode}`);
  }

  /** Sends deliveries with spotbridge trigger. */
  async trigger(...args: string[]): Promise<void> {
    await run(binary ?? "", ["trigger", ...args, "--secret", secret, "--url", `http://${this.#webhook}/webhooks/sandbox`], {
      env: environment,
    });
  }

  async stop(signal: NodeJS.Signals = "SIGTERM"): Promise<void> {
    await end(this.#process, signal);
  }
}

/** Ends a process, and returns its exit code when it is gone. */
export async function end(child: ChildProcess | undefined, signal: NodeJS.Signals): Promise<number | null> {
  if (!child) return null;
  if (child.exitCode === null && child.signalCode === null) {
    const exit = once(child, "exit");
    child.kill(signal);
    await exit;
  }
  return child.exitCode;
}
