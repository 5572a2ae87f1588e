/**
 * How calls of a method are tried again, given a rest and bounded: what its contract in this program
 * says, and what a program says over it.
 */
import { type DescMethod, getOption } from "@bufbuild/protobuf";
import { type Duration, durationMs, MethodOptions_IdempotencyLevel } from "@bufbuild/protobuf/wkt";
import { type ContextValues, createContextKey, createContextValues } from "@connectrpc/connect";
import {
  type BreakerPolicy,
  Delivery,
  type RetryPolicy,
  type TaskPolicy,
  task,
  task_defaults,
} from "../gen/plait/v1/options_pb.js";
import type { Config as BreakerConfig } from "./breaker.js";
import type { Config as LimiterConfig } from "./limiter.js";
import { codeOf } from "./statuses.js";
import type { Codes } from "./verdicts.js";

/** A task may be tried for days; a call has a caller who waits. */
const ATTEMPTS = 3;
/** A6. */
const ATTEMPTS_MAX = 5;
const BUDGET_TOKENS = 10;
/** Of a method whose contract names no time. */
const TIMEOUT_MS = 60_000;
const { NO_SIDE_EFFECTS, IDEMPOTENT } = MethodOptions_IdempotencyLevel;

/** What may be said about the attempts of direct calls. What is left out is the contract's. */
export interface AttemptOptions {
  /**
   * Attempts in all, 1 to 5. Default 3, or the policy's `retry.max_attempts` where it is less; 1
   * with AT_MOST_ONCE.
   */
  readonly maxAttempts?: number | undefined;
  /**
   * Whether it may be done twice: also INTERNAL, UNKNOWN and DEADLINE_EXCEEDED of an attempt are
   * tried again. Default: an `idempotency_level` or an `idempotency_key` in the contract.
   */
  readonly idempotent?: boolean | undefined;
  /**
   * Whether a call that takes long is sent once more beside the first, and the first answer is
   * taken. Idempotent methods only. Default: with `idempotency_level` NO_SIDE_EFFECTS.
   */
  readonly hedge?: boolean | undefined;
  /**
   * How long a call takes before, in milliseconds, at least 1. Default: what 95 % of the latest calls
   * took, at least 10; none is hedged before 20 were answered.
   */
  readonly hedgeDelayMs?: number | undefined;
}

/** What a channel says, but for its interceptors. */
export interface Said extends AttemptOptions {
  readonly breaker?: BreakerConfig | null | undefined;
  readonly limiter?: LimiterConfig | null | undefined;
  readonly budgetTokens?: number | undefined;
}

/** What holds for the calls of one method. */
export interface Rules {
  /** The longest that a call may take, its attempts together. */
  readonly timeoutMs: number;
  readonly maxAttempts: number;
  readonly idempotent: boolean;
  readonly hedge: boolean;
  /** Before a hedge; undefined: as long as most of the latest calls took. */
  readonly hedgeDelayMs: number | undefined;
  /** Codes that are not tried again. */
  readonly never: Codes;
  /** null: none. */
  readonly breaker: BreakerConfig | null;
  readonly limiter: LimiterConfig | null;
  readonly budgetTokens: number;
}

const NOTHING: AttemptOptions = {};
const KEY = createContextKey<AttemptOptions>(NOTHING, { description: "plait attempt options" });

/**
 * Options for one direct call through a client of Connect's:
 *
 *     await prices.get(request, { contextValues: directOptions({ maxAttempts: 1 }) });
 *
 * `values` are those to add them to; default: none.
 */
export function directOptions(
  said: AttemptOptions,
  values: ContextValues = createContextValues(),
): ContextValues {
  return values.set(KEY, { ...values.get(KEY), ...said });
}

/** What `directOptions` put into the context values of a call. */
export function attemptsIn(values: ContextValues | undefined): AttemptOptions {
  return values?.get(KEY) ?? NOTHING;
}

/** The rules, where a program says nothing else. */
export function under(rules: Rules, said: Said): Rules {
  const { maxAttempts, hedgeDelayMs, breaker, limiter } = said;
  return {
    ...rules,
    maxAttempts:
      maxAttempts === undefined
        ? rules.maxAttempts
        : Math.max(1, Math.min(ATTEMPTS_MAX, maxAttempts)),
    idempotent: said.idempotent ?? rules.idempotent,
    hedge: said.hedge ?? rules.hedge,
    hedgeDelayMs:
      hedgeDelayMs === undefined ? rules.hedgeDelayMs : Math.max(1, Math.floor(hedgeDelayMs)),
    breaker: breaker === undefined ? rules.breaker : breaker,
    limiter: limiter === undefined ? rules.limiter : limiter,
    budgetTokens: said.budgetTokens ?? rules.budgetTokens,
  };
}

/** What the method's contract says, its service's where it says nothing. */
export function rulesOf(method: DescMethod): Rules {
  const said = [getOption(method, task), getOption(method.parent, task_defaults)] as const;
  const once = said.find((each) => each.delivery !== Delivery.UNSPECIFIED)?.delivery;
  const mayRepeat = once !== Delivery.AT_MOST_ONCE;
  const attempts = first(said, (each) => each.retry?.maxAttempts) ?? ATTEMPTS;
  const level = method.idempotency;
  return {
    timeoutMs: timeoutOf(said),
    maxAttempts: mayRepeat ? Math.max(1, Math.min(ATTEMPTS, attempts)) : 1,
    idempotent:
      Boolean(first(said, (each) => each.idempotencyKey)) ||
      level === NO_SIDE_EFFECTS ||
      level === IDEMPOTENT,
    hedge: level === NO_SIDE_EFFECTS && mayRepeat,
    hedgeDelayMs: undefined,
    never: neverOf(...said),
    breaker: breakerOf(said),
    limiter: {},
    budgetTokens: BUDGET_TOKENS,
  };
}

/** Of a method and its service. */
type Both = readonly [TaskPolicy, TaskPolicy];

/** What the method says, else its service. */
function first<T>([own, defaults]: Both, read: (policy: TaskPolicy) => T | undefined) {
  return read(own) ?? read(defaults);
}

function milliseconds(duration: Duration | undefined): number | undefined {
  return duration && durationMs(duration);
}

function timeoutOf(said: Both): number {
  const attempt = milliseconds(first(said, (each) => each.attemptTimeout)) ?? TIMEOUT_MS;
  return Math.min(attempt, milliseconds(first(said, (each) => each.deadline)) ?? attempt);
}

/** A method may say of what its service excludes that it is to be tried again after all. */
function neverOf({ retry: own }: TaskPolicy, { retry: defaults }: TaskPolicy): Codes {
  const listed = (policy: RetryPolicy | undefined) => policy?.nonRetryableCodes ?? [];
  if (listed(own).length > 0) {
    return new Set(listed(own).map(codeOf));
  }
  const stated = own?.retryableCodes ?? [];
  const again = stated.length > 0 ? stated : (defaults?.retryableCodes ?? []);
  return new Set(
    listed(defaults)
      .filter((code) => !again.includes(code))
      .map(codeOf),
  );
}

function breakerOf(said: Both): BreakerConfig | null {
  const read = <T>(field: (policy: BreakerPolicy) => T | undefined) =>
    first(said, (each) => each.breaker && field(each.breaker));
  if (read((each) => each.disabled) ?? false) {
    return null;
  }
  const config = {
    minCalls: read((each) => each.minCalls),
    failurePermille: read((each) => each.failurePermille),
    halfOpenProbes: read((each) => each.halfOpenProbes),
    windowMs: milliseconds(read((each) => each.window)),
    openMs: milliseconds(read((each) => each.open)),
    openMaxMs: milliseconds(read((each) => each.openMax)),
  };
  return Object.fromEntries(Object.entries(config).filter(([, value]) => value !== undefined));
}
