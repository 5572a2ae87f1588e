/** The results that a session waits for: tasks whose numbers are known and whose outcomes are not. */
import { create } from "@bufbuild/protobuf";
import {
  type AwaitFrame,
  AwaitFrameSchema,
  type Failure,
  type ResultFrame,
} from "../gen/plait/v1/task_service_pb.js";
import { fromParts } from "./statuses.js";
import type { Submission } from "./submission.js";

/** Submissions by task number, and what the broker is still to be told about them. */
export class Wanted {
  readonly #byNumber = new Map<bigint, Submission>();
  #ask: Submission[] = [];
  #forget: bigint[] = [];

  /** The broker knows already that this result is wanted. */
  add(submission: Submission): void {
    const twin = this.#byNumber.get(submission.number);
    if (twin !== undefined && twin !== submission) {
      submission.twin = twin;
    }
    this.#byNumber.set(submission.number, submission);
  }

  /** The broker is to be asked for this result. */
  ask(submission: Submission): void {
    this.add(submission);
    this.#ask.push(submission);
  }

  /** No longer wanted; the broker is told unless somebody else waits for the same task. */
  forget(submission: Submission): void {
    const { number } = submission;
    const rest = chain(this.#byNumber.get(number)).filter((each) => each !== submission);
    for (const [index, each] of rest.entries()) {
      each.twin = rest[index + 1];
    }
    submission.twin = undefined;
    const head = rest[0];
    if (head !== undefined) {
      this.#byNumber.set(number, head);
    } else {
      this.#byNumber.delete(number);
      this.#forget.push(number);
    }
  }

  /** Asks for everything again: the stream is a new one. */
  restart(): void {
    this.#ask = [...this.#byNumber.values()];
    this.#forget = [];
  }

  /** The next message to send. Results for one flow are asked for together. */
  take(): AwaitFrame | undefined {
    if (this.#ask.length === 0 && this.#forget.length === 0) {
      return undefined;
    }
    const frame = create(AwaitFrameSchema, { forget: this.#forget });
    this.#forget = [];
    const ask = this.#ask.filter((each) => !each.done && this.#byNumber.has(each.number));
    const first = ask[0];
    if (first !== undefined) {
      frame.tasks = ask.filter((each) => each.flow === first.flow).map((each) => each.number);
      if (first.flow !== undefined) {
        frame.parent = first.flow.parent;
      }
    }
    this.#ask = ask.filter((each) => each.flow !== first?.flow);
    return frame;
  }

  /** Hands out the results of a frame. Those that nobody waits for any more are dropped. */
  settle(results: ResultFrame): void {
    const failures = new Map(results.failures.map((each) => [each.index, each]));
    for (const [index, number] of results.tasks.entries()) {
      const head = this.#byNumber.get(number);
      if (head === undefined) {
        continue;
      }
      this.#byNumber.delete(number);
      const failure = failures.get(index);
      const payload = results.payloads[index] ?? new Uint8Array();
      for (const each of chain(head)) {
        each.twin = undefined;
        each.finish(payload, failure === undefined ? undefined : errorOf(failure));
      }
    }
  }

  /** Takes out everything that waits. */
  clear(): Submission[] {
    const found = [...this.#byNumber.values()].flatMap(chain);
    this.#byNumber.clear();
    this.#ask = [];
    this.#forget = [];
    return found;
  }
}

function chain(head: Submission | undefined): Submission[] {
  const found: Submission[] = [];
  for (let each = head; each !== undefined; each = each.twin) {
    found.push(each);
  }
  return found;
}

function errorOf(failure: Failure) {
  return fromParts(failure.code, failure.message, failure.details, failure.trailers);
}
