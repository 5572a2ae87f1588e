/** What goes into frames, and what is sent again. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { create } from "@bufbuild/protobuf";
import { TaskOptionsSchema } from "../gen/plait/v1/task_pb.js";
import { EchoService } from "../gen/testing/v1/echo_pb.js";
import { Method } from "../src/methods.js";
import { Outbox } from "../src/outbox.js";
import { Submission } from "../src/submission.js";

const echo = new Method(EchoService.method.echo);
const sleep = new Method(EchoService.method.sleep);

function put(outbox: Outbox, count: number, bytes = 1, awaited = false, method = echo) {
  const made = Array.from(
    { length: count },
    () => new Submission(method, new Uint8Array(bytes), awaited),
  );
  for (const submission of made) {
    outbox.queue.push(submission);
  }
  return made;
}

test("a frame holds at most 256 tasks, and 1 MiB", () => {
  const outbox = new Outbox();
  put(outbox, 300);
  assert.equal(outbox.take()?.tasks?.payloads.length, 256);
  assert.equal(outbox.take()?.tasks?.payloads.length, 44);
  put(outbox, 5, 400_000);
  assert.equal(outbox.take()?.tasks?.payloads.length, 2);
  put(outbox, 1, 3 << 20);
  assert.equal(outbox.take()?.tasks?.payloads.length, 2);
  assert.equal(outbox.take()?.tasks?.payloads.length, 1);
  assert.equal(outbox.take()?.tasks?.payloads[0]?.length, 3 << 20);
  assert.equal(outbox.take(), undefined);
});

test("tasks that are awaited and those that are not are in different frames", () => {
  const outbox = new Outbox();
  put(outbox, 2, 1, true);
  put(outbox, 3);
  const [first, second] = [outbox.take(), outbox.take()];
  assert.deepEqual([first?.await, first?.tasks?.payloads.length], [true, 2]);
  assert.deepEqual([second?.await, second?.tasks?.payloads.length], [false, 3]);
});

test("columns are filled only where somebody has something to say", () => {
  const outbox = new Outbox();
  put(outbox, 2);
  const plain = outbox.take()?.tasks;
  assert.deepEqual(plain?.methods, ["/testing.v1.EchoService/Echo"]);
  assert.deepEqual([plain?.methodIndex, plain?.idempotencyKeys, plain?.options], [[], [], []]);
  assert.equal(plain?.common, undefined);

  const shared = create(TaskOptionsSchema, { priority: 3 });
  const [first, second, third] = [...put(outbox, 2), ...put(outbox, 1, 1, false, sleep)];
  assert.ok(first && second && third);
  first.options = second.options = shared;
  second.idempotencyKey = "k";
  third.orderingKey = "o";
  const mixed = outbox.take()?.tasks;
  assert.deepEqual(mixed?.methodIndex, [0, 0, 1]);
  assert.deepEqual(mixed?.idempotencyKeys, ["", "k", ""]);
  assert.deepEqual(mixed?.orderingKeys, ["", "", "o"]);
  assert.equal(mixed?.common?.priority, 3);
  assert.deepEqual(
    mixed?.options.map((each) => [each.index, each.options?.priority]),
    [[2, undefined]],
  );
});

test("64 frames wait for their acknowledgement, not more", () => {
  const outbox = new Outbox();
  put(outbox, 65 * 256);
  for (let number = 1n; number <= 64n; number++) {
    assert.equal(outbox.take()?.sequence, number);
  }
  assert.equal(outbox.take(), undefined);
  assert.equal(outbox.acknowledge(1n)?.submissions.length, 256);
  assert.equal(outbox.acknowledge(1n), undefined);
  assert.equal(outbox.take()?.sequence, 65n);
});

test("what is not acknowledged is sent again, under its number and in order", () => {
  const outbox = new Outbox();
  put(outbox, 3 * 256);
  const sent = [outbox.take(), outbox.take(), outbox.take()];
  outbox.acknowledge(1n);
  outbox.restart();
  assert.deepEqual([outbox.take(), outbox.take(), outbox.take()], [sent[1], sent[2], undefined]);
  outbox.rewind(3n);
  assert.deepEqual([outbox.take(), outbox.take()], [sent[2], undefined]);
  assert.equal(outbox.firstUnacked, 2n);
  outbox.renumber();
  assert.deepEqual([outbox.take()?.sequence, outbox.take()?.sequence], [1n, 2n]);
  assert.equal(outbox.clear().length, 512);
  assert.equal(outbox.take(), undefined);
});
