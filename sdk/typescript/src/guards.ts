/**
 * What stands before the attempts of direct calls, with the clock that the state machines lack: a
 * limiter, a breaker and a hedge's delay for each method, a retry budget for each service.
 */
import { create } from "@bufbuild/protobuf";
import { durationFromMs } from "@bufbuild/protobuf/wkt";
import { Code, type ConnectError } from "@connectrpc/connect";
import { RetryInfoSchema } from "../gen/google/rpc/error_details_pb.js";
import { HedgeDelay } from "./attempts.js";
import { serviceOf } from "./balance.js";
import { Breaker } from "./breaker.js";
import { Reason } from "./errors.js";
import { Limiter, type Outcome } from "./gradient.js";
import { Budget } from "./retry.js";
import type { Rules } from "./rules.js";
import { fromStatus, newStatus } from "./statuses.js";
import { forBreaker, forLimiter, OK, type Status } from "./verdicts.js";

/** What a refused call is told to wait at least. */
const WAIT_MS_MIN = 10;

/** Whole milliseconds of `performance.now()`. */
export function nowMs(): number {
  return Math.floor(performance.now());
}

/** Of all methods that a channel calls. */
export class Guards {
  readonly #guards = new Map<string, Guard>();
  readonly #budgets = new Map<string, Budget>();

  /** That of "/package.Service/Method", made by these rules at its first call. */
  of(path: string, rules: Rules): Guard {
    let guard = this.#guards.get(path);
    if (guard === undefined) {
      const service = serviceOf(path);
      const budget = this.#budgets.get(service) ?? new Budget(rules.budgetTokens);
      this.#budgets.set(service, budget);
      guard = new Guard(path, rules, budget);
      this.#guards.set(path, guard);
    }
    return guard;
  }
}

/** A place for one attempt. It is ended once. */
export interface Entry {
  /** The attempt is over; Canceled: nobody waits for it any more. */
  ended(code: Status): void;
}

/** Of one method. */
export class Guard {
  readonly delay = new HedgeDelay();
  readonly #path: string;
  readonly #breaker: Breaker | undefined;
  readonly #limiter: Limiter | undefined;
  /** Those who wait for a place, in order; as many as the limiter counts. */
  readonly #line: (() => void)[] = [];

  constructor(
    path: string,
    rules: Rules,
    readonly budget: Budget,
  ) {
    this.#path = path;
    this.#breaker = rules.breaker === null ? undefined : new Breaker(rules.breaker);
    this.#limiter = rules.limiter === null ? undefined : new Limiter(rules.limiter);
  }

  /**
   * A place, waited for until the signal aborts, whose reason it then rejects with. Rejects with
   * ResourceExhausted when too many wait, with Unavailable while the method is given a rest.
   */
  async enter(signal: AbortSignal): Promise<Entry> {
    const admission = this.#limiter?.acquire() ?? "now";
    if (admission === "refuse") {
      throw this.#lineFull();
    }
    if (admission === "wait") {
      await this.#wait(signal);
    }
    const found = this.#throughBreaker();
    if (typeof found === "number") {
      throw this.#breakerOpen(found);
    }
    return found;
  }

  /** A place, if there is one. */
  enterNow(): Entry | undefined {
    const admission = this.#limiter?.acquire() ?? "now";
    if (admission === "wait") {
      this.#limiter?.leave();
    }
    const found = admission === "now" ? this.#throughBreaker() : undefined;
    return typeof found === "number" ? undefined : found;
  }

  /** The milliseconds that are left where the breaker is open. */
  #throughBreaker(): Entry | number {
    const permit = this.#breaker?.acquire(nowMs());
    if (permit?.allow === false) {
      this.#release(0, "ignore");
      return permit.retryAfterMs;
    }
    const generation = permit?.generation ?? 0;
    const began = performance.now();
    return {
      ended: (code) => {
        const took = performance.now() - began;
        this.#breaker?.report(nowMs(), generation, forBreaker(code));
        if (code === OK) {
          this.delay.add(Math.floor(took));
        }
        this.#release(Math.floor(took * 1_000), forLimiter(code));
      },
    };
  }

  #release(rttUs: number, outcome: Outcome): void {
    const admitted = this.#limiter?.release(nowMs(), rttUs, outcome) ?? 0;
    for (const admit of this.#line.splice(0, admitted)) {
      admit();
    }
  }

  #wait(signal: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      const leave = () => {
        this.#line.splice(this.#line.indexOf(admit), 1);
        this.#limiter?.leave();
        reject(signal.reason);
      };
      const admit = () => {
        signal.removeEventListener("abort", leave);
        resolve();
      };
      this.#line.push(admit);
      signal.addEventListener("abort", leave);
      if (signal.aborted) {
        leave();
      }
    });
  }

  #breakerOpen(leftMs: number): ConnectError {
    const text = `${this.#path} failed too often and is given a rest`;
    return refusal(Code.Unavailable, Reason.BREAKER_OPEN, text, { method: this.#path }, leftMs);
  }

  #lineFull(): ConnectError {
    const { limit = 0, waiting = 0, usualUs = 0 } = this.#limiter ?? {};
    const text = `${limit} calls of ${this.#path} may be under way, and ${waiting} wait already`;
    const about = { method: this.#path, limit: `${limit}`, waiting: `${waiting}` };
    const code = Code.ResourceExhausted;
    return refusal(code, Reason.QUEUE_FULL, text, about, Math.floor(usualUs / 1_000));
  }
}

function refusal(
  code: Code,
  why: Reason,
  text: string,
  about: Record<string, string>,
  afterMs: number,
): ConnectError {
  const retryDelay = durationFromMs(Math.max(WAIT_MS_MIN, afterMs));
  const info = { desc: RetryInfoSchema, value: create(RetryInfoSchema, { retryDelay }) };
  return fromStatus(newStatus(code, why, text, about, info));
}
