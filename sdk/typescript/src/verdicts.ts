/** What the status of one attempt of a direct call means, by the table that all languages share. */
import { Code } from "@connectrpc/connect";
import type { Outcome as BreakerOutcome } from "./breaker.js";
import type { Outcome as LimiterOutcome } from "./gradient.js";
import type { Budget } from "./retry.js";

/** A gRPC status code; Connect's `Code` has none for OK. */
export type Status = Code | 0;

export const OK = 0;

/** What an attempt's end does. */
export interface Verdict {
  /** Whether it may be sent again, as far as the status says. */
  readonly retry: boolean;
  /** Whether the retry budget pays for it; an OK pays back. */
  readonly costs: boolean;
}

const ALWAYS: readonly Status[] = [Code.Unavailable, Code.Aborted];
const IDEMPOTENT: readonly Status[] = [Code.DeadlineExceeded, Code.Internal, Code.Unknown];
/** What is retried where it may be; for RESOURCE_EXHAUSTED somebody has to say when. */
const CANDIDATES: readonly Status[] = [...ALWAYS, ...IDEMPOTENT, Code.ResourceExhausted];
const ILL: readonly Status[] = [
  ...CANDIDATES.filter((code) => code !== Code.Aborted),
  Code.DataLoss,
];
const LATE: readonly Status[] = [Code.ResourceExhausted, Code.DeadlineExceeded];
const NOBODY: readonly Status[] = [Code.Unavailable, Code.Canceled];

/** Codes that the contract has not tried again. */
export type Codes = ReadonlySet<Status>;

/**
 * Whether to send it again. `pushbackMs` is what the worker said of it: negative is stop, undefined
 * is nothing.
 */
export function verdict(
  code: Status,
  idempotent: boolean,
  pushbackMs: number | undefined,
  never: Codes,
): Verdict {
  const stop = pushbackMs !== undefined && pushbackMs < 0;
  const may =
    !never.has(code) &&
    (ALWAYS.includes(code) ||
      (idempotent && IDEMPOTENT.includes(code)) ||
      (code === Code.ResourceExhausted && pushbackMs !== undefined));
  return { retry: may && !stop, costs: code !== OK && (may || stop) };
}

/** Whether it is retried where it may be. */
export function isCandidate(code: Status): boolean {
  return CANDIDATES.includes(code);
}

/** Whether only its pushback kept it from being sent again, where that may be done twice. */
export function isMerelyStopped(
  code: Status,
  pushbackMs: number | undefined,
  never: Codes,
): boolean {
  return pushbackMs !== undefined && pushbackMs < 0 && isCandidate(code) && !never.has(code);
}

/** Has the budget pay, or be paid back. */
export function pay(budget: Budget, code: Status, { costs }: Verdict): void {
  if (code === OK) {
    budget.success();
  } else if (costs) {
    budget.failure();
  }
}

/** What a breaker is told. */
export function forBreaker(code: Status): BreakerOutcome {
  if (code === Code.Canceled) {
    return "ignore";
  }
  return ILL.includes(code) ? "failure" : "success";
}

/** What a limiter is told. */
export function forLimiter(code: Status): LimiterOutcome {
  if (LATE.includes(code)) {
    return "drop";
  }
  return NOBODY.includes(code) ? "ignore" : "ok";
}
