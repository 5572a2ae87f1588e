/** The methods that a worker serves, as the user's routes register them. */
import type { DescMessage, DescMethod, DescMethodUnary, DescService } from "@bufbuild/protobuf";
import {
  type ConnectRouter,
  createMethodImplSpec,
  type Interceptor,
  type MethodImpl,
  type MethodImplSpec,
  type ServiceImpl,
} from "@connectrpc/connect";

/** A unary implementation with its method. */
export type UnarySpec = MethodImplSpec<DescMessage, DescMessage> & { kind: "unary" };

/** One method: its handler, and where its tasks wait. */
export class Served {
  /** "package.Service/Method". */
  readonly name: string;
  /** Known once the contract was announced. */
  queue = "";

  constructor(
    readonly spec: UnarySpec,
    readonly interceptors: Interceptor[],
  ) {
    this.name = `${spec.method.parent.typeName}/${spec.method.name}`;
  }

  get method(): DescMethodUnary {
    return this.spec.method;
  }

  /** "/package.Service/Method". */
  get path(): string {
    return `/${this.name}`;
  }
}

type Options = Parameters<ConnectRouter["service"]>[2];

/** What routes take for a router: it collects the methods, and listens nowhere. */
export class Registry implements ConnectRouter {
  readonly methods = new Map<string, Served>();
  readonly services = new Map<string, DescService>();
  /** Empty: there is no HTTP behind it. */
  readonly handlers: ConnectRouter["handlers"] = [];

  /**
   * Takes the methods of a service that are implemented. One that is left out is not served:
   * another worker may implement it, and a task that nobody implements yet waits instead of
   * failing for good. Throws for a method that streams, and for one that is served already.
   */
  service<T extends DescService>(
    service: T,
    implementation: Partial<ServiceImpl<T>>,
    options?: Options,
  ): this {
    const found = service.methods.filter(
      (method) => typeof bound(implementation, method.localName) === "function",
    );
    if (found.length === 0) {
      throw new TypeError(`no method of ${service.typeName} is implemented`);
    }
    for (const method of found) {
      this.#add(method, bound(implementation, method.localName), options);
    }
    return this;
  }

  /** Takes one method. Throws as `service` does. */
  rpc<M extends DescMethod>(method: M, implementation: MethodImpl<M>, options?: Options): this {
    this.#add(method, implementation, options);
    return this;
  }

  #add(method: DescMethod, implementation: unknown, options: Options): void {
    const name = `${method.parent.typeName}/${method.name}`;
    const spec = createMethodImplSpec(method, implementation as MethodImpl<DescMethod>);
    if (spec.kind !== "unary") {
      throw new TypeError(
        `${name} streams, and a task has one request and one response;` +
          " keep streaming methods in a service of their own, on a plain server",
      );
    }
    if (this.methods.has(name)) {
      throw new TypeError(`${name} is served already`);
    }
    this.methods.set(name, new Served(spec, options?.interceptors ?? []));
    this.services.set(method.parent.typeName, method.parent);
  }
}

function bound(implementation: object, name: string): unknown {
  const found: unknown = Reflect.get(implementation, name);
  return typeof found === "function" ? found.bind(implementation) : undefined;
}
