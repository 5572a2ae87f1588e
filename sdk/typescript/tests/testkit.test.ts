/** Time that is moved, and attempts that fail as told, against a real broker. */
import assert from "node:assert/strict";
import { after, afterEach, before, beforeEach, test } from "node:test";
import { Code, ConnectError } from "@connectrpc/connect";
import { EchoService } from "../gen/testing/v1/echo_pb.js";
import { attempt, flag, options } from "../src/index.js";
import type { Mesh, TestKit } from "../src/testing.js";
import { Site, startMesh } from "./meshes.js";

const { method } = EchoService;
const ECHO = "testing.v1.EchoService/Echo";
const MINUTE_MS = 60_000;
let mesh: Mesh;
let kit: TestKit;
let site: Site;

before(async () => {
  mesh = await startMesh({ testKit: true });
  kit = mesh.kit;
});

after(() => mesh.stop());

beforeEach(async () => {
  site = await Site.open(mesh);
});

afterEach(async () => {
  await kit.clear();
  await site.close();
});

test("minutes of a flow take no time, and waiting costs it no attempt", async () => {
  let runs = 0;
  await site.serve({
    echo: ({ payload }) => ({ payload }),
    async flow() {
      runs += 1;
      // Each wait is longer than an attempt may take.
      const later = { contextValues: options({ delayMs: 2 * MINUTE_MS }) };
      for (const child of ["a", "b", "c"]) {
        await site.echo.echo({ payload: new TextEncoder().encode(child) }, later);
      }
      return {};
    },
  });
  const began = await kit.now();
  const task = await site.plait.submit(method.flow, {});
  const ended = await kit.finish(task.id);
  await task.result();
  const passed = ended.getTime() - began.getTime();
  assert.ok(passed >= 6 * MINUTE_MS && passed < 7 * MINUTE_MS, `${passed} ms`);
  assert.ok(runs >= 2, `${runs} runs`);
});

test("attempts fail as told", async () => {
  const ran: number[] = [];
  await site.serve({
    echo: ({ payload }) => {
      ran.push(attempt().number);
      return { payload };
    },
  });
  await kit.fail(ECHO, Code.Unavailable);
  await kit.expireLease(ECHO, { attempts: [2] });
  await kit.dropStream(ECHO, { attempts: [3] });
  await kit.fail(ECHO, Code.NotFound, { after: true, attempts: [4], message: "as told" });
  const task = await site.plait.submit(method.echo, {});
  await kit.finish(task.id);
  await assert.rejects(task.result(), (error) => {
    assert.ok(error instanceof ConnectError);
    assert.deepEqual([error.code, error.rawMessage], [Code.NotFound, "as told"]);
    return true;
  });
  assert.deepEqual(await kit.struck(), [1, 1, 1, 1]);
  assert.ok(!ran.includes(1) && ran.includes(4), `${ran}`);
});

test("what is submitted after a flag was set sees it", async () => {
  const encoder = new TextEncoder();
  await site.serve({
    echo: () => ({ payload: encoder.encode(flag("new-pricing") ? "on" : "off") }),
  });
  for (const wanted of ["on", "off", "on"]) {
    await kit.setFlag("new-pricing", wanted === "on");
    const { payload } = await site.echo.echo({});
    assert.equal(new TextDecoder().decode(payload), wanted);
  }
  await assert.rejects(kit.setFlag("New Pricing", true), /1 to 64 of/);
});

test("what holds the clock is said", async () => {
  const task = await site.plait.submit(method.echo, {});
  await assert.rejects(kit.finish(task.id, 100), /no worker serves it/);
  await kit.advance(120 * MINUTE_MS + 1000, { regardless: true });
  await assert.rejects(task.result(), (error) => {
    assert.equal(ConnectError.from(error).code, Code.DeadlineExceeded);
    return true;
  });
});

test("a mesh without a kit says so", async () => {
  const plain = await startMesh();
  try {
    assert.throws(() => plain.kit, /testKit: true/);
  } finally {
    await plain.stop();
  }
});
