/** The bound that `deadline.limit` sets, and what a call makes of it. */
import { AsyncLocalStorage } from "node:async_hooks";

/** What `limit` set, in milliseconds of `performance.now()`. */
export const limitAt = new AsyncLocalStorage<number>();

/**
 * Milliseconds for a durable call: the shorter of what its caller wants and what `limit` leaves;
 * undefined for no bound. What is over already is 1 ms, since 0 would mean no bound.
 *
 * A handler's own deadline is no bound of its children: a flow that is run again finds them where
 * they were, and the broker keeps them within the parent's remainder.
 */
export function timeoutOfCall(wantedMs: number | undefined): number | undefined {
  const at = limitAt.getStore();
  if (at === undefined) {
    return wantedMs;
  }
  const left = Math.max(1, at - performance.now());
  return wantedMs === undefined ? left : Math.min(wantedMs, left);
}
