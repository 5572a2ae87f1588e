/** The port of a worker where its methods are called directly: an ordinary gRPC server. */
import * as http2 from "node:http2";
import { type AddressInfo, isIP } from "node:net";
import type { DescMethod, DescService } from "@bufbuild/protobuf";
import { fromBinary } from "@bufbuild/protobuf";
import {
  Code,
  ConnectError,
  type ContextValues,
  createContextValues,
  type HandlerContext,
} from "@connectrpc/connect";
import { invokeUnaryImplementation } from "@connectrpc/connect/protocol";
import { Board } from "./flags.js";
import {
  frame,
  headersIn,
  MESSAGE_BYTES_MAX,
  outgoing,
  timeoutIn,
  trailersOf,
  unframe,
} from "./grpc.js";
import { limitAt } from "./limit.js";
import { marked } from "./marks.js";
import { serialize } from "./serialize.js";
import type { Served } from "./served.js";
import { RpcSpan } from "./trace.js";

/**
 * Between the word that a worker goes and the end of its port. Callers are told within some 50 ms of
 * the word; those that were not meet a port that says goodbye, and call somebody else.
 */
export const WITHDRAWAL_MS = 1_000;

/** HTTP/2 flow control: room for some messages under way. */
const WINDOW_BYTES = 4 << 20;
const LAST_STREAM = 2 ** 31 - 1;
/** Longer timers fire at once in Node.js. */
const TIMER_MS_MAX = 2 ** 31 - 1;
const { NGHTTP2_NO_ERROR } = http2.constants;
const HEADERS = { ":status": 200, "content-type": "application/grpc+proto" };

/** A port and the methods behind it, by "package.Service/Method". */
export class Listener {
  readonly #server: http2.Http2Server;
  readonly #sessions = new Set<http2.ServerHttp2Session>();
  #calls = 0;
  #leaving = false;

  /** `callsMax`: calls at once; more are refused with ResourceExhausted. `flags` are the worker's. */
  constructor(
    private readonly served: ReadonlyMap<string, Served>,
    private readonly callsMax: number,
    private readonly flags = new Board(),
  ) {
    this.#server = http2.createServer({ settings: { initialWindowSize: WINDOW_BYTES } });
    this.#server.on("session", (session) => {
      this.#sessions.add(session);
      session.on("close", () => this.#sessions.delete(session));
      // What broke is told by its streams.
      session.on("error", () => session.destroy());
      session.setLocalWindowSize(2 * WINDOW_BYTES);
      if (this.#leaving) {
        goodbye(session);
      }
    });
    this.#server.on("stream", (stream, headers) => {
      void this.#serve(stream, headers);
    });
  }

  /** Listens; answers the address with the port that it got. Rejects for a port in use. */
  start(address: string): Promise<string> {
    const { host, port } = parsed(address);
    return new Promise((resolve, reject) => {
      this.#server.once("error", reject);
      this.#server.listen({ host, port }, () => {
        this.#server.off("error", reject);
        const { port: got } = this.#server.address() as AddressInfo;
        resolve(`${address.slice(0, address.lastIndexOf(":"))}:${got}`);
      });
    });
  }

  /** Says goodbye to every caller; resolves when the calls under way have ended. */
  leave(): Promise<void> {
    this.#leaving = true;
    return new Promise((resolve) => {
      this.#server.close(() => resolve());
      for (const session of this.#sessions) {
        goodbye(session);
      }
    });
  }

  /** Ends now. */
  cut(): void {
    this.#server.close();
    for (const session of this.#sessions) {
      session.destroy();
    }
  }

  async #serve(stream: http2.ServerHttp2Stream, headers: http2.IncomingHttpHeaders): Promise<void> {
    // What broke a stream is its caller's to know.
    stream.on("error", () => undefined);
    const gone = new AbortController();
    stream.on("close", () => gone.abort(new ConnectError("the caller is gone", Code.Canceled)));
    try {
      const served = this.#find(headers);
      if (this.#calls >= this.callsMax) {
        throw new ConnectError(
          `${this.callsMax} calls are under way, which is all that this worker takes`,
          Code.ResourceExhausted,
        );
      }
      this.#calls += 1;
      try {
        await this.flags.around(() => serve(served, stream, headers, gone.signal));
      } finally {
        this.#calls -= 1;
      }
    } catch (error) {
      refuse(stream, error);
    }
  }

  #find(headers: http2.IncomingHttpHeaders): Served {
    const path = String(headers[":path"] ?? "");
    const served = this.served.get(path.slice(1));
    if (served === undefined) {
      throw new ConnectError(`the worker does not serve ${path}`, Code.Unimplemented);
    }
    return served;
  }
}

/** Throws RangeError for what is no address of a loopback interface: there is no transport security. */
export function parsed(address: string): { host: string; port: number } {
  const [, bare, bracketed, digits] = /^(?:([^[\]:]+)|\[([^\]]+)\]):(\d{1,5})$/.exec(address) ?? [];
  const host = bare ?? bracketed ?? "";
  const port = Number(digits);
  if (isIP(host) === 0 || !(port <= 65_535)) {
    throw new RangeError(`"${address}" is no IP address and port`);
  }
  if (host !== "::1" && !host.startsWith("127.")) {
    throw new RangeError(`"${address}" is not on loopback; there is no transport security yet`);
  }
  return { host, port };
}

/** New calls go elsewhere; those that are on their way meanwhile are served, too. */
function goodbye(session: http2.ServerHttp2Session): void {
  if (session.closed || session.destroyed) {
    return;
  }
  session.goaway(NGHTTP2_NO_ERROR, LAST_STREAM);
  // Its answer says that the caller has heard.
  session.ping(() => session.close());
}

async function serve(
  served: Served,
  stream: http2.ServerHttp2Stream,
  headers: http2.IncomingHttpHeaders,
  gone: AbortSignal,
): Promise<void> {
  const began = performance.now();
  const left = timeoutIn(headers);
  const end = left === undefined ? undefined : began + left;
  const header = headersIn(headers);
  const span = new RpcSpan(served.name, header);
  const late = new AbortController();
  const timer =
    left === undefined
      ? undefined
      : setTimeout(() => late.abort(tooLate()), Math.min(left, TIMER_MS_MAX));
  const signal = AbortSignal.any([gone, late.signal]);
  let failed: unknown;
  try {
    const context = new Context(served, header, signal, end);
    const payload = unframe(await body(stream, signal), "request");
    const handle = () => span.with(() => answer(served, context, payload));
    const answering = end === undefined ? handle() : limitAt.run(end, handle);
    respond(stream, context, await Promise.race([answering, aborted(signal)]));
  } catch (error) {
    failed = error;
    throw error;
  } finally {
    clearTimeout(timer);
    span.finished(failed);
  }
}

async function answer(served: Served, context: Context, payload: Uint8Array): Promise<Uint8Array> {
  const { method, spec, interceptors } = served;
  let request: ReturnType<typeof fromBinary>;
  try {
    request = fromBinary(method.input, payload);
  } catch (error) {
    throw new ConnectError(`the request cannot be read: ${error}`, Code.Internal);
  }
  return marked(
    async () => {
      const response = await invokeUnaryImplementation(spec, context, request, interceptors);
      return serialize(method.output, response);
    },
    (thrown) => withTrailer(thrown, context.responseTrailer),
  );
}

/** What a handler threw, with what it has set as its trailer. */
function withTrailer(thrown: unknown, trailer: Headers): ConnectError {
  const error =
    thrown instanceof ConnectError
      ? thrown
      : new ConnectError(
          thrown instanceof Error ? `${thrown.name}: ${thrown.message}` : String(thrown),
          Code.Unknown,
        );
  for (const [key, value] of trailer) {
    if (error.metadata.get(key) !== value) {
      error.metadata.append(key, value);
    }
  }
  return error;
}

function body(stream: http2.ServerHttp2Stream, signal: AbortSignal): Promise<Buffer> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  return new Promise((resolve, reject) => {
    signal.addEventListener("abort", () => reject(signal.reason));
    stream.on("data", (chunk: Buffer) => {
      bytes += chunk.length;
      chunks.push(chunk);
      if (bytes > MESSAGE_BYTES_MAX) {
        const text = `a request of more than ${MESSAGE_BYTES_MAX} bytes`;
        reject(new ConnectError(text, Code.ResourceExhausted));
      }
    });
    stream.on("end", () => resolve(Buffer.concat(chunks)));
  });
}

function respond(stream: http2.ServerHttp2Stream, context: Context, payload: Uint8Array): void {
  if (stream.closed || stream.destroyed) {
    return;
  }
  stream.respond({ ...outgoing(context.responseHeader), ...HEADERS }, { waitForTrailers: true });
  stream.on("wantTrailers", () => {
    stream.sendTrailers({ ...outgoing(context.responseTrailer), ...trailersOf(undefined) });
  });
  stream.end(frame(payload));
}

/** An error alone, in one frame of headers, so that callers know that there is no answer. */
function refuse(stream: http2.ServerHttp2Stream, thrown: unknown): void {
  if (stream.closed || stream.destroyed || stream.headersSent) {
    return;
  }
  const error = ConnectError.from(thrown, Code.Unknown);
  stream.respond({ ...HEADERS, ...trailersOf(error) }, { endStream: true });
  // What is still to come of the request is nobody's.
  if (!stream.readableEnded) {
    stream.close(NGHTTP2_NO_ERROR);
  }
}

function tooLate(): ConnectError {
  return new ConnectError("the call's deadline passed", Code.DeadlineExceeded);
}

function aborted(signal: AbortSignal): Promise<never> {
  return new Promise((_, reject) => {
    const end = () => reject(signal.reason);
    signal.aborted ? end() : signal.addEventListener("abort", end);
  });
}

/** The context of a handler: what any Connect server gives it. */
class Context implements HandlerContext {
  readonly requestMethod = "POST";
  readonly protocolName = "grpc";
  readonly responseHeader = new Headers();
  readonly responseTrailer = new Headers();
  readonly values: ContextValues = createContextValues();

  constructor(
    private readonly served: Served,
    readonly requestHeader: Headers,
    readonly signal: AbortSignal,
    private readonly end: number | undefined,
  ) {}

  get method(): DescMethod {
    return this.served.method;
  }

  get service(): DescService {
    return this.served.method.parent;
  }

  get url(): string {
    return `http://plait${this.served.path}`;
  }

  readonly timeoutMs = (): number | undefined =>
    this.end === undefined ? undefined : Math.max(0, this.end - performance.now());
}
