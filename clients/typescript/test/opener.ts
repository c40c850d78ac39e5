/** A thread that opens files at the same moments as others do: the n-th when all of them have come to it. */
import { join } from "node:path";
import { workerData } from "node:worker_threads";
import { Store } from "../feed/store.js";

/** How many came to each file is in `arrived`. */
export interface Openers {
  dir: string;
  openers: number;
  arrived: Int32Array;
}

const { dir, openers, arrived } = workerData as Openers;
for (let n = 0; n < arrived.length; n++) {
  Atomics.add(arrived, n, 1);
  Atomics.notify(arrived, n);
  for (let here = Atomics.load(arrived, n); here < openers; here = Atomics.load(arrived, n)) Atomics.wait(arrived, n, here);
  new Store(join(dir, String(n))).close();
}
