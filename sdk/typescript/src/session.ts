/**
 * The stream of submissions (docs/protocol.md §3): batches what waits, keeps each frame until it
 * is acknowledged, settles results, and reconnects until it is closed. Nothing is submitted twice.
 */
import { randomBytes } from "node:crypto";
import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { durationMs } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError } from "@connectrpc/connect";
import {
  type SequencedAccepted,
  type SessionWelcome,
  SubmitStreamRequestSchema,
  type SubmitStreamResponse,
} from "../gen/plait/v1/task_service_pb.js";
import { Bell, pause } from "./bell.js";
import { newError, Reason, reason } from "./errors.js";
import { Outbox } from "./outbox.js";
import { Reconnect } from "./reconnect.js";
import { closed, fromStatus } from "./statuses.js";
import type { Submission } from "./submission.js";
import { Wanted } from "./wanted.js";
import { CLIENT, FRAME_TASKS_MAX, type Wire } from "./wire.js";

/** What a broker answers to a frame that it will never take; sending it again would not end. */
const FATAL = new Set([
  Code.InvalidArgument,
  Code.OutOfRange,
  Code.PermissionDenied,
  Code.Unauthenticated,
  Code.Unimplemented,
]);

/** Sends submissions in batches and settles them. */
export class Session {
  payloadBytesMax = 0;
  readonly #wire: Wire;
  /** Takes a submission whose method the broker does not know; false: it is to fail. */
  readonly #onUnknownMethod: (submission: Submission) => boolean;
  #id = randomBytes(16);
  readonly #outbox = new Outbox();
  readonly #wanted = new Wanted();
  readonly #bell = new Bell();
  readonly #life = new AbortController();
  readonly #reconnect = new Reconnect();
  #running: Promise<void> | undefined;
  /** Back-pressure: nothing is submitted while this timer runs. */
  #paused: NodeJS.Timeout | undefined;

  constructor(wire: Wire, onUnknownMethod: (submission: Submission) => boolean) {
    this.#wire = wire;
    this.#onUnknownMethod = onUnknownMethod;
  }

  /** Queues a submission; it is sent with those that wait, as soon as the line is free. */
  submit(submission: Submission): void {
    const bytes = submission.payload.length;
    if (this.#life.signal.aborted) {
      submission.fail(closed());
    } else if (this.payloadBytesMax > 0 && bytes > this.payloadBytesMax) {
      submission.fail(tooLarge("request", bytes, this.payloadBytesMax));
    } else {
      this.#outbox.queue.push(submission);
      this.#wake();
    }
  }

  /** Asks for the result of a task that was accepted. */
  want(submission: Submission): void {
    if (this.#life.signal.aborted) {
      submission.fail(closed());
      return;
    }
    submission.awaited = true;
    submission.flow?.childStarted(submission);
    this.#wanted.ask(submission);
    this.#wake();
  }

  /** The result is no longer wanted. The task goes on. */
  forget(submission: Submission): void {
    if (!submission.awaited) {
      return;
    }
    submission.awaited = false;
    submission.flow?.childEnded(submission);
    if (submission.accepted && !submission.done) {
      this.#wanted.forget(submission);
      this.#wake();
    }
  }

  /** Ends the stream. Whoever waits gets CANCELLED; accepted tasks go on. */
  async close(): Promise<void> {
    this.#life.abort(closed());
    this.#endPause();
    this.#failAll(closed());
    this.#bell.ring();
    await this.#running;
  }

  #wake(): void {
    this.#running ??= this.#run();
    this.#bell.ring();
  }

  async #run(): Promise<void> {
    const { signal } = this.#life;
    while (!signal.aborted) {
      try {
        await this.#connect();
      } catch (error) {
        if (!(error instanceof ConnectError)) {
          // A fault of ours: nobody may wait for ever because of it.
          this.#life.abort(error);
          this.#failAll(ConnectError.from(error, Code.Internal));
        } else if (FATAL.has(error.code) && !signal.aborted) {
          this.#giveUp(error);
        }
      }
      await pause(this.#reconnect.next(), signal);
    }
  }

  /** One stream, from hello to its end. */
  async #connect(): Promise<void> {
    const stream = new AbortController();
    const signal = AbortSignal.any([this.#life.signal, stream.signal]);
    const welcomed = new Bell();
    try {
      const requests = this.#requests(signal, welcomed);
      for await (const response of this.#wire.tasks.submitStream(requests, { signal })) {
        if (response.message.case === "welcome") {
          this.#reconnect.reset();
          if (!this.#welcome(response.message.value)) {
            return;
          }
          welcomed.ring();
        } else {
          this.#take(response);
        }
      }
    } finally {
      // Lets the writer go, wherever it waits.
      stream.abort();
      welcomed.ring();
      this.#bell.ring();
    }
  }

  async *#requests(
    signal: AbortSignal,
    welcomed: Bell,
  ): AsyncGenerator<MessageInitShape<typeof SubmitStreamRequestSchema>> {
    yield { message: { case: "hello", value: { session: this.#id, client: CLIENT } } };
    await welcomed.wait();
    while (!signal.aborted) {
      const message = this.#next();
      if (message !== undefined) {
        yield message;
      } else {
        await this.#bell.wait();
      }
    }
  }

  #next() {
    const frame = this.#wanted.take();
    if (frame !== undefined) {
      return create(SubmitStreamRequestSchema, { message: { case: "await", value: frame } });
    }
    const submit = this.#paused === undefined ? this.#outbox.take() : undefined;
    return submit === undefined
      ? undefined
      : create(SubmitStreamRequestSchema, { message: { case: "submit", value: submit } });
  }

  /** Takes up the session. False when the broker has forgotten it: a new one is opened then. */
  #welcome(welcome: SessionWelcome): boolean {
    this.payloadBytesMax = Number(welcome.payloadBytesMax);
    this.#outbox.frameTasksMax = welcome.frameTasksMax || FRAME_TASKS_MAX;
    if (welcome.lastSequence + 1n < this.#outbox.firstUnacked) {
      this.#id = randomBytes(16);
      this.#outbox.renumber();
      return false;
    }
    this.#outbox.restart();
    this.#wanted.restart();
    // Another broker may answer now, and this one will say so again.
    this.#endPause();
    return true;
  }

  #take({ message }: SubmitStreamResponse): void {
    if (message.case === "results") {
      this.#wanted.settle(message.value);
    } else if (message.case === "accepted") {
      this.#accepted(message.value);
    }
  }

  #accepted(answer: SequencedAccepted): void {
    if (answer.retryAfter !== undefined) {
      this.#outbox.rewind(answer.sequence);
      this.#pauseFor(durationMs(answer.retryAfter));
      return;
    }
    const frame = this.#outbox.acknowledge(answer.sequence);
    if (frame === undefined) {
      return;
    }
    const { tasks = [], refusals = [] } = answer.accepted ?? {};
    const refused = new Map(refusals.map((each) => [each.index, each.status]));
    for (const [index, submission] of frame.submissions.entries()) {
      const status = refused.get(index);
      if (status !== undefined) {
        this.#refused(submission, fromStatus(status));
        continue;
      }
      submission.accept(tasks[index] ?? 0n);
      if (submission.awaited) {
        this.#wanted.add(submission);
      } else if (frame.message.await) {
        this.#wanted.forget(submission);
      }
    }
    // There may be room for another frame now.
    this.#bell.ring();
  }

  #refused(submission: Submission, error: ConnectError): void {
    if (reason(error) !== Reason.METHOD_UNKNOWN || !this.#onUnknownMethod(submission)) {
      submission.fail(error);
    }
  }

  #pauseFor(ms: number): void {
    this.#paused ??= setTimeout(() => {
      this.#paused = undefined;
      this.#bell.ring();
    }, ms);
  }

  #endPause(): void {
    clearTimeout(this.#paused);
    this.#paused = undefined;
  }

  /** Fails what is not acknowledged, whose fault it was, and starts afresh for what comes later. */
  #giveUp(error: ConnectError): void {
    for (const submission of this.#outbox.clear()) {
      submission.fail(error);
    }
    this.#id = randomBytes(16);
    this.#outbox.renumber();
  }

  #failAll(error: ConnectError): void {
    for (const submission of [...this.#outbox.clear(), ...this.#wanted.clear()]) {
      submission.fail(error);
    }
  }
}

/** INVALID_ARGUMENT, TOO_LARGE: sizes in bytes. */
export function tooLarge(what: string, size: number, limit: number): ConnectError {
  return newError(
    Code.InvalidArgument,
    Reason.TOO_LARGE,
    `the ${what} has ${size} bytes and at most ${limit} are allowed`,
    { field: what, size: `${size}`, limit: `${limit}` },
  );
}
