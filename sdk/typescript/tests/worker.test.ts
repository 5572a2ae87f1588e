/** The worker against the real broker and scheduler, with handlers in this process. */
import assert from "node:assert/strict";
import { after, afterEach, before, beforeEach, test } from "node:test";
import {
  Code,
  ConnectError,
  createClient,
  type HandlerContext,
  type Interceptor,
} from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { Code as RpcCode } from "../gen/google/rpc/code_pb.js";
import { BadRequestSchema } from "../gen/google/rpc/error_details_pb.js";
import { TaskService } from "../gen/plait/v1/task_service_pb.js";
import { EchoService } from "../gen/testing/v1/echo_pb.js";
import { attempt, deadline, errors, type Snapshot } from "../src/index.js";
import type { Mesh } from "../src/testing.js";
import { event, refusal, Site, startMesh } from "./meshes.js";

const { method } = EchoService;
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

test("a handler answers, and sees its attempt, its deadline and its headers", async () => {
  await site.serve({
    inspect(_, context) {
      const here = attempt();
      const left = context.timeoutMs() ?? 0;
      assert.ok(left > 0 && left <= 5000, `${left} ms`);
      assert.ok((deadline.remainingMs() ?? 0) <= left);
      assert.equal(context.requestHeader.get("x-tenant"), "a");
      assert.equal(context.requestHeader.get("plait-task-id"), here.taskId);
      assert.equal(context.requestHeader.get("plait-fencing-token"), `${here.fencingToken}`);
      return { attempt: here.number, task: here.taskId, idempotencyKey: here.idempotencyKey };
    },
  });
  const headers = { "x-tenant": "a" };
  const answer = await site.echo.inspect({}, { timeoutMs: 5000, headers });
  assert.equal(answer.attempt, 1);
  assert.equal(answer.idempotencyKey, answer.task);
  assert.throws(() => attempt(), ReferenceError);
  assert.equal(deadline.remainingMs(), undefined);
});

test("a failed attempt is run again, under a new token and the same key", async () => {
  const seen: { number: number; token: bigint; key: string }[] = [];
  await site.serve({
    echo: ({ payload }) => {
      const { number, fencingToken: token, idempotencyKey: key } = attempt();
      seen.push({ number, token, key });
      if (number < 3) {
        throw new TypeError("not yet");
      }
      return { payload };
    },
  });
  await site.echo.echo({});
  assert.deepEqual(
    seen.map((each) => each.number),
    [1, 2, 3],
  );
  assert.ok(seen.every((each, at) => at === 0 || each.token > (seen[at - 1]?.token ?? 0n)));
  assert.equal(new Set(seen.map((each) => each.key)).size, 1);
});

test("what a handler throws is the caller's", async () => {
  await site.serve({
    echo: (_, context) => {
      context.responseTrailer.set("x-two", "2");
      const value = { fieldViolations: [{ field: "id", description: "missing" }] };
      throw new ConnectError("no such order", Code.NotFound, { "x-one": "1" }, [
        { desc: BadRequestSchema, value },
      ]);
    },
  });
  const error = await refusal(site.echo.echo({}));
  assert.equal(error.code, Code.NotFound);
  assert.equal(error.rawMessage, "no such order");
  assert.equal(error.findDetails(BadRequestSchema)[0]?.fieldViolations[0]?.field, "id");
  assert.equal(error.metadata.get("x-one"), "1");
  assert.equal(error.metadata.get("x-two"), "2");
});

test("cancelling a task reaches its handler", async () => {
  const started = event();
  const ended = event<unknown>();
  await site.serve({
    sleep: (_, { signal }) =>
      new Promise((_, reject) => {
        signal.addEventListener("abort", () => {
          ended.happen(signal.reason);
          reject(signal.reason);
        });
        started.happen();
      }),
  });
  const task = await site.plait.submit(method.sleep, {});
  await started.promise;
  assert.equal(await task.cancel("enough"), "CANCELLED");
  assert.equal(errors.reason(await ended.promise), errors.Reason.TASK_CANCELLED);
  const error = await refusal(task.result());
  assert.equal(error.code, Code.Canceled);
});

test("an attempt that runs out of time is reported, though its handler goes on", async () => {
  const go = event();
  const seen: number[] = [];
  await site.serve({
    echo: async ({ payload }) => {
      seen.push(attempt().number);
      await go.promise;
      return { payload };
    },
  });
  const error = await refusal(site.echo.echo({}, { timeoutMs: 200 }));
  assert.equal(error.code, Code.DeadlineExceeded);
  go.happen();
  assert.deepEqual(seen, [1]);
});

test("progress is seen by whoever watches", async () => {
  const go = event();
  await site.serve({
    sleep: async () => {
      assert.throws(() => attempt().progress(1.5), RangeError);
      attempt().progress(0.5, "half");
      await go.promise;
      return {};
    },
  });
  const task = await site.plait.submit(method.sleep, {});
  const seen: Snapshot[] = [];
  for await (const snapshot of task.watch()) {
    seen.push(snapshot);
    if (snapshot.fraction === 0.5) {
      assert.equal(snapshot.message, "half");
      go.happen();
    }
  }
  assert.equal(seen.at(-1)?.state, "SUCCEEDED");
});

test("at most `concurrency` handlers run at once", async () => {
  let running = 0;
  let most = 0;
  await site.serve(
    {
      echo: async ({ payload }) => {
        running += 1;
        most = Math.max(most, running);
        await new Promise(setImmediate);
        running -= 1;
        return { payload };
      },
    },
    { concurrency: 3 },
  );
  const requests = Array.from({ length: 500 }, () => ({}));
  let answers = 0;
  for await (const _ of site.plait.callMany(method.echo, requests)) {
    answers += 1;
  }
  assert.equal(answers, 500);
  assert.equal(most, 3);
});

test("interceptors see calls and attempts", async () => {
  const seen: string[] = [];
  const named =
    (name: string): Interceptor =>
    (next) =>
    (request) => {
      seen.push(name);
      return next(request);
    };
  const worker = site.plait.worker();
  const implementation = { echo: () => ({}) };
  worker.serve((router) =>
    router.service(EchoService, implementation, { interceptors: [named("worker")] }),
  );
  await worker.start();
  site.closing(() => worker.stop());
  const channel = site.plait.channel({ interceptors: [named("caller")] });
  await createClient(EchoService, channel).echo({});
  assert.deepEqual(seen, ["caller", "worker"]);
});

test("what cannot be served is refused at once", async () => {
  const streams = site.plait.worker();
  assert.throws(
    () =>
      streams.serve((router) =>
        router.service(TaskService, {
          async *watchTask() {
            yield {};
          },
        }),
      ),
    /streams/,
  );
  const twice = (worker = site.plait.worker()) =>
    worker.serve((router) => {
      router.service(EchoService, { echo: () => ({}) });
      router.rpc(method.echo, () => ({}));
    });
  assert.throws(() => twice(), /served already/);
  assert.throws(() => site.plait.worker({ concurrency: 0 }), RangeError);
  await assert.rejects(site.plait.worker().start(), /nothing is served/);
});

test("a drain finishes what runs and hands back what waits", async () => {
  const started = event();
  const go = event();
  const first = await site.serve(
    {
      echo: async () => {
        started.happen();
        await go.promise;
        return { payload: new Uint8Array([1]) };
      },
    },
    { concurrency: 1 },
  );
  const tasks = [];
  for await (const task of site.plait.submitMany(method.echo, [{}, {}, {}])) {
    tasks.push(task);
  }
  await started.promise;
  const stopped = first.stop();
  await site.serve({ echo: () => ({ payload: new Uint8Array([2]) }) });
  const [one, two, three] = tasks;
  assert.deepEqual((await two?.result())?.payload, new Uint8Array([2]));
  assert.deepEqual((await three?.result())?.payload, new Uint8Array([2]));
  go.happen();
  await stopped;
  assert.deepEqual((await one?.result())?.payload, new Uint8Array([1]));
});

test("a second stop does not wait for handlers", async () => {
  const started = event();
  const ended = event<AbortSignal>();
  const worker = await site.serve({
    sleep: (_, { signal }) => {
      started.happen();
      signal.addEventListener("abort", () => ended.happen(signal));
      return new Promise(() => undefined);
    },
  });
  const task = await site.plait.submit(method.sleep, {});
  await started.promise;
  void worker.stop();
  await worker.stop();
  assert.ok((await ended.promise).aborted);
  // Or the next test's worker would be given it.
  await task.cancel();
});

test("a broker that is killed is attached to again, and outcomes are not lost", async () => {
  const started = event();
  const go = event();
  const ran: string[] = [];
  await site.serve({
    echo: async ({ payload }) => {
      ran.push(new TextDecoder().decode(payload));
      started.happen();
      await go.promise;
      return { payload };
    },
  });
  const payload = new TextEncoder().encode("x");
  const task = await site.plait.submit(method.echo, { payload });
  await started.promise;
  await site.mesh.killBroker();
  go.happen();
  await site.mesh.startBroker();
  assert.deepEqual((await task.result()).payload, payload);
  assert.deepEqual(ran, ["x"]);
});

test("a flow's children are recorded, and answered from the record when it is run again", async () => {
  const ran: string[] = [];
  const answers: string[] = [];
  await site.serve(
    {
      echo: ({ payload }) => {
        ran.push(new TextDecoder().decode(payload));
        return { payload };
      },
      flow: async ({ width, seed }) => {
        const children = Array.from({ length: width }, (_, number) =>
          site.echo.echo({ payload: new TextEncoder().encode(`${seed}${number}`) }),
        );
        const echoes = await Promise.all(children);
        answers.push(echoes.map((each) => new TextDecoder().decode(each.payload)).join());
        if (attempt().number === 1) {
          throw new ConnectError("once more", Code.Unavailable);
        }
        return { attempt: attempt().number };
      },
    },
    // A flow that waits gives its slot back, or this would never end.
    { concurrency: 1 },
  );
  const answer = await site.echo.flow({ width: 5, seed: "s" });
  assert.equal(answer.attempt, 2);
  assert.deepEqual(ran.sort(), ["s0", "s1", "s2", "s3", "s4"]);
  assert.deepEqual(answers, ["s0,s1,s2,s3,s4", "s0,s1,s2,s3,s4"]);
});

test("a drain unloads a flow that waits, and another worker runs it again", async () => {
  const started = event();
  const unloaded = event();
  const go = event();
  const runs: number[] = [];
  const handlers = {
    echo: async ({ payload }: { payload: Uint8Array }) => {
      started.happen();
      await go.promise;
      return { payload };
    },
    flow: async (_: unknown, { signal }: HandlerContext) => {
      runs.push(attempt().number);
      signal.addEventListener("abort", () => unloaded.happen());
      await site.echo.echo({});
      return { attempt: attempt().number };
    },
  };
  const first = await site.serve(handlers);
  const task = await site.plait.submit(method.flow, {});
  await started.promise;
  // The child runs here, so it is finished; the flow only waits for it.
  const stopped = first.stop();
  await unloaded.promise;
  await site.serve(handlers);
  go.happen();
  await stopped;
  assert.equal((await task.result()).attempt, 1);
  assert.deepEqual(runs, [1, 1]);
});

test("a drain lets a flow go on until it waits", async () => {
  const started = event();
  const go = event();
  const child = event();
  const seen: boolean[] = [];
  const handlers = {
    echo: async ({ payload }: { payload: Uint8Array }) => {
      await child.promise;
      return { payload };
    },
    flow: async (_: unknown, { signal }: HandlerContext) => {
      const echo = await site.plait.submit(method.echo, {});
      started.happen();
      await go.promise;
      // It asked for a child and did something else, which was not cut off.
      seen.push(signal.aborted);
      signal.addEventListener("abort", () => child.happen());
      await echo.result();
      return {};
    },
  };
  const first = await site.serve(handlers);
  const task = await site.plait.submit(method.flow, {});
  await started.promise;
  const stopped = first.stop();
  const second = await site.serve(handlers);
  go.happen();
  await stopped;
  await task.result();
  await second.stop();
  assert.deepEqual(seen, [false, false]);
});

test("a flow that asks for something else when it is run again is refused", async () => {
  await site.serve({
    fail: () => ({ attempt: 1 }),
    flow: async () => {
      const message = attempt().number === 1 ? "first" : "other";
      await site.echo.fail({ code: RpcCode.UNAVAILABLE, message, failures: 0 });
      throw new ConnectError("once more", Code.Unavailable);
    },
  });
  const error = await refusal(site.echo.flow({}));
  assert.equal(error.code, Code.FailedPrecondition);
  assert.equal(errors.reason(error), errors.Reason.FLOW_DIVERGED);
});

test("a detached client makes ordinary tasks inside a handler", async () => {
  const detached = createClient(EchoService, site.plait.detached().channel());
  const ids: string[] = [];
  await site.serve({
    echo: ({ payload }) => {
      ids.push(attempt().taskId);
      return { payload };
    },
    flow: async () => {
      await detached.echo({});
      return { attempt: attempt().number };
    },
  });
  await site.echo.flow({});
  const { task } = await createTasks().getTask({ id: ids[0] ?? "" });
  assert.equal(task?.parent, "");
});

test("a child's failure is the flow's, unless it is caught", async () => {
  await site.serve({
    fail: ({ message }) => {
      throw new ConnectError(message, Code.PermissionDenied, { "x-child": "yes" });
    },
    flow: async ({ seed }) => {
      await site.echo.fail({ code: RpcCode.OK, message: seed });
      return {};
    },
  });
  const error = await refusal(site.echo.flow({ seed: "not you" }));
  assert.equal(error.code, Code.PermissionDenied);
  assert.equal(error.rawMessage, "not you");
  assert.equal(error.metadata.get("x-child"), "yes");
});

/** The task service itself, on the site's broker. */
function createTasks() {
  return createClient(TaskService, createGrpcTransport({ baseUrl: `http://${site.mesh.address}` }));
}
