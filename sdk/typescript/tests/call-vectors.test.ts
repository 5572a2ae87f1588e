/** interop/vectors/calls.json: the machines of a direct call give the outputs of every language. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { Code } from "@connectrpc/connect";
import { Hedge, HedgeDelay, type Move, Retry } from "../src/attempts.js";
import { Gradient, Limiter, type Outcome } from "../src/gradient.js";
import { type limiter, retry } from "../src/index.js";
import { forBreaker, forLimiter, OK, type Status, verdict } from "../src/verdicts.js";
import { camel, ROOT } from "./meshes.js";

type Row = Record<string, unknown>;
/** Numbers, but for `idempotent`. */
type Config = Readonly<Record<string, number>>;
interface Vector {
  readonly kind: string;
  readonly name: string;
  readonly config: Config;
  readonly steps: readonly { readonly in: Row; readonly out: Row }[];
}

const FILE = `${ROOT}interop/vectors/calls.json`;
const { schema, vectors } = JSON.parse(readFileSync(FILE, "utf8")) as {
  schema: number;
  vectors: Vector[];
};

const NAMES: readonly string[] = ["OK", ...Object.keys(Code).filter((each) => !/^\d/.test(each))];
const NEVER = new Set<Status>();
const OUTCOMES: readonly Outcome[] = ["ok", "drop", "ignore"];

/** "DEADLINE_EXCEEDED" of a code. */
function nameOf(code: Status): string {
  const name = code === OK ? "OK" : Code[code].replace(/(?<!^)([A-Z])/g, "_$1").toUpperCase();
  return name === "CANCELED" ? "CANCELLED" : name;
}

function codeOf(given: Row): Status {
  const found = NAMES.map((_, number) => number as Status).find(
    (code) => nameOf(code) === given.code,
  );
  assert.ok(found !== undefined, `${given.code} is no code`);
  return found;
}

function unknown(given: Row): never {
  throw new Error(`unknown op in ${JSON.stringify(given)}`);
}

const numberIn = (given: Row, key: string) => given[key] as number;
const pushbackIn = (given: Row) => (given.pushback_ms as number | null) ?? undefined;

function budgetOf(config: Config): retry.Budget {
  return new retry.Budget(config.max_tokens, config.token_ratio_permille);
}

function statusClassSteps() {
  return (given: Row): Row => {
    const code = codeOf(given);
    const idempotent = given.idempotent as boolean;
    const found = verdict(code, idempotent, pushbackIn(given), NEVER);
    const pays = found.costs ? "failure" : "none";
    return {
      retry: found.retry,
      budget: code === OK ? "success" : pays,
      breaker: forBreaker(code),
      limiter: forLimiter(code),
    };
  };
}

function retrySteps(config: Config) {
  const budget = budgetOf(config);
  let machine: Retry | undefined;
  return (given: Row): Row => {
    const now = numberIn(given, "t");
    if (given.op === "start") {
      const { max_attempts: attemptsMax = 0, deadline_ms: deadline = 0 } = config;
      const idempotent = Boolean(config.idempotent);
      const rules = { attemptsMax, idempotent, endMs: now + deadline, never: NEVER };
      machine = new Retry(budget, rules, new retry.Backoff(camel<retry.BackoffConfig>(config)));
      return { send: 1 };
    }
    if (given.op !== "status" || machine === undefined) {
      unknown(given);
    }
    const rnd = numberIn(given, "rnd_ppm");
    const next = machine.status(now, codeOf(given), pushbackIn(given), rnd);
    const tokens = { tokens_milli: budget.tokensMilli };
    return next.send === undefined
      ? { end: true, stop_above: next.stopAbove, ...tokens }
      : { send: next.send, at: next.atMs, ...tokens };
  };
}

function hedgeSteps(config: Config) {
  const budget = budgetOf(config);
  let machine: Hedge | undefined;
  const moved = (given: Row): Move => {
    const now = numberIn(given, "t");
    if (given.op === "start") {
      const {
        max_attempts: attemptsMax = 0,
        deadline_ms: deadline = 0,
        delay_ms: delayMs = 0,
      } = config;
      machine = new Hedge(budget, { attemptsMax, delayMs, endMs: now + deadline, never: NEVER });
      return machine.start(now);
    }
    if (given.op === "wake" && machine !== undefined) {
      return machine.wake(now);
    }
    const attempt = numberIn(given, "attempt");
    if (given.op === "refused" && machine !== undefined) {
      return machine.refused(attempt);
    }
    if (given.op !== "status" || machine === undefined) {
      unknown(given);
    }
    return machine.status(now, attempt, codeOf(given), pushbackIn(given));
  };
  return (given: Row): Row => {
    const { send, wakeMs, cancel, end } = moved(given);
    const ended = end && {
      attempt: end.attempt,
      code: nameOf(end.code),
      stop_above: end.stopAbove,
    };
    return {
      send: send ?? null,
      wake: wakeMs ?? null,
      cancel,
      end: ended ?? null,
      tokens_milli: budget.tokensMilli,
    };
  };
}

function hedgeDelaySteps(config: Config) {
  const { samples, samples_min: least, permille, delay_ms_min: delay } = config;
  const machine = new HedgeDelay(samples, least, permille, delay);
  return (given: Row): Row => {
    machine.add(numberIn(given, "latency_ms"));
    return { delay_ms: machine.delayMs ?? null };
  };
}

function limiterDropSteps(config: Config) {
  const machine = new Gradient(camel<limiter.Config>(config));
  return (given: Row): Row => {
    const dropped = given.dropped as boolean;
    const rtt = numberIn(given, "rtt_us");
    return { limit: machine.sample(rtt, numberIn(given, "inflight"), dropped) };
  };
}

function callLimiterSteps(config: Config) {
  const machine = new Limiter(camel<limiter.Config>(config));
  const said = (given: Row): Row => {
    if (given.op === "acquire") {
      return { admit: machine.acquire() };
    }
    if (given.op === "leave") {
      machine.leave();
      return {};
    }
    if (given.op !== "release") {
      unknown(given);
    }
    const outcome = OUTCOMES.find((each) => each === given.outcome) ?? unknown(given);
    const [now, rtt] = [numberIn(given, "t"), numberIn(given, "rtt_us")];
    return { admitted: machine.release(now, rtt, outcome) };
  };
  return (given: Row): Row => {
    const out = said(given);
    const { limit, inflight, waiting } = machine;
    return { ...out, limit, inflight, waiting };
  };
}

type Driver = (config: Config) => (given: Row) => Row;

/** What a step of each kind may say, and its machine. */
const KINDS: Record<string, readonly [said: readonly string[], driver: Driver]> = {
  status_class: [["code", "idempotent", "pushback_ms"], statusClassSteps],
  retry: [["op", "t", "code", "pushback_ms", "rnd_ppm"], retrySteps],
  hedge: [["op", "t", "attempt", "code", "pushback_ms"], hedgeSteps],
  hedge_delay: [["latency_ms"], hedgeDelaySteps],
  limiter_drop: [["rtt_us", "inflight", "dropped"], limiterDropSteps],
  call_limiter: [["op", "t", "rtt_us", "outcome"], callLimiterSteps],
};

/** A fresh machine of a kind, which takes no step that it does not know. */
function machineOf(kind: string, config: Config): (given: Row) => Row {
  const [said, driver] = KINDS[kind] ?? [];
  if (said === undefined || driver === undefined) {
    throw new Error(`unknown kind ${kind}`);
  }
  const machine = driver(config);
  return (given) =>
    Object.keys(given).every((each) => said.includes(each)) ? machine(given) : unknown(given);
}

test("every kind is run", () => {
  const kinds = new Set(vectors.map((vector) => vector.kind));
  assert.equal(schema, 1);
  assert.deepEqual([...kinds].sort(), Object.keys(KINDS).sort());
});

for (const { kind, name, config, steps } of vectors) {
  test(`${kind}: ${name}`, () => {
    const step = machineOf(kind, config);
    for (const [number, { in: given, out }] of steps.entries()) {
      assert.deepEqual(step(given), out, `step ${number}: ${JSON.stringify(given)}`);
    }
  });
}

test("an unknown kind, operation or outcome is an error", () => {
  assert.throws(() => machineOf("guess", {}), /unknown kind/);
  for (const kind of Object.keys(KINDS)) {
    const step = machineOf(kind, {});
    assert.throws(() => step({ more: 1 }), /unknown op/);
    if (KINDS[kind]?.[0].includes("op")) {
      assert.throws(() => step({ op: "guess", t: 0 }), /unknown op/);
    }
  }
  const release = { op: "release", t: 0, rtt_us: 1, outcome: "maybe" };
  assert.throws(() => machineOf("call_limiter", {})(release), /unknown op/);
});

test("every status has a name", () => {
  assert.equal(NAMES.length, 17);
});
