/**
 * Errors are Connect's: `ConnectError` with a code, a message, details and, from Plait itself, a
 * reason. There is no exception type of Plait's that a program must know. A handler's own code,
 * message, details and trailers arrive as they were; the functions here read what Plait adds.
 */
import type { DescMessage } from "@bufbuild/protobuf";
import { durationMs } from "@bufbuild/protobuf/wkt";
import { type Code, ConnectError } from "@connectrpc/connect";
import { ErrorInfoSchema, RetryInfoSchema } from "../gen/google/rpc/error_details_pb.js";
import { DOMAIN, fromStatus, newStatus } from "./statuses.js";

export { DOMAIN } from "./statuses.js";

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
  /** ABORTED: another scheduler leads by now; the command changed nothing. */
  LEADERSHIP_LOST: "LEADERSHIP_LOST",
  /** NOT_FOUND: no such schedule. */
  SCHEDULE_NOT_FOUND: "SCHEDULE_NOT_FOUND",
  /** NOT_FOUND: the service has no rollout. */
  ROLLOUT_NOT_FOUND: "ROLLOUT_NOT_FOUND",
  /** NOT_FOUND: no operator has set limits of the method. */
  LIMIT_NOT_FOUND: "LIMIT_NOT_FOUND",
  /** RESOURCE_EXHAUSTED: there may be no more of what was to be made. */
  TOO_MANY: "TOO_MANY",
  /** NOT_FOUND: no such feature flag. */
  FLAG_NOT_FOUND: "FLAG_NOT_FOUND",
  /** NOT_FOUND: no operator has given the key a weight. */
  SHARE_NOT_FOUND: "SHARE_NOT_FOUND",
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

/** An error of Plait's own. */
export function newError(
  code: Code,
  why: Reason,
  message: string,
  variables: Record<string, string> = {},
): ConnectError {
  return fromStatus(newStatus(code, why, message, variables));
}

function infoOf(error: unknown) {
  const found = error instanceof ConnectError ? error.findDetails(ErrorInfoSchema) : [];
  return found.find((each) => each.domain === DOMAIN);
}
