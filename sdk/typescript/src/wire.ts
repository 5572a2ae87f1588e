/**
 * Where the broker is, and the one connection to it that a client has. Nothing here retries: the
 * session, the worker and `retryConnection` do, each in its own way.
 */
import { type Client, createClient } from "@connectrpc/connect";
import { createGrpcTransport, Http2SessionManager } from "@connectrpc/connect-node";
import { KeyValueService } from "../gen/plait/control/v1/key_value_service_pb.js";
import { ContractService } from "../gen/plait/v1/contract_service_pb.js";
import { TaskService } from "../gen/plait/v1/task_service_pb.js";
import { WorkerService } from "../gen/plait/v1/worker_service_pb.js";

export const VERSION = "0.1.0";
export const CLIENT = `plait-typescript/${VERSION}`;
export const DEFAULT_ADDRESS = "127.0.0.1:7420";

/** Of a frame of submissions or outcomes (docs/protocol.md §3, §4). */
export const FRAME_TASKS_MAX = 256;
export const FRAME_BYTES_MAX = 1 << 20;

/** Full jitter between these before another stream is tried. */
export const RECONNECT_MIN_MS = 50;
export const RECONNECT_MAX_MS = 2000;

/**
 * Frames hold up to 1 MiB beside one payload of the broker's limit; the margin is generous because
 * the broker checks.
 */
const MESSAGE_BYTES_MAX = 64 << 20;

/** HTTP/2 flow control: room for some frames on their way. Loopback does not care. */
const WINDOW_BYTES = 4 << 20;

/** The broker's address: the one given, else PLAIT_ADDRESS, else 127.0.0.1:7420. */
export function addressOf(given: string | undefined): string {
  return given || process.env.PLAIT_ADDRESS || DEFAULT_ADDRESS;
}

/** One connection to the broker, made when it is first needed, and its services. */
export class Wire {
  readonly tasks: Client<typeof TaskService>;
  readonly contracts: Client<typeof ContractService>;
  readonly workers: Client<typeof WorkerService>;
  readonly keys: Client<typeof KeyValueService>;
  readonly #manager: Http2SessionManager;

  constructor(readonly address: string) {
    const baseUrl = `http://${address}`;
    this.#manager = new Http2SessionManager(
      baseUrl,
      // A peer that vanished without a word is noticed on a stream that only waits. Not
      // `pingIdleConnection`: its timer outlives the connection, and throws (connect-node 2.1.2).
      { pingIntervalMs: 15_000, pingTimeoutMs: 10_000 },
      { settings: { initialWindowSize: WINDOW_BYTES, enablePush: false } },
    );
    const transport = createGrpcTransport({
      baseUrl,
      sessionManager: this.#manager,
      readMaxBytes: MESSAGE_BYTES_MAX,
      writeMaxBytes: MESSAGE_BYTES_MAX,
    });
    this.tasks = createClient(TaskService, transport);
    this.contracts = createClient(ContractService, transport);
    this.workers = createClient(WorkerService, transport);
    this.keys = createClient(KeyValueService, transport);
  }

  /** Ends the connection and what still runs over it. */
  close(): void {
    this.#manager.abort();
  }
}
