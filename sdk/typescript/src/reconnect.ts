/** How the SDK itself tries its connections again. */
import { Code, ConnectError } from "@connectrpc/connect";
import { pause } from "./bell.js";
import { retryAfterMs } from "./errors.js";
import { closed } from "./statuses.js";
import { RECONNECT_MAX_MS, RECONNECT_MIN_MS } from "./wire.js";

/** Full jitter between 50 ms and 2 s, doubling with each failure in a row. */
export class Reconnect {
  #bound = RECONNECT_MIN_MS;

  /** The other side was there a moment ago. */
  reset(): void {
    this.#bound = RECONNECT_MIN_MS;
  }

  /** The next pause, in milliseconds. */
  next(): number {
    const wait = Math.random() * this.#bound;
    this.#bound = Math.min(this.#bound * 2, RECONNECT_MAX_MS);
    return wait;
  }
}

/**
 * Tries again while the broker or the scheduler is UNAVAILABLE, until the signal aborts, which is
 * CANCELLED. Waits as long as google.rpc.RetryInfo says, else with full jitter. Other errors are
 * raised as they are.
 */
export async function retryConnection<T>(call: () => Promise<T>, signal: AbortSignal): Promise<T> {
  const wait = new Reconnect();
  for (;;) {
    try {
      return await call();
    } catch (error) {
      if (signal.aborted) {
        throw closed();
      }
      if (!(error instanceof ConnectError) || error.code !== Code.Unavailable) {
        throw error;
      }
      await pause(retryAfterMs(error) ?? wait.next(), signal);
    }
    if (signal.aborted) {
      throw closed();
    }
  }
}
