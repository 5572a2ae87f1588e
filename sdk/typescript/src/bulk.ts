/** Many tasks: submitted ahead of their reader, handed on in order, with bounded memory. */

import { Bell } from "./bell.js";
import { Fifo } from "./fifo.js";
import type { Submission } from "./submission.js";

/** What may be on its way at once: tasks, and bytes of their requests. */
export const WINDOW_TASKS = 4096;
const WINDOW_BYTES = 32 << 20;

/** Requests, from memory or as they come. */
export type Requests<T> = Iterable<T> | AsyncIterable<T>;

/**
 * Submits the requests in order and yields the submissions in order, each to be waited for by the
 * caller. At most `window` of them, and 32 MiB of requests, are pulled ahead of the reader.
 * `forget` is called with those that the reader did not come to.
 */
export async function* pipeline<T>(
  requests: Requests<T>,
  submit: (request: T) => Submission,
  window: number,
  forget: (submission: Submission) => void,
): AsyncGenerator<Submission> {
  if (window < 1) {
    throw new RangeError(`window is at least 1, not ${window}`);
  }
  const feeder = new Feeder(requests, submit, window);
  try {
    for (;;) {
      const submission = await feeder.next();
      if (submission === undefined) {
        return;
      }
      yield submission;
    }
  } finally {
    for (const submission of feeder.stop()) {
      forget(submission);
    }
  }
}

/** Reads the source on its own, so that a slow one holds up no result. */
class Feeder<T> {
  readonly #open = new Fifo<[submission: Submission, bytes: number]>();
  readonly #filled = new Bell();
  readonly #room = new Bell();
  #bytes = 0;
  #ended = false;
  #stopped = false;
  #error: { thrown: unknown } | undefined;

  constructor(
    requests: Requests<T>,
    private readonly submit: (request: T) => Submission,
    private readonly window: number,
  ) {
    void this.#feed(requests);
  }

  /** The next submission; undefined after the last. Rejects with what the source threw. */
  async next(): Promise<Submission | undefined> {
    for (;;) {
      const head = this.#open.shift();
      if (head !== undefined) {
        this.#bytes -= head[1];
        this.#room.ring();
        return head[0];
      }
      if (this.#error !== undefined) {
        throw this.#error.thrown;
      }
      if (this.#ended) {
        return undefined;
      }
      await this.#filled.wait();
    }
  }

  /** Reads no more; answers what nobody came to. */
  stop(): Submission[] {
    this.#stopped = true;
    this.#room.ring();
    return this.#open.drain().map(([submission]) => submission);
  }

  async #feed(requests: Requests<T>): Promise<void> {
    try {
      for await (const request of requests) {
        if (this.#stopped) {
          break;
        }
        const submission = this.submit(request);
        const bytes = submission.payload.length;
        this.#open.push([submission, bytes]);
        this.#bytes += bytes;
        this.#filled.ring();
        while (this.#isFull() && !this.#stopped) {
          await this.#room.wait();
        }
      }
    } catch (thrown) {
      this.#error = { thrown };
    } finally {
      this.#ended = true;
      this.#filled.ring();
    }
  }

  #isFull(): boolean {
    return this.#open.length >= this.window || this.#bytes >= WINDOW_BYTES;
  }
}
