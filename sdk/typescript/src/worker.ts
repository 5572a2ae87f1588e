/** A worker: runs the handlers of ordinary services for the tasks that the broker hands out. */
import { randomBytes } from "node:crypto";
import { hostname } from "node:os";
import type { ConnectRouter } from "@connectrpc/connect";
import { Attachment } from "./attach.js";
import { Bell } from "./bell.js";
import type { Core } from "./core.js";
import { descriptorSet } from "./descriptors.js";
import { Board } from "./flags.js";
import { Holdings } from "./holdings.js";
import { Listener, parsed, WITHDRAWAL_MS } from "./listener.js";
import { retryConnection } from "./reconnect.js";
import { Registry, type Served } from "./served.js";
import { CLIENT } from "./wire.js";

/** Handlers at once: enough for whole frames, and one that waits is cheap. */
const CONCURRENCY = 256;
const GRACE_MS = 30_000;
/** How long the broker is given to end the stream when everything is settled. */
const GOODBYE_MS = 2_000;
/** Of a text for people, in characters. */
const TEXT_MAX = 64;
const SIGNALS = ["SIGTERM", "SIGINT"] as const;

/** Settings of a worker. */
export interface WorkerOptions {
  /** Handlers at once. Default 256. */
  readonly concurrency?: number;
  /** Of the program, for people. Default: the worker's id. */
  readonly name?: string;
  /** Version of the program, for people. Default "". */
  readonly version?: string;
  /**
   * Where the worker is called directly, an address of a loopback interface and a port:
   * "127.0.0.1:0" for any. An ordinary gRPC server, found by whoever calls through `Client.direct` or
   * by xDS. As many calls run at once as `concurrency` says; one more gets ResourceExhausted. A
   * handler that is called has no attempt. Default: it does not listen.
   */
  readonly listen?: string;
  /** What running handlers get when the worker stops, in milliseconds. Default 30,000. */
  readonly graceMs?: number;
}

/** Serves methods as tasks. Made by `Client.worker`; attaches when it is run. */
export class Worker {
  /** Its id, new for each worker. */
  readonly id: string;
  readonly #core: Core;
  readonly #options: WorkerOptions;
  readonly #registry = new Registry();
  readonly #flags = new Board();
  readonly #stop = deferred();
  readonly #stopNow = deferred();
  readonly #attached = deferred();
  #stopping = false;
  /** Whether nobody would hear of an error that ends it. */
  #untold = false;
  #served: Promise<void> | undefined;
  #endpoint = "";

  /** Throws RangeError for a concurrency below 1, and for an address that is not on loopback. */
  constructor(core: Core, options: WorkerOptions) {
    const { concurrency = CONCURRENCY } = options;
    if (!Number.isInteger(concurrency) || concurrency < 1) {
      throw new RangeError(`concurrency is a whole number of at least 1, not ${concurrency}`);
    }
    if (options.listen !== undefined) {
      parsed(options.listen);
    }
    this.#core = core;
    this.#options = options;
    // A supervisor knows by it which of its processes a worker is.
    const host = (process.env.PLAIT_PROCESS || hostname())
      .slice(0, 32)
      .replace(/[^A-Za-z0-9._:-]/g, "-");
    this.id = `${host}-${process.pid}-${randomBytes(6).toString("hex")}`;
  }

  /** Where it is called directly, "address:port", once it is attached; "" when it does not listen. */
  get endpoint(): string {
    return this.#endpoint;
  }

  /**
   * Registers services by routes, as for any server of Connect's:
   *
   *     worker.serve((router) => router.service(OrderService, { charge }));
   *
   * Methods that are left out are not served. Throws TypeError for a method that streams, and for
   * one that is served already. Answers the worker.
   */
  serve(routes: (router: ConnectRouter) => unknown): this {
    if (this.#served !== undefined) {
      throw new Error("the worker runs; serve everything before");
    }
    routes(this.#registry);
    return this;
  }

  /**
   * Serves until SIGTERM, SIGINT or `stop`, then drains: takes no more, hands back what has not
   * started, and lets running handlers finish within the grace. A second signal means now.
   * Survives any loss of the broker. Rejects when the contract or the worker is refused.
   */
  async run(): Promise<void> {
    const signalled = () => {
      void this.stop();
    };
    for (const signal of SIGNALS) {
      process.on(signal, signalled);
    }
    try {
      await this.#serve();
    } finally {
      for (const signal of SIGNALS) {
        process.off(signal, signalled);
      }
    }
  }

  /**
   * Runs it in the background, without minding signals; resolves when it is attached. What ends it
   * after that is told by `ended`, or else by `stop`.
   */
  async start(): Promise<void> {
    await Promise.race([this.#serve(), this.attached()]);
    this.#untold = true;
  }

  /**
   * Resolves when a worker that runs has ended, and rejects with what ended it: the broker will not
   * have it any more. Throws when it does not run.
   */
  ended(): Promise<void> {
    if (this.#served === undefined) {
      throw new Error("the worker does not run; call run() or start() before");
    }
    this.#untold = false;
    return this.#served;
  }

  /** Resolves when the worker was attached, and so its methods are known. */
  attached(): Promise<void> {
    return this.#attached.promise;
  }

  /**
   * Drains, and ends `run`; resolves when it has ended. A second call means now. Rejects with what
   * ended a worker that was started, unless `ended` was asked.
   */
  async stop(): Promise<void> {
    if (this.#stopping) {
      this.#stopNow.resolve();
    }
    this.#stopping = true;
    this.#stop.resolve();
    if (this.#untold) {
      this.#untold = false;
      await this.#served;
    } else {
      // What went wrong is told by `run`, `start` or `ended`.
      await this.#served?.catch(() => undefined);
    }
  }

  #serve(): Promise<void> {
    if (this.#registry.methods.size === 0) {
      throw new Error("nothing is served; call serve() before");
    }
    if (this.#served !== undefined) {
      throw new Error("a worker runs once");
    }
    this.#served = this.#work();
    return this.#served;
  }

  async #work(): Promise<void> {
    const { concurrency = CONCURRENCY, name = this.id, version = "" } = this.#options;
    const served: Served[] = [];
    const hello = {
      worker: this.id,
      name: name.slice(0, TEXT_MAX),
      version: version.slice(0, TEXT_MAX),
      client: CLIENT,
      slots: concurrency,
      methods: [] as string[],
      contracts: [] as string[],
      endpoint: "",
    };
    const listener = await this.#listen(concurrency);
    hello.endpoint = this.#endpoint;
    const bell = new Bell();
    const holdings = new Holdings(served, concurrency, this.#core, () => bell.ring(), this.#flags);
    const attachment = new Attachment({
      wire: this.#core.wire,
      holdings,
      bell,
      hello,
      prepare: (signal) => this.#announce(hello, served, signal),
      attached: () => this.#attached.resolve(),
    });
    const stream = attachment.run();
    try {
      await Promise.race([stream, this.#stop.promise]);
      // One that drains is not to be found any more.
      hello.endpoint = "";
      await Promise.all([this.#drain(stream, holdings, attachment), this.#withdraw(listener)]);
      await stream;
    } finally {
      listener?.cut();
      attachment.cut();
      holdings.stopAll();
    }
  }

  async #listen(callsMax: number): Promise<Listener | undefined> {
    const { listen } = this.#options;
    if (listen === undefined) {
      return undefined;
    }
    const listener = new Listener(this.#registry.methods, callsMax, this.#flags);
    this.#endpoint = await listener.start(listen);
    return listener;
  }

  /**
   * Goes on with calls for a moment, since callers are only being told, then ends with those under
   * way.
   */
  async #withdraw(listener: Listener | undefined): Promise<void> {
    if (listener === undefined) {
      return;
    }
    const { graceMs = GRACE_MS } = this.#options;
    const told = Math.min(WITHDRAWAL_MS, graceMs);
    await within(told, [this.#stopNow.promise]);
    await within(graceMs - told, [listener.leave(), this.#stopNow.promise]);
  }

  async #drain(stream: Promise<void>, holdings: Holdings, attachment: Attachment): Promise<void> {
    holdings.drain("stopping");
    const { graceMs = GRACE_MS } = this.#options;
    await within(graceMs, [stream, holdings.drained, this.#stopNow.promise]);
    attachment.leave();
    await within(GOODBYE_MS, [stream]);
    attachment.cut();
  }

  /** Makes the methods known, and learns their queues and routes; `served` is by route, as is the hello. */
  async #announce(
    hello: { methods: string[]; contracts: string[] },
    served: Served[],
    signal: AbortSignal,
  ): Promise<void> {
    const services = [...this.#registry.services.values()];
    const request = {
      descriptorSet: descriptorSet(services),
      services: services.map((each) => each.typeName).sort(),
      forWorker: true,
    };
    const { contracts } = this.#core.wire;
    const call = () => contracts.announceContract(request, { signal });
    const answer = await retryConnection(call, signal);
    const infos = new Map(answer.methods.map((info) => [info.method, info]));
    hello.methods.length = served.length = 0;
    hello.contracts = answer.digest === "" ? [] : [answer.digest];
    for (const each of this.#registry.methods.values()) {
      const info = infos.get(each.path);
      each.queue = info?.queue ?? "";
      const routes = info?.servedRoutes.length ? info.servedRoutes : [each.path];
      for (const route of routes) {
        hello.methods.push(route);
        served.push(each);
      }
    }
  }
}

interface Deferred {
  readonly promise: Promise<void>;
  readonly resolve: () => void;
}

function deferred(): Deferred {
  let resolve = () => {};
  const promise = new Promise<void>((done) => {
    resolve = done;
  });
  return { promise, resolve };
}

/** Resolves when one of them does, or after a time in milliseconds. */
async function within(ms: number, waits: Promise<void>[]): Promise<void> {
  const late = deferred();
  const timer = setTimeout(late.resolve, ms);
  try {
    await Promise.race([...waits, late.promise]);
  } finally {
    clearTimeout(timer);
  }
}
