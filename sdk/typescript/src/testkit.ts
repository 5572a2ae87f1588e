/** The clock of a broker that was started for tests, and attempts that are made to fail. */
import { create } from "@bufbuild/protobuf";
import { durationFromMs, type Timestamp, timestampDate } from "@bufbuild/protobuf/wkt";
import { type Client, type Code, createClient } from "@connectrpc/connect";
import { createGrpcTransport, Http2SessionManager } from "@connectrpc/connect-node";
import { StatusSchema } from "../gen/google/rpc/status_pb.js";
import {
  type AdvanceClockRequest,
  AdvanceClockRequestSchema,
  DropStreamSchema,
  ExpireLeaseSchema,
  type Fault,
  FaultSchema,
  TestKitService,
} from "../gen/plait/testkit/v1/test_kit_service_pb.js";
import { FlagService } from "../gen/plait/v1/flag_service_pb.js";
import { SHARE_MAX } from "./flags.js";

/** How a move of the clock is made. */
export interface AdvanceOptions {
  /** Moves on although attempts run, or wait for a worker. Default false. */
  readonly regardless?: boolean;
  /** How long the workers may take, in real time, for what is due at one instant. Default 10 s. */
  readonly patienceMs?: number;
}

/** Which attempts fail. Of several faults that fit, the newest strikes. */
export interface FaultOptions {
  /** Numbers of a task's attempts, from 1; empty: all. Default: the first one. */
  readonly attempts?: readonly number[];
  /** How often it strikes. Default, and 0: as often as it fits. */
  readonly times?: number;
}

/** How attempts fail. */
export interface FailOptions extends FaultOptions {
  /** Runs the handler, and throws its answer away. Default: it is not run. */
  readonly after?: boolean;
  /** What the status says. */
  readonly message?: string;
}

/**
 * Moves the broker's clock ahead and lets attempts fail. Delays, backoffs, deadlines and retention
 * go by the broker's clock; what a handler itself waits for does not. Errors are ConnectErrors.
 */
export class TestKit {
  readonly #kit: Client<typeof TestKitService>;
  readonly #flags: Client<typeof FlagService>;
  readonly #manager: Http2SessionManager;

  /** Made by `Mesh.kit`; of a broker that runs with `--test-kit`. */
  constructor(address: string) {
    const baseUrl = `http://${address}`;
    this.#manager = new Http2SessionManager(baseUrl);
    const transport = createGrpcTransport({ baseUrl, sessionManager: this.#manager });
    this.#kit = createClient(TestKitService, transport);
    this.#flags = createClient(FlagService, transport);
  }

  /** The broker's time. */
  async now(): Promise<Date> {
    return dateOf((await this.#kit.getClock({})).time);
  }

  /**
   * Moves the clock ahead, from one thing that is due to the next, and lets the workers finish what
   * each begins; 0 waits for what is due now. Answers the time it is then. Rejects with
   * FailedPrecondition where the patience is not enough, and says what the workers do.
   */
  advance(byMs: number, options: AdvanceOptions = {}): Promise<Date> {
    const { regardless = false } = options;
    return this.#advance({ case: "by", value: durationFromMs(byMs) }, options, regardless);
  }

  /**
   * Moves the clock ahead until a task, by its id, is final. Answers the time it is
   * then. Rejects with FailedPrecondition, too, where nothing is due any more.
   */
  finish(task: string, patienceMs?: number): Promise<Date> {
    const options = patienceMs === undefined ? {} : { patienceMs };
    return this.#advance({ case: "finished", value: task }, options, false);
  }

  /** Lets attempts of a method, "package.Service/Method", end with a status. */
  async fail(method: string, code: Code, options: FailOptions = {}): Promise<void> {
    const { after = false, message = "the test lets it fail" } = options;
    const value = create(StatusSchema, { code, message });
    await this.#add(method, { case: after ? "failAfter" : "failBefore", value }, options);
  }

  /** Breaks the worker's stream as soon as it has such an attempt. */
  async dropStream(method: string, options: FaultOptions = {}): Promise<void> {
    await this.#add(method, { case: "dropStream", value: create(DropStreamSchema) }, options);
  }

  /**
   * Ends the lease of such an attempt as soon as the worker has it: the handler is told to stop, and
   * what it still answers is refused.
   */
  async expireLease(method: string, options: FaultOptions = {}): Promise<void> {
    await this.#add(method, { case: "expireLease", value: create(ExpireLeaseSchema) }, options);
  }

  /** How often each fault struck, in the order in which they were asked for. */
  async struck(): Promise<number[]> {
    const { faults } = await this.#kit.listFaults({});
    return faults.map((each) => each.struck);
  }

  /** Forgets all faults. */
  async clear(): Promise<void> {
    await this.#kit.clearFaults({});
  }

  /**
   * Sets a feature flag, on or off for everybody. Handlers of tasks that are submitted after it see
   * it.
   */
  async setFlag(name: string, on: boolean): Promise<void> {
    await this.#flags.setFlag({ flag: { rule: { name, share: on ? SHARE_MAX : 0 } } });
  }

  /** Ends its connection; the mesh does so when it stops. */
  close(): void {
    this.#manager.abort();
  }

  async #advance(
    until: AdvanceClockRequest["until"],
    { patienceMs }: AdvanceOptions,
    regardless: boolean,
  ): Promise<Date> {
    const request = create(AdvanceClockRequestSchema, { until, regardless });
    if (patienceMs !== undefined) {
      request.patience = durationFromMs(patienceMs);
    }
    return dateOf((await this.#kit.advanceClock(request)).time);
  }

  async #add(
    method: string,
    action: Fault["action"],
    { attempts = [1], times = 0 }: FaultOptions,
  ): Promise<void> {
    const path = `/${method.replace(/^\//, "")}`;
    const said = { method: path, attempts: [...attempts], times, action };
    await this.#kit.addFault({ fault: create(FaultSchema, said) });
  }
}

function dateOf(time: Timestamp | undefined): Date {
  return time === undefined ? new Date(0) : timestampDate(time);
}
