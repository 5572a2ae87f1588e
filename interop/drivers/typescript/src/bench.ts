#!/usr/bin/env node
/**
 * Measures the TypeScript SDK against a running broker: a client in this process and the echo worker in another, tasks
 * of one size. Prints one JSON line. The broker's address is PLAIT_ADDRESS.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { createClient } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { type Client, connect } from "@plait/sdk";
import { TaskService } from "@plait/sdk/gen/plait/v1/task_service_pb.js";
import { EchoService } from "@plait/sdk/gen/testing/v1/echo_pb.js";

interface Load {
  readonly tasks: number;
  readonly size: number;
  readonly single: number;
  readonly window: number;
  readonly concurrency: number;
}

const DEFAULT_ADDRESS = "127.0.0.1:7420";

/** What the flags say; throws for what is no number. */
function parse(): Load {
  const { values } = parseArgs({
    options: {
      tasks: { type: "string", default: "120000" },
      size: { type: "string", default: "256" },
      single: { type: "string", default: "2000" },
      window: { type: "string", default: "8192" },
      concurrency: { type: "string", default: "1024" },
    },
  });
  const number = (name: keyof Load, least: number) => {
    const value = Number(values[name]);
    if (!Number.isSafeInteger(value) || value < least) {
      throw new RangeError(`--${name} is a whole number, at least ${least}`);
    }
    return value;
  };
  return {
    tasks: number("tasks", 1),
    size: number("size", 0),
    single: number("single", 1),
    window: number("window", 1),
    concurrency: number("concurrency", 1),
  };
}

/** Starts the worker, and answers when it is attached. */
async function startWorker(concurrency: number): Promise<ChildProcess> {
  const program = fileURLToPath(new URL("main.js", import.meta.url));
  const worker = spawn(process.execPath, [program, "--concurrency", String(concurrency)], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  for await (const line of createInterface({ input: worker.stdout })) {
    if (line.includes('"ready"')) return worker;
  }
  throw new Error("the worker ended before it was attached");
}

/** Whether the broker syncs what it acknowledges: its own word, in the welcome of a session. */
async function synced(): Promise<boolean> {
  const address = process.env.PLAIT_ADDRESS || DEFAULT_ADDRESS;
  const tasks = createClient(TaskService, createGrpcTransport({ baseUrl: `http://${address}` }));
  const enough = new AbortController();
  async function* hello() {
    const session = randomBytes(16);
    yield { message: { case: "hello" as const, value: { session, client: "bench-typescript" } } };
    // The stream is open until its first answer is there.
    await once(enough.signal, "abort");
  }
  try {
    for await (const { message } of tasks.submitStream(hello(), { signal: enough.signal })) {
      if (message.case === "welcome") return message.value.synced;
      break;
    }
    throw new Error("the broker's first message is no welcome");
  } finally {
    enough.abort();
  }
}

/** Seconds from the first submission to the last result. */
async function bulk(mesh: Client, load: Load, tasks: number): Promise<number> {
  const payload = new Uint8Array(load.size).fill(0x78);
  function* requests() {
    for (let n = 0; n < tasks; n++) yield { payload };
  }
  const began = performance.now();
  let n = 0;
  const { echo } = EchoService.method;
  for await (const response of mesh.callMany(echo, requests(), { window: load.window })) {
    if (response.payload.length !== load.size) {
      throw new Error(`response ${n} has ${response.payload.length} bytes`);
    }
    n++;
  }
  if (n !== tasks) throw new Error(`${n} responses to ${tasks} tasks`);
  return (performance.now() - began) / 1000;
}

/** How long each of so many calls took that were made one at a time, in milliseconds, sorted. */
async function single(mesh: Client, load: Load): Promise<Float64Array> {
  const stub = createClient(EchoService, mesh.channel());
  const payload = new Uint8Array(load.size).fill(0x78);
  const took = new Float64Array(load.single);
  for (let n = 0; n < load.single; n++) {
    const began = performance.now();
    await stub.echo({ payload });
    took[n] = performance.now() - began;
  }
  return took.sort();
}

function quantile(sorted: Float64Array, q: number): number {
  return sorted[Math.floor(q * (sorted.length - 1))] ?? 0;
}

const load = parse();
const worker = await startWorker(load.concurrency);
const mesh = connect();
try {
  // Neither announcing the contract nor warming up the engine is what is measured.
  await bulk(mesh, load, Math.floor(load.tasks / 10) + 1);
  const seconds = await bulk(mesh, load, load.tasks);
  const took = await single(mesh, load);
  const report = {
    language: "typescript",
    tasks_per_s: load.tasks / seconds,
    p50_ms: quantile(took, 0.5),
    p99_ms: quantile(took, 0.99),
    synced: await synced(),
    tasks: load.tasks,
    size_bytes: load.size,
    single_runs: load.single,
  };
  process.stdout.write(`${JSON.stringify(report)}\n`);
} finally {
  await mesh.close();
  worker.kill("SIGTERM");
}
// The transport of `synced` keeps its connection open for a while.
process.exit();
