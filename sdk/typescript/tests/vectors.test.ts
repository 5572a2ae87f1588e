/** The state machines of calls, against the vectors that every language shares. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { ErrorReason } from "../gen/plait/v1/errors_pb.js";
import { Gradient } from "../src/gradient.js";
import { breaker, deadline, errors, type limiter, retry } from "../src/index.js";
import { camel, ROOT } from "./meshes.js";

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

const OUTCOMES: readonly breaker.Outcome[] = ["success", "failure", "ignore"];

/** What a step of each kind may say. More would be an operation that the driver does not know. */
const SAID: Record<string, readonly string[]> = {
  backoff: ["attempt", "rnd_ppm", "pushback_ms"],
  breaker: ["op", "t", "gen", "outcome"],
  deadline: ["inbound_left_ms", "want_ms"],
  limiter: ["rtt_us", "inflight"],
  retry_budget: ["op"],
};

function unknown(given: Row): never {
  throw new Error(`unknown op in ${JSON.stringify(given)}`);
}

/** A fresh machine of a kind, which takes no step that it does not know. */
function machineOf(kind: string, config: Record<string, number>): (given: Row) => Row {
  const [driver, said] = [DRIVERS[kind], SAID[kind]];
  if (driver === undefined || said === undefined) {
    throw new Error(`unknown kind ${kind}`);
  }
  const machine = driver(config);
  return (given) => {
    if (!Object.keys(given).every((each) => said.includes(each))) {
      unknown(given);
    }
    return machine(given);
  };
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
    const outcome = OUTCOMES.find((each) => each === given.outcome) ?? unknown(given);
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

function limiterSteps(config: Record<string, number>) {
  const machine = new Gradient(camel<limiter.Config>(config));
  return (given: Row): Row => ({
    limit: machine.sample(given.rtt_us as number, given.inflight as number),
  });
}

const DRIVERS: Record<string, (config: Record<string, number>) => (given: Row) => Row> = {
  backoff: backoffSteps,
  breaker: breakerSteps,
  deadline: deadlineSteps,
  limiter: limiterSteps,
  retry_budget: budgetSteps,
};

test("every kind is run", () => {
  const kinds = new Set(vectors.map((vector) => vector.kind));
  assert.equal(schema, 1);
  assert.deepEqual([...kinds].sort(), Object.keys(DRIVERS).sort());
});

for (const vector of vectors) {
  test(`${vector.kind}: ${vector.name}`, () => {
    const step = machineOf(vector.kind, vector.config);
    for (const [number, { in: given, out }] of vector.steps.entries()) {
      assert.deepEqual(step(given), out, `step ${number}`);
    }
  });
}

test("an unknown kind, operation or outcome is an error", () => {
  assert.throws(() => machineOf("hedge", {}), /unknown kind/);
  for (const vector of vectors) {
    const step = machineOf(vector.kind, vector.config);
    assert.throws(() => step({ op: "guess" }), /unknown op/);
  }
  const step = machineOf("breaker", {});
  assert.throws(() => step({ op: "report", t: 0, gen: 0, outcome: "maybe" }), /unknown op/);
});

test("defaults are those of the vectors", () => {
  const configs = new Map(vectors.toReversed().map((vector) => [vector.kind, vector.config]));
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
