/** Direct calls against workers of this process: what is sent again, when, and what comes of it. */
import assert from "node:assert/strict";
import { after, afterEach, before, beforeEach, test } from "node:test";
import {
  type Client,
  Code,
  ConnectError,
  createClient,
  type HandlerContext,
  type ServiceImpl,
} from "@connectrpc/connect";
import { EchoService } from "../gen/testing/v1/echo_pb.js";
import { type DirectOptions, deadline, directOptions, errors } from "../src/index.js";
import { rulesOf, under } from "../src/rules.js";
import type { Mesh } from "../src/testing.js";
import { event, refusal, Site, startMesh } from "./meshes.js";

const { method } = EchoService;
const LISTENS = { listen: "127.0.0.1:0" };
const PUSHBACK = "grpc-retry-pushback-ms";
/** Nothing of the channel's own is to be in the way. */
const BARE = { breaker: null, limiter: null } as const;
let mesh: Mesh;
let site: Site;

before(async () => {
  mesh = await startMesh();
});

after(() => mesh.stop());

beforeEach(async () => {
  site = await Site.open(mesh);
});

afterEach(() => site.close());

type Handler = (number: number, context: HandlerContext) => Promise<void> | void;

/** A worker whose Echo is this, with the number of the call; answers with how many there were. */
async function worker(handler: Handler): Promise<() => number> {
  let calls = 0;
  await serve({
    async echo(_, context) {
      calls += 1;
      const number = calls;
      await handler(number, context);
      return { payload: Uint8Array.of(number) };
    },
  });
  return () => calls;
}

/** Runs a worker that listens; resolves once the client knows of it. */
async function serve(implementation: Partial<ServiceImpl<typeof EchoService>>): Promise<void> {
  await site.serve({ scalars: () => ({}), ...implementation }, LISTENS);
  const stub = direct({ ...BARE, budgetTokens: 1_000_000 });
  for (;;) {
    try {
      await stub.scalars({}, { timeoutMs: 20_000 });
      return;
    } catch (error) {
      assert.match(ConnectError.from(error).rawMessage, /nobody serves/);
    }
  }
}

function direct(options: DirectOptions = {}): Client<typeof EchoService> {
  return createClient(EchoService, site.plait.direct(options));
}

function failing(times: number, error: () => ConnectError): Handler {
  return (number) => {
    if (number <= times) {
      throw error();
    }
  };
}

const down = (headers: Record<string, string> = {}) =>
  new ConnectError("down", Code.Unavailable, headers);

test("a call that fails is tried again, and the answer is the last one's", async () => {
  const calls = await worker(failing(2, down));
  const { payload } = await direct().echo({});
  assert.deepEqual([...payload], [3]);
  assert.equal(calls(), 3);
});

test("the last error is the call's, with its details and trailers", async () => {
  const calls = await worker((number) => {
    const error = errors.newError(Code.Unavailable, errors.Reason.DRAINING, `failure ${number}`);
    error.metadata.set("x-why", "dust");
    throw error;
  });
  const error = await refusal(direct(BARE).echo({}));
  assert.equal(calls(), 3);
  assert.deepEqual([error.code, error.rawMessage], [Code.Unavailable, "failure 3"]);
  assert.equal(errors.reason(error), "DRAINING");
  assert.equal(error.metadata.get("x-why"), "dust");
});

for (const [name, options, code, attempts] of [
  ["Internal may have been done", {}, Code.Internal, 1],
  ["Internal of what may be done twice", { idempotent: true }, Code.Internal, 3],
  ["NotFound is an answer", { idempotent: true }, Code.NotFound, 1],
  ["a single attempt", { maxAttempts: 1 }, Code.Unavailable, 1],
  ["ResourceExhausted without a word of when", {}, Code.ResourceExhausted, 1],
] as const) {
  test(`what is sent again: ${name}`, async () => {
    const calls = await worker(failing(9, () => new ConnectError("no", code)));
    const error = await refusal(direct({ ...BARE, ...options }).echo({}));
    assert.deepEqual([error.code, calls()], [code, attempts]);
  });
}

test("options of one call win over those of the channel", async () => {
  const calls = await worker(failing(9, down));
  const contextValues = directOptions({ maxAttempts: 2 });
  await refusal(direct(BARE).echo({}, { contextValues }));
  assert.equal(calls(), 2);
});

for (const [value, attempts] of [
  ["-1", 1],
  ["soon", 1],
  ["0", 3],
] as const) {
  test(`a worker that says ${value} of trying again is obeyed`, async () => {
    const calls = await worker(failing(9, () => down({ [PUSHBACK]: value })));
    await refusal(direct(BARE).echo({}));
    assert.equal(calls(), attempts);
  });
}

test("without time nothing is sent", async () => {
  const calls = await worker(() => undefined);
  const error = await refusal(deadline.limit(3, () => direct().echo({})));
  assert.deepEqual([error.code, calls()], [Code.DeadlineExceeded, 0]);
});

test("a budget is one for a service", async () => {
  const calls = await worker(failing(9, down));
  // Four tokens: after two failures half of them are spent.
  const stub = direct({ ...BARE, budgetTokens: 4 });
  await refusal(stub.echo({}));
  await refusal(stub.echo({}));
  assert.equal(calls(), 3);
});

test("an open breaker refuses, says when to come, and costs nothing", async () => {
  const calls = await worker(failing(9, down));
  const stub = direct({ breaker: { minCalls: 3, openMs: 60_000 }, limiter: null });
  await refusal(stub.echo({}));
  const before = calls();
  const error = await refusal(stub.echo({}));
  assert.deepEqual([error.code, errors.reason(error)], [Code.Unavailable, "BREAKER_OPEN"]);
  assert.ok((errors.retryAfterMs(error) ?? 0) > 50_000);
  assert.deepEqual([before, calls()], [3, 3]);
});

test("those over the limit come in by turns, and too many are refused", async () => {
  const gate = event();
  await worker(() => gate.promise);
  const stub = direct({ breaker: null, limiter: { initial: 1, max: 1, waitingMax: 2 } });
  const first = stub.echo({});
  const left = new AbortController();
  const gone = refusal(stub.echo({}, { signal: left.signal }));
  const second = stub.echo({});
  const error = await refusal(stub.echo({}));
  assert.deepEqual([error.code, errors.reason(error)], [Code.ResourceExhausted, "QUEUE_FULL"]);
  assert.ok((errors.retryAfterMs(error) ?? 0) >= 10);
  // Who gives up waiting leaves no gap.
  left.abort();
  assert.equal((await gone).code, Code.Canceled);
  const third = stub.echo({});
  gate.happen();
  const order = (await Promise.all([first, second, third])).map(({ payload }) => payload[0]);
  assert.deepEqual(order, [1, 2, 3]);
});

test("a hedge wins, and the first attempt is cancelled", async () => {
  const cancelled = event();
  const calls = await worker((number, { signal }) => {
    if (number === 1) {
      signal.addEventListener("abort", () => cancelled.happen());
      return cancelled.promise;
    }
    return undefined;
  });
  const stub = direct({ ...BARE, idempotent: true, hedge: true, hedgeDelayMs: 20 });
  const { payload } = await stub.echo({});
  assert.deepEqual([[...payload], calls()], [[2], 2]);
  await cancelled.promise;
});

test("a hedged call ends with the last failure", async () => {
  const calls = await worker(failing(9, down));
  const stub = direct({ ...BARE, idempotent: true, hedge: true, hedgeDelayMs: 10_000 });
  const error = await refusal(stub.echo({}));
  assert.deepEqual([error.rawMessage, calls()], ["down", 2]);
});

test("only what may be done twice is hedged", async () => {
  const gate = event();
  const calls = await worker((number) => (number === 1 ? gate.promise : undefined));
  const stub = direct({ ...BARE, hedge: true, hedgeDelayMs: 1 });
  const call = stub.echo({});
  // A hedge would have come before these.
  for (let other = 0; other < 20; other++) {
    await stub.scalars({});
  }
  gate.happen();
  await call;
  assert.equal(calls(), 1);
});

for (const [name, caught] of [
  ["passed on", false],
  ["told as one's own", true],
] as const) {
  test(`a failure below is not tried again above: ${name}`, async () => {
    let below = 0;
    let above = 0;
    await serve({
      inspect() {
        below += 1;
        throw down();
      },
      async echo() {
        above += 1;
        try {
          await direct(BARE).inspect({});
        } catch (error) {
          throw caught ? down() : error;
        }
        return {};
      },
    });
    const error = await refusal(direct(BARE).echo({}));
    assert.equal(error.metadata.get(PUSHBACK), "-1");
    assert.deepEqual([above, below], [1, 3]);
  });
}

test("what is not to be tried again anyway is not marked", async () => {
  await serve({
    inspect: () => Promise.reject(down()),
    async echo() {
      await direct(BARE)
        .inspect({})
        .catch(() => undefined);
      throw new ConnectError("not here", Code.NotFound);
    },
  });
  const error = await refusal(direct(BARE).echo({}));
  assert.deepEqual([error.code, error.metadata.get(PUSHBACK)], [Code.NotFound, null]);
});

test("a call that its caller leaves ends, also in its handler", async () => {
  const begun = event();
  const ended = event();
  const calls = await worker((_, { signal }) => {
    signal.addEventListener("abort", () => ended.happen());
    begun.happen();
    return ended.promise;
  });
  const left = new AbortController();
  const gone = refusal(direct().echo({}, { signal: left.signal }));
  await begun.promise;
  left.abort();
  assert.equal((await gone).code, Code.Canceled);
  await ended.promise;
  assert.equal(calls(), 1);
});

test("a cancelled probe gives its permit back", async () => {
  const gate = event();
  const begun = event();
  await worker((number) => {
    if (number === 1) {
      throw down();
    }
    begun.happen();
    return number === 2 ? gate.promise : undefined;
  });
  const breaker = { minCalls: 1, openMs: 1, halfOpenProbes: 1 };
  const stub = direct({ breaker, limiter: null, maxAttempts: 1 });
  await refusal(stub.echo({}));
  const left = new AbortController();
  const probe = refusal(through(() => stub.echo({}, { signal: left.signal })));
  await begun.promise;
  assert.equal(errors.reason(await refusal(stub.echo({}))), "BREAKER_OPEN");
  left.abort();
  assert.equal((await probe).code, Code.Canceled);
  assert.deepEqual([...(await stub.echo({})).payload], [3]);
  gate.happen();
});

/** Calls until the breaker lets it through. */
async function through<T>(call: () => Promise<T>): Promise<T> {
  for (;;) {
    try {
      return await call();
    } catch (error) {
      if (errors.reason(error) !== "BREAKER_OPEN") {
        throw error;
      }
    }
  }
}

test("rules are those of the contract", () => {
  const { echo, once, append, fail, scalars } = method;
  assert.equal(rulesOf(once).maxAttempts, 1);
  assert.equal(rulesOf(fail).maxAttempts, 3);
  assert.equal(rulesOf(append).idempotent, true);
  assert.equal(rulesOf(echo).idempotent, false);
  assert.deepEqual([rulesOf(echo).breaker, rulesOf(scalars).breaker], [{}, null]);
  assert.equal(rulesOf(method.sleep).timeoutMs, 5_000);
  assert.equal(rulesOf(echo).timeoutMs, 30_000);
  assert.equal(rulesOf(echo).hedge, false);
});

test("options win over the contract, within bounds", () => {
  const rules = rulesOf(method.once);
  assert.deepEqual(under(rules, {}), rules);
  const said = under(rules, { maxAttempts: 9, hedgeDelayMs: 0, breaker: null, limiter: null });
  assert.deepEqual(
    [said.maxAttempts, said.hedgeDelayMs, said.breaker, said.limiter],
    [5, 1, null, null],
  );
});
