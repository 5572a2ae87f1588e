/** The session of a submitter, against a broker that does what a test says. */
import assert from "node:assert/strict";
import { afterEach, test } from "node:test";
import { durationMs } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { EchoService } from "../gen/testing/v1/echo_pb.js";
import { type Client, connect, deadline, errors } from "../src/index.js";
import * as statuses from "../src/statuses.js";
import { Pocket, type SubmitScript } from "./pocket.js";

const { echo } = EchoService.method;
const closers: (() => Promise<void>)[] = [];

afterEach(async () => {
  for (const close of closers.splice(0)) {
    await close();
  }
});

async function open(...submit: SubmitScript[]): Promise<[Client, Pocket]> {
  const pocket = await Pocket.start({ submit });
  const client = connect(pocket.address);
  closers.push(
    () => client.close(),
    () => pocket.stop(),
  );
  return [client, pocket];
}

type Read = Parameters<SubmitScript>[0];
type Say = Parameters<SubmitScript>[1];

/** Reads the hello and answers it; the session's id. */
async function greet(read: Read, say: Say, lastSequence = 0n): Promise<string> {
  const hello = await read();
  assert.ok(hello.case === "hello");
  assert.equal(hello.value.session.length, 16);
  assert.match(hello.value.client, /^plait-typescript\//);
  say({ case: "welcome", value: { lastSequence, payloadBytesMax: 100n, frameTasksMax: 4 } });
  return Buffer.from(hello.value.session).toString("hex");
}

async function frame(read: Read) {
  const message = await read();
  assert.ok(message.case === "submit", message.case);
  return message.value;
}

function accept(say: Say, sequence: bigint, ...tasks: bigint[]): void {
  say({ case: "accepted", value: { sequence, accepted: { tasks } } });
}

/** Stays until the other side ends the stream. */
async function stay(read: Read): Promise<void> {
  await read().catch(() => undefined);
}

test("a frame that was not acknowledged is sent again on the next stream, under its number", async () => {
  const sessions: string[] = [];
  const numbers: bigint[] = [];
  const [client] = await open(
    async (read, say) => {
      sessions.push(await greet(read, say));
      numbers.push((await frame(read)).sequence);
      throw new ConnectError("the broker was killed", Code.Unavailable);
    },
    async (read, say) => {
      sessions.push(await greet(read, say));
      numbers.push((await frame(read)).sequence);
      accept(say, 1n, 7n);
      await stay(read);
    },
  );
  const task = await client.submit(echo, {});
  assert.equal(task.id, "t0000000000000007");
  assert.deepEqual(numbers, [1n, 1n]);
  assert.equal(new Set(sessions).size, 1);
});

test("a frame that is refused for back-pressure comes again after the pause, in order", async () => {
  const numbers: bigint[] = [];
  const [client] = await open(async (read, say) => {
    await greet(read, say);
    numbers.push((await frame(read)).sequence);
    numbers.push((await frame(read)).sequence);
    const retryAfter = { nanos: 20_000_000 };
    say({ case: "accepted", value: { sequence: 1n, retryAfter } });
    say({ case: "accepted", value: { sequence: 2n, retryAfter } });
    for (const number of [1n, 2n]) {
      const again = await frame(read);
      numbers.push(again.sequence);
      const tasks = again.tasks?.payloads.map((_, index) => number * 100n + BigInt(index)) ?? [];
      accept(say, number, ...tasks);
    }
    await stay(read);
  });
  // Four tasks a frame, as the welcome says; the first goes with whoever comes at the same time.
  const tasks = await Promise.all(Array.from({ length: 8 }, () => client.submit(echo, {})));
  assert.deepEqual(numbers, [1n, 2n, 1n, 2n]);
  assert.equal(tasks[4]?.id, `t${200n.toString(16).padStart(16, "0")}`);
});

test("results that are wanted are asked for again on the next stream", async () => {
  const [client] = await open(
    async (read, say) => {
      await greet(read, say);
      const submit = await frame(read);
      assert.ok(submit.await);
      accept(say, 1n, 9n);
      throw new ConnectError("the broker was killed", Code.Unavailable);
    },
    async (read, say) => {
      await greet(read, say, 1n);
      const wanted = await read();
      assert.ok(wanted.case === "await");
      assert.deepEqual(wanted.value.tasks, [9n]);
      say({ case: "results", value: { tasks: [9n], payloads: [new Uint8Array([10, 1, 120])] } });
      await stay(read);
    },
  );
  const answers = [];
  for await (const answer of client.callMany(echo, [{}])) {
    answers.push(Buffer.from(answer.payload).toString());
  }
  assert.deepEqual(answers, ["x"]);
});

test("a broker that has forgotten the session is told everything in a new one", async () => {
  const sessions: string[] = [];
  const [client] = await open(
    async (read, say) => {
      sessions.push(await greet(read, say));
      await frame(read);
      accept(say, 1n, 1n);
      await frame(read);
      throw new ConnectError("the broker was killed", Code.Unavailable);
    },
    async (read, say) => {
      // It knows nothing of frame 1, which it acknowledged.
      sessions.push(await greet(read, say, 0n));
      await stay(read);
    },
    async (read, say) => {
      sessions.push(await greet(read, say));
      assert.equal((await frame(read)).sequence, 1n);
      accept(say, 1n, 2n);
      await stay(read);
    },
  );
  await client.submit(echo, {});
  assert.equal((await client.submit(echo, {})).id, "t0000000000000002");
  assert.equal(sessions[0], sessions[1]);
  assert.notEqual(sessions[1], sessions[2]);
});

test("a method that the broker has forgotten is asked for anew, once", async () => {
  const status = statuses.newStatus(Code.FailedPrecondition, "METHOD_UNKNOWN", "who?");
  const refuse: SubmitScript = async (read, say) => {
    await greet(read, say);
    for (;;) {
      const { sequence } = await frame(read);
      say({
        case: "accepted",
        value: { sequence, accepted: { tasks: [0n], refusals: [{ index: 0, status }] } },
      });
    }
  };
  const [client, pocket] = await open(refuse);
  await assert.rejects(client.submit(echo, {}), (error) => {
    assert.equal(errors.reason(error), errors.Reason.METHOD_UNKNOWN);
    return true;
  });
  assert.equal(pocket.asked, 2);
});

test("a frame that the broker will never take fails its tasks, and later ones go on", async () => {
  const [client] = await open(
    async (read, say) => {
      await greet(read, say);
      await frame(read);
      throw new ConnectError("what is this?", Code.InvalidArgument);
    },
    async (read, say) => {
      await greet(read, say);
      assert.equal((await frame(read)).sequence, 1n);
      accept(say, 1n, 5n);
      await stay(read);
    },
  );
  await assert.rejects(client.submit(echo, {}), { code: Code.InvalidArgument });
  assert.equal((await client.submit(echo, {})).id, "t0000000000000005");
});

test("a request over the broker's limit is refused here", async () => {
  const [client] = await open(async (read, say) => {
    await greet(read, say);
    await frame(read);
    accept(say, 1n, 1n);
    await stay(read);
  });
  await client.submit(echo, {});
  await assert.rejects(client.submit(echo, { payload: new Uint8Array(200) }), (error) => {
    assert.equal(errors.reason(error), errors.Reason.TOO_LARGE);
    assert.deepEqual(errors.metadata(error), { field: "request", size: "203", limit: "100" });
    return true;
  });
});

test("a limit bounds what is called and submitted inside it", async () => {
  const deadlines: number[] = [];
  const [client] = await open(async (read, say) => {
    await greet(read, say);
    for (let number = 1n; number <= 4n; number++) {
      const { options, common } = (await frame(read)).tasks ?? {};
      const given = (common ?? options?.[0]?.options)?.deadline;
      deadlines.push(given === undefined ? 0 : durationMs(given));
      accept(say, number, number);
    }
    await stay(read);
  });
  assert.equal(deadline.remainingMs(), undefined);
  await client.submit(echo, {});
  await deadline.limit(60_000, async () => {
    await client.submit(echo, {});
    // An earlier deadline stays, whichever it is.
    await deadline.limit(120_000, () => client.submit(echo, {}, { deadlineMs: 5_000 }));
    const left = deadline.remainingMs();
    assert.ok(left !== undefined && left > 0 && left <= 60_000);
  });
  const call = () => createClient(EchoService, client.channel()).echo({});
  await assert.rejects(deadline.limit(50, call), { code: Code.DeadlineExceeded });
  assert.equal(deadline.remainingMs(), undefined);
  const [none, outer, own, short] = deadlines;
  assert.deepEqual([none, own], [0, 5_000]);
  assert.ok(outer !== undefined && outer > 5_000 && outer <= 60_000, `${outer}`);
  assert.ok(short !== undefined && short > 0 && short <= 50, `${short}`);
});
