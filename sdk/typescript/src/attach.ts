/**
 * A worker's stream: attempts come in, outcomes go out; attached again whenever it breaks
 * (docs/protocol.md §4).
 */
import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { durationMs } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError } from "@connectrpc/connect";
import {
  AttachRequestSchema,
  type AttachResponse,
  type WorkerHelloSchema,
  type WorkerWelcome,
} from "../gen/plait/v1/worker_service_pb.js";
import { Bell, pause } from "./bell.js";
import { Reason, reason } from "./errors.js";
import type { Holdings } from "./holdings.js";
import { Reconnect } from "./reconnect.js";
import type { Wire } from "./wire.js";

/** What a broker answers to a worker that it will never take. */
const FATAL = new Set([
  Code.FailedPrecondition,
  Code.InvalidArgument,
  Code.PermissionDenied,
  Code.Unauthenticated,
  Code.Unimplemented,
]);
/** Silence of so many heartbeat intervals means that the other side is gone. */
const SILENT_INTERVALS = 3;
/** Stands in for a welcome without an interval. */
const HEARTBEAT_MS = 5_000;

/** What an attachment is made of. */
export interface AttachmentParts {
  readonly wire: Wire;
  readonly holdings: Holdings;
  /** Without the leases held. */
  readonly hello: MessageInitShape<typeof WorkerHelloSchema>;
  /** Rung when there is something to send. */
  readonly bell: Bell;
  /** Awaited before each stream. */
  readonly prepare: (signal: AbortSignal) => Promise<void>;
  /** Called when a stream is open. */
  readonly attached: () => void;
}

/** Keeps a worker attached. */
export class Attachment {
  readonly #parts: AttachmentParts;
  readonly #life = new AbortController();
  readonly #reconnect = new Reconnect();
  #leaving = false;

  constructor(parts: AttachmentParts) {
    this.#parts = parts;
  }

  /**
   * Attaches, and again whenever the stream ends; resolves after `leave` or `cut`. Rejects with
   * the error of a broker that will not have the worker.
   */
  async run(): Promise<void> {
    const { signal } = this.#life;
    while (!this.#leaving && !signal.aborted) {
      try {
        await this.#parts.prepare(signal);
        await this.#connect();
      } catch (error) {
        if (!signal.aborted && isFatal(error)) {
          throw error;
        }
      }
      if (!this.#leaving) {
        await pause(this.#reconnect.next(), signal);
      }
    }
  }

  /** Ends the stream once everything is sent, and attaches no more. */
  leave(): void {
    this.#leaving = true;
    this.#parts.bell.ring();
  }

  /** Ends the stream now. */
  cut(): void {
    this.#leaving = true;
    this.#life.abort();
    this.#parts.bell.ring();
  }

  /** One stream, from hello to its end. */
  async #connect(): Promise<void> {
    const { wire, holdings, bell } = this.#parts;
    const stream = new AbortController();
    const signal = AbortSignal.any([this.#life.signal, stream.signal]);
    const welcomed = new Bell();
    let pulse: Pulse | undefined;
    try {
      for await (const response of wire.workers.attach(this.#requests(signal, welcomed), {
        signal,
      })) {
        pulse?.heard();
        if (response.message.case === "welcome") {
          this.#reconnect.reset();
          holdings.restart(response.message.value);
          pulse = new Pulse(response.message.value, holdings, () => stream.abort());
          welcomed.ring();
          this.#parts.attached();
        } else {
          take(response, holdings);
        }
      }
    } finally {
      pulse?.end();
      // Lets the writer go, wherever it waits.
      stream.abort();
      welcomed.ring();
      bell.ring();
    }
  }

  async *#requests(
    signal: AbortSignal,
    welcomed: Bell,
  ): AsyncGenerator<MessageInitShape<typeof AttachRequestSchema>> {
    const { holdings, hello, bell } = this.#parts;
    const full = { ...hello, held: holdings.leases() };
    yield create(AttachRequestSchema, { message: { case: "hello", value: full } });
    await welcomed.wait();
    while (!signal.aborted) {
      const message = holdings.take();
      if (message !== undefined) {
        yield message;
      } else if (this.#leaving) {
        return;
      } else {
        await bell.wait();
      }
    }
  }
}

/** Sends heartbeats, and notices that the broker is silent. */
class Pulse {
  readonly #timer: NodeJS.Timeout;
  #silent = 0;

  constructor(welcome: WorkerWelcome, holdings: Holdings, cut: () => void) {
    const interval = welcome.heartbeatInterval;
    const beat = interval === undefined ? HEARTBEAT_MS : durationMs(interval) || HEARTBEAT_MS;
    // Twice an interval, so that the time between two messages stays under one. Counting ticks
    // does not take a handler that held up the loop for a silence.
    this.#timer = setInterval(() => {
      this.#silent += 1;
      if (this.#silent >= 2 * SILENT_INTERVALS) {
        cut();
      } else {
        holdings.heartbeat();
      }
    }, beat / 2);
  }

  heard(): void {
    this.#silent = 0;
  }

  end(): void {
    clearInterval(this.#timer);
  }
}

function take({ message }: AttachResponse, holdings: Holdings): void {
  if (message.case === "attempts") {
    holdings.attempts(message.value);
  } else if (message.case === "settled") {
    holdings.settled(message.value);
  } else if (message.case === "stop") {
    holdings.stop(message.value);
  } else if (message.case === "flags") {
    holdings.flags.change(message.value);
  }
}

function isFatal(error: unknown): boolean {
  if (!(error instanceof ConnectError)) {
    return true;
  }
  // A broker that has forgotten the methods is told of them again before the next stream.
  return FATAL.has(error.code) && reason(error) !== Reason.METHOD_UNKNOWN;
}
