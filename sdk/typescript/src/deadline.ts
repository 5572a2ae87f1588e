/**
 * Deadlines: one budget from the outermost caller to the last child, that never grows. A deadline
 * is a monotonic instant inside a process and the remaining time on the wire. The task that a
 * handler runs for is bounded by the broker; what is here tells how much time is left, and sets
 * limits for a piece of code.
 */
import { limitAt } from "./limit.js";
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
 * Milliseconds left for the code that runs, never below 0; undefined where there is no deadline.
 * Inside a handler this is what is left of the attempt, or of a `limit` inside it.
 */
export function remainingMs(): number | undefined {
  const ends = [limitAt.getStore(), current.getStore()?.deadline];
  const set = ends.filter((each) => each !== undefined);
  return set.length > 0 ? Math.max(0, Math.min(...set) - performance.now()) : undefined;
}

/**
 * Bounds the calls and submissions made inside `code` to so many milliseconds, as a timeout on each
 * of them would. An earlier deadline stays. It interrupts nothing else. Answers what `code` does.
 */
export function limit<T>(ms: number, code: () => T): T {
  const outer = limitAt.getStore();
  const at = performance.now() + ms;
  return limitAt.run(outer === undefined ? at : Math.min(at, outer), code);
}
