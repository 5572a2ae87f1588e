/** One task on its way from the caller to its result, and who waits for it. */
import type { ConnectError } from "@connectrpc/connect";
import type { TaskOptions } from "../gen/plait/v1/task_pb.js";
import type { Flow } from "./flow.js";
import type { Method } from "./methods.js";
import type { SubmitSpan } from "./trace.js";

const NOTHING = new Uint8Array();

/** A task as its submitter sees it: queued, sent, accepted under a number, done. */
export class Submission {
  idempotencyKey: string | undefined;
  orderingKey: string | undefined;
  limitKey: string | undefined;
  /** Shared between submissions with equal options, so that a frame says them once. */
  options: TaskOptions | undefined;
  /** The flow it is a child of. */
  flow: Flow | undefined;
  span: SubmitSpan | undefined;
  /** The task's number, once accepted. */
  number = 0n;
  accepted = false;
  /** Final: `error` if it is set, else `response`. */
  done = false;
  response: Uint8Array = NOTHING;
  error: ConnectError | undefined;
  /** Whether it was sent again after METHOD_UNKNOWN. */
  retried = false;
  /** Another submission under the same number that waits for the result, too. */
  twin: Submission | undefined;
  /** How many callers wait for the result now. */
  waiters = 0;
  #onAccepted: (() => void)[] = [];
  #onDone: (() => void)[] = [];

  /** `awaited`: whether the broker is to send the result on the session's stream. */
  constructor(
    readonly method: Method,
    /** The serialized request; let go when the task is accepted. */
    public payload: Uint8Array,
    public awaited: boolean,
  ) {}

  /** Its id: "t" and 16 hexadecimal digits. */
  get id(): string {
    return taskId(this.number);
  }

  /** The task is durable. */
  accept(number: bigint): void {
    this.number = number;
    this.accepted = true;
    this.payload = NOTHING;
    this.span?.accepted(this);
    this.#tell("accepted");
  }

  /** The result, or why there is none. Only the first one counts. */
  finish(response: Uint8Array, error?: ConnectError): void {
    if (this.done) {
      return;
    }
    this.done = true;
    this.response = response;
    this.error = error;
    this.payload = NOTHING;
    this.flow?.childEnded(this);
    this.span?.finished(this);
    this.#tell("accepted");
    this.#tell("done");
  }

  /** Fails with `error`. */
  fail(error: ConnectError): void {
    this.finish(NOTHING, error);
  }

  /** Resolves when the task is durable; rejects when it was refused. */
  async whenAccepted(): Promise<void> {
    if (!this.accepted && !this.done) {
      await new Promise<void>((resolve) => this.#onAccepted.push(resolve));
    }
    if (this.error !== undefined && !this.accepted) {
      throw this.error;
    }
  }

  /**
   * The serialized response; rejects with the task's error, or with the signal's reason when that
   * aborts first.
   */
  wait(signal?: AbortSignal): Promise<Uint8Array> {
    return new Promise((resolve, reject) => {
      if (this.done) {
        this.#answer(resolve, reject);
        return;
      }
      if (signal?.aborted === true) {
        reject(signal.reason);
        return;
      }
      this.waiters += 1;
      const end = () => {
        this.waiters -= 1;
        this.flow?.waitEnded();
        signal?.removeEventListener("abort", aborted);
        this.#answer(resolve, reject);
      };
      const aborted = () => {
        this.waiters -= 1;
        this.flow?.waitEnded();
        const at = this.#onDone.indexOf(end);
        if (at >= 0) {
          this.#onDone.splice(at, 1);
        }
        reject(signal?.reason);
      };
      signal?.addEventListener("abort", aborted, { once: true });
      this.#onDone.push(end);
      // The last thing: a worker that drains aborts the signal now.
      this.flow?.waitBegan();
    });
  }

  #answer(resolve: (response: Uint8Array) => void, reject: (error: unknown) => void): void {
    if (this.error !== undefined) {
      reject(this.error);
    } else {
      resolve(this.response);
    }
  }

  #tell(what: "accepted" | "done"): void {
    const callbacks = what === "accepted" ? this.#onAccepted : this.#onDone;
    if (callbacks.length === 0) {
      return;
    }
    if (what === "accepted") {
      this.#onAccepted = [];
    } else {
      this.#onDone = [];
    }
    for (const callback of callbacks) {
      callback();
    }
  }
}

/** The text of a task number. */
export function taskId(number: bigint): string {
  return `t${number.toString(16).padStart(16, "0")}`;
}

/** The number of a task id. Throws RangeError for what is none. */
export function taskNumber(id: string): bigint {
  if (!/^t[0-9a-f]{16}$/.test(id)) {
    throw new RangeError(`"${id}" is no task id: those are t and 16 hexadecimal digits`);
  }
  return BigInt(`0x${id.slice(1)}`);
}
