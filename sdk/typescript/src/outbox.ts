/**
 * What a session has to send: submissions that wait for a frame, and frames that wait for their
 * acknowledgement. No I/O. A cursor runs over the numbered frames: it goes back when the broker
 * refused a frame for back-pressure or when the stream broke, and a new frame is built only when
 * it has reached the end.
 */
import { create, toBinary } from "@bufbuild/protobuf";
import { type TaskOptions, TaskOptionsSchema } from "../gen/plait/v1/task_pb.js";
import {
  type SequencedSubmit,
  SequencedSubmitSchema,
  SubmitFrameSchema,
} from "../gen/plait/v1/task_service_pb.js";
import { Fifo } from "./fifo.js";
import type { Submission } from "./submission.js";
import { FRAME_BYTES_MAX, FRAME_TASKS_MAX } from "./wire.js";

/** Frames sent and not acknowledged: 16,384 tasks, or 32 MiB where tasks are large. */
const UNACKED_FRAMES_MAX = 64;
const UNACKED_BYTES_MAX = 32 << 20;

/** A numbered frame and the submissions in it. */
export interface Frame {
  readonly message: SequencedSubmit;
  readonly submissions: readonly Submission[];
  readonly bytes: number;
}

/** Submissions and frames of one session, in order. */
export class Outbox {
  readonly queue = new Fifo<Submission>();
  frameTasksMax = FRAME_TASKS_MAX;
  /** By number, ascending. */
  #unacked = new Map<bigint, Frame>();
  #unackedBytes = 0;
  /** The number of the next frame to send, and of the next one to build. */
  #cursor = 1n;
  #next = 1n;

  /** The lowest number without an acknowledgement, or the next one. */
  get firstUnacked(): bigint {
    return this.#unacked.keys().next().value ?? this.#next;
  }

  /** The next frame to send; undefined when there is none, or enough are not acknowledged. */
  take(): SequencedSubmit | undefined {
    while (this.#cursor < this.#next) {
      const frame = this.#unacked.get(this.#cursor);
      this.#cursor += 1n;
      if (frame !== undefined) {
        return frame.message;
      }
    }
    const full =
      this.#unacked.size >= UNACKED_FRAMES_MAX || this.#unackedBytes >= UNACKED_BYTES_MAX;
    const first = full ? undefined : this.queue.shift();
    if (first === undefined) {
      return undefined;
    }
    const frame = this.#build(first);
    this.#unacked.set(this.#next, frame);
    this.#unackedBytes += frame.bytes;
    this.#next += 1n;
    this.#cursor = this.#next;
    return frame.message;
  }

  /** Removes and answers the frame with this number; undefined if it was acknowledged before. */
  acknowledge(sequence: bigint): Frame | undefined {
    const frame = this.#unacked.get(sequence);
    if (frame !== undefined) {
      this.#unacked.delete(sequence);
      this.#unackedBytes -= frame.bytes;
    }
    return frame;
  }

  /** Sends again from this number on. */
  rewind(sequence: bigint): void {
    if (sequence < this.#cursor) {
      this.#cursor = sequence;
    }
  }

  /** Sends again everything that is not acknowledged: the stream is a new one. */
  restart(): void {
    this.#cursor = this.firstUnacked;
  }

  /** Numbers from 1 again: the session is a new one. */
  renumber(): void {
    const frames = [...this.#unacked.values()];
    this.#unacked = new Map();
    this.#next = 1n;
    for (const frame of frames) {
      frame.message.sequence = this.#next;
      this.#unacked.set(this.#next, frame);
      this.#next += 1n;
    }
    this.#cursor = 1n;
  }

  /** Takes out every submission that is not acknowledged, in order. */
  clear(): Submission[] {
    const found = [...this.#unacked.values()].flatMap((frame) => frame.submissions);
    this.#unacked = new Map();
    this.#unackedBytes = 0;
    this.#cursor = this.#next;
    return [...found, ...this.queue.drain()];
  }

  #build(first: Submission): Frame {
    const [submissions, bytes] = this.#nextBatch(first);
    const tasks = create(SubmitFrameSchema, {
      payloads: submissions.map((each) => each.payload),
      ...methodsOf(submissions),
    });
    if (submissions.some((each) => each.idempotencyKey)) {
      tasks.idempotencyKeys = submissions.map((each) => each.idempotencyKey ?? "");
    }
    if (submissions.some((each) => each.orderingKey)) {
      tasks.orderingKeys = submissions.map((each) => each.orderingKey ?? "");
    }
    if (submissions.some((each) => each.limitKey)) {
      tasks.limitKeys = submissions.map((each) => each.limitKey ?? "");
    }
    if (first.options !== undefined) {
      tasks.common = first.options;
    }
    for (const [index, each] of submissions.entries()) {
      if (each.options !== first.options) {
        const options = each.options ?? create(TaskOptionsSchema);
        tasks.options.push({ $typeName: "plait.v1.IndexedOptions", index, options });
      }
    }
    const message = create(SequencedSubmitSchema, {
      sequence: this.#next,
      tasks,
      await: first.awaited,
    });
    return { message, submissions, bytes };
  }

  /** The submissions that go next: of one kind, in order, within the limits of a frame. */
  #nextBatch(first: Submission): [Submission[], number] {
    const batch = [first];
    let bytes = sizeOf(first, undefined);
    while (batch.length < this.frameTasksMax) {
      const head = this.queue.peek();
      if (head === undefined || head.awaited !== first.awaited) {
        break;
      }
      const more = sizeOf(head, first.options);
      if (bytes + more > FRAME_BYTES_MAX) {
        break;
      }
      bytes += more;
      batch.push(head);
      this.queue.shift();
    }
    return [batch, bytes];
  }
}

const optionBytes = new WeakMap<TaskOptions, number>();

/** About how many bytes it takes in a frame whose tasks have these options in common. */
function sizeOf(submission: Submission, common: TaskOptions | undefined): number {
  const { payload, options, idempotencyKey, orderingKey, limitKey } = submission;
  let bytes = payload.length;
  for (const key of [idempotencyKey, orderingKey, limitKey]) {
    bytes += (key?.length ?? 0) * 3;
  }
  if (options !== undefined && options !== common) {
    let size = optionBytes.get(options);
    if (size === undefined) {
      size = toBinary(TaskOptionsSchema, options).length;
      optionBytes.set(options, size);
    }
    bytes += size;
  }
  return bytes;
}

function methodsOf(batch: readonly Submission[]): { methods: string[]; methodIndex: number[] } {
  const index = new Map<string, number>();
  const methodIndex = batch.map(({ method: { route } }) => {
    const known = index.get(route);
    if (known === undefined) {
      index.set(route, index.size);
      return index.size - 1;
    }
    return known;
  });
  // An empty column says: the first method for all.
  return { methods: [...index.keys()], methodIndex: index.size === 1 ? [] : methodIndex };
}
