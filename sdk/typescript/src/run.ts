/** One attempt inside a worker: the lease, the request, and what became of its handler. */
import { AsyncLocalStorage } from "node:async_hooks";
import type { ConnectError } from "@connectrpc/connect";
import type { FlagRule } from "../gen/plait/v1/flag_service_pb.js";
import type { Failure } from "../gen/plait/v1/task_service_pb.js";
import type { AttemptExtra } from "../gen/plait/v1/worker_service_pb.js";
import type { Flow } from "./flow.js";
import type { Served } from "./served.js";

const NO_FLAGS: ReadonlyMap<string, FlagRule> = new Map();

/** What a run needs of the worker that it is in. */
export interface RunHome {
  /** The client whose durable calls are children of the run. */
  readonly core: object;
  /** The feature flags that the worker was told of. */
  readonly flags: { readonly now: ReadonlyMap<string, FlagRule> };
  /** Largest response in bytes; 0: no limit known. */
  readonly payloadBytesMax: number;
  /** Tells the broker how far the handler is. */
  reportProgress(run: Run, fraction: number, message: string): void;
  /** A flow begins to wait for its children, or goes on. */
  flowChanged(run: Run, waits: boolean): void;
  /** A flow's handler is about to stand still for a child's result. */
  flowWaits(run: Run): void;
  /** The run's time is over: the failure is reported, whatever the handler does. */
  expired(run: Run, failure: Failure): void;
}

/** An attempt from the frame that brought it to the return of its handler. */
export class Run {
  /** Set by the first durable call that the handler makes. */
  flow: Flow | undefined;
  /** The feature flags when the handler begins, and those of them that it has read so far. */
  flags: ReadonlyMap<string, FlagRule> = NO_FLAGS;
  flagsRead: readonly FlagRule[] = [];
  /** Whether nobody wants what the handler will answer. */
  stopped = false;
  /** Why, once it is stopped. */
  cause: ConnectError | undefined;
  #controller: AbortController | undefined;

  constructor(
    readonly home: RunHome,
    readonly served: Served,
    readonly task: bigint,
    readonly token: bigint,
    /** The serialized request; let go when the handler has it. */
    public payload: Uint8Array,
    /** When its time is over, in milliseconds of `performance.now()`. */
    readonly deadline: number,
    readonly extra: AttemptExtra | undefined,
  ) {}

  /** What tells leases apart: a token is of one task. */
  get lease(): string {
    return leaseOf(this);
  }

  /** Aborts when the run is stopped or its time is over. */
  get signal(): AbortSignal {
    if (this.#controller === undefined) {
      this.#controller = new AbortController();
      if (this.stopped) {
        this.#controller.abort(this.cause);
      }
    }
    return this.#controller.signal;
  }

  /** Tells the handler to stop. Only the first call counts. */
  stop(cause: ConnectError): void {
    if (this.stopped) {
      return;
    }
    this.stopped = true;
    this.cause = cause;
    this.#controller?.abort(cause);
  }
}

/** A lease as the key of a map. */
export function leaseOf({ task, token }: { task: bigint; token: bigint }): string {
  return `${task}/${token}`;
}

/** The run that the calling code belongs to. */
export const current = new AsyncLocalStorage<Run>();
