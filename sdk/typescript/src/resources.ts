/**
 * What the scheduler said of the mesh by xDS: subscriptions, acceptances, and the services that come
 * of it. Pure: it opens no stream and reads no clock.
 *
 * A response is taken whole or rejected whole, and what was accepted before stays. A service is
 * shown only once everything that its routes lead to is known, so that a route never leads nowhere
 * while its parts arrive.
 */
import { create, type DescMessage, fromBinary, type MessageShape } from "@bufbuild/protobuf";
import { type Duration, durationMs } from "@bufbuild/protobuf/wkt";
import { Code } from "@connectrpc/connect";
import {
  ClusterSchema,
  Cluster_DiscoveryType as DiscoveryType,
  type OutlierDetection,
} from "../gen/plait_xds/cluster_pb.js";
import { HealthStatus } from "../gen/plait_xds/core_pb.js";
import {
  type DiscoveryRequest,
  DiscoveryRequestSchema,
  type DiscoveryResponse,
} from "../gen/plait_xds/discovery_pb.js";
import { ClusterLoadAssignmentSchema, type LbEndpoint } from "../gen/plait_xds/endpoint_pb.js";
import { HttpConnectionManagerSchema } from "../gen/plait_xds/http_connection_manager_pb.js";
import { ListenerSchema } from "../gen/plait_xds/listener_pb.js";
import {
  type RouteConfiguration,
  RouteConfigurationSchema,
  type Route as RouteMessage,
} from "../gen/plait_xds/route_pb.js";
import type { EjectionConfig, Judgement } from "./ejection.js";
import { type Fault, faultIn } from "./fault.js";
import { CLIENT, VERSION } from "./wire.js";

/** The kinds of resources, in the order in which they are asked for. */
const LISTENERS = ListenerSchema.typeName;
const ROUTES = RouteConfigurationSchema.typeName;
const CLUSTERS = ClusterSchema.typeName;
const ENDPOINTS = ClusterLoadAssignmentSchema.typeName;
const KINDS: readonly string[] = [LISTENERS, ROUTES, CLUSTERS, ENDPOINTS];
const PREFIX = "type.googleapis.com/";

/** Of a client that holds to its limit of calls where the cluster names none; Envoy's own default. */
const REQUESTS_MAX = 1_024;

/** Where the calls of a method go. */
export interface Route {
  /** A whole path, or what one begins with. */
  readonly path: string;
  readonly prefix: boolean;
  /** Clusters and their shares; never empty, nor all 0. */
  readonly weights: readonly (readonly [name: string, weight: number])[];
  /** What an operator makes of them. */
  readonly fault?: Fault | undefined;
}

/** The workers of a cluster. */
export interface Endpoints {
  /** "address:port". */
  readonly addresses: readonly string[];
  /** What is said of the whole cluster. */
  readonly told: Told;
}

/** What a cluster is told of. */
export interface Told {
  /** The name of its endpoints. */
  readonly endpoints: string;
  /** Calls under way from this client. */
  readonly requestsMax: number;
  /** When a worker that fails is left out; undefined: never. */
  readonly ejection: EjectionConfig | undefined;
}

/** A service as it is to be called. */
export interface Service {
  /** In the order in which they are matched; none where nobody serves the service. */
  readonly routes: readonly Route[];
  /** Those that the routes lead to. */
  readonly clusters: ReadonlyMap<string, Endpoints>;
}

/** Where calls of "/package.Service/Method" go; undefined: nobody serves it. */
export function routeOf(service: Service, path: string): Route | undefined {
  return service.routes.find((route) =>
    route.prefix ? path.startsWith(route.path) : path === route.path,
  );
}

/** A listener: its routes, or their name. */
type Listened = readonly Route[] | string;

interface Kind {
  names: ReadonlySet<string>;
  /** Of the last response that was accepted. */
  version: string;
  /** Of the last response on this stream. */
  nonce: string;
}

/** Everything heard and accepted. */
export class Resources {
  readonly #kinds = new Map<string, Kind>(
    KINDS.map((kind) => [kind, { names: new Set(), version: "", nonce: "" }]),
  );
  #listeners = new Map<string, Listened>();
  readonly #routes = new Map<string, readonly Route[]>();
  #clusters = new Map<string, Told>();
  readonly #endpoints = new Map<string, readonly string[]>();

  /** The services that are asked for. */
  get wanted(): Iterable<string> {
    return this.#kind(LISTENERS).names;
  }

  /** Asks for a service as well. False: it is asked for already. */
  subscribe(service: string): boolean {
    const kind = this.#kind(LISTENERS);
    if (kind.names.has(service)) {
      return false;
    }
    kind.names = new Set([...kind.names, service]);
    return true;
  }

  /** What tells the scheduler of the services that are wanted. */
  listeners(): DiscoveryRequest {
    return this.#request(LISTENERS);
  }

  /** What a new stream begins with: everything that is wanted. */
  hello(): DiscoveryRequest[] {
    for (const kind of this.#kinds.values()) {
      kind.nonce = "";
    }
    return KINDS.filter((kind) => this.#kind(kind).names.size > 0).map((kind) =>
      this.#request(kind),
    );
  }

  /**
   * Takes a response. Answers the requests to send: first what became of it, then what is wanted
   * because of it.
   */
  take(response: DiscoveryResponse): DiscoveryRequest[] {
    const name = response.typeUrl.slice(PREFIX.length);
    const kind = this.#kinds.get(name);
    if (kind === undefined || !response.typeUrl.startsWith(PREFIX)) {
      return [];
    }
    kind.nonce = response.nonce;
    try {
      this.#accept(
        name,
        response.resources.map((each) => each.value),
      );
    } catch (error) {
      return [this.#request(name, error instanceof Error ? error.message : String(error))];
    }
    kind.version = response.versionInfo;
    const requests = [this.#request(name)];
    for (const [other, names] of this.#derived()) {
      const found = this.#kind(other);
      if (sameNames(found.names, names)) {
        continue;
      }
      found.names = names;
      if (other === name) {
        requests.length = 0;
      }
      requests.push(this.#request(other));
    }
    return requests;
  }

  /** The service; undefined while something of it is unknown. */
  service(name: string): Service | undefined {
    const listened = this.#listeners.get(name);
    const routes = typeof listened === "string" ? this.#routes.get(listened) : listened;
    if (routes === undefined) {
      return undefined;
    }
    const clusters = new Map<string, Endpoints>();
    for (const [cluster] of routes.flatMap((route) => route.weights)) {
      const found = this.#clusters.get(cluster);
      const addresses = found && this.#endpoints.get(found.endpoints);
      if (found === undefined || addresses === undefined) {
        return undefined;
      }
      clusters.set(cluster, { addresses, told: found });
    }
    return { routes, clusters };
  }

  #kind(name: string): Kind {
    const found = this.#kinds.get(name);
    if (found === undefined) {
      throw new Error(`there is no kind ${name}`);
    }
    return found;
  }

  #request(name: string, error?: string): DiscoveryRequest {
    const { names, version, nonce } = this.#kind(name);
    return create(DiscoveryRequestSchema, {
      versionInfo: version,
      resourceNames: [...names],
      typeUrl: PREFIX + name,
      responseNonce: nonce,
      // A stream begins with the listeners.
      ...(name === LISTENERS && { node: WHO }),
      ...(error !== undefined && { errorDetail: { code: Code.InvalidArgument, message: error } }),
    });
  }

  #accept(kind: string, bodies: readonly Uint8Array[]): void {
    // State of the world: of listeners and clusters, what is not in a response is no more.
    if (kind === LISTENERS) {
      this.#listeners = new Map(bodies.map(listener));
    } else if (kind === CLUSTERS) {
      this.#clusters = new Map(bodies.map(cluster));
    } else if (kind === ROUTES) {
      lay(
        this.#routes,
        bodies.map((body) => {
          const config = decode(RouteConfigurationSchema, body);
          return [config.name, routesOf(config)] as const;
        }),
      );
    } else {
      lay(this.#endpoints, bodies.map(endpoints));
    }
  }

  /**
   * What is to be asked for because of what is known. What nothing leads to any more is let go.
   */
  #derived(): (readonly [string, ReadonlySet<string>])[] {
    const listened = [...this.#listeners.values()];
    const routes = new Set(listened.filter((each) => typeof each === "string"));
    keep(this.#routes, routes);
    const inline = listened.filter((each) => typeof each !== "string");
    const all = [...inline, ...this.#routes.values()].flat();
    const clusters = new Set(all.flatMap((route) => route.weights.map(([name]) => name)));
    keep(this.#clusters, clusters);
    const found = new Set([...this.#clusters.values()].map((each) => each.endpoints));
    keep(this.#endpoints, found);
    return [
      [ROUTES, routes],
      [CLUSTERS, clusters],
      [ENDPOINTS, found],
    ];
  }
}

/** Who asks, so that the scheduler knows what this client can do. */
const WHO = {
  id: `${CLIENT} ${process.pid}`,
  userAgentName: "plait-typescript",
  userAgentVersionType: { case: "userAgentVersion" as const, value: VERSION },
};

function decode<D extends DescMessage>(schema: D, body: Uint8Array): MessageShape<D> {
  return fromBinary(schema, body);
}

function sameNames(one: ReadonlySet<string>, other: ReadonlySet<string>): boolean {
  return one.size === other.size && [...one].every((name) => other.has(name));
}

function lay<T>(over: Map<string, T>, entries: Iterable<readonly [string, T]>): void {
  for (const [name, value] of entries) {
    over.set(name, value);
  }
}

function keep<T>(of: Map<string, T>, names: ReadonlySet<string>): void {
  for (const name of of.keys()) {
    if (!names.has(name)) {
      of.delete(name);
    }
  }
}

function listener(body: Uint8Array): [string, Listened] {
  const { name, apiListener } = decode(ListenerSchema, body);
  const packed = apiListener?.apiListener;
  if (packed === undefined) {
    throw new Error(`${name}: it has no API listener`);
  }
  const { routeSpecifier } = decode(HttpConnectionManagerSchema, packed.value);
  switch (routeSpecifier.case) {
    case "rds":
      return [name, routeSpecifier.value.routeConfigName];
    case "routeConfig":
      return [name, routesOf(routeSpecifier.value)];
    default:
      throw new Error(`${name}: it has no routes`);
  }
}

function routesOf({ virtualHosts }: RouteConfiguration): Route[] {
  // One service a listener, so the host that is for everybody is the one.
  const host = virtualHosts.find((each) => each.domains.includes("*"));
  return (host?.routes ?? []).map(route);
}

function route({ match, action, typedPerFilterConfig }: RouteMessage): Route {
  const specifier = match?.pathSpecifier;
  const path = specifier?.value;
  if (specifier === undefined || path === undefined || action.case !== "route") {
    throw new Error(`the route of ${path} leads nowhere`);
  }
  const { clusterSpecifier: target } = action.value;
  const weights: [string, number][] =
    target.case === "cluster"
      ? [[target.value, 1]]
      : (target.value?.clusters ?? []).map((each) => [each.name, each.weight ?? 0]);
  if (!(weights.reduce((sum, [, weight]) => sum + weight, 0) > 0)) {
    throw new Error(`${path} has no weights`);
  }
  const fault = Object.values(typedPerFilterConfig)
    .map(faultIn)
    .find((each) => each !== undefined);
  return { path, prefix: specifier.case === "prefix", weights, fault };
}

function cluster(body: Uint8Array): [string, Told] {
  const message = decode(ClusterSchema, body);
  const { name, clusterDiscoveryType: found } = message;
  if (found.case !== "type" || found.value !== DiscoveryType.EDS) {
    throw new Error(`${name}: its endpoints do not come by EDS`);
  }
  const limits = (message.circuitBreakers?.thresholds ?? []).map((each) => each.maxRequests);
  const requestsMax = limits.find((each) => each !== undefined) ?? REQUESTS_MAX;
  const outlier = message.outlierDetection;
  const told = {
    endpoints: message.edsClusterConfig?.serviceName || name,
    requestsMax,
    ejection: outlier && ejectionOf(name, outlier),
  };
  return [name, told];
}

/** Defaults are Envoy's, and so is which of the two rules holds where nothing is said. */
function ejectionOf(name: string, said: OutlierDetection): EjectionConfig {
  const ms = (found: Duration | undefined, otherwise: number) => {
    const length = found === undefined ? otherwise : durationMs(found);
    if (length < 0) {
      throw new Error(`${name}: a time of outlier detection is negative`);
    }
    return length;
  };
  const rates = {
    deviations: said.successRateStdevFactor ?? 1_900,
    enforcement: said.enforcingSuccessRate ?? 100,
    hostsMin: said.successRateMinimumHosts ?? 5,
    volumeMin: said.successRateRequestVolume ?? 100,
  };
  const failures = {
    threshold: said.failurePercentageThreshold ?? 85,
    enforcement: said.enforcingFailurePercentage ?? 0,
    hostsMin: said.failurePercentageMinimumHosts ?? 5,
    volumeMin: said.failurePercentageRequestVolume ?? 50,
  };
  const percentMax = said.maxEjectionPercent ?? 10;
  const percents = [percentMax, rates.enforcement, failures.enforcement, failures.threshold];
  if (percents.some((percent) => percent > 100)) {
    throw new Error(`${name}: more than 100 percent in outlier detection`);
  }
  return {
    intervalMs: Math.max(1, ms(said.interval, 10_000)),
    baseMs: ms(said.baseEjectionTime, 30_000),
    longestMs: ms(said.maxEjectionTime, 300_000),
    percentMax,
    failures: enforced(failures),
    rates: enforced(rates),
  };
}

function enforced<T extends Judgement>(rule: T): T | undefined {
  return rule.enforcement > 0 ? rule : undefined;
}

function endpoints(body: Uint8Array): [string, string[]] {
  const { clusterName, endpoints: places } = decode(ClusterLoadAssignmentSchema, body);
  const healthy = places
    .flatMap((place) => place.lbEndpoints)
    .filter(({ healthStatus: found }) =>
      [HealthStatus.UNKNOWN, HealthStatus.HEALTHY].includes(found),
    );
  return [clusterName, healthy.map(addressOf)];
}

function addressOf({ hostIdentifier: host }: LbEndpoint): string {
  const socket = host.case === "endpoint" ? host.value.address?.address : undefined;
  const port = socket?.case === "socketAddress" ? socket.value.portSpecifier.value : undefined;
  if (socket?.case !== "socketAddress" || port === undefined || port > 65_535) {
    throw new Error("an endpoint without an address and a port");
  }
  const { address } = socket.value;
  return address.includes(":") ? `[${address}]:${port}` : `${address}:${port}`;
}
