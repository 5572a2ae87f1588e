/**
 * Deadlines: one budget from the outermost caller to the last child, that never grows. A deadline
 * is a monotonic instant inside a process and the remaining time on the wire. The task that a
 * handler runs for is bounded by the broker; what is here tells how much time is left.
 */
import { current } from "./run.js";

/** Parameters of a policy, in milliseconds; what is left out is the default. */
export interface PolicyConfig {
  /** Taken where no deadline came in. Default 30,000. */
  readonly defaultMs?: number;
  /** No call is given more. Default 300,000. */
  readonly maxMs?: number;
  /** Kept back for the way. Default 5. */
  readonly hopMarginMs?: number;
  /** With less than this the call is not worth sending. Default 1. */
  readonly minUsefulMs?: number;
}

/** The timeout of an outgoing call. It never outlives what came in. */
export class Policy {
  readonly defaultMs: number;
  readonly maxMs: number;
  readonly hopMarginMs: number;
  readonly minUsefulMs: number;

  constructor(config: PolicyConfig = {}) {
    this.defaultMs = config.defaultMs ?? 30_000;
    this.maxMs = config.maxMs ?? 300_000;
    this.hopMarginMs = config.hopMarginMs ?? 5;
    this.minUsefulMs = config.minUsefulMs ?? 1;
  }

  /**
   * The timeout for a call, in milliseconds; undefined when it is to be refused with
   * DEADLINE_EXCEEDED.
   *
   * `leftMs` is what is left of the deadline that came in, undefined where there is none; `wantMs`
   * what the caller asked for.
   */
  timeoutMs(leftMs: number | undefined, wantMs?: number): number | undefined {
    const bounded = Math.min(leftMs ?? this.defaultMs, this.maxMs) - this.hopMarginMs;
    const timeout = wantMs === undefined ? bounded : Math.min(bounded, wantMs);
    return timeout < this.minUsefulMs ? undefined : timeout;
  }
}

/**
 * Milliseconds left for the handler that runs, never below 0; undefined outside a handler, where
 * there is no deadline.
 */
export function remainingMs(): number | undefined {
  const run = current.getStore();
  return run === undefined ? undefined : Math.max(0, run.deadline - performance.now());
}
