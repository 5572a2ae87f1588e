/** The attempt that a handler runs for. */
import type { Metadatum } from "../gen/plait/v1/task_pb.js";
import { headersOf } from "./headers.js";
import { current, type Run } from "./run.js";
import { taskId } from "./submission.js";

/** One execution of a task, as its handler sees it: `attempt()`. */
export class Attempt {
  readonly #run: Run;

  /** Made by `attempt`. */
  constructor(run: Run) {
    this.#run = run;
  }

  /** The number of this attempt of the task, from 1. */
  get number(): number {
    return this.#run.extra?.attempt || 1;
  }

  /** The task: "t" and 16 hexadecimal digits. */
  get taskId(): string {
    return taskId(this.#run.task);
  }

  /** Equal for every attempt of the task: its idempotency key, or its id where it has none. */
  get idempotencyKey(): string {
    return this.#run.extra?.idempotencyKey || this.taskId;
  }

  /** The task's ordering key; "" for none. */
  get orderingKey(): string {
    return this.#run.extra?.orderingKey ?? "";
  }

  /**
   * Grows with every lease of the task. A store that remembers it can refuse a write of an older
   * attempt.
   */
  get fencingToken(): bigint {
    return this.#run.token;
  }

  /** When the attempt's time is over, in milliseconds of `performance.now()`. */
  get deadline(): number {
    return this.#run.deadline;
  }

  /** Milliseconds left for the attempt, never below 0. */
  timeRemainingMs(): number {
    return Math.max(0, this.#run.deadline - performance.now());
  }

  /**
   * Tells how far the handler is: a share from 0 to 1 and a line for people. The latest report
   * wins; it may be lost with the worker. Throws RangeError for a share outside 0 to 1.
   */
  progress(fraction: number, message = ""): void {
    if (!(fraction >= 0 && fraction <= 1)) {
      throw new RangeError(`progress is a share from 0 to 1, not ${fraction}`);
    }
    this.#run.home.reportProgress(this.#run, fraction, message);
  }
}

/** The attempt that the calling handler runs for. Throws outside a handler. */
export function attempt(): Attempt {
  const run = current.getStore();
  if (run === undefined) {
    throw new ReferenceError("attempt() is for the handler of a task, and none is running here");
  }
  return new Attempt(run);
}

/** What was submitted with the task, and what Plait adds to it. */
export function requestHeaders(run: Run): Headers {
  const here = new Attempt(run);
  const headers = headersOf(submitted(run));
  headers.set("plait-task-id", here.taskId);
  headers.set("plait-attempt", `${here.number}`);
  headers.set("plait-fencing-token", `${here.fencingToken}`);
  headers.set("plait-idempotency-key", here.idempotencyKey);
  return headers;
}

/** The metadata that came with a task. */
export function submitted(run: Run): readonly Metadatum[] {
  return run.extra?.metadata ?? [];
}
