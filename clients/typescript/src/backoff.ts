import { setTimeout as sleep } from "node:timers/promises";

const firstMs = 250;
const lastMs = 15_000;

/** The waits between attempts: they double from 250 ms to 15 s, and their upper half is random, so that clients spread. */
export class Backoff {
  #baseMs = firstMs;

  /** Returns the next wait. */
  next(): number {
    const half = this.#baseMs / 2;
    this.#baseMs = Math.min(2 * this.#baseMs, lastMs);
    return half + Math.random() * half;
  }

  /** Begins anew, after something went well. */
  reset(): void {
    this.#baseMs = firstMs;
  }
}

/** Waits, and not longer than until the signal is aborted. */
export async function pause(ms: number, signal: AbortSignal | undefined): Promise<void> {
  try {
    await sleep(ms, undefined, signal && { signal });
  } catch (error) {
    if (!signal?.aborted) throw error;
  }
}
