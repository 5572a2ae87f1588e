/** One call of a handler: from the bytes of the request to the bytes of the response, or a failure. */
import { create, type DescMethod, type DescService, fromBinary } from "@bufbuild/protobuf";
import {
  Code,
  ConnectError,
  type ContextValues,
  createContextValues,
  type HandlerContext,
} from "@connectrpc/connect";
import { invokeUnaryImplementation } from "@connectrpc/connect/protocol";
import { type Failure, FailureSchema } from "../gen/plait/v1/task_service_pb.js";
import { Attempt, requestHeaders, submitted } from "./attempt.js";
import { newError, Reason } from "./errors.js";
import { metadataOf } from "./headers.js";
import { current, type Run } from "./run.js";
import { serialize } from "./serialize.js";
import { tooLarge } from "./session.js";
import { DETAILS_KEY, detailsOf } from "./statuses.js";
import { AttemptSpan } from "./trace.js";

/** How an attempt ended: a response, or a failure. */
export type Outcome = { readonly response: Uint8Array } | { readonly failure: Failure };

/** Longer timers fire at once in Node.js. */
const TIMER_MS_MAX = 2 ** 31 - 1;

/** Runs a handler once. Never rejects. */
export async function invoke(run: Run): Promise<Outcome> {
  const { served } = run;
  run.flags = run.home.flags.now;
  const here = new Attempt(run);
  const span = new AttemptSpan(run, submitted(run), {
    method: served.name,
    queue: served.queue,
    taskId: here.taskId,
    number: here.number,
  });
  const context = new Context(run);
  const alarm = new Alarm(run);
  let outcome: Outcome;
  try {
    outcome = { response: await current.run(run, () => span.with(() => answer(run, context))) };
  } catch (thrown) {
    outcome = { failure: failureOf(thrown, context.responseTrailer) };
  } finally {
    alarm.cancel();
    run.flow?.abandon();
  }
  if (run.cause !== undefined) {
    span.finished(run.cause.code, run.cause.rawMessage);
  } else {
    const failure = "failure" in outcome ? outcome.failure : undefined;
    span.finished(failure?.code ?? 0, failure?.message ?? "");
  }
  return outcome;
}

async function answer(run: Run, context: Context): Promise<Uint8Array> {
  const { method, spec, interceptors } = run.served;
  if (performance.now() >= run.deadline) {
    throw timedOut();
  }
  const { payload } = run;
  run.payload = new Uint8Array();
  let request: ReturnType<typeof fromBinary>;
  try {
    request = fromBinary(method.input, payload);
  } catch (error) {
    throw new ConnectError(`the request cannot be read: ${error}`, Code.Internal);
  }
  const response = await invokeUnaryImplementation(spec, context, request, interceptors);
  let bytes: Uint8Array;
  try {
    bytes = serialize(method.output, response);
  } catch (error) {
    throw new ConnectError(`the response cannot be written: ${error}`, Code.Internal);
  }
  const limit = run.home.payloadBytesMax;
  if (limit > 0 && bytes.length > limit) {
    throw tooLarge("response", bytes.length, limit);
  }
  return bytes;
}

/** Has a run stopped, and its failure reported, when its time is over. */
class Alarm {
  #timer: NodeJS.Timeout | undefined;

  constructor(private readonly run: Run) {
    this.#set();
  }

  cancel(): void {
    clearTimeout(this.#timer);
  }

  #set(): void {
    const left = Math.max(0, this.run.deadline - performance.now());
    this.#timer = setTimeout(() => this.#ring(), Math.min(left, TIMER_MS_MAX));
  }

  #ring(): void {
    const { run } = this;
    if (performance.now() < run.deadline) {
      this.#set();
    } else if (!run.stopped && run.flow?.waits !== true) {
      // A flow that stands still is not failed: the broker unloads it, and says so.
      const error = timedOut();
      run.home.expired(run, failureOf(error));
      run.stop(error);
    }
  }
}

/**
 * The context of a handler: what any Connect server gives it, for a task. What most handlers never
 * ask for is made when it is asked for. Response headers have no meaning for a task and go
 * nowhere; trailers travel with a failure.
 */
class Context implements HandlerContext {
  readonly requestMethod = "POST";
  readonly protocolName = "plait";
  readonly responseHeader = new Headers();
  readonly responseTrailer = new Headers();
  readonly values: ContextValues = createContextValues();
  #requestHeader: Headers | undefined;

  constructor(private readonly run: Run) {}

  get method(): DescMethod {
    return this.run.served.method;
  }

  get service(): DescService {
    return this.run.served.method.parent;
  }

  get url(): string {
    return `http://plait${this.run.served.path}`;
  }

  get signal(): AbortSignal {
    return this.run.signal;
  }

  get requestHeader(): Headers {
    this.#requestHeader ??= requestHeaders(this.run);
    return this.#requestHeader;
  }

  /** A task always has a deadline. */
  readonly timeoutMs = (): number => Math.max(0, this.run.deadline - performance.now());
}

/**
 * The failure for what a handler threw. An error of Connect's goes through as it is, so that a
 * flow fails as its child did; anything else is UNKNOWN with its text.
 */
export function failureOf(thrown: unknown, trailer?: Headers): Failure {
  const error = thrown instanceof ConnectError ? thrown : unknown(thrown);
  const trailers = new Headers(error.metadata);
  for (const [key, value] of trailer ?? []) {
    if (trailers.get(key) !== value) {
      trailers.append(key, value);
    }
  }
  trailers.delete(DETAILS_KEY);
  return create(FailureSchema, {
    code: error.code,
    message: error.rawMessage,
    details: detailsOf(error),
    trailers: metadataOf(trailers),
  });
}

function unknown(thrown: unknown): ConnectError {
  const text = thrown instanceof Error ? `${thrown.name}: ${thrown.message}` : String(thrown);
  return new ConnectError(text, Code.Unknown);
}

/** DEADLINE_EXCEEDED, ATTEMPT_TIMED_OUT. */
function timedOut(): ConnectError {
  const text = "the attempt ran out of time";
  return newError(Code.DeadlineExceeded, Reason.ATTEMPT_TIMED_OUT, text);
}
