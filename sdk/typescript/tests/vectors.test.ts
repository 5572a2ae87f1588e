/** The state machines of calls, against the vectors that every language shares. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { ErrorReason } from "../gen/plait/v1/errors_pb.js";
import { breaker, deadline, errors, retry } from "../src/index.js";
import { ROOT } from "./meshes.js";

type Row = Record<string, unknown>;
interface Vector {
  readonly kind: string;
  readonly name: string;
  readonly config: Record<string, number>;
  readonly steps: readonly { readonly in: Row; readonly out: Row }[];
}

const FILE = `${ROOT}interop/vectors/resilience.json`;
const { schema, vectors } = JSON.parse(readFileSync(FILE, "utf8")) as {
  schema: number;
  vectors: Vector[];
};

/** Limits of calls come with direct calls; nothing in the SDK has such a state machine yet. */
const NOT_RUN = ["limiter"];

/** The names of the vectors as this language spells them. */
function camel<T>(config: Record<string, number>): T {
  const entries = Object.entries(config).map(([name, value]) => [
    name.replace(/_(\w)/g, (_, letter: string) => letter.toUpperCase()),
    value,
  ]);
  return Object.fromEntries(entries) as T;
}

function unknown(given: Row): never {
  throw new Error(`unknown op ${given.op}`);
}

function breakerSteps(config: Record<string, number>) {
  const machine = new breaker.Breaker(camel<breaker.Config>(config));
  return (given: Row): Row => {
    const now = given.t as number;
    if (given.op === "acquire") {
      const permit = machine.acquire(now);
      const { allow, state } = permit;
      return permit.allow
        ? { allow, state, gen: permit.generation }
        : { allow, state, retry_after_ms: permit.retryAfterMs };
    }
    if (given.op !== "report") {
      unknown(given);
    }
    const outcome = given.outcome as breaker.Outcome;
    const counted = machine.report(now, given.gen as number, outcome);
    return { state: machine.state, counted };
  };
}

function budgetSteps(config: Record<string, number>) {
  const machine = new retry.Budget(config.max_tokens, config.token_ratio_permille);
  return (given: Row): Row => {
    switch (given.op) {
      case "may_retry":
        return { allow: machine.mayRetry(), tokens_milli: machine.tokensMilli };
      case "failure":
        machine.failure();
        break;
      case "success":
        machine.success();
        break;
      case "ignored":
        break;
      default:
        unknown(given);
    }
    return { tokens_milli: machine.tokensMilli };
  };
}

function backoffSteps(config: Record<string, number>) {
  const backoff = new retry.Backoff(camel<retry.BackoffConfig>(config));
  return (given: Row): Row => {
    const rnd = (given.rnd_ppm as number | undefined) ?? 0;
    const pushback = (given.pushback_ms as number | null | undefined) ?? undefined;
    return { delay_ms: backoff.delayMs(given.attempt as number, rnd, pushback) };
  };
}

function deadlineSteps(config: Record<string, number>) {
  const policy = new deadline.Policy(camel<deadline.PolicyConfig>(config));
  return (given: Row): Row => {
    const left = (given.inbound_left_ms as number | null) ?? undefined;
    const want = (given.want_ms as number | null) ?? undefined;
    const timeout = policy.timeoutMs(left, want);
    return timeout === undefined ? { refuse: "DEADLINE_EXCEEDED" } : { timeout_ms: timeout };
  };
}

const DRIVERS: Record<string, (config: Record<string, number>) => (given: Row) => Row> = {
  backoff: backoffSteps,
  breaker: breakerSteps,
  deadline: deadlineSteps,
  retry_budget: budgetSteps,
};

test("every kind is run or listed", () => {
  const kinds = new Set(vectors.map((vector) => vector.kind));
  assert.equal(schema, 1);
  assert.deepEqual([...kinds].sort(), [...Object.keys(DRIVERS), ...NOT_RUN].sort());
});

for (const vector of vectors.filter((each) => !NOT_RUN.includes(each.kind))) {
  test(`${vector.kind}: ${vector.name}`, () => {
    const step = DRIVERS[vector.kind]?.(vector.config);
    for (const [number, { in: given, out }] of vector.steps.entries()) {
      assert.deepEqual(step?.(given), out, `step ${number}`);
    }
  });
}

test("defaults are those of the vectors", () => {
  const configs = new Map(vectors.map((vector) => [vector.kind, vector.config]));
  assert.deepEqual({ ...new deadline.Policy() }, camel(configs.get("deadline") ?? {}));
  assert.deepEqual({ ...new retry.Backoff() }, camel(configs.get("backoff") ?? {}));
});

test("the reasons are those of the contract", () => {
  const names = Object.values(ErrorReason).filter((each) => typeof each === "string");
  assert.deepEqual(Object.keys(errors.Reason), names.slice(1));
  for (const [name, value] of Object.entries(errors.Reason)) {
    assert.equal(name, value);
  }
});
