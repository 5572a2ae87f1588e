/** The handle of a task. */
import type { DescMessage, DescMethodUnary, MessageShape } from "@bufbuild/protobuf";
import type { ConnectError } from "@connectrpc/connect";
import { type Task as Shown, TaskState as WireState } from "../gen/plait/v1/task_pb.js";
import type { Core } from "./core.js";
import { current } from "./run.js";
import { fromStatus } from "./statuses.js";
import type { Submission } from "./submission.js";

/** Where a task is in its life. SUCCEEDED, FAILED, CANCELLED and EXPIRED are final. */
export const TaskState = {
  /** Waits for its start time. */
  SCHEDULED: "SCHEDULED",
  /** May start as soon as a worker has room, and its ordering key is free. */
  READY: "READY",
  /** A worker accepted the attempt. */
  RUNNING: "RUNNING",
  /** Waits after a failed attempt. */
  BACKOFF: "BACKOFF",
  /** A flow that waits for its children. */
  SUSPENDED: "SUSPENDED",
  /** Held by an open breaker or a paused queue. */
  PARKED: "PARKED",
  /** Done; the result can be read. */
  SUCCEEDED: "SUCCEEDED",
  /** Failed for good; the error can be read. */
  FAILED: "FAILED",
  /** Cancelled before it was done. */
  CANCELLED: "CANCELLED",
  /** Its deadline passed. */
  EXPIRED: "EXPIRED",
} as const;

export type TaskState = (typeof TaskState)[keyof typeof TaskState];

/** Whether nothing more happens to a task in this state, a redrive aside. */
export function isFinal(state: TaskState): boolean {
  return ["SUCCEEDED", "FAILED", "CANCELLED", "EXPIRED"].includes(state);
}

/** A task at one moment. */
export interface Snapshot {
  /** Where it was. */
  readonly state: TaskState;
  /** The attempt that ran or ran last; 0 before the first. */
  readonly attempt: number;
  /** Attempts it may have. */
  readonly maxAttempts: number;
  /** The id of the worker that held it; "" for none. */
  readonly worker: string;
  /** The share done that its handler reported; undefined before the first report. */
  readonly fraction: number | undefined;
  /** The line for people that its handler reported. */
  readonly message: string;
  /** The latest error; kept after a retry until the task succeeds. */
  readonly error: ConnectError | undefined;
}

/** What bounds a wait. */
export interface Wait {
  /** Ends the wait, not the task. Default: the task's own deadline is the only bound. */
  readonly signal?: AbortSignal;
}

/** One durable invocation of a method, whose response is an O. */
export class Task<O extends DescMessage> {
  readonly #core: Core;
  readonly #submission: Submission;
  readonly #method: DescMethodUnary<DescMessage, O>;

  /** Made by `Client.submit` and `Client.task`. */
  constructor(core: Core, submission: Submission, method: DescMethodUnary<DescMessage, O>) {
    this.#core = core;
    this.#submission = submission;
    this.#method = method;
  }

  /** Its id: "t" and 16 hexadecimal digits. */
  get id(): string {
    return this.#submission.id;
  }

  /**
   * Waits for the response; rejects with the task's error, as a call would. May be called as often
   * as one likes. Giving up the wait does not cancel the task.
   */
  async result({ signal }: Wait = {}): Promise<MessageShape<O>> {
    const submission = this.#submission;
    if (!submission.done && !submission.awaited) {
      this.#core.session.want(submission);
    }
    const run = submission.flow === undefined ? undefined : current.getStore();
    const signals = [signal, run?.signal].filter((each) => each !== undefined);
    try {
      const payload = await submission.wait(AbortSignal.any(signals));
      return this.#core.decode(this.#method.output, payload);
    } finally {
      if (!submission.done && submission.waiters === 0) {
        this.#core.session.forget(submission);
      }
    }
  }

  /** Where it is now. Rejects with NotFound when its retention has passed. */
  async state(): Promise<TaskState> {
    const { task } = await this.#core.wire.tasks.getTask({ id: this.id });
    return stateOf(task);
  }

  /** The task as it is now and after each change, until it is final. */
  async *watch({ signal }: Wait = {}): AsyncGenerator<Snapshot> {
    const watching = new AbortController();
    const signals = [watching.signal, signal].filter((each) => each !== undefined);
    const request = { id: this.id };
    const options = { signal: AbortSignal.any(signals) };
    try {
      for await (const { task } of this.#core.wire.tasks.watchTask(request, options)) {
        if (task !== undefined) {
          yield snapshot(task);
        }
      }
    } finally {
      watching.abort();
    }
  }

  /**
   * Cancels it; answers CANCELLED, or the final state that won the race. A task that has not
   * started never will; a running handler is told to stop. `reason` is for people, at most 1 KiB.
   */
  async cancel(reason = ""): Promise<TaskState> {
    const { task } = await this.#core.wire.tasks.cancelTask({ id: this.id, reason });
    return stateOf(task);
  }
}

function stateOf(task: Shown | undefined): TaskState {
  return WireState[task?.state ?? 0] as TaskState;
}

function snapshot(task: Shown): Snapshot {
  return {
    state: stateOf(task),
    attempt: task.attempt,
    maxAttempts: task.maxAttempts,
    worker: task.worker,
    fraction: task.progress?.fraction,
    message: task.progress?.message ?? "",
    error: task.error === undefined ? undefined : fromStatus(task.error),
  };
}
