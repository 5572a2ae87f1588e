/**
 * The attempts of one direct call, as pure state machines: one after the other, or beside each
 * other. The numbers are whole milliseconds; time and randomness are arguments.
 */
import { Code } from "@connectrpc/connect";
import { Backoff, type Budget } from "./retry.js";
import { type Codes, isMerelyStopped, pay, type Status, verdict } from "./verdicts.js";

/** Of a method that may be hedged. */
export const HEDGED_ATTEMPTS = 2;
const HEDGE_DELAY_MS_MIN = 10;
const LATEST = 100;
const LATEST_MIN = 20;
const PERMILLE = 950;

/** What holds for the attempts of a call. */
export interface Attempts {
  readonly attemptsMax: number;
  /** The call's deadline. */
  readonly endMs: number;
  /** Codes that are not tried again. */
  readonly never: Codes;
}

/** What comes after an attempt. */
export type Next =
  | { readonly send: number; readonly atMs: number }
  /** `stopAbove`: it was a failure to retry, and nobody above is to. */
  | { readonly send: undefined; readonly stopAbove: boolean };

/** One attempt after the other. */
export class Retry {
  readonly #rules: Attempts & { readonly idempotent: boolean };
  readonly #budget: Budget;
  readonly #backoff: Backoff;
  #attempt = 1;
  /** Attempts since the backoff began. */
  #step = 1;

  constructor(
    budget: Budget,
    rules: Attempts & { readonly idempotent: boolean },
    backoff = new Backoff(),
  ) {
    this.#budget = budget;
    this.#rules = rules;
    this.#backoff = backoff;
  }

  /** What comes after the attempt that ended like this. `rndPpm` is random, 0 to 999,999. */
  status(nowMs: number, code: Status, pushbackMs: number | undefined, rndPpm: number): Next {
    const { attemptsMax, endMs, idempotent, never } = this.#rules;
    const found = verdict(code, idempotent, pushbackMs, never);
    pay(this.#budget, code, found);
    const end: Next = { send: undefined, stopAbove: found.costs };
    if (!found.retry || this.#attempt >= attemptsMax || !this.#budget.mayRetry()) {
      return end;
    }
    this.#step = pushbackMs === undefined ? this.#step + 1 : 1;
    const waitMs = this.#backoff.delayMs(this.#step, rndPpm, pushbackMs);
    if (waitMs >= endMs - nowMs) {
      return end;
    }
    this.#attempt += 1;
    return { send: this.#attempt, atMs: nowMs + waitMs };
  }
}

/** How a hedged call ends. */
export interface End {
  /** The attempt whose status it has; 0: none, since the deadline passed. */
  readonly attempt: number;
  readonly code: Status;
  readonly stopAbove: boolean;
}

/** What to do now. */
export interface Move {
  readonly send: number | undefined;
  /** When to say `wake`; undefined: not any more. */
  readonly wakeMs: number | undefined;
  readonly cancel: readonly number[];
  readonly end: End | undefined;
}

const LATE: End = { attempt: 0, code: Code.DeadlineExceeded, stopAbove: true };
const NOTHING: Move = { send: undefined, wakeMs: undefined, cancel: [], end: undefined };

/** Attempts beside each other. Only for methods that may be done twice. */
export class Hedge {
  readonly #rules: Attempts & { readonly delayMs: number };
  readonly #budget: Budget;
  #sent = 0;
  #open: number[] = [];
  #nextMs: number | undefined;
  #stopped = false;
  #ended = false;
  #last = LATE;

  /** `delayMs` is the time from one attempt to the next. */
  constructor(budget: Budget, rules: Attempts & { readonly delayMs: number }) {
    this.#budget = budget;
    this.#rules = rules;
  }

  /** The first attempt. */
  start(nowMs: number): Move {
    return this.#send(nowMs);
  }

  /** So late is it. */
  wake(nowMs: number): Move {
    if (!this.#ended && nowMs >= this.#rules.endMs) {
      return this.#finish(LATE);
    }
    if (!this.#ended && this.#nextMs !== undefined && nowMs >= this.#nextMs) {
      return this.#another(nowMs);
    }
    return this.#goOn();
  }

  /** An attempt after the first could not be sent; no other one is. */
  refused(attempt: number): Move {
    return this.#close(attempt) ? this.#noMore() : this.#goOn();
  }

  /** An attempt ended. What comes of one that was cancelled changes nothing. */
  status(nowMs: number, attempt: number, code: Status, pushbackMs: number | undefined): Move {
    if (!this.#close(attempt)) {
      return this.#goOn();
    }
    const { attemptsMax, never } = this.#rules;
    const found = verdict(code, true, pushbackMs, never);
    pay(this.#budget, code, found);
    if (!found.retry && !isMerelyStopped(code, pushbackMs, never)) {
      return this.#finish({ attempt, code, stopAbove: found.costs });
    }
    this.#last = { attempt, code, stopAbove: true };
    if (!found.retry) {
      this.#stopped = true;
      this.#nextMs = undefined;
    } else if (pushbackMs !== undefined) {
      this.#plan(nowMs + pushbackMs);
    } else if (!this.#stopped && this.#sent < attemptsMax) {
      return this.#another(nowMs);
    }
    return this.#open.length > 0 || this.#nextMs !== undefined
      ? this.#goOn()
      : this.#finish(this.#last);
  }

  #close(attempt: number): boolean {
    const before = this.#open.length;
    this.#open = this.#open.filter((each) => each !== attempt);
    return this.#open.length < before;
  }

  /** Sends the next attempt where there is time and the budget has it; a refusal is for good. */
  #another(nowMs: number): Move {
    return nowMs < this.#rules.endMs && this.#budget.mayRetry()
      ? this.#send(nowMs)
      : this.#noMore();
  }

  /** Those under way go on. */
  #noMore(): Move {
    this.#stopped = true;
    this.#nextMs = undefined;
    return this.#open.length > 0 ? this.#goOn() : this.#finish(this.#last);
  }

  #send(nowMs: number): Move {
    this.#sent += 1;
    this.#open.push(this.#sent);
    this.#plan(nowMs + this.#rules.delayMs);
    return this.#goOn(this.#sent);
  }

  #plan(atMs: number): void {
    const { attemptsMax, endMs } = this.#rules;
    const more = this.#sent < attemptsMax && !this.#stopped;
    this.#nextMs = more && atMs < endMs ? atMs : undefined;
  }

  #finish(end: End): Move {
    const cancel = this.#open;
    this.#open = [];
    this.#nextMs = undefined;
    this.#ended = true;
    return { ...NOTHING, cancel, end };
  }

  #goOn(send?: number): Move {
    return this.#ended ? NOTHING : { ...NOTHING, send, wakeMs: this.#nextMs ?? this.#rules.endMs };
  }
}

/** The time by which most of a method's latest calls were answered. */
export class HedgeDelay {
  readonly #latest: number[] = [];

  /** The `permille` share of the latest `samples`, by the nearest rank. */
  constructor(
    private readonly samples = LATEST,
    private readonly samplesMin = LATEST_MIN,
    private readonly permille = PERMILLE,
    private readonly delayMsMin = HEDGE_DELAY_MS_MIN,
  ) {}

  /** A call was answered. */
  add(latencyMs: number): void {
    this.#latest.push(latencyMs);
    if (this.#latest.length > this.samples) {
      this.#latest.shift();
    }
  }

  /** How long to wait before a hedge; undefined: too little is known. */
  get delayMs(): number | undefined {
    const count = this.#latest.length;
    if (count < this.samplesMin) {
      return undefined;
    }
    const sorted = this.#latest.toSorted((one, other) => one - other);
    const rank = Math.ceil((count * this.permille) / 1000);
    return Math.max(this.delayMsMin, sorted[rank - 1] ?? 0);
  }
}
