/**
 * The circuit breaker of calls as a pure state machine. It reads no clock and has no timer: `now`
 * is an argument in milliseconds from any monotonic origin, and changes of state happen inside
 * `acquire` and `report` only. One breaker serves one target and method group.
 */
import { grow } from "./growth.js";

/** What a breaker lets through: everything, nothing, or a few probes. */
export type State = "CLOSED" | "OPEN" | "HALF_OPEN";

/** How a call ended. `ignore` is not counted and gives a probe's permit back. */
export type Outcome = "success" | "failure" | "ignore";

/** When a breaker opens and for how long, in milliseconds. What is left out is the default. */
export interface Config {
  /** The sliding window in which calls are counted. Default 10,000. */
  readonly windowMs?: number;
  /** Slices of the window. Default 10. */
  readonly buckets?: number;
  /** With fewer calls in the window it never opens. Default 20. */
  readonly minCalls?: number;
  /** The share of failures that opens it. Default 500. */
  readonly failurePermille?: number;
  /** The first open time; doubles with each opening in a row. Default 5,000. */
  readonly openMs?: number;
  /** The longest open time. Default 60,000. */
  readonly openMaxMs?: number;
  /** Permits out at once while half open. Default 3. */
  readonly halfOpenProbes?: number;
  /** Half open for longer opens it again, so that a stuck probe does not wedge it. Default 10,000. */
  readonly halfOpenMaxMs?: number;
}

const DEFAULT: Required<Config> = {
  windowMs: 10_000,
  buckets: 10,
  minCalls: 20,
  failurePermille: 500,
  openMs: 5_000,
  openMaxMs: 60_000,
  halfOpenProbes: 3,
  halfOpenMaxMs: 10_000,
};

/** The answer to `acquire`. */
export type Permit =
  | { readonly allow: true; readonly state: State; readonly generation: number }
  | { readonly allow: false; readonly state: State; readonly retryAfterMs: number };

interface Bucket {
  readonly index: number;
  calls: number;
  failures: number;
}

/** One breaker. */
export class Breaker {
  state: State = "CLOSED";
  readonly #config: Required<Config>;
  #generation = 0;
  #openings = 0;
  #buckets: Bucket[] = [];
  #openUntil = 0;
  #halfOpenAt = 0;
  #probes = 0;
  #good = 0;
  #bad = 0;

  constructor(config: Config = {}) {
    this.#config = { ...DEFAULT, ...config };
  }

  /** Asks for permission to make a call. Every permit that is allowed must be reported. */
  acquire(now: number): Permit {
    this.#advance(now);
    if (this.state === "OPEN") {
      return { allow: false, state: this.state, retryAfterMs: this.#openUntil - now };
    }
    if (this.state === "HALF_OPEN") {
      if (this.#probes >= this.#config.halfOpenProbes) {
        return { allow: false, state: this.state, retryAfterMs: 0 };
      }
      this.#probes += 1;
    }
    return { allow: true, state: this.state, generation: this.#generation };
  }

  /**
   * Tells how a call ended; answers whether it counted. A permit of another generation changes
   * nothing.
   */
  report(now: number, generation: number, outcome: Outcome): boolean {
    this.#advance(now);
    if (generation !== this.#generation || this.state === "OPEN") {
      return false;
    }
    if (outcome === "ignore") {
      if (this.state === "HALF_OPEN") {
        this.#probes -= 1;
      }
      return false;
    }
    if (this.state === "HALF_OPEN") {
      this.#countProbe(now, outcome);
    } else {
      this.#countCall(now, outcome);
    }
    return true;
  }

  #advance(now: number): void {
    if (this.state === "OPEN" && now >= this.#openUntil) {
      this.state = "HALF_OPEN";
      this.#generation += 1;
      this.#halfOpenAt = now;
      this.#probes = this.#good = this.#bad = 0;
    } else if (this.state === "HALF_OPEN" && now >= this.#halfOpenAt + this.#config.halfOpenMaxMs) {
      this.#open(now);
    }
  }

  #open(now: number): void {
    const { openMs, openMaxMs } = this.#config;
    this.state = "OPEN";
    this.#generation += 1;
    this.#openUntil = now + grow(openMs, 2000, this.#openings, openMaxMs);
    this.#openings += 1;
  }

  #countProbe(now: number, outcome: Outcome): void {
    if (outcome === "failure") {
      this.#bad += 1;
    } else {
      this.#good += 1;
    }
    const { failurePermille, halfOpenProbes: probes } = this.#config;
    if (this.#bad > 0 && this.#bad * 1000 >= failurePermille * probes) {
      this.#open(now);
    } else if (this.#good + this.#bad === probes) {
      this.state = "CLOSED";
      this.#generation += 1;
      this.#openings = 0;
      this.#buckets = [];
    }
  }

  #countCall(now: number, outcome: Outcome): void {
    const { windowMs, buckets, minCalls, failurePermille } = this.#config;
    const index = Math.floor(now / Math.floor(windowMs / buckets));
    this.#buckets = this.#buckets.filter((each) => each.index > index - buckets);
    let bucket = this.#buckets.at(-1);
    if (bucket === undefined || bucket.index !== index) {
      bucket = { index, calls: 0, failures: 0 };
      this.#buckets.push(bucket);
    }
    bucket.calls += 1;
    bucket.failures += outcome === "failure" ? 1 : 0;
    const calls = this.#buckets.reduce((sum, each) => sum + each.calls, 0);
    const failures = this.#buckets.reduce((sum, each) => sum + each.failures, 0);
    if (calls >= minCalls && failures * 1000 >= failurePermille * calls) {
      this.#open(now);
    }
  }
}
