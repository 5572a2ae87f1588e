/**
 * The limit of direct calls under way as pure state machines: the limit alone, and with its line and
 * its windows. Time is an argument, and the line is one of numbers, which a guard gives a place to.
 */
import type { Config } from "./limiter.js";

const DEFAULT: Required<Config> = {
  initial: 20,
  min: 1,
  max: 200,
  queue: 4,
  tolerancePermille: 1_500,
  smoothingPermille: 200,
  longWindow: 600,
  warmup: 10,
  windowMs: 1_000,
  windowCalls: 10,
  waitingMax: 1_000,
};

/** What becomes of a call that asks: sent now, in the line until `release` says so, or refused. */
export type Admission = "now" | "wait" | "refuse";

/**
 * How a call ended, as the limiter counts it: answered; dropped by a worker that is overloaded or too
 * late; not counted, as when nobody was reached or the caller cancelled.
 */
export type Outcome = "ok" | "drop" | "ignore";

/** The limit alone, fed with one sample a window. Doubles, in the order of the vectors. */
export class Gradient {
  readonly #config: Required<Config>;
  #exact: number;
  #samples = 0;
  #sumUs = 0;
  #longUs = 0;

  constructor(config: Config = {}) {
    this.#config = { ...DEFAULT, ...config };
    this.#exact = this.#config.initial;
  }

  /** Calls that may be under way. */
  get limit(): number {
    return Math.floor(this.#exact);
  }

  /** What calls take on average, in microseconds; 0 before the first sample. */
  get usualUs(): number {
    return Math.floor(this.#longUs);
  }

  /**
   * The limit after a window with this mean time in microseconds, this many calls under way at most,
   * and perhaps a drop.
   */
  sample(rttUs: number, inflight: number, dropped = false): number {
    const { min, max, queue, tolerancePermille, smoothingPermille } = this.#config;
    if (dropped) {
      this.#exact = Math.max(min, this.#exact * 0.9);
      return this.limit;
    }
    this.#remember(rttUs);
    const longUs = this.#longUs;
    if (longUs / rttUs > 2) {
      this.#longUs *= 0.95;
    }
    if (inflight >= this.#exact / 2) {
      const wanted = ((tolerancePermille / 1_000) * longUs) / rttUs;
      const gradient = Math.max(0.5, Math.min(1, wanted));
      const smoothing = smoothingPermille / 1_000;
      const target = this.#exact * gradient + queue;
      const smoothed = this.#exact * (1 - smoothing) + target * smoothing;
      this.#exact = Math.max(min, Math.min(max, smoothed));
    }
    return this.limit;
  }

  #remember(rttUs: number): void {
    const { warmup, longWindow } = this.#config;
    if (this.#samples < warmup) {
      this.#samples += 1;
      this.#sumUs += rttUs;
      this.#longUs = this.#sumUs / this.#samples;
    } else {
      const weight = 2 / (longWindow + 1);
      this.#longUs = this.#longUs * (1 - weight) + rttUs * weight;
    }
  }
}

/** Who may call, who waits, and the windows that the limit learns from. */
export class Limiter {
  readonly #config: Required<Config>;
  readonly #gradient: Gradient;
  /** Calls that are under way. */
  inflight = 0;
  /** Calls in the line. */
  waiting = 0;
  #most = 0;
  #beginMs: number | undefined;
  #sumUs = 0;
  #answered = 0;
  #dropped = 0;

  constructor(config: Config = {}) {
    this.#config = { ...DEFAULT, ...config };
    this.#gradient = new Gradient(config);
  }

  /** Calls that may be under way. */
  get limit(): number {
    return this.#gradient.limit;
  }

  /** What calls take on average, in microseconds; 0 before the first window has ended. */
  get usualUs(): number {
    return this.#gradient.usualUs;
  }

  /** Asks for a place. After "wait", `release` counts it in, or `leave` takes it out. */
  acquire(): Admission {
    if (this.waiting === 0 && this.inflight < this.limit) {
      this.#enter();
      return "now";
    }
    if (this.waiting >= this.#config.waitingMax) {
      return "refuse";
    }
    this.waiting += 1;
    return "wait";
  }

  /** Somebody gave up waiting. */
  leave(): void {
    this.waiting -= 1;
  }

  /**
   * A call ended, at `nowMs` on any clock that does not go back. Answers how many of those that wait
   * may be sent now.
   */
  release(nowMs: number, rttUs: number, outcome: Outcome): number {
    this.inflight -= 1;
    if (outcome !== "ignore") {
      this.#count(nowMs, rttUs, outcome);
    }
    let admitted = 0;
    while (this.waiting > 0 && this.inflight < this.limit) {
      this.waiting -= 1;
      admitted += 1;
      this.#enter();
    }
    return admitted;
  }

  #enter(): void {
    this.inflight += 1;
    this.#most = Math.max(this.#most, this.inflight);
  }

  #count(nowMs: number, rttUs: number, outcome: "ok" | "drop"): void {
    this.#beginMs ??= nowMs;
    if (outcome === "ok") {
      this.#sumUs += Math.max(1, rttUs);
      this.#answered += 1;
    } else {
      this.#dropped += 1;
    }
    const { windowMs, windowCalls } = this.#config;
    if (nowMs - this.#beginMs < windowMs || this.#answered + this.#dropped < windowCalls) {
      return;
    }
    const mean = this.#answered > 0 ? Math.floor(this.#sumUs / this.#answered) : 0;
    this.#gradient.sample(mean, this.#most, this.#dropped > 0);
    this.#beginMs = nowMs;
    this.#most = this.inflight;
    this.#sumUs = this.#answered = this.#dropped = 0;
  }
}
