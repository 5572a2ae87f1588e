/** Outcomes of attempts on their way to the broker: kept until it has settled them. No I/O. */
import { create } from "@bufbuild/protobuf";
import {
  type HeldLease,
  HeldLeaseSchema,
  type OutcomeFrame,
  OutcomeFrameSchema,
} from "../gen/plait/v1/worker_service_pb.js";
import { Fifo } from "./fifo.js";
import type { Outcome } from "./invocation.js";
import { leaseOf, type Run } from "./run.js";
import { FRAME_BYTES_MAX, FRAME_TASKS_MAX } from "./wire.js";

interface Item {
  readonly task: bigint;
  readonly token: bigint;
  readonly outcome: Outcome;
  readonly bytes: number;
}

/** What is to be sent, and what was sent and is not settled. */
export class Outcomes {
  #waiting = new Fifo<Item>();
  #unsettled = new Map<bigint, Item[]>();
  #next = 1n;

  /** Whether everything is settled. */
  get isEmpty(): boolean {
    return this.#waiting.length === 0 && this.#unsettled.size === 0;
  }

  /** An attempt ended. */
  add({ task, token }: Run, outcome: Outcome): void {
    this.#waiting.push({ task, token, outcome, bytes: sizeOf(outcome) });
  }

  /** The next frame to send; undefined when nothing waits. */
  take(): OutcomeFrame | undefined {
    const batch = this.#nextBatch();
    if (batch.length === 0) {
      return undefined;
    }
    const frame = create(OutcomeFrameSchema, { sequence: this.#next });
    for (const [index, { task, token, outcome }] of batch.entries()) {
      frame.tasks.push(task);
      frame.tokens.push(token);
      frame.payloads.push("response" in outcome ? outcome.response : new Uint8Array());
      if ("failure" in outcome) {
        frame.failures.push({ ...outcome.failure, index });
      }
    }
    this.#unsettled.set(this.#next, batch);
    this.#next += 1n;
    return frame;
  }

  /** The broker has made durable everything up to this frame. */
  settle(sequence: bigint): void {
    for (const number of this.#unsettled.keys()) {
      if (number > sequence) {
        break;
      }
      this.#unsettled.delete(number);
    }
  }

  /** The leases of everything that is not settled. */
  leases(): HeldLease[] {
    const all = this.#all();
    for (const item of all) {
      this.#waiting.push(item);
    }
    return all.map(({ task, token }) => create(HeldLeaseSchema, { task, token }));
  }

  /** All is to be sent again, on a new stream, but for the leases that are lost. */
  restart(lost: ReadonlySet<string>): void {
    for (const item of this.#all()) {
      if (!lost.has(leaseOf(item))) {
        this.#waiting.push(item);
      }
    }
    this.#next = 1n;
  }

  /** Takes out everything, in order. */
  #all(): Item[] {
    const all = [...[...this.#unsettled.values()].flat(), ...this.#waiting.drain()];
    this.#unsettled = new Map();
    return all;
  }

  #nextBatch(): Item[] {
    const batch: Item[] = [];
    let bytes = 0;
    while (batch.length < FRAME_TASKS_MAX) {
      const head = this.#waiting.peek();
      if (head === undefined || (batch.length > 0 && bytes + head.bytes > FRAME_BYTES_MAX)) {
        break;
      }
      bytes += head.bytes;
      batch.push(head);
      this.#waiting.shift();
    }
    return batch;
  }
}

/** About how many bytes it takes in a frame. */
function sizeOf(outcome: Outcome): number {
  if ("response" in outcome) {
    return outcome.response.length;
  }
  const { message, details, trailers } = outcome.failure;
  const trailing = trailers.reduce((sum, each) => sum + each.key.length + each.value.length, 0);
  return message.length * 3 + details.length + trailing;
}
