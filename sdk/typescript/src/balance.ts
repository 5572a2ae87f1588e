/**
 * Which worker a call goes to: a version by the route's shares, then of two of its workers the one
 * with fewer calls. Those that are left out for a while get calls only where nobody else is there.
 */
import { Code, ConnectError } from "@connectrpc/connect";
import type { Cluster, Directory, View } from "./directory.js";
import type { Peer } from "./peer.js";
import { type Route, routeOf } from "./resources.js";
import type { Status } from "./verdicts.js";

/** A worker that was chosen for one attempt; to be given back. */
export interface Chosen {
  readonly peer: Peer;
  readonly release: () => void;
  /** The attempt ended, as far as the worker is concerned. */
  readonly ended: (code: Status) => void;
}

/**
 * Chooses a worker for a call of a method, if possible none of those tried. Waits for connections
 * that are being made. Rejects with Unavailable where nobody serves the method, or nobody of them
 * can be reached.
 */
export async function choose(
  directory: Directory,
  path: string,
  tried: ReadonlySet<Peer>,
  signal: AbortSignal,
): Promise<Chosen> {
  // Drawn once, so that who waits does not wander between versions.
  const drawn = Math.random();
  for (;;) {
    const view = await directory.view(serviceOf(path), signal);
    const [name, cluster] = target(view, path, drawn);
    const ready = cluster.peers.filter((peer) => peer.state === "ready");
    const { health } = cluster;
    const well = ready.filter((peer) => !health?.isOut(peer.address));
    const found = well.length > 0 ? well : ready;
    const fresh = found.filter((peer) => !tried.has(peer));
    const peer = two(fresh.length > 0 ? fresh : found);
    if (peer !== undefined) {
      const ended = (code: Status) => health?.report(peer.address, code);
      return { peer, release: counted(directory, name, cluster), ended };
    }
    if (!cluster.peers.some((each) => each.state === "connecting")) {
      const failing = cluster.peers[0];
      throw unavailable(
        failing === undefined
          ? `${name} has no worker`
          : `no worker of ${name} can be reached; ${failing.address}: ${failing.why}`,
      );
    }
    await directory.change(signal);
  }
}

/** "package.Service" of "/package.Service/Method". */
export function serviceOf(path: string): string {
  return path.slice(1, path.lastIndexOf("/"));
}

/** The cluster whose share a number from 0 to 1 falls into. */
export function share({ weights }: Pick<Route, "weights">, drawn: number): string {
  let point = drawn * weights.reduce((sum, [, weight]) => sum + weight, 0);
  for (const [name, weight] of weights) {
    point -= weight;
    if (point < 0) {
      return name;
    }
  }
  // There is always one: the weights are more than 0 in all, and the number is below 1.
  return weights.at(-1)?.[0] ?? "";
}

function target(view: View, path: string, drawn: number): [string, Cluster] {
  const route = routeOf(view.service, path);
  if (route === undefined) {
    throw unavailable(`nobody serves ${path}: no worker of it listens for direct calls`);
  }
  const name = share(route, drawn);
  const cluster = view.clusters.get(name);
  if (cluster === undefined) {
    throw unavailable(`nobody serves ${name}`);
  }
  return [name, cluster];
}

/** Of two drawn ones the one with fewer calls under way. */
function two(ready: readonly Peer[]): Peer | undefined {
  const first = Math.floor(Math.random() * ready.length);
  const other = (first + 1 + Math.floor(Math.random() * (ready.length - 1))) % ready.length;
  const [one, another] = [ready[first], ready[other]];
  return one !== undefined && another !== undefined && another.calls < one.calls ? another : one;
}

/** Takes a place among the calls under way, unless there are as many as may be. */
function counted(directory: Directory, name: string, { requestsMax }: Cluster): () => void {
  const { calls } = directory;
  const before = calls.get(name) ?? 0;
  if (before >= requestsMax) {
    const text = `${before} calls to ${name} are under way, which is all that its policy allows`;
    throw unavailable(text);
  }
  calls.set(name, before + 1);
  return () => {
    const left = (calls.get(name) ?? 1) - 1;
    left > 0 ? calls.set(name, left) : calls.delete(name);
  };
}

function unavailable(text: string): ConnectError {
  return new ConnectError(text, Code.Unavailable);
}
