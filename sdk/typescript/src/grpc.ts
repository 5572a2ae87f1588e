/** gRPC on HTTP/2 for one request and one response: the length prefix, headers, and statuses. */
import type { IncomingHttpHeaders, OutgoingHttpHeaders } from "node:http2";
import { Code, ConnectError } from "@connectrpc/connect";
import { headersOf, metadataOf } from "./headers.js";
import { codeOf, DETAILS_KEY, detailsOf, fromParts } from "./statuses.js";
import { CLIENT } from "./wire.js";

/** Of a request or a response. */
export const MESSAGE_BYTES_MAX = 64 << 20;

/** Of every request beside its own. */
export const PATH_HEADERS: OutgoingHttpHeaders = {
  ":method": "POST",
  "content-type": "application/grpc+proto",
  te: "trailers",
  "user-agent": CLIENT,
};

/** A compressed flag and a length of four bytes. */
const PREFIX_BYTES = 5;
const TIMEOUT = /^(\d{1,8})([HMSmun])$/;
const UNIT_MS: Record<string, number> = {
  H: 3_600_000,
  M: 60_000,
  S: 1_000,
  m: 1,
  u: 1e-3,
  n: 1e-6,
};

/** A message behind its length. */
export function frame(payload: Uint8Array): Buffer {
  const framed = Buffer.allocUnsafe(PREFIX_BYTES + payload.length);
  framed[0] = 0;
  framed.writeUInt32BE(payload.length, 1);
  framed.set(payload, PREFIX_BYTES);
  return framed;
}

/**
 * The message of a body that is to hold one. Throws Internal for a body that is broken, Unimplemented
 * for one that is compressed or holds several.
 */
export function unframe(body: Buffer, what: string): Uint8Array {
  if (body.length < PREFIX_BYTES) {
    throw new ConnectError(`the ${what} holds no message`, Code.Internal);
  }
  if (body[0] !== 0) {
    throw new ConnectError(`the ${what} is compressed`, Code.Unimplemented);
  }
  const end = PREFIX_BYTES + body.readUInt32BE(1);
  if (body.length > end) {
    const text = `the ${what} is a stream; a worker serves methods of one request and one response`;
    throw new ConnectError(text, Code.Unimplemented);
  }
  if (body.length < end) {
    throw new ConnectError(`the ${what} is cut short`, Code.Internal);
  }
  return body.subarray(PREFIX_BYTES);
}

/** A `grpc-timeout` header in milliseconds; undefined where there is none. */
export function timeoutIn(headers: IncomingHttpHeaders): number | undefined {
  const [, digits, unit] = TIMEOUT.exec(String(headers["grpc-timeout"] ?? "")) ?? [];
  return digits === undefined ? undefined : Number(digits) * (UNIT_MS[unit ?? ""] ?? 0);
}

/** A `grpc-timeout` header of so many milliseconds, which is never longer. */
export function timeoutText(ms: number): string {
  const whole = Math.floor(ms);
  return whole <= 99_999_999 ? `${whole}m` : `${Math.min(99_999_999, Math.floor(whole / 1_000))}S`;
}

/** Headers as they travel in HTTP/2, without those of the protocol. */
export function outgoing(headers: Iterable<readonly [string, string]>): OutgoingHttpHeaders {
  const found: Record<string, string[]> = {};
  for (const [key, value] of headersOf(metadataOf(headers))) {
    found[key] = [...(found[key] ?? []), value];
  }
  return found;
}

/** What came in, as a user sees it. */
export function headersIn(headers: IncomingHttpHeaders): Headers {
  const pairs = Object.entries(headers).flatMap(([key, value]) =>
    key.startsWith(":") || value === undefined
      ? []
      : [value].flat().map((each) => [key, each] as const),
  );
  return headersOf(metadataOf(pairs));
}

/** The error in trailers; undefined for OK. */
export function errorOf(trailers: IncomingHttpHeaders): ConnectError | undefined {
  const status = Number(trailers["grpc-status"]);
  if (status === 0) {
    return undefined;
  }
  const details = Buffer.from(String(trailers[DETAILS_KEY] ?? ""), "base64");
  const message = decoded(String(trailers["grpc-message"] ?? ""));
  const rest = new Headers(headersIn(trailers));
  rest.delete(DETAILS_KEY);
  const error = fromParts(codeOf(status), message, details, metadataOf(rest));
  const pushback = trailers[PUSHBACK_KEY];
  if (pushback !== undefined) {
    error.metadata.set(PUSHBACK_KEY, String(pushback));
  }
  return error;
}

/** The trailers of an error; of OK for undefined. */
export function trailersOf(error: ConnectError | undefined): OutgoingHttpHeaders {
  if (error === undefined) {
    return { "grpc-status": "0" };
  }
  const metadata = new Headers(error.metadata);
  metadata.delete(DETAILS_KEY);
  const details = detailsOf(error);
  return {
    ...outgoing(metadata),
    ...pushback(error),
    "grpc-status": String(error.code),
    // Through bytes, since half a surrogate pair cannot be encoded.
    "grpc-message": encodeURIComponent(Buffer.from(error.rawMessage).toString()).replaceAll(
      "%20",
      " ",
    ),
    ...(details.length > 0 && {
      [DETAILS_KEY]: Buffer.from(details).toString("base64").replace(/=+$/, ""),
    }),
  };
}

/** What an error says of trying again: the protocol's, and yet for a caller to be told. */
export const PUSHBACK_KEY = "grpc-retry-pushback-ms";

function pushback(error: ConnectError): OutgoingHttpHeaders {
  const value = error.metadata.get(PUSHBACK_KEY);
  return value === null ? {} : { [PUSHBACK_KEY]: value };
}

function decoded(message: string): string {
  try {
    return decodeURIComponent(message);
  } catch {
    // Not percent-encoded as it ought to be.
    return message;
  }
}
