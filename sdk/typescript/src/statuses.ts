/**
 * Statuses in parts: google.rpc.Status to and from Connect's error, and the bytes that travel.
 */
import { create, type DescMessage, fromBinary, type Message, toBinary } from "@bufbuild/protobuf";
import { type Any, anyPack } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError } from "@connectrpc/connect";
import { ErrorInfoSchema } from "../gen/google/rpc/error_details_pb.js";
import { type Status, StatusSchema } from "../gen/google/rpc/status_pb.js";
import type { Metadatum } from "../gen/plait/v1/task_pb.js";
import { headersOf } from "./headers.js";

/** The domain of Plait's own `google.rpc.ErrorInfo`. */
export const DOMAIN = "plait";
/** The trailer that carries the bytes of a google.rpc.Status. */
export const DETAILS_KEY = "grpc-status-details-bin";

/** The code with this number; Unknown for a number that is none. */
export function codeOf(number: number): Code {
  return number in Code ? (number as Code) : Code.Unknown;
}

/** A detail of an error: a message and its type. */
export interface Detail {
  readonly desc: DescMessage;
  readonly value: Message;
}

/** The google.rpc.Status of an error of Plait's own: ErrorInfo, then other details. */
export function newStatus(
  code: Code,
  why: string,
  message: string,
  variables: Record<string, string> = {},
  ...details: Detail[]
): Status {
  const info = create(ErrorInfoSchema, { reason: why, domain: DOMAIN, metadata: variables });
  const packed = [{ desc: ErrorInfoSchema as DescMessage, value: info as Message }, ...details];
  return create(StatusSchema, {
    code,
    message,
    details: packed.map((each) => anyPack(each.desc, each.value)),
  });
}

/** A google.rpc.Status as the error that Connect would have raised for it. */
export function fromStatus(status: Status): ConnectError {
  const details = status.details.length > 0 ? toBinary(StatusSchema, status) : new Uint8Array();
  return fromParts(status.code, status.message, details);
}

/**
 * An error from a code, a message, the bytes of grpc-status-details-bin and other trailers. The
 * bytes stay in `metadata` as they came, so that an error that is passed on is the same.
 */
export function fromParts(
  code: number,
  message: string,
  details: Uint8Array,
  trailers: readonly Metadatum[] = [],
): ConnectError {
  const error = new ConnectError(message, codeOf(code), headersOf(trailers));
  if (details.length > 0) {
    error.metadata.set(DETAILS_KEY, Buffer.from(details).toString("base64"));
    error.details = packedIn(details).map((each) => ({
      type: each.typeUrl.slice(each.typeUrl.lastIndexOf("/") + 1),
      value: each.value,
    }));
  }
  return error;
}

/** The bytes of grpc-status-details-bin for an error: those that it came with, or its details. */
export function detailsOf(error: ConnectError): Uint8Array {
  const raw = error.metadata.get(DETAILS_KEY);
  if (raw !== null) {
    return Buffer.from(raw, "base64");
  }
  if (error.details.length === 0) {
    return new Uint8Array();
  }
  const details = error.details.map((each) =>
    "desc" in each
      ? anyPack(each.desc, create(each.desc, each.value))
      : { typeUrl: `type.googleapis.com/${each.type}`, value: each.value },
  );
  const status = { code: error.code, message: error.rawMessage, details };
  return toBinary(StatusSchema, create(StatusSchema, status));
}

/** What a call on a closed client gets. */
export function closed(): ConnectError {
  return new ConnectError("the client is closed", Code.Canceled);
}

/** Nothing for bytes that cannot be read: they are passed on all the same. */
function packedIn(details: Uint8Array): Any[] {
  try {
    return fromBinary(StatusSchema, details).details;
  } catch {
    return [];
  }
}
