/** The transport under a user's client: a call becomes a durable task and waits for its result. */
import type { DescMessage, DescMethodUnary, MessageInitShape } from "@bufbuild/protobuf";
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
import type { Core } from "./core.js";
import { timeoutOfCall } from "./limit.js";
import { optionsIn, type TaskOptions } from "./options.js";
import { current } from "./run.js";

/** Settings of a channel. */
export interface ChannelOptions {
  /** Connect's interceptors; they see a call as they would under any transport. Default: none. */
  readonly interceptors?: Interceptor[];
}

/** Looks like any transport and submits tasks. Methods that stream cannot be tasks. */
export class DurableTransport implements Transport {
  constructor(
    private readonly core: Core,
    private readonly detached: boolean,
    private readonly interceptors: Interceptor[],
  ) {}

  unary<I extends DescMessage, O extends DescMessage>(
    method: DescMethodUnary<I, O>,
    signal: AbortSignal | undefined,
    timeoutMs: number | undefined,
    header: HeadersInit | undefined,
    input: MessageInitShape<I>,
    contextValues?: ContextValues,
  ): Promise<UnaryResponse<I, O>> {
    const timeout = timeoutOfCall(timeoutMs !== undefined && timeoutMs > 0 ? timeoutMs : undefined);
    return runUnaryCall<I, O>({
      interceptors: this.interceptors,
      ...(signal && { signal }),
      ...(timeout && { timeoutMs: timeout }),
      req: {
        stream: false,
        service: method.parent,
        method,
        requestMethod: "POST",
        url: `${this.core.address}/${method.parent.typeName}/${method.name}`,
        header: new Headers(header),
        contextValues: contextValues ?? createContextValues(),
        message: input,
      },
      next: (request) => this.call(request, timeout),
    });
  }

  /** Rejects with Unimplemented: a task has one request and one response. */
  stream<I extends DescMessage, O extends DescMessage>(
    method: Parameters<Transport["stream"]>[0],
  ): Promise<StreamResponse<I, O>> {
    const text = `${method.parent.typeName}/${method.name} streams`;
    return Promise.reject(
      new ConnectError(`${text}, and a task has one request and one response`, Code.Unimplemented),
    );
  }

  private async call<I extends DescMessage, O extends DescMessage>(
    request: UnaryRequest<I, O>,
    timeoutMs: number | undefined,
  ): Promise<UnaryResponse<I, O>> {
    const { method, message, signal } = request;
    const { core, detached } = this;
    signal.throwIfAborted();
    const said = saidBy(request, timeoutMs);
    const submission = core.submit(method, message, said, { blocking: true, detached });
    const run = submission.flow === undefined ? undefined : current.getStore();
    const ended = run === undefined ? signal : AbortSignal.any([signal, run.signal]);
    try {
      const payload = await submission.wait(ended);
      return {
        stream: false,
        service: method.parent,
        method,
        header: new Headers({ "plait-task-id": submission.id }),
        trailer: new Headers(),
        message: core.decode(method.output, payload),
      };
    } finally {
      if (!submission.done) {
        core.session.forget(submission);
      }
    }
  }
}

/** The options of a call: those in its context values, its headers, and its timeout. */
function saidBy(request: UnaryRequest, timeoutMs: number | undefined): TaskOptions {
  const said = optionsIn(request.contextValues);
  const headers = [...request.header];
  if (headers.length === 0 && timeoutMs === undefined) {
    return said;
  }
  const together = new Headers(said.headers);
  for (const [key, value] of headers) {
    together.append(key, value);
  }
  const deadlineMs =
    timeoutMs === undefined ? said.deadlineMs : Math.min(timeoutMs, said.deadlineMs ?? timeoutMs);
  return { ...said, headers: together, deadlineMs };
}
