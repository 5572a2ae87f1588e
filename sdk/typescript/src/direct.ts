/** The transport under a user's client for direct calls: straight to a live worker. */
import type {
  DescMessage,
  DescMethod,
  DescMethodUnary,
  MessageInitShape,
} from "@bufbuild/protobuf";
import {
  Code,
  ConnectError,
  type ContextValues,
  createContextValues,
  type Interceptor,
  type StreamResponse,
  type Transport,
  type UnaryRequest,
  type UnaryResponse,
} from "@connectrpc/connect";
import { runUnaryCall } from "@connectrpc/connect/protocol";
import type { Config as BreakerConfig } from "./breaker.js";
import { Calling } from "./calling.js";
import type { Core } from "./core.js";
import { Policy, remainingMs } from "./deadline.js";
import { Guards } from "./guards.js";
import type { Config as LimiterConfig } from "./limiter.js";
import { optionsIn } from "./options.js";
import { type AttemptOptions, attemptsIn, type Rules, rulesOf, under } from "./rules.js";
import { serialize } from "./serialize.js";
import { RpcSpan } from "./trace.js";

/** Settings of a channel of direct calls. What is left out is the contract's. */
export interface DirectOptions extends AttemptOptions {
  /** Connect's interceptors; they see a call as they would under any transport. Default: none. */
  readonly interceptors?: Interceptor[];
  /**
   * When a method is given a rest; null: never. Default: the policy's breaker. A channel that says so
   * counts for itself.
   */
  readonly breaker?: BreakerConfig | null;
  /**
   * How many calls of a method may be under way; null: any number. A channel that says so counts for
   * itself.
   */
  readonly limiter?: LimiterConfig | null;
  /**
   * The size of the retry budget of a service, in failures; half of it may be spent. Default 10. A
   * channel that says so counts for itself.
   */
  readonly budgetTokens?: number;
}

const POLICY = new Policy();

/** Looks like any transport and calls workers. Methods that stream cannot be called. */
export class DirectTransport implements Transport {
  readonly #guards: Guards;
  /** What holds for the methods that were called. */
  readonly #rules = new Map<DescMethod, Rules>();

  constructor(
    private readonly core: Core,
    private readonly options: DirectOptions,
  ) {
    const { breaker, limiter, budgetTokens } = options;
    const counts = [breaker, limiter, budgetTokens].some((each) => each !== undefined);
    this.#guards = counts ? new Guards() : core.guards;
  }

  unary<I extends DescMessage, O extends DescMessage>(
    method: DescMethodUnary<I, O>,
    signal: AbortSignal | undefined,
    timeoutMs: number | undefined,
    header: HeadersInit | undefined,
    input: MessageInitShape<I>,
    contextValues: ContextValues = createContextValues(),
  ): Promise<UnaryResponse<I, O>> {
    const said = optionsIn(contextValues);
    const { timeoutMs: longest } = this.#rulesOf(method);
    const wanted = [timeoutMs, said.deadlineMs].map((each) => (each && each > 0 ? each : longest));
    const timeout = POLICY.timeoutMs(remainingMs(), Math.min(longest, ...wanted));
    if (timeout === undefined) {
      const text = "too little time is left for a call";
      return Promise.reject(new ConnectError(text, Code.DeadlineExceeded));
    }
    const headers = new Headers(said.headers);
    for (const [key, value] of new Headers(header)) {
      headers.append(key, value);
    }
    return runUnaryCall<I, O>({
      interceptors: this.options.interceptors ?? [],
      ...(signal && { signal }),
      timeoutMs: timeout,
      req: {
        stream: false,
        service: method.parent,
        method,
        requestMethod: "POST",
        url: `${this.core.address}/${method.parent.typeName}/${method.name}`,
        header: headers,
        contextValues,
        message: input,
      },
      next: (request) => this.call(request, performance.now() + timeout),
    });
  }

  /** Rejects with Unimplemented, as the durable channel does, so that a service can be under both. */
  stream<I extends DescMessage, O extends DescMessage>(
    method: Parameters<Transport["stream"]>[0],
  ): Promise<StreamResponse<I, O>> {
    const text = `${method.parent.typeName}/${method.name} streams`;
    return Promise.reject(
      new ConnectError(
        `${text}; a worker serves methods of one request and one response`,
        Code.Unimplemented,
      ),
    );
  }

  #rulesOf(method: DescMethod): Rules {
    let rules = this.#rules.get(method);
    if (rules === undefined) {
      rules = under(rulesOf(method), this.options);
      this.#rules.set(method, rules);
    }
    return rules;
  }

  private async call<I extends DescMessage, O extends DescMessage>(
    request: UnaryRequest<I, O>,
    end: number,
  ): Promise<UnaryResponse<I, O>> {
    const { method, message, signal, header } = request;
    const name = `${method.parent.typeName}/${method.name}`;
    const span = new RpcSpan(name);
    let failed: unknown;
    try {
      const path = `/${name}`;
      const common = this.#rulesOf(method);
      const calling = new Calling(
        this.core.directory,
        this.#guards.of(path, common),
        under(common, attemptsIn(request.contextValues)),
        { path, headers: span.inject(header), payload: serialize(method.input, message) },
        { end, span },
      );
      const answered = await calling.run(signal);
      return {
        stream: false,
        service: method.parent,
        method,
        ...answered.answer,
        message: this.core.decode(method.output, answered.payload),
      };
    } catch (error) {
      failed = error;
      throw error;
    } finally {
      span.finished(failed);
    }
  }
}
