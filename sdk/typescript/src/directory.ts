/**
 * Who serves what, for direct calls: asked of the scheduler by xDS, and kept while the scheduler is
 * away.
 */
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { createGrpcTransport, Http2SessionManager } from "@connectrpc/connect-node";
import {
  AggregatedDiscoveryService,
  type DiscoveryRequest,
} from "../gen/plait_xds/discovery_pb.js";
import { Bell, pause } from "./bell.js";
import { Health } from "./health.js";
import { Peer } from "./peer.js";
import { Reconnect } from "./reconnect.js";
import { type Endpoints, Resources, type Service } from "./resources.js";
import { closed } from "./statuses.js";
import type { Wire } from "./wire.js";

/** Where the scheduler says where it listens. */
const ADDRESS_KEY = "scheduler/address";
/**
 * While calls are made, the scheduler's address is looked up so often: another one may have taken
 * over.
 */
const LOOK_MS = 5_000;
const LOOK_TIMEOUT_MS = 5_000;
/** Requests to the scheduler that are not sent yet: one a kind of resource, many times over. */
const REQUESTS_MAX = 64;
const MESSAGE_BYTES_MAX = 64 << 20;

/** A version of a service: its workers. */
export interface Cluster {
  readonly peers: readonly Peer[];
  readonly requestsMax: number;
  /** Who of them is left out for a while; undefined: nobody ever is. */
  readonly health: Health | undefined;
}

/** A service as it can be called now. */
export interface View {
  readonly service: Service;
  readonly clusters: ReadonlyMap<string, Cluster>;
}

/** Asks until it is closed; made by the first direct call. */
export class Directory {
  readonly #wire: Wire;
  readonly #life = new AbortController();
  readonly #resources = new Resources();
  readonly #views = new Map<string, View>();
  /** Those that calls may go to; a worker of several services has one connection. */
  readonly #peers = new Map<string, Peer>();
  /** Calls under way from this client, by cluster. */
  readonly calls = new Map<string, number>();
  /** Who is left out, by cluster. */
  readonly #health = new Map<string, Health>();
  /** Who waits for any change. */
  #waiting = new Set<() => void>();
  /** Why a service that is not known yet cannot be, while the scheduler cannot be asked. */
  #trouble: ConnectError | undefined;
  /** Of the stream that is open: sends what is wanted now. */
  #subscribe: (() => void) | undefined;
  /** Whether a call was made since the scheduler's address was looked up last. */
  #used = false;

  constructor(wire: Wire) {
    this.#wire = wire;
    void this.#run();
  }

  /** Ends everything; calls under way fail. */
  close(): void {
    this.#life.abort();
    for (const peer of this.#peers.values()) {
      peer.cut();
    }
    this.#changed();
  }

  /**
   * The service as it can be called now; waits for the first answer of the scheduler. Rejects with
   * Unavailable when there is nobody to ask.
   */
  async view(service: string, signal: AbortSignal): Promise<View> {
    this.#used = true;
    if (this.#resources.subscribe(service)) {
      this.#subscribe?.();
    }
    for (;;) {
      if (this.#life.signal.aborted) {
        throw closed();
      }
      const view = this.#views.get(service);
      if (view !== undefined) {
        return view;
      }
      if (this.#trouble !== undefined) {
        throw this.#trouble;
      }
      await this.change(signal);
    }
  }

  /** Resolves at the next change of a service or of a connection; rejects when the signal aborts. */
  change(signal: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      const end = () => {
        this.#waiting.delete(end);
        signal.removeEventListener("abort", end);
        signal.aborted ? reject(signal.reason) : resolve();
      };
      signal.addEventListener("abort", end);
      this.#waiting.add(end);
      if (signal.aborted) {
        end();
      }
    });
  }

  async #run(): Promise<void> {
    const { signal } = this.#life;
    const wait = new Reconnect();
    while (!signal.aborted) {
      try {
        await this.#ask(wait);
        throw new ConnectError("it ended the stream", Code.Unavailable);
      } catch (error) {
        const text = ConnectError.from(error).rawMessage;
        this.#trouble = new ConnectError(
          `the scheduler, which knows the workers, does not answer: ${text}`,
          Code.Unavailable,
        );
        this.#changed();
      }
      await pause(wait.next(), signal);
    }
  }

  /** One stream, until it ends. */
  async #ask(wait: Reconnect): Promise<void> {
    const address = await this.#look();
    const baseUrl = `http://${address}`;
    // No pings: gRPC servers end connections that ping more often than every 5 min, and a scheduler
    // that vanished without a word is left when another one takes over.
    const manager = new Http2SessionManager(baseUrl);
    const stream = new AbortController();
    const signal = AbortSignal.any([this.#life.signal, stream.signal]);
    const end = (why: string) => stream.abort(new ConnectError(why, Code.Unavailable));
    const look = setInterval(() => {
      void this.#isReplaced(address).then((replaced) => {
        replaced && end("another scheduler has taken over");
      });
    }, LOOK_MS);
    const requests = new Outbound(() => end("it does not read"));
    try {
      if ((await manager.connect()) === "error") {
        throw new ConnectError(`nobody listens at ${address}`, Code.Unavailable);
      }
      // Somebody is there: those who wait may go on waiting.
      this.#trouble = undefined;
      requests.send(this.#resources.hello());
      this.#subscribe = () => requests.send([this.#resources.listeners()]);
      const transport = createGrpcTransport({
        baseUrl,
        sessionManager: manager,
        readMaxBytes: MESSAGE_BYTES_MAX,
      });
      const client = createClient(AggregatedDiscoveryService, transport);
      for await (const response of client.streamAggregatedResources(requests.all(signal), {
        signal,
      })) {
        wait.reset();
        requests.send(this.#resources.take(response));
        this.#publish();
      }
    } finally {
      this.#subscribe = undefined;
      clearInterval(look);
      end("it is over");
      requests.wake();
      manager.abort();
    }
  }

  /** Whether another scheduler is to be asked by now. While no calls are made nobody minds. */
  async #isReplaced(address: string): Promise<boolean> {
    if (!this.#used) {
      return false;
    }
    this.#used = false;
    try {
      return (await this.#look()) !== address;
    } catch {
      return false;
    }
  }

  /** Where the scheduler listens, as it told the broker. */
  async #look(): Promise<string> {
    const signal = AbortSignal.any([this.#life.signal, AbortSignal.timeout(LOOK_TIMEOUT_MS)]);
    const { entry } = await this.#wire.keys.getEntry({ key: ADDRESS_KEY }, { signal });
    if (entry === undefined) {
      throw new ConnectError("no scheduler runs", Code.Unavailable);
    }
    return Buffer.from(entry.value).toString();
  }

  /** Shows callers what is known now. */
  #publish(): void {
    for (const name of this.#resources.wanted) {
      const service = this.#resources.service(name);
      if (service !== undefined) {
        this.#views.set(name, this.#viewOf(service));
      }
    }
    const clusters = new Map([...this.#views.values()].flatMap((view) => [...view.clusters]));
    const used = new Set([...clusters.values()].flatMap((cluster) => cluster.peers));
    for (const name of this.#health.keys()) {
      if (clusters.get(name)?.health === undefined) {
        this.#health.delete(name);
      }
    }
    for (const [address, peer] of this.#peers) {
      if (!used.has(peer)) {
        this.#peers.delete(address);
        peer.close();
      }
    }
    this.#changed();
  }

  #viewOf(service: Service): View {
    const clusters = new Map<string, Cluster>();
    for (const [name, endpoints] of service.clusters) {
      clusters.set(name, {
        peers: endpoints.addresses.map((each) => this.#peer(each)),
        requestsMax: endpoints.told.requestsMax,
        health: this.#healthOf(name, endpoints),
      });
    }
    return { service, clusters };
  }

  #healthOf(name: string, { addresses, told: { ejection } }: Endpoints): Health | undefined {
    if (ejection === undefined) {
      return undefined;
    }
    const found = this.#health.get(name) ?? new Health(ejection);
    this.#health.set(name, found);
    found.update(ejection, addresses);
    return found;
  }

  #peer(address: string): Peer {
    const found = this.#peers.get(address) ?? new Peer(address, () => this.#changed());
    this.#peers.set(address, found);
    return found;
  }

  #changed(): void {
    const waiting = this.#waiting;
    this.#waiting = new Set();
    for (const wake of waiting) {
      wake();
    }
  }
}

/** What goes to the scheduler. */
class Outbound {
  #queue: DiscoveryRequest[] = [];
  readonly #bell = new Bell();

  /** `full` is called when the scheduler does not read. */
  constructor(private readonly full: () => void) {}

  send(requests: DiscoveryRequest[]): void {
    this.#queue.push(...requests);
    this.wake();
    if (this.#queue.length > REQUESTS_MAX) {
      this.full();
    }
  }

  wake(): void {
    this.#bell.ring();
  }

  async *all(signal: AbortSignal): AsyncGenerator<DiscoveryRequest> {
    while (!signal.aborted) {
      const queue = this.#queue;
      this.#queue = [];
      yield* queue;
      if (this.#queue.length === 0) {
        await this.#bell.wait();
      }
    }
  }
}
