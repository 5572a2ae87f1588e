/**
 * Retries: backoff and budget as pure state machines, and how the SDK itself tries its connections
 * again. Exactly one layer retries: a task is retried by the broker, by its policy, and nothing
 * here does that. Time and randomness are arguments of the state machines.
 */
import { Code, ConnectError } from "@connectrpc/connect";
import { pause } from "./bell.js";
import { closed, retryAfterMs } from "./errors.js";
import { RECONNECT_MAX_MS, RECONNECT_MIN_MS } from "./wire.js";

/** The answer of a backoff that says: do not retry. */
export const NO_RETRY = -1;

/** `start` multiplied by a factor `steps` times, floored and capped at each step. */
export function grow(start: number, factorPermille: number, steps: number, cap: number): number {
  let value = Math.min(start, cap);
  for (let step = 0; step < steps && value < cap; step++) {
    value = Math.min(Math.floor((value * factorPermille) / 1000), cap);
  }
  return value;
}

/** Parameters of a backoff. */
export interface BackoffConfig {
  /** The upper bound of the wait before attempt 2, in milliseconds. Default 100. */
  readonly initialMs: number;
  /** The upper bound of every wait, in milliseconds. Default 5,000. */
  readonly maxMs: number;
  /** Growth of the bound from one attempt to the next. Default 2,000. */
  readonly multiplierPermille: number;
  /** The lower end of the random share. Default 0. */
  readonly jitterLowPermille: number;
  /** The upper end of the random share; 0 to 1000 is full jitter. Default 1,000. */
  readonly jitterHighPermille: number;
}

export const DEFAULT_BACKOFF: BackoffConfig = {
  initialMs: 100,
  maxMs: 5_000,
  multiplierPermille: 2_000,
  jitterLowPermille: 0,
  jitterHighPermille: 1_000,
};

/**
 * Milliseconds before an attempt (2 is the first retry), or NO_RETRY.
 *
 * `rndPpm` is a random number, 0 to 999,999. A pushback is obeyed exactly; a negative one means:
 * do not retry.
 */
export function delayMs(
  attempt: number,
  rndPpm: number,
  pushbackMs?: number,
  config: BackoffConfig = DEFAULT_BACKOFF,
): number {
  if (pushbackMs !== undefined) {
    return Math.max(NO_RETRY, pushbackMs);
  }
  const { jitterLowPermille: low, jitterHighPermille: high } = config;
  const sharePpm = low * 1000 + Math.floor((rndPpm * (high - low)) / 1000);
  const bound = grow(config.initialMs, config.multiplierPermille, attempt - 2, config.maxMs);
  return Math.floor((bound * sharePpm) / 1_000_000);
}

/** The retry budget of one target (gRPC A6), in whole thousandths of a token. It starts full. */
export class RetryBudget {
  readonly #cap: number;
  readonly #refill: number;
  tokensMilli: number;

  /** `maxTokens` bounds it; a success gives `tokenRatioPermille` of a token back. */
  constructor(maxTokens = 10, tokenRatioPermille = 100) {
    this.#cap = maxTokens * 1000;
    this.#refill = tokenRatioPermille;
    this.tokensMilli = this.#cap;
  }

  /** Whether a retry or hedge is allowed: while more than half of the tokens are left. */
  mayRetry(): boolean {
    return this.tokensMilli > Math.floor(this.#cap / 2);
  }

  /** A retryable failure, or a pushback that says stop: costs a token. */
  failure(): void {
    this.tokensMilli = Math.max(0, this.tokensMilli - 1000);
  }

  /** A call went well. */
  success(): void {
    this.tokensMilli = Math.min(this.#cap, this.tokensMilli + this.#refill);
  }
}

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
