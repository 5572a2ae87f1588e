/** Where handlers run: at most so many at once, flows that wait for their children not counted. */
import { Fifo } from "./fifo.js";
import { invoke, type Outcome } from "./invocation.js";
import type { Run } from "./run.js";

/** How long handlers are begun in a row before the event loop gets its turn, in milliseconds. */
const SLICE_MS = 5;

export class Slots {
  readonly queue = new Fifo<Run>();
  /** Attempts in handlers, and those of them that wait for children. */
  busy = 0;
  #suspended = new Set<Run>();
  #scheduled = false;

  /** `finish` is called when a handler has returned, or when a run was stopped before it began. */
  constructor(
    readonly limit: number,
    private readonly finish: (run: Run, outcome: Outcome | undefined) => void,
  ) {}

  /** Begins what has room. */
  start(): void {
    const end = performance.now() + SLICE_MS;
    while (this.queue.length > 0 && this.busy - this.#suspended.size < this.limit) {
      if (performance.now() >= end) {
        this.#later();
        return;
      }
      const run = this.queue.shift();
      if (run === undefined || run.stopped) {
        if (run !== undefined) {
          this.finish(run, undefined);
        }
        continue;
      }
      this.busy += 1;
      void this.#execute(run);
    }
  }

  /** A handler begins to wait for children, or goes on. It does not wait for its slot then. */
  flowChanged(run: Run, waits: boolean): void {
    if (waits) {
      this.#suspended.add(run);
      this.start();
    } else {
      this.#suspended.delete(run);
    }
  }

  async #execute(run: Run): Promise<void> {
    const outcome = await invoke(run);
    this.busy -= 1;
    this.#suspended.delete(run);
    this.finish(run, outcome);
    this.start();
  }

  #later(): void {
    if (!this.#scheduled) {
      this.#scheduled = true;
      setImmediate(() => {
        this.#scheduled = false;
        this.start();
      });
    }
  }
}
