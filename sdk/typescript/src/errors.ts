/**
 * Errors are Connect's: `ConnectError` with a code, a message, details and, from Plait itself, a
 * reason. There is no exception type of Plait's that a program must know. A handler's own code,
 * message, details and trailers arrive as they were; the functions here read what Plait adds.
 */
import { create, type DescMessage, fromBinary, type Message, toBinary } from "@bufbuild/protobuf";
import { type Any, anyPack, durationMs } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError } from "@connectrpc/connect";
import { ErrorInfoSchema, RetryInfoSchema } from "../gen/google/rpc/error_details_pb.js";
import { type Status, StatusSchema } from "../gen/google/rpc/status_pb.js";
import type { Metadatum } from "../gen/plait/v1/task_pb.js";
import { headersOf } from "./headers.js";

/** The domain of Plait's own `google.rpc.ErrorInfo`. */
export const DOMAIN = "plait";
/** The trailer that carries the bytes of a google.rpc.Status. */
export const DETAILS_KEY = "grpc-status-details-bin";

/** Why Plait refused; `google.rpc.ErrorInfo.reason`. The code stands beside each. */
export const Reason = {
  /** ABORTED: a message under a token that is no longer the task's. */
  LEASE_LOST: "LEASE_LOST",
  /** RESOURCE_EXHAUSTED with RetryInfo: the queue is over its limit. */
  QUEUE_FULL: "QUEUE_FULL",
  /** UNAVAILABLE with RetryInfo: an open breaker refused a call. */
  BREAKER_OPEN: "BREAKER_OPEN",
  /** INVALID_ARGUMENT: the policy asks for a key and the task has none. */
  KEY_MISSING: "KEY_MISSING",
  /** ALREADY_EXISTS: the same idempotency key with another request. */
  DUPLICATE_KEY_CONFLICT: "DUPLICATE_KEY_CONFLICT",
  /** FAILED_PRECONDITION: a contract was refused. */
  CONTRACT_INCOMPATIBLE: "CONTRACT_INCOMPATIBLE",
  /** FAILED_PRECONDITION: a re-run of a flow asked for other children than were recorded. */
  FLOW_DIVERGED: "FLOW_DIVERGED",
  /** FAILED_PRECONDITION: no contract declares the method. */
  METHOD_UNKNOWN: "METHOD_UNKNOWN",
  /** INVALID_ARGUMENT: a contract's policy cannot hold. */
  POLICY_INVALID: "POLICY_INVALID",
  /** NOT_FOUND: no such task, or its retention has passed. */
  TASK_NOT_FOUND: "TASK_NOT_FOUND",
  /** NOT_FOUND: no such queue. */
  QUEUE_NOT_FOUND: "QUEUE_NOT_FOUND",
  /** INVALID_ARGUMENT: a payload, key or metadata over its limit, both in bytes. */
  TOO_LARGE: "TOO_LARGE",
  /** INVALID_ARGUMENT: a malformed request. */
  INVALID_REQUEST: "INVALID_REQUEST",
  /** UNAVAILABLE with RetryInfo: the process is going. */
  DRAINING: "DRAINING",
  /** UNAVAILABLE: nobody can decide on a new contract now. */
  SCHEDULER_UNAVAILABLE: "SCHEDULER_UNAVAILABLE",
  /** CANCELLED: the task was cancelled. */
  TASK_CANCELLED: "TASK_CANCELLED",
  /** DEADLINE_EXCEEDED: the task's deadline passed. */
  TASK_EXPIRED: "TASK_EXPIRED",
  /** DEADLINE_EXCEEDED: one attempt ran longer than attempt_timeout. */
  ATTEMPT_TIMED_OUT: "ATTEMPT_TIMED_OUT",
  /** UNAVAILABLE: the worker vanished while it ran the attempt. */
  WORKER_LOST: "WORKER_LOST",
  /** ABORTED: compare-and-swap found another version. */
  VERSION_MISMATCH: "VERSION_MISMATCH",
  /** RESOURCE_EXHAUSTED: a reader was too slow and its stream was cut. */
  SLOW_READER: "SLOW_READER",
  /** FAILED_PRECONDITION: the task's state does not allow the operation. */
  STATE_CONFLICT: "STATE_CONFLICT",
  /** UNAVAILABLE: the log could not be written. */
  LOG_FAILED: "LOG_FAILED",
  /** DATA_LOSS: the log's bytes of a request, response or metadata are not what was written. */
  PAYLOAD_LOST: "PAYLOAD_LOST",
} as const;

export type Reason = (typeof Reason)[keyof typeof Reason];

/** Plait's reason, as in `Reason`; undefined for an error that is not Plait's own. */
export function reason(error: unknown): string | undefined {
  return infoOf(error)?.reason;
}

/** The variable parts of Plait's message, such as "task"; empty for any other error. */
export function metadata(error: unknown): Record<string, string> {
  return { ...infoOf(error)?.metadata };
}

/** The milliseconds that google.rpc.RetryInfo asks to wait; undefined when it does not. */
export function retryAfterMs(error: unknown): number | undefined {
  const delay = detail(error, RetryInfoSchema)?.retryDelay;
  return delay === undefined ? undefined : durationMs(delay);
}

/** The first detail of one kind, such as google.rpc.BadRequest; undefined when there is none. */
export function detail<D extends DescMessage>(error: unknown, kind: D) {
  return error instanceof ConnectError ? error.findDetails(kind)[0] : undefined;
}

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
  why: Reason,
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

/** An error of Plait's own. */
export function newError(
  code: Code,
  why: Reason,
  message: string,
  variables: Record<string, string> = {},
): ConnectError {
  return fromStatus(newStatus(code, why, message, variables));
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

function infoOf(error: unknown) {
  const info = detail(error, ErrorInfoSchema);
  return info?.domain === DOMAIN ? info : undefined;
}

/** Nothing for bytes that cannot be read: they are passed on all the same. */
function packedIn(details: Uint8Array): Any[] {
  try {
    return fromBinary(StatusSchema, details).details;
  } catch {
    return [];
  }
}
