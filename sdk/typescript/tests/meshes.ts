/** The mesh that the tests of a file share, and what they do with it. */
import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { type Client, ConnectError, createClient, type ServiceImpl } from "@connectrpc/connect";
import { EchoService } from "../gen/testing/v1/echo_pb.js";
import { connect, type Client as Plait, type Worker, type WorkerOptions } from "../src/index.js";
import { Mesh, type MeshOptions } from "../src/testing.js";

/** The repository; tests run as built, in sdk/typescript/dist/tests. */
export const ROOT = fileURLToPath(new URL("../../../../", import.meta.url));

/** A configuration of the shared vectors, by the names that this language has for them. */
export function camel<T>(config: Readonly<Record<string, number>>): T {
  const entries = Object.entries(config).map(([name, value]) => [
    name.replace(/_(\w)/g, (_, letter: string) => letter.toUpperCase()),
    value,
  ]);
  return Object.fromEntries(entries) as T;
}

/** Everything that a test opens, closed by `close` in the reverse order. */
export class Site {
  readonly #closers: (() => Promise<unknown>)[] = [];

  private constructor(
    readonly mesh: Mesh,
    readonly plait: Plait,
    /** Over the durable channel: each call is a task. */
    readonly echo: Client<typeof EchoService>,
  ) {}

  /** A client of a mesh; default: one of the site's own. */
  static async open(given?: Mesh): Promise<Site> {
    const mesh = given ?? (await startMesh());
    const plait = connect(mesh.address);
    const site = new Site(mesh, plait, createClient(EchoService, plait.channel()));
    if (given === undefined) {
      site.#closers.push(() => mesh.stop());
    }
    site.#closers.push(() => plait.close());
    return site;
  }

  /** Runs a worker of the client until the site is closed. */
  async serve(
    implementation: Partial<ServiceImpl<typeof EchoService>>,
    options: WorkerOptions = {},
  ): Promise<Worker> {
    const worker = this.plait.worker(options);
    worker.serve((router) => router.service(EchoService, implementation));
    await worker.start();
    this.#closers.push(() => worker.stop());
    return worker;
  }

  /** Has something closed with the site. */
  closing(close: () => Promise<unknown>): void {
    this.#closers.push(close);
  }

  async close(): Promise<void> {
    for (const close of this.#closers.splice(0).reverse()) {
      await close();
    }
  }
}

/** A mesh of the repository's own processes. */
export function startMesh(options: MeshOptions = {}): Promise<Mesh> {
  process.env.PLAIT_BIN ??= `${ROOT}build/dev`;
  process.env.PLAIT_SCHEDULER ??= `${ROOT}.venv/bin/plait-scheduler`;
  return Mesh.start(options);
}

/** A promise and how it is settled. */
export function event<T = void>(): { promise: Promise<T>; happen: (value: T) => void } {
  let happen: (value: T) => void = () => undefined;
  const promise = new Promise<T>((resolve) => {
    happen = resolve;
  });
  return { promise, happen };
}

/** What a call is refused with; fails if it is not. */
export async function refusal(promise: Promise<unknown>): Promise<ConnectError> {
  const thrown = await promise.then(
    () => assert.fail("nothing was thrown"),
    (error: unknown) => error,
  );
  assert.ok(thrown instanceof ConnectError, String(thrown));
  return thrown;
}
