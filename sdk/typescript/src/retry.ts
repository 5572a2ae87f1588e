/**
 * Retries: backoff and budget as pure state machines. Exactly one layer retries: a task is retried
 * by the broker, by its policy, and nothing here does that. Time and randomness are arguments.
 */
import { grow } from "./growth.js";

/** The answer of a backoff that says: do not retry. */
export const NO_RETRY = -1;

/** Parameters of a backoff; what is left out is as for calls. */
export interface BackoffConfig {
  /** The upper bound of the wait before attempt 2, in milliseconds. Default 100. */
  readonly initialMs?: number;
  /** The upper bound of every wait, in milliseconds. Default 5,000. */
  readonly maxMs?: number;
  /** Growth of the bound from one attempt to the next. Default 2,000. */
  readonly multiplierPermille?: number;
  /** The lower end of the random share. Default 0. */
  readonly jitterLowPermille?: number;
  /** The upper end of the random share; 0 to 1000 is full jitter. Default 1,000. */
  readonly jitterHighPermille?: number;
}

/** The wait before an attempt: exponential, capped, a random share of it. */
export class Backoff {
  readonly initialMs: number;
  readonly maxMs: number;
  readonly multiplierPermille: number;
  readonly jitterLowPermille: number;
  readonly jitterHighPermille: number;

  constructor(config: BackoffConfig = {}) {
    this.initialMs = config.initialMs ?? 100;
    this.maxMs = config.maxMs ?? 5_000;
    this.multiplierPermille = config.multiplierPermille ?? 2_000;
    this.jitterLowPermille = config.jitterLowPermille ?? 0;
    this.jitterHighPermille = config.jitterHighPermille ?? 1_000;
  }

  /**
   * Milliseconds before an attempt (2 is the first retry), or NO_RETRY.
   *
   * `rndPpm` is a random number, 0 to 999,999. A pushback is obeyed exactly; a negative one means:
   * do not retry.
   */
  delayMs(attempt: number, rndPpm: number, pushbackMs?: number): number {
    if (pushbackMs !== undefined) {
      return Math.max(NO_RETRY, pushbackMs);
    }
    const { jitterLowPermille: low, jitterHighPermille: high } = this;
    const sharePpm = low * 1000 + Math.floor((rndPpm * (high - low)) / 1000);
    const bound = grow(this.initialMs, this.multiplierPermille, attempt - 2, this.maxMs);
    return Math.floor((bound * sharePpm) / 1_000_000);
  }
}

/** The retry budget of one target (gRPC A6), in whole thousandths of a token. It starts full. */
export class Budget {
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
