/** The client: a channel for Connect's clients, submissions, and workers. */
import {
  create,
  type DescMessage,
  type DescMethodUnary,
  type MessageInitShape,
  type MessageShape,
} from "@bufbuild/protobuf";
import type { Transport } from "@connectrpc/connect";
import { pipeline, type Requests, WINDOW_TASKS } from "./bulk.js";
import { type ChannelOptions, DurableTransport } from "./channel.js";
import { Core, type Manner } from "./core.js";
import { type DirectOptions, DirectTransport } from "./direct.js";
import type { TaskOptions } from "./options.js";
import { Submission, taskNumber } from "./submission.js";
import { Task } from "./task.js";
import { addressOf } from "./wire.js";
import { Worker, type WorkerOptions } from "./worker.js";

const NO_OPTIONS: TaskOptions = {};

/** Options of a submission in bulk; those of `TaskOptions` hold for every task. */
export interface BulkOptions<Q> extends Omit<TaskOptions, "key"> {
  /** Gives the idempotency key of a request. Default: from the field that the policy names. */
  readonly key?: (request: Q) => string;
  /** Most tasks on their way at once, so that memory is bounded. Default 4096. */
  readonly window?: number;
}

/**
 * A client of the broker at `address`; default PLAIT_ADDRESS, else 127.0.0.1:7420.
 *
 * The connection is made when it is first needed, and made again for as long as the client is
 * open; a call waits for it, within its own timeout. Close the client by `close()`, or the process
 * stays alive.
 */
export function connect(address?: string): Client {
  return new Client(new Core(addressOf(address)), false);
}

/** One connection to the broker. */
export class Client {
  readonly #core: Core;
  readonly #detached: boolean;

  /** Made by `connect`. */
  constructor(core: Core, detached: boolean) {
    this.#core = core;
    this.#detached = detached;
  }

  /** The broker's address, "host:port". */
  get address(): string {
    return this.#core.address;
  }

  /** Closes the connection. Calls that still wait get CANCELLED; their tasks go on. */
  async close(): Promise<void> {
    if (!this.#detached) {
      await this.#core.close();
    }
  }

  /** The same as `close`, for `await using`. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  /**
   * A transport for Connect's clients, under which a call is a durable task and waits for its
   * result. The call's timeout is the task's deadline, its headers are the handler's; its error is
   * what the handler threw. Aborting the call ends the wait, not the task. Inside a handler of
   * this client's workers a call is a child of the handler's task.
   */
  channel(options: ChannelOptions = {}): Transport {
    return new DurableTransport(this.#core, this.#detached, options.interceptors ?? []);
  }

  /**
   * A transport for Connect's clients whose calls are no tasks: each goes straight to a live worker
   * that listens, with no queue and no record of it. Workers are found by the scheduler; calls go on
   * while it is away.
   *
   * Every call has a deadline: what is left of the handler's or of `deadline.limit`, default 30 s,
   * less 5 ms for the hop; the call's own timeout if that is shorter; and at most what the contract
   * allows. Rejects with Unavailable where nobody serves the method.
   */
  direct(options: DirectOptions = {}): Transport {
    return new DirectTransport(this.#core, options);
  }

  /** The same client, whose calls are ordinary tasks also inside a handler. */
  detached(): Client {
    return new Client(this.#core, true);
  }

  /**
   * Submits a task and answers with its handle as soon as it is durable.
   *
   * Rejects when the task is refused: KEY_MISSING, DUPLICATE_KEY_CONFLICT, METHOD_UNKNOWN,
   * TOO_LARGE, and QUEUE_FULL, for which `errors.retryAfterMs` says how long to wait.
   */
  async submit<I extends DescMessage, O extends DescMessage>(
    method: DescMethodUnary<I, O>,
    request: MessageInitShape<I>,
    options: TaskOptions = NO_OPTIONS,
  ): Promise<Task<O>> {
    const message = create(method.input, request);
    const submission = this.#core.submit(method, message, options, this.#manner(false));
    await submission.whenAccepted();
    return new Task(this.#core, submission, method);
  }

  /**
   * Submits a task for each request and yields their handles, in order, as they become durable. A
   * refused one is thrown; those before it go on.
   */
  async *submitMany<I extends DescMessage, O extends DescMessage>(
    method: DescMethodUnary<I, O>,
    requests: Requests<MessageInitShape<I>>,
    options: BulkOptions<MessageInitShape<I>> = {},
  ): AsyncGenerator<Task<O>> {
    for await (const submission of this.#pipeline(method, requests, options, false)) {
      await submission.whenAccepted();
      yield new Task(this.#core, submission, method);
    }
  }

  /**
   * Submits a task for each request and yields their responses, in the order of the requests. The
   * first task that fails is thrown; the others go on.
   */
  async *callMany<I extends DescMessage, O extends DescMessage>(
    method: DescMethodUnary<I, O>,
    requests: Requests<MessageInitShape<I>>,
    options: BulkOptions<MessageInitShape<I>> = {},
  ): AsyncGenerator<MessageShape<O>> {
    for await (const submission of this.#pipeline(method, requests, options, true)) {
      yield this.#core.decode(method.output, await submission.wait());
    }
  }

  /**
   * The handle of a task that was submitted before, here or elsewhere. Throws RangeError for a
   * malformed id.
   */
  task<I extends DescMessage, O extends DescMessage>(
    method: DescMethodUnary<I, O>,
    id: string,
  ): Task<O> {
    const known = this.#core.methods.get(method);
    const submission = new Submission(known, new Uint8Array(), false);
    submission.accept(taskNumber(id));
    return new Task(this.#core, submission, method);
  }

  /** A worker; register services by its `serve`, then `run` it. */
  worker(options: WorkerOptions = {}): Worker {
    return new Worker(this.#core, options);
  }

  #manner(blocking: boolean): Manner {
    return { blocking, detached: this.#detached };
  }

  #pipeline<I extends DescMessage, O extends DescMessage>(
    method: DescMethodUnary<I, O>,
    requests: Requests<MessageInitShape<I>>,
    { key, window = WINDOW_TASKS, ...said }: BulkOptions<MessageInitShape<I>>,
    blocking: boolean,
  ): AsyncGenerator<Submission> {
    const core = this.#core;
    const submit = (request: MessageInitShape<I>) => {
      const message = create(method.input, request);
      const options = key === undefined ? said : { ...said, key: key(request) };
      return core.submit(method, message, options, this.#manner(blocking));
    };
    return pipeline(requests, submit, window, (each) => core.session.forget(each));
  }
}
