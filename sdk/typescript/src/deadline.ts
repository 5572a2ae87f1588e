/**
 * Deadlines: one budget from the outermost caller to the last child, that never grows. A deadline
 * is a monotonic instant inside a process and the remaining time on the wire. The task that a
 * handler runs for is bounded by the broker; what is here tells how much time is left.
 */
import { current } from "./run.js";

/** Parameters of the budget of calls, in milliseconds. */
export interface BudgetConfig {
  /** Taken where no deadline came in. Default 30,000. */
  readonly defaultMs: number;
  /** No call is given more. Default 300,000. */
  readonly maxMs: number;
  /** Kept back for the way. Default 5. */
  readonly hopMarginMs: number;
  /** With less than this the call is not worth sending. Default 1. */
  readonly minUsefulMs: number;
}

export const DEFAULT_BUDGET: BudgetConfig = {
  defaultMs: 30_000,
  maxMs: 300_000,
  hopMarginMs: 5,
  minUsefulMs: 1,
};

/**
 * The timeout of an outgoing call, in milliseconds; undefined when it is to be refused with
 * DEADLINE_EXCEEDED. It never outlives what came in.
 *
 * `leftMs` is what is left of the deadline that came in, undefined where there is none; `wantMs`
 * what the caller asked for.
 */
export function timeoutMs(
  leftMs: number | undefined,
  wantMs: number | undefined,
  config: BudgetConfig = DEFAULT_BUDGET,
): number | undefined {
  const left = leftMs ?? config.defaultMs;
  const bounded = Math.min(left, config.maxMs) - config.hopMarginMs;
  const timeout = wantMs === undefined ? bounded : Math.min(bounded, wantMs);
  return timeout < config.minUsefulMs ? undefined : timeout;
}

/**
 * Milliseconds left for the handler that runs, never below 0; undefined outside a handler, where
 * there is no deadline.
 */
export function remainingMs(): number | undefined {
  const run = current.getStore();
  return run === undefined ? undefined : Math.max(0, run.deadline - performance.now());
}
