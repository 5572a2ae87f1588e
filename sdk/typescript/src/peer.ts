/** A connection to one worker, kept up for as long as somebody may call it, and calls over it. */
import * as http2 from "node:http2";
import { Code, ConnectError } from "@connectrpc/connect";
import { errorOf, frame, headersIn, MESSAGE_BYTES_MAX, PATH_HEADERS, unframe } from "./grpc.js";
import { Reconnect } from "./reconnect.js";

const CONNECT_TIMEOUT_MS = 5_000;
/** HTTP/2 flow control: room for some messages under way. */
const WINDOW_BYTES = 4 << 20;
const { NGHTTP2_CANCEL, NGHTTP2_NO_ERROR, NGHTTP2_REFUSED_STREAM } = http2.constants;

/** What came of an attempt. */
export type Outcome =
  | { readonly kind: "answered"; readonly payload: Uint8Array; readonly answer: Answer }
  /** A status that the worker sent; with `begun`, after its headers. */
  | { readonly kind: "failed"; readonly error: ConnectError; readonly begun: boolean }
  /** No worker has seen the request: somebody else may, as if nothing had been. */
  | { readonly kind: "unsent"; readonly error: ConnectError }
  /** The connection broke; the worker may have seen it. */
  | { readonly kind: "broken"; readonly error: ConnectError };

/** The metadata of an answer. */
export interface Answer {
  readonly header: Headers;
  readonly trailer: Headers;
}

/** Whether a worker can be called. */
export type PeerState = "connecting" | "ready" | "failing";

/** A worker's address and the connection to it. */
export class Peer {
  /** Calls under way from this client. */
  calls = 0;
  state: PeerState = "connecting";
  /** Why it is failing. */
  why = "";
  #session: http2.ClientHttp2Session | undefined;
  #retry: NodeJS.Timeout | undefined;
  #closed = false;
  readonly #reconnect = new Reconnect();

  /** Begins to connect. `changed` is called whenever the state is another one. */
  constructor(
    readonly address: string,
    private readonly changed: () => void,
  ) {
    this.#connect();
  }

  /** Lets go of the connection, once the last call under way has ended. */
  close(): void {
    this.#closed = true;
    clearTimeout(this.#retry);
    this.#session?.close();
  }

  /** Ends it now, and the calls under way with it. */
  cut(): void {
    this.close();
    this.#session?.destroy();
  }

  /** Sends a request and reads its answer. */
  call(path: string, headers: http2.OutgoingHttpHeaders, payload: Uint8Array, signal: AbortSignal) {
    const session = this.#session;
    if (session === undefined || session.closed || session.destroyed || this.state !== "ready") {
      return Promise.resolve<Outcome>({ kind: "unsent", error: this.#broken("it is going") });
    }
    let stream: http2.ClientHttp2Stream;
    try {
      stream = session.request({ ...headers, ...PATH_HEADERS, ":path": path });
    } catch (error) {
      return Promise.resolve<Outcome>({ kind: "unsent", error: this.#broken(String(error)) });
    }
    this.calls += 1;
    stream.end(frame(payload));
    return this.#read(stream, signal).finally(() => {
      this.calls -= 1;
    });
  }

  #read(stream: http2.ClientHttp2Stream, signal: AbortSignal): Promise<Outcome> {
    const chunks: Buffer[] = [];
    let bytes = 0;
    let header: http2.IncomingHttpHeaders | undefined;
    let trailer: http2.IncomingHttpHeaders | undefined;
    let cause: Error | undefined;
    const abort = () => stream.close(NGHTTP2_CANCEL);
    signal.addEventListener("abort", abort);
    stream.on("response", (headers) => {
      header = headers;
    });
    stream.on("trailers", (headers) => {
      trailer = headers;
    });
    stream.on("data", (chunk: Buffer) => {
      bytes += chunk.length;
      chunks.push(chunk);
      if (bytes > MESSAGE_BYTES_MAX) {
        stream.close(NGHTTP2_CANCEL);
      }
    });
    stream.on("error", (error) => {
      cause = error;
    });
    return new Promise((resolve) => {
      stream.on("close", () => {
        signal.removeEventListener("abort", abort);
        if (bytes > MESSAGE_BYTES_MAX) {
          const text = `an answer of more than ${MESSAGE_BYTES_MAX} bytes`;
          const error = new ConnectError(text, Code.ResourceExhausted);
          resolve({ kind: "failed", error, begun: true });
        } else if (header !== undefined && stream.rstCode === NGHTTP2_NO_ERROR) {
          resolve(this.#answered(header, trailer, Buffer.concat(chunks)));
        } else {
          const unsent = stream.rstCode === NGHTTP2_REFUSED_STREAM || stream.id === undefined;
          const text = cause?.message ?? `the stream ended with ${stream.rstCode}`;
          resolve({ kind: unsent ? "unsent" : "broken", error: this.#broken(text) });
        }
      });
    });
  }

  #answered(
    header: http2.IncomingHttpHeaders,
    trailer: http2.IncomingHttpHeaders | undefined,
    body: Buffer,
  ): Outcome {
    const last = header["grpc-status"] === undefined ? trailer : header;
    if (last?.["grpc-status"] === undefined) {
      const whole = Number(header[":status"]) === 200;
      const text = whole ? "the answer is cut short" : `HTTP ${header[":status"]}`;
      // A connection that ends within an answer may leave it so.
      return whole
        ? { kind: "broken", error: this.#broken(text) }
        : { kind: "failed", error: new ConnectError(text, Code.Unknown), begun: false };
    }
    const error = errorOf(last);
    if (error !== undefined) {
      return { kind: "failed", error, begun: last !== header };
    }
    try {
      const answer = { header: headersIn(header), trailer: headersIn(trailer ?? {}) };
      return { kind: "answered", payload: unframe(body, "response"), answer };
    } catch (thrown) {
      return { kind: "failed", error: ConnectError.from(thrown, Code.Internal), begun: true };
    }
  }

  #broken(text: string): ConnectError {
    return new ConnectError(`the connection to ${this.address} broke: ${text}`, Code.Unavailable);
  }

  #connect(): void {
    // No pings: gRPC servers end connections that ping more often than every 5 min. A worker that
    // vanished without a word is withdrawn by the scheduler.
    const session = http2.connect(`http://${this.address}`, {
      settings: { initialWindowSize: WINDOW_BYTES, enablePush: false },
    });
    this.#session = session;
    let why = "the connection ended";
    const slow = setTimeout(
      () => session.destroy(new Error("no connection in time")),
      CONNECT_TIMEOUT_MS,
    );
    session.on("connect", () => {
      clearTimeout(slow);
      session.setLocalWindowSize(2 * WINDOW_BYTES);
      this.#reconnect.reset();
      this.#become("ready");
    });
    session.on("error", (error) => {
      why = error.message;
    });
    // It says goodbye: calls under way go on, and there are no new ones.
    session.on("goaway", () => this.#again(session, "connecting", ""));
    session.on("close", () => {
      clearTimeout(slow);
      const was = this.state;
      this.#again(session, was === "ready" ? "connecting" : "failing", why);
    });
  }

  /** Connects once more, in a while. Only the newest connection counts. */
  #again(session: http2.ClientHttp2Session, state: PeerState, why: string): void {
    if (this.#session !== session || this.#closed) {
      return;
    }
    this.#session = undefined;
    this.why = why;
    this.#become(state);
    this.#retry = setTimeout(() => this.#connect(), this.#reconnect.next());
  }

  #become(state: PeerState): void {
    this.state = state;
    this.changed();
  }
}
