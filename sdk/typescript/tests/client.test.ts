/** The client against the real broker and scheduler, and the worker of another language. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { Code, createClient } from "@connectrpc/connect";
import { Code as RpcCode } from "../gen/google/rpc/code_pb.js";
import { BadRequestSchema, RetryInfoSchema } from "../gen/google/rpc/error_details_pb.js";
import { EchoService } from "../gen/testing/v1/echo_pb.js";
import { connect, errors, isFinal, options, type Snapshot } from "../src/index.js";
import { Process } from "../src/process.js";
import { refusal, Site } from "./meshes.js";

const { method } = EchoService;
const bytes = (text: string) => new TextEncoder().encode(text);
let site: Site;

before(async () => {
  site = await Site.open();
  const worker = await Process.start(
    "echo-worker-go",
    [join(process.env.PLAIT_BIN ?? "", "echo-worker-go"), "--concurrency", "64"],
    join(site.mesh.logs, "worker.log"),
    { PLAIT_ADDRESS: site.mesh.address },
  );
  site.closing(() => worker.terminate());
});

after(() => site.close());

test("a call is durable and waits for its result", async () => {
  let taskId: string | null = null;
  const answer = await site.echo.echo(
    { payload: bytes("hello") },
    { onHeader: (headers) => (taskId = headers.get("plait-task-id")) },
  );
  assert.deepEqual(answer.payload, bytes("hello"));
  assert.match(String(taskId), /^t[0-9a-f]{16}$/);
});

test("submit answers with a handle, which can be made again from the id", async () => {
  const task = await site.plait.submit(method.echo, { payload: bytes("later") });
  assert.match(task.id, /^t[0-9a-f]{16}$/);
  assert.deepEqual((await task.result()).payload, bytes("later"));
  assert.deepEqual((await task.result()).payload, bytes("later"));
  assert.equal(await task.state(), "SUCCEEDED");
  const again = site.plait.task(method.echo, task.id);
  assert.deepEqual((await again.result()).payload, bytes("later"));
  assert.throws(() => site.plait.task(method.echo, "17"), RangeError);
});

test("the handler sees headers, keys and a deadline", async () => {
  const answer = await site.echo.inspect(
    {},
    {
      headers: { "x-tenant": "a" },
      timeoutMs: 20_000,
      contextValues: options({ key: "inspect-1", headers: { "x-more": "b" } }),
    },
  );
  assert.equal(answer.metadata["x-tenant"], "a");
  assert.equal(answer.metadata["x-more"], "b");
  assert.equal(answer.metadata["plait-idempotency-key"], "inspect-1");
  assert.equal(answer.idempotencyKey, "inspect-1");
  assert.equal(answer.attempt, 1);
  assert.ok(answer.fencingToken > 0n);
  const seconds = Number(answer.timeRemaining?.seconds);
  assert.ok(seconds >= 1 && seconds < 20, `${seconds} s`);
});

test("a failure arrives as the handler made it", async () => {
  const error = await refusal(
    site.echo.fail({
      code: RpcCode.INVALID_ARGUMENT,
      message: "no such order: žluťoučký",
      failures: 9,
      retryDelay: { seconds: 3n },
      violation: "order_id",
      trailer: "go",
    }),
  );
  assert.equal(error.code, Code.InvalidArgument);
  assert.equal(error.rawMessage, "no such order: žluťoučký");
  assert.equal(error.findDetails(BadRequestSchema)[0]?.fieldViolations[0]?.field, "order_id");
  assert.equal(error.findDetails(RetryInfoSchema)[0]?.retryDelay?.seconds, 3n);
  assert.equal(errors.retryAfterMs(error), 3000);
  assert.equal(error.metadata.get("x-failed-by"), "go");
  assert.equal(errors.reason(error), undefined);
});

test("a task that fails at first is run again", async () => {
  const answer = await site.echo.fail({ code: RpcCode.UNAVAILABLE, message: "no", failures: 2 });
  assert.equal(answer.attempt, 3);
});

test("equal keys are one task, and another request is refused", async () => {
  const request = { account: "a", entry: { id: "e-1", number: 1n } };
  const first = await site.plait.submit(method.append, request);
  const second = await site.plait.submit(method.append, request);
  assert.equal(first.id, second.id);
  const results = await Promise.all([first.result(), second.result()]);
  assert.deepEqual(results[0], results[1]);
  const error = await refusal(site.echo.append({ ...request, account: "b" }));
  assert.equal(error.code, Code.AlreadyExists);
  assert.equal(errors.reason(error), errors.Reason.DUPLICATE_KEY_CONFLICT);
  assert.equal(errors.metadata(error).task, first.id);
});

test("a key that the policy asks for and the request lacks is refused", async () => {
  const error = await refusal(site.plait.submit(method.append, { account: "a" }));
  assert.equal(error.code, Code.InvalidArgument);
  assert.equal(errors.reason(error), errors.Reason.KEY_MISSING);
  assert.deepEqual(errors.metadata(error), {
    key: "idempotency",
    method: "/testing.v1.EchoService/Append",
  });
});

test("a delayed task waits, and a cancelled one never starts", async () => {
  const task = await site.plait.submit(method.echo, {}, { delayMs: 600_000, priority: 9 });
  assert.equal(await task.state(), "SCHEDULED");
  assert.equal(await task.cancel("enough"), "CANCELLED");
  const error = await refusal(task.result());
  assert.equal(error.code, Code.Canceled);
  assert.equal(errors.reason(error), errors.Reason.TASK_CANCELLED);
});

test("a deadline expires the task", async () => {
  const task = await site.plait.submit(method.echo, {}, { delayMs: 60_000, deadlineMs: 50 });
  const error = await refusal(task.result());
  assert.equal(error.code, Code.DeadlineExceeded);
  assert.equal(errors.reason(error), errors.Reason.TASK_EXPIRED);
});

test("a call's timeout and its signal end the wait", async () => {
  const contextValues = options({ delayMs: 60_000 });
  const late = await refusal(site.echo.echo({}, { timeoutMs: 50, contextValues }));
  assert.equal(late.code, Code.DeadlineExceeded);
  const ended = new AbortController();
  const call = site.echo.echo({}, { signal: ended.signal, contextValues });
  ended.abort();
  assert.equal((await refusal(call)).code, Code.Canceled);
  const aborted = AbortSignal.abort();
  assert.equal((await refusal(site.echo.echo({}, { signal: aborted }))).code, Code.Canceled);
});

test("watch shows a task to its end", async () => {
  const task = await site.plait.submit(method.echo, {}, { delayMs: 100 });
  const seen: Snapshot[] = [];
  for await (const snapshot of task.watch()) {
    seen.push(snapshot);
  }
  const last = seen.at(-1);
  assert.equal(last?.state, "SUCCEEDED");
  assert.ok(last !== undefined && isFinal(last.state));
  assert.equal(seen[0]?.attempt, 0);
});

test("many calls come back in order", async () => {
  const count = 5000;
  function* requests() {
    for (let number = 0; number < count; number++) {
      yield { payload: bytes(`${number}`) };
    }
  }
  let next = 0;
  for await (const answer of site.plait.callMany(method.echo, requests())) {
    assert.equal(new TextDecoder().decode(answer.payload), `${next}`);
    next += 1;
  }
  assert.equal(next, count);
});

test("handles of many tasks come as they are accepted", async () => {
  async function* requests() {
    for (let number = 0; number < 300; number++) {
      yield { account: "bulk", entry: { id: `bulk-${number}`, number: BigInt(number) } };
    }
  }
  const ids = new Set<string>();
  const bulk = site.plait.submitMany(method.append, requests(), {
    key: ({ entry }) => `key of ${entry?.id}`,
    window: 20,
  });
  for await (const task of bulk) {
    ids.add(task.id);
  }
  assert.equal(ids.size, 300);
});

test("a loop that stops early pulls no more", async () => {
  let pulled = 0;
  let ended = false;
  function* requests() {
    try {
      for (;;) {
        pulled += 1;
        yield { payload: bytes("x") };
      }
    } finally {
      ended = true;
    }
  }
  for await (const _ of site.plait.callMany(method.echo, requests(), { window: 8 })) {
    break;
  }
  assert.deepEqual((await site.echo.echo({ payload: bytes("y") })).payload, bytes("y"));
  assert.ok(ended && pulled <= 10, `${pulled} pulled`);
});

test("a task that is not there", async () => {
  const error = await refusal(site.plait.task(method.echo, "t00000000ffffffff").result());
  assert.equal(errors.reason(error), errors.Reason.TASK_NOT_FOUND);
});

test("a broker that is killed is waited for, and nothing is lost", async () => {
  const tasks = await Promise.all(
    Array.from({ length: 50 }, (_, number) =>
      site.plait.submit(method.echo, { payload: bytes(`${number}`) }, { delayMs: 300 }),
    ),
  );
  const results = Promise.all(tasks.map((task) => task.result()));
  await site.mesh.killBroker();
  const during = site.echo.echo({ payload: bytes("during") });
  await site.mesh.startBroker();
  const payloads = (await results).map((each) => new TextDecoder().decode(each.payload));
  assert.deepEqual(
    payloads,
    Array.from({ length: 50 }, (_, number) => `${number}`),
  );
  assert.deepEqual((await during).payload, bytes("during"));
});

test("a closed client refuses, and whoever waits is told", async () => {
  const other = connect(site.mesh.address);
  const echo = createClient(EchoService, other.channel());
  const task = await other.submit(method.echo, {}, { delayMs: 60_000 });
  const waiting = refusal(task.result());
  await other.close();
  assert.equal((await waiting).code, Code.Canceled);
  assert.equal((await refusal(echo.echo({}))).code, Code.Canceled);
});
