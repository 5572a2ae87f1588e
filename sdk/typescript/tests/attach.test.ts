/** The worker's stream, against a broker that does what a test says. */
import assert from "node:assert/strict";
import { afterEach, test } from "node:test";
import { Code, ConnectError, type ServiceImpl } from "@connectrpc/connect";
import { type AttachRequest, StopReason } from "../gen/plait/v1/worker_service_pb.js";
import { EchoService } from "../gen/testing/v1/echo_pb.js";
import { attempt, connect, errors, type Worker, type WorkerOptions } from "../src/index.js";
import * as statuses from "../src/statuses.js";
import { event } from "./meshes.js";
import { type AttachScript, Pocket } from "./pocket.js";

const closers: (() => Promise<unknown>)[] = [];

afterEach(async () => {
  for (const close of closers.splice(0)) {
    await close();
  }
});

/** A worker, and a broker that plays the scripts. */
async function open(
  implementation: Partial<ServiceImpl<typeof EchoService>>,
  options: WorkerOptions,
  ...attach: AttachScript[]
): Promise<[Worker, Pocket]> {
  const pocket = await Pocket.start({ attach });
  const client = connect(pocket.address);
  const worker = client.worker({ graceMs: 0, ...options });
  worker.serve((router) => router.service(EchoService, implementation));
  closers.push(
    () => worker.stop(),
    () => client.close(),
    () => pocket.stop(),
  );
  return [worker, pocket];
}

type Read = Parameters<AttachScript>[0];
type Say = Parameters<AttachScript>[1];

/** Reads the hello and answers it. */
async function greet(read: Read, say: Say, heartbeatMs = 60_000, lost: bigint[] = []) {
  const { message } = await read();
  assert.ok(message.case === "hello");
  const heartbeatInterval = {
    nanos: (heartbeatMs % 1000) * 1e6,
    seconds: BigInt(Math.floor(heartbeatMs / 1000)),
  };
  const gone = lost.map((task) => ({ task, token: 1n }));
  say({ case: "welcome", value: { heartbeatInterval, lost: gone, payloadBytesMax: 10n } });
  return message.value;
}

function give(say: Say, sequence: bigint, ...tasks: bigint[]): void {
  say({
    case: "attempts",
    value: {
      sequence,
      tasks,
      tokens: tasks.map(() => 1n),
      payloads: tasks.map(() => new Uint8Array()),
      timeoutMs: tasks.map(() => 60_000n),
    },
  });
}

/** Reads to a message of one kind. */
async function until<K extends NonNullable<AttachRequest["message"]["case"]>>(read: Read, kind: K) {
  for (;;) {
    const { message, acceptedSequence } = await read();
    if (message.case === kind) {
      return {
        value: message.value as Extract<AttachRequest["message"], { case: K }>["value"],
        acceptedSequence,
      };
    }
  }
}

/** Reads so many outcomes, of one frame or of several; their tasks. */
async function outcomes(read: Read, count: number): Promise<bigint[]> {
  const tasks: bigint[] = [];
  for (let sequence = 1n; tasks.length < count; sequence++) {
    const { value, acceptedSequence } = await until(read, "outcomes");
    assert.deepEqual([value.sequence, acceptedSequence], [sequence, 1n]);
    assert.equal(value.tokens.length, value.tasks.length);
    assert.equal(value.payloads.length, value.tasks.length);
    tasks.push(...value.tasks);
  }
  return tasks;
}

async function stay(read: Read): Promise<void> {
  for (;;) {
    await read();
  }
}

test("the hello says who it is, and outcomes tell what was received", async () => {
  const told = event();
  const [worker] = await open(
    { echo: () => ({ payload: new Uint8Array([7]) }) },
    { name: "orders", version: "1.4", concurrency: 3 },
    async (read, say) => {
      const hello = await greet(read, say);
      assert.deepEqual(hello.methods, ["/testing.v1.EchoService/Echo"]);
      assert.deepEqual([hello.name, hello.version, hello.slots], ["orders", "1.4", 3]);
      assert.match(hello.client, /^plait-typescript\//);
      assert.match(hello.worker, /^[A-Za-z0-9._:-]{1,64}$/);
      give(say, 1n, 5n, 6n);
      assert.deepEqual(await outcomes(read, 2), [5n, 6n]);
      give(say, 2n, 7n);
      const { value, acceptedSequence } = await until(read, "outcomes");
      assert.deepEqual([value.tasks, value.tokens, acceptedSequence], [[7n], [1n], 2n]);
      assert.deepEqual(value.payloads, [new Uint8Array([10, 1, 7])]);
      say({ case: "settled", value: { sequence: value.sequence } });
      told.happen();
      await stay(read);
    },
  );
  await worker.start();
  await told.promise;
});

test("an outcome that was not settled is told again, unless its lease is lost", async () => {
  const told = event();
  const [worker] = await open(
    { echo: () => ({}) },
    {},
    async (read, say) => {
      await greet(read, say);
      give(say, 1n, 1n, 2n);
      await outcomes(read, 2);
      throw new ConnectError("the broker was killed", Code.Unavailable);
    },
    async (read, say) => {
      const hello = await greet(read, say, 60_000, [1n]);
      assert.deepEqual(
        hello.held.map((each) => each.task),
        [1n, 2n],
      );
      const { value } = await until(read, "outcomes");
      assert.deepEqual([value.sequence, value.tasks], [1n, [2n]]);
      told.happen();
      await stay(read);
    },
  );
  await worker.start();
  await told.promise;
});

test("a handler goes on while the broker is away, and is stopped when its lease is lost", async () => {
  const started = event();
  const causes: unknown[] = [];
  const ended = event();
  const [worker] = await open(
    {
      echo: (_, { signal }) => {
        started.happen();
        return new Promise((resolve) => {
          signal.addEventListener("abort", () => {
            causes.push(errors.reason(signal.reason));
            resolve({});
            ended.happen();
          });
        });
      },
    },
    {},
    async (read, say) => {
      await greet(read, say);
      give(say, 1n, 1n);
      await started.promise;
      throw new ConnectError("give it up", Code.Canceled);
    },
    async (read, say) => {
      const hello = await greet(read, say, 60_000, [1n]);
      assert.deepEqual(
        hello.held.map((each) => [each.task, each.token]),
        [[1n, 1n]],
      );
      await stay(read);
    },
  );
  await worker.start();
  await ended.promise;
  assert.deepEqual(causes, [errors.Reason.LEASE_LOST]);
});

test("a stopped attempt has no outcome", async () => {
  const started = event();
  const told = event();
  const [worker] = await open(
    {
      echo: (_, { signal }) => {
        if (attempt().taskId !== "t0000000000000001") {
          return {};
        }
        started.happen();
        return new Promise((_, reject) => {
          signal.addEventListener("abort", () => reject(signal.reason));
        });
      },
    },
    {},
    async (read, say) => {
      await greet(read, say);
      give(say, 1n, 1n);
      await started.promise;
      const entry = { task: 1n, token: 1n, reason: StopReason.CANCELLED };
      say({ case: "stop", value: { entries: [entry] } });
      give(say, 2n, 2n);
      const { value } = await until(read, "outcomes");
      assert.deepEqual(value.tasks, [2n]);
      told.happen();
      await stay(read);
    },
  );
  await worker.start();
  await told.promise;
});

test("a response over the broker's limit is a failure", async () => {
  const told = event();
  const [worker] = await open(
    { echo: () => ({ payload: new Uint8Array(20) }) },
    {},
    async (read, say) => {
      await greet(read, say);
      give(say, 1n, 1n);
      const { value } = await until(read, "outcomes");
      const [failure] = value.failures;
      assert.equal(failure?.code, Code.InvalidArgument);
      const error = statuses.fromParts(failure.code, failure.message, failure.details);
      assert.equal(errors.reason(error), errors.Reason.TOO_LARGE);
      assert.deepEqual(errors.metadata(error), { field: "response", size: "22", limit: "10" });
      told.happen();
      await stay(read);
    },
  );
  await worker.start();
  await told.promise;
});

test("a worker sends heartbeats, and leaves a broker that is silent", async () => {
  const beats: bigint[] = [];
  const again = event();
  const [worker] = await open(
    { echo: () => ({}) },
    {},
    async (read, say) => {
      await greet(read, say, 40);
      for (;;) {
        await until(read, "heartbeat");
        beats.push(1n);
      }
    },
    async (read, say) => {
      await greet(read, say);
      again.happen();
      await stay(read);
    },
  );
  await worker.start();
  await again.promise;
  assert.ok(beats.length > 0);
});

test("after a drain what comes is handed back", async () => {
  const told = event();
  const attached = event();
  const [worker] = await open(
    {
      echo: async () => {
        // The next frame comes while this one runs.
        attached.happen();
        await told.promise;
        return {};
      },
    },
    { graceMs: 30_000 },
    async (read, say) => {
      await greet(read, say);
      give(say, 1n, 3n);
      await until(read, "drain");
      give(say, 2n, 4n);
      const { value } = await until(read, "handBack");
      assert.deepEqual([value.tasks, value.tokens], [[4n], [1n]]);
      told.happen();
      const outcome = await until(read, "outcomes");
      assert.deepEqual(outcome.value.tasks, [3n]);
      say({ case: "settled", value: { sequence: 1n } });
      await stay(read);
    },
  );
  await worker.start();
  await attached.promise;
  const stopped = worker.stop();
  await told.promise;
  await stopped;
});

test("a worker that the broker will not have ends with its error", async () => {
  const [worker] = await open({ echo: () => ({}) }, {}, async () => {
    throw new ConnectError("no such worker", Code.PermissionDenied);
  });
  await assert.rejects(worker.run(), { code: Code.PermissionDenied });
});

for (const teller of ["ended", "stop"] as const) {
  test(`what ends a started worker is told by ${teller}`, async () => {
    const refused = event();
    const [worker] = await open(
      { echo: () => ({}) },
      {},
      async (read, say) => {
        await greet(read, say);
      },
      async () => {
        refused.happen();
        throw new ConnectError("no more", Code.PermissionDenied);
      },
    );
    assert.throws(() => worker.ended(), /does not run/);
    await worker.start();
    await refused.promise;
    await assert.rejects(worker[teller](), { code: Code.PermissionDenied });
    await worker.stop();
  });
}

test("a broker that has forgotten the methods is told of them again", async () => {
  const [worker, pocket] = await open(
    { echo: () => ({}) },
    {},
    async () => {
      throw errors.newError(Code.FailedPrecondition, errors.Reason.METHOD_UNKNOWN, "who?");
    },
    async (read, say) => {
      await greet(read, say);
      await stay(read);
    },
  );
  await worker.start();
  assert.equal(pocket.asked, 2);
});
