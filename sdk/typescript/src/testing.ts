/**
 * For tests of programs that use Plait: a real broker and scheduler, in a folder of their own.
 *
 *     const mesh = await Mesh.start();
 *     const plait = connect(mesh.address);
 *     ...
 *     await mesh.stop();
 *
 * The broker is PLAIT_BROKER, or plait-broker in the folder PLAIT_BIN or on PATH; the scheduler is
 * PLAIT_SCHEDULER, or plait-scheduler on PATH.
 */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Client, connect } from "./client.js";
import { Process } from "./process.js";
import { TestKit } from "./testkit.js";

export { type AdvanceOptions, type FailOptions, type FaultOptions, TestKit } from "./testkit.js";

/** What a mesh is made of. */
export interface MeshOptions {
  /** More flags of the broker, such as `--sync none`. Default: none. */
  readonly brokerArguments?: readonly string[];
  /**
   * Whether its clock can be moved ahead and attempts be made to fail: see `Mesh.kit`. Such a broker
   * does not wait for its disk. Default false.
   */
  readonly testKit?: boolean;
}

/** A broker and a scheduler on free ports of the loopback interface. */
export class Mesh {
  #broker: Process | undefined;
  #scheduler: Process | undefined;
  #address = "127.0.0.1:0";
  #kit: TestKit | undefined;

  private constructor(
    /** Where its data and its logs are: broker.log and scheduler.log. */
    readonly logs: string,
    private readonly options: MeshOptions,
  ) {}

  /** Starts both. */
  static async start(options: MeshOptions = {}): Promise<Mesh> {
    const mesh = new Mesh(await mkdtemp(join(tmpdir(), "plait-mesh-")), options);
    try {
      await mesh.startBroker();
      await mesh.startScheduler();
    } catch (error) {
      await mesh.stop();
      throw error;
    }
    return mesh;
  }

  /** The broker's address, the same over its restarts; for `connect`. */
  get address(): string {
    return this.#address;
  }

  /** Its clock and its faults. Throws where it was not started with `testKit`. */
  get kit(): TestKit {
    if (this.options.testKit !== true) {
      throw new Error("the mesh has no test kit: start it with { testKit: true }");
    }
    this.#kit ??= new TestKit(this.#address);
    return this.#kit;
  }

  /** A client of it, as `connect` makes it; to be closed by the caller. */
  connect(): Client {
    return connect(this.#address);
  }

  /** Starts the broker; after `killBroker` on the same port, with the same data. */
  async startBroker(): Promise<void> {
    const folder = process.env.PLAIT_BIN;
    const named = process.env.PLAIT_BROKER;
    const binary = named ?? (folder ? join(folder, "plait-broker") : "plait-broker");
    const data = join(this.logs, "broker");
    const kit = this.options.testKit === true ? ["--test-kit", "--sync", "none"] : [];
    const more = [...kit, ...(this.options.brokerArguments ?? [])];
    this.#broker = await Process.start(
      "broker",
      [binary, "--listen", this.#address, "--data-dir", data, ...more],
      join(this.logs, "broker.log"),
    );
    this.#address = this.#broker.address;
  }

  /** Kills the broker, as kill -9 does. */
  async killBroker(): Promise<void> {
    await this.#broker?.kill();
    this.#broker = undefined;
  }

  /** Starts the scheduler. */
  async startScheduler(): Promise<void> {
    const binary = process.env.PLAIT_SCHEDULER ?? "plait-scheduler";
    this.#scheduler = await Process.start(
      "scheduler",
      [binary, "--listen", "127.0.0.1:0", "--dev", "--broker", this.#address],
      join(this.logs, "scheduler.log"),
    );
  }

  /** Kills the scheduler, as kill -9 does. Known contracts go on. */
  async killScheduler(): Promise<void> {
    await this.#scheduler?.kill();
    this.#scheduler = undefined;
  }

  /** Ends both and removes their data. */
  async stop(): Promise<void> {
    this.#kit?.close();
    await this.#scheduler?.terminate();
    await this.#broker?.terminate();
    await rm(this.logs, { recursive: true, force: true });
  }
}
