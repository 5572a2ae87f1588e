/**
 * Trace context through submissions and attempts, and the spans of docs/protocol.md §7. Only
 * @opentelemetry/api is needed: where a program registers no tracer provider, the context is
 * passed on as it came and no span is made.
 */
import { AsyncLocalStorage } from "node:async_hooks";
import { ConnectError } from "@connectrpc/connect";
import {
  type Context,
  context,
  createTraceState,
  isSpanContextValid,
  type Span,
  type SpanContext,
  SpanKind,
  SpanStatusCode,
  trace,
} from "@opentelemetry/api";
import type { Metadatum } from "../gen/plait/v1/task_pb.js";
import { metadataOf, textOf } from "./headers.js";
import { current } from "./run.js";
import type { Submission } from "./submission.js";
import { VERSION } from "./wire.js";

const PARENT = "traceparent";
const STATE = "tracestate";
const FORM = /^[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?$/;

/** The context under which code of a run works; kept here in case no context manager is set. */
const contexts = new WeakMap<object, Context>();

/**
 * Exports spans by OTLP over gRPC, as the OTEL_* variables say; does nothing without
 * OTEL_EXPORTER_OTLP_ENDPOINT. `serviceName` is the resource's service.name; OTEL_SERVICE_NAME wins
 * over it. To be called once a process. Resolves with a function that flushes what is not exported
 * yet, to be awaited before the process ends. Rejects when a package of OpenTelemetry's is missing:
 * @opentelemetry/sdk-trace-node, /resources and /exporter-trace-otlp-grpc.
 */
export async function configure(serviceName: string): Promise<() => Promise<void>> {
  const { env } = process;
  const endpoint = env.OTEL_EXPORTER_OTLP_ENDPOINT || env.OTEL_EXPORTER_OTLP_TRACES_ENDPOINT;
  if (!endpoint || env.OTEL_SDK_DISABLED?.toLowerCase() === "true") {
    return async () => undefined;
  }
  const { BatchSpanProcessor, NodeTracerProvider } = await import("@opentelemetry/sdk-trace-node");
  const { OTLPTraceExporter } = await import("@opentelemetry/exporter-trace-otlp-grpc");
  const { resourceFromAttributes } = await import("@opentelemetry/resources");
  const provider = new NodeTracerProvider({
    resource: resourceFromAttributes({ "service.name": env.OTEL_SERVICE_NAME || serviceName }),
    spanProcessors: [new BatchSpanProcessor(new OTLPTraceExporter())],
  });
  provider.register();
  return () => provider.shutdown();
}

const tracer = () => trace.getTracer("plait", VERSION);

/** How far the clock of spans may be from the wall clock, milliseconds, before it is set anew. */
const DRIFT_MS = 20;
let origin = performance.timeOrigin;

/**
 * Milliseconds since the epoch, with their fraction. OpenTelemetry counts a span from its own start,
 * cut to a millisecond, so that one could end before those inside it.
 */
function now(): number {
  const at = performance.now();
  if (Math.abs(Date.now() - origin - at) > DRIFT_MS) {
    origin = Date.now() - at;
  }
  return origin + at;
}

/** The context of the direct call that is being served; kept here as `contexts` is. */
const served = new AsyncLocalStorage<Context>();

/** The context that is current: OpenTelemetry's, else that of the attempt or call that runs. */
function active(): Context {
  const here = context.active();
  const call = served.getStore();
  if (call !== undefined && trace.getSpanContext(here) === undefined) {
    return call;
  }
  const run = current.getStore();
  if (run === undefined || trace.getSpanContext(here) !== undefined) {
    return here;
  }
  return contexts.get(run) ?? here;
}

/** The span of a submission, and the headers that its task carries. */
export class SubmitSpan {
  /** traceparent and tracestate; empty when there is no trace. */
  readonly headers: [string, string][];
  readonly #span: Span;

  /**
   * `method` is "package.Service/Method"; `toResult`: the span ends with the result, not with
   * acceptance.
   */
  constructor(
    method: string,
    readonly toResult: boolean,
  ) {
    const here = active();
    const attributes = { "messaging.system": "plait", "messaging.operation.type": "send" };
    const options = { kind: SpanKind.PRODUCER, attributes, startTime: now() };
    this.#span = tracer().startSpan(`submit ${method}`, options, here);
    this.headers = headersFor(this.#span.spanContext());
  }

  /** The task is durable. */
  accepted(submission: Submission): void {
    if (!this.toResult) {
      this.finished(submission);
    }
  }

  /** The submission is over. */
  finished(submission: Submission): void {
    const span = this.#span;
    if (!span.isRecording()) {
      return;
    }
    const queue = submission.method.info?.queue;
    if (queue !== undefined) {
      span.setAttribute("messaging.destination.name", queue);
    }
    if (submission.number !== 0n) {
      span.setAttribute("messaging.message.id", submission.id);
    }
    if (submission.error !== undefined) {
      const message = submission.error.rawMessage;
      span.setStatus({ code: SpanStatusCode.ERROR, message });
    }
    span.end(now());
  }
}

/** What the span of an attempt says of it. */
export interface AttemptFacts {
  /** "package.Service/Method". */
  readonly method: string;
  readonly queue: string;
  readonly taskId: string;
  readonly number: number;
}

/** The span of a handler. */
export class AttemptSpan {
  readonly #span: Span;
  readonly #context: Context;

  /** Starts under the context that the task carries, which is the submitter's. */
  constructor(run: object, metadata: readonly Metadatum[], facts: AttemptFacts) {
    const parent = remote(metadata);
    const attributes = {
      "messaging.system": "plait",
      "messaging.operation.type": "process",
      "messaging.destination.name": facts.queue,
      "messaging.message.id": facts.taskId,
      "plait.attempt.number": facts.number,
      "rpc.system.name": "grpc",
      "rpc.method": facts.method,
    };
    const options = { kind: SpanKind.CONSUMER, attributes, startTime: now() };
    this.#span = tracer().startSpan(`attempt ${facts.method}`, options, parent);
    this.#context = trace.setSpan(parent, this.#span);
    contexts.set(run, this.#context);
  }

  /** Runs the handler under the span. */
  with<T>(handler: () => T): T {
    return context.with(this.#context, handler);
  }

  /** The handler ended; `code` is the gRPC status code, 0 for OK. */
  finished(code: number, message: string): void {
    this.#span.setAttribute("rpc.status_code", code);
    if (code !== 0) {
      this.#span.setStatus({ code: SpanStatusCode.ERROR, message });
    }
    this.#span.end(now());
  }
}

/** The span of a direct call, on either side of it. */
export class RpcSpan {
  readonly #span: Span;
  readonly #context: Context;
  readonly #parent: SpanContext | undefined;

  /** `arrived`: what came in with the call, on the worker's side; its context is the parent. */
  constructor(method: string, arrived?: Headers) {
    const parent = arrived === undefined ? active() : remote(metadataOf(arrived));
    this.#parent = trace.getSpanContext(parent);
    const options = {
      kind: arrived === undefined ? SpanKind.CLIENT : SpanKind.SERVER,
      attributes: { "rpc.system.name": "grpc", "rpc.method": method },
      startTime: now(),
    };
    this.#span = tracer().startSpan(method, options, parent);
    this.#context = trace.setSpan(parent, this.#span);
  }

  /** The headers with the context. One that the caller has set stands, unless there is a span. */
  inject(headers: Headers): Headers {
    const span = this.#span.spanContext();
    const own = span.spanId !== this.#parent?.spanId;
    const found = new Headers(headers);
    const sent = headersFor(span);
    if (sent.length > 0 && (own || !found.has(PARENT))) {
      found.delete(STATE);
      for (const [key, value] of sent) {
        found.set(key, value);
      }
    }
    return found;
  }

  /** An attempt after the first is sent. */
  attempt(number: number): void {
    this.#span.addEvent("attempt", { "plait.attempt.number": number });
  }

  /** Runs a handler under the span. */
  with<T>(handler: () => T): T {
    return served.run(this.#context, () => context.with(this.#context, handler));
  }

  /** The call ended, with this error if it failed. */
  finished(error: unknown): void {
    const found = error === undefined ? undefined : ConnectError.from(error);
    this.#span.setAttribute("rpc.status_code", found?.code ?? 0);
    if (found !== undefined) {
      this.#span.setStatus({ code: SpanStatusCode.ERROR, message: found.rawMessage });
    }
    this.#span.end(now());
  }
}

/** The context that a task's metadata carries, on top of none. */
function remote(metadata: readonly Metadatum[]): Context {
  const root = context.active();
  const find = (key: string) => metadata.find((each) => each.key === key);
  const parent = find(PARENT);
  const match = parent === undefined ? null : FORM.exec(textOf(PARENT, parent.value));
  const [, traceId, spanId, flags] = match ?? [];
  if (traceId === undefined || spanId === undefined || flags === undefined) {
    return root;
  }
  const state = find(STATE);
  return trace.setSpanContext(root, {
    traceId,
    spanId,
    traceFlags: Number.parseInt(flags, 16),
    isRemote: true,
    ...(state && { traceState: createTraceState(textOf(STATE, state.value)) }),
  });
}

function headersFor(span: SpanContext): [string, string][] {
  if (!isSpanContextValid(span)) {
    return [];
  }
  const flags = span.traceFlags.toString(16).padStart(2, "0");
  const headers: [string, string][] = [[PARENT, `00-${span.traceId}-${span.spanId}-${flags}`]];
  const state = span.traceState?.serialize();
  if (state) {
    headers.push([STATE, state]);
  }
  return headers;
}
