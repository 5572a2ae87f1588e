/**
 * What a worker holds: attempts, outcomes that are not settled, and what else is to be said. No
 * I/O. It outlives the streams: the leases that it holds are listed in the hello of the next one.
 */
import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { Code, ConnectError } from "@connectrpc/connect";
import type { Failure } from "../gen/plait/v1/task_service_pb.js";
import {
  type AttachRequest,
  AttachRequestSchema,
  type AttemptFrame,
  type HeldLease,
  HeldLeaseSchema,
  type SettledFrame,
  type StopFrame,
  StopReason,
  type WorkerWelcome,
} from "../gen/plait/v1/worker_service_pb.js";
import { newError, Reason } from "./errors.js";
import { Board } from "./flags.js";
import type { Outcome } from "./invocation.js";
import { Outcomes } from "./outcomes.js";
import { leaseOf, Run, type RunHome } from "./run.js";
import type { Served } from "./served.js";
import { Slots } from "./slots.js";

/** A handler may report as often as it likes; people do not read faster than this. */
const PROGRESS_INTERVAL_MS = 100;
/** Of a line for people, in characters; the rest is cut off. */
const PROGRESS_TEXT_MAX = 1024;

type Said = MessageInitShape<typeof AttachRequestSchema>["message"];

/** The attempts of one worker and its messages to the broker. */
export class Holdings implements RunHome {
  readonly slots: Slots;
  readonly flags: Board;
  payloadBytesMax = 0;
  /** Resolves once nothing is held and every outcome is settled, after `drain`. */
  readonly drained: Promise<void>;
  readonly #held = new Map<string, Run>();
  readonly #outcomes = new Outcomes();
  #progress = new Map<Run, { fraction: number; message: string }>();
  /** Progress waits while this timer runs. */
  #progressTimer: NodeJS.Timeout | undefined;
  #handBack: Run[] = [];
  /** Flows that were unloaded. */
  #suspended: Run[] = [];
  /** The highest frame of this stream that was received, and that the broker was told of. */
  #received = 0n;
  #told = 0n;
  #drainReason: string | undefined;
  #drainTold = false;
  #heartbeatDue = false;
  #empty: () => void = () => undefined;

  /**
   * `served` are the methods of the hello, in order; `core` is the client's, whose calls are
   * children of its handlers; `wake` is called when `take` has something new; `flags` is the board
   * that the worker's listener has, too.
   */
  constructor(
    private readonly served: readonly Served[],
    limit: number,
    readonly core: object,
    private readonly wake: () => void,
    flags = new Board(),
  ) {
    this.flags = flags;
    this.slots = new Slots(limit, (run, outcome) => this.#finish(run, outcome));
    this.drained = new Promise((resolve) => {
      this.#empty = resolve;
    });
  }

  /** Every lease that is held, those of outcomes that are not settled included. */
  leases(): HeldLease[] {
    const held = [...this.#held.values()].map(({ task, token }) =>
      create(HeldLeaseSchema, { task, token }),
    );
    return [...held, ...this.#outcomes.leases()];
  }

  /** A new stream: stops what was lost and sends again what was not settled. */
  restart(welcome: WorkerWelcome): void {
    this.payloadBytesMax = Number(welcome.payloadBytesMax);
    this.flags.replace(welcome.flags);
    const lost = new Set(welcome.lost.map(leaseOf));
    for (const lease of lost) {
      this.#stop(lease, lostLease());
    }
    this.#outcomes.restart(lost);
    this.#handBack = this.#handBack.filter((run) => !lost.has(run.lease));
    // The broker unloads a waiting flow by itself when the stream of its worker ends.
    this.#suspended = [];
    this.#received = this.#told = 0n;
    this.#drainTold = false;
    this.#checkEmpty();
  }

  /** The next message to send; undefined when there is none. It tells what was received, too. */
  take(): AttachRequest | undefined {
    const message = this.#say();
    if (message === undefined && this.#received === this.#told) {
      return undefined;
    }
    this.#heartbeatDue = false;
    this.#told = this.#received;
    const acceptedSequence = this.#received;
    return create(AttachRequestSchema, { acceptedSequence, ...(message && { message }) });
  }

  /** Has something said, if nothing else is. */
  heartbeat(): void {
    this.#heartbeatDue = true;
    this.wake();
  }

  /** Takes the attempts of a frame. */
  attempts(frame: AttemptFrame): void {
    const now = performance.now();
    const extras = new Map(frame.extras.map((each) => [each.index, each]));
    for (const [index, task] of frame.tasks.entries()) {
      const served = this.served[frame.methodIndex[index] ?? 0];
      const token = frame.tokens[index];
      const payload = frame.payloads[index];
      if (served === undefined || token === undefined || payload === undefined) {
        throw new ConnectError("the broker sent a broken frame of attempts", Code.Internal);
      }
      const deadline = now + Number(frame.timeoutMs[index] ?? 0n);
      const run = new Run(this, served, task, token, payload, deadline, extras.get(index));
      this.#held.set(run.lease, run);
      this.slots.queue.push(run);
    }
    this.#received = frame.sequence;
    if (this.#drainReason !== undefined) {
      this.#giveBackQueue();
    }
    // First the slots and then the writer: handlers that do not wait have their outcomes in the
    // next message.
    this.slots.start();
    this.wake();
  }

  /** Outcomes are durable. */
  settled(frame: SettledFrame): void {
    this.#outcomes.settle(frame.sequence);
    this.#checkEmpty();
  }

  /** The broker wants no outcome of these any more. */
  stop(frame: StopFrame): void {
    for (const entry of frame.entries) {
      this.#stop(leaseOf(entry), causeOf(entry.reason));
    }
  }

  /** Nobody wants any outcome any more. */
  stopAll(): void {
    for (const lease of [...this.#held.keys()]) {
      this.#stop(lease, new ConnectError("the worker has stopped", Code.Canceled));
    }
    clearTimeout(this.#progressTimer);
  }

  /** Takes no more, hands back what has not started, and unloads flows that wait for children. */
  drain(reason: string): void {
    this.#drainReason = reason;
    this.#giveBackQueue();
    for (const run of [...this.#held.values()]) {
      if (run.flow?.waits === true) {
        this.#unload(run);
      }
    }
    this.#checkEmpty();
    this.wake();
  }

  reportProgress(run: Run, fraction: number, message: string): void {
    if (this.#held.has(run.lease)) {
      this.#progress.set(run, { fraction, message: message.slice(0, PROGRESS_TEXT_MAX) });
      if (this.#progressTimer === undefined) {
        this.wake();
      }
    }
  }

  expired(run: Run, failure: Failure): void {
    this.#settleWith(run, { failure });
  }

  flowChanged(run: Run, waits: boolean): void {
    this.slots.flowChanged(run, waits);
  }

  /** A worker that drains does not wait with its flows. */
  flowWaits(run: Run): void {
    if (this.#drainReason !== undefined) {
      this.#unload(run);
      this.#checkEmpty();
      this.wake();
    }
  }

  /** Takes a flow away from its handler. The broker has it run again when a child ends. */
  #unload(run: Run): void {
    if (!run.stopped && this.#release(run)) {
      this.#suspended.push(run);
      run.stop(new ConnectError("the flow waits elsewhere: the worker drains", Code.Canceled));
    }
  }

  #stop(lease: string, cause: ConnectError): void {
    this.#held.get(lease)?.stop(cause);
  }

  #finish(run: Run, outcome: Outcome | undefined): void {
    if (run.stopped || outcome === undefined) {
      this.#release(run);
      this.#checkEmpty();
    } else {
      this.#settleWith(run, outcome);
    }
  }

  #settleWith(run: Run, outcome: Outcome): void {
    if (this.#release(run)) {
      this.#outcomes.add(run, outcome);
      this.wake();
    }
  }

  #release(run: Run): boolean {
    this.#progress.delete(run);
    return this.#held.delete(run.lease);
  }

  #giveBackQueue(): void {
    for (const run of this.slots.queue.drain()) {
      this.#release(run);
      if (!run.stopped) {
        this.#handBack.push(run);
      }
    }
  }

  #checkEmpty(): void {
    if (this.#drainReason !== undefined && this.#held.size === 0 && this.#outcomes.isEmpty) {
      this.#empty();
    }
  }

  #say(): Said | undefined {
    if (this.#drainReason !== undefined && !this.#drainTold) {
      this.#drainTold = true;
      return { case: "drain", value: { reason: this.#drainReason } };
    }
    const outcomes = this.#outcomes.take();
    if (outcomes !== undefined) {
      return { case: "outcomes", value: outcomes };
    }
    if (this.#handBack.length > 0) {
      const runs = this.#handBack;
      this.#handBack = [];
      return { case: "handBack", value: leasesOf(runs) };
    }
    if (this.#suspended.length > 0) {
      const runs = this.#suspended;
      this.#suspended = [];
      return { case: "suspend", value: leasesOf(runs) };
    }
    if (this.#progress.size > 0 && this.#progressTimer === undefined) {
      return this.#sayProgress();
    }
    if (this.#heartbeatDue) {
      const { busy, queue } = this.slots;
      return { case: "heartbeat", value: { running: busy, waiting: queue.length } };
    }
    return undefined;
  }

  #sayProgress(): Said {
    this.#progressTimer = setTimeout(() => {
      this.#progressTimer = undefined;
      if (this.#progress.size > 0) {
        this.wake();
      }
    }, PROGRESS_INTERVAL_MS);
    const reports = [...this.#progress];
    this.#progress = new Map();
    const entries = reports.map(([{ task, token }, progress]) => ({ task, token, progress }));
    return { case: "progress", value: { entries } };
  }
}

function leasesOf(runs: readonly Run[]): { tasks: bigint[]; tokens: bigint[] } {
  return { tasks: runs.map((run) => run.task), tokens: runs.map((run) => run.token) };
}

function lostLease(): ConnectError {
  return newError(Code.Aborted, Reason.LEASE_LOST, "the lease went to somebody else");
}

function causeOf(reason: StopReason): ConnectError {
  switch (reason) {
    case StopReason.LEASE_LOST:
      return lostLease();
    case StopReason.EXPIRED:
      return newError(Code.DeadlineExceeded, Reason.TASK_EXPIRED, "the task's deadline passed");
    case StopReason.ATTEMPT_TIMED_OUT: {
      const text = "the attempt ran longer than attempt_timeout";
      return newError(Code.DeadlineExceeded, Reason.ATTEMPT_TIMED_OUT, text);
    }
    default:
      return newError(Code.Canceled, Reason.TASK_CANCELLED, "the task was cancelled");
  }
}
