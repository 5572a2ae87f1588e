/** What a caller may say about a task beyond its request. */
import { create } from "@bufbuild/protobuf";
import { durationFromMs } from "@bufbuild/protobuf/wkt";
import { type ContextValues, createContextKey, createContextValues } from "@connectrpc/connect";
import {
  type FlowParent,
  type TaskOptions as Sent,
  TaskOptionsSchema,
} from "../gen/plait/v1/task_pb.js";
import { metadataOf } from "./headers.js";

/** What may be said about a call or a submission. What is left out is the policy's. */
export interface TaskOptions {
  /** The idempotency key. Default: from the field that the policy names. */
  readonly key?: string | undefined;
  /** The ordering key. Default: from the field that the policy names. */
  readonly orderingKey?: string | undefined;
  /** The task starts no earlier than this after it was accepted, in milliseconds. Default 0. */
  readonly delayMs?: number | undefined;
  /** Time for the whole task, in milliseconds; the shorter of this and the policy's holds. */
  readonly deadlineMs?: number | undefined;
  /** 0 to 9, higher first. */
  readonly priority?: number | undefined;
  /** Inside a flow, names the child. Default: its method and request. */
  readonly childKey?: string | undefined;
  /** Metadata for the handler; that of a key which ends in "-bin" is base64. */
  readonly headers?: HeadersInit | undefined;
}

const NOTHING: TaskOptions = {};
const KEY = createContextKey<TaskOptions>(NOTHING, { description: "plait task options" });

/**
 * Options for a call through a client of Connect's:
 *
 *     await orders.charge(request, { contextValues: options({ key: "order-1", priority: 9 }) });
 *
 * `values` are those to add them to; default: none.
 */
export function options(
  said: TaskOptions,
  values: ContextValues = createContextValues(),
): ContextValues {
  return values.set(KEY, { ...values.get(KEY), ...said });
}

/** What `options` put into the context values of a call. */
export function optionsIn(values: ContextValues | undefined): TaskOptions {
  return values?.get(KEY) ?? NOTHING;
}

/** What travels in the envelope; undefined for nothing. */
export function sent(
  said: TaskOptions,
  trace: readonly [string, string][],
  parent: FlowParent | undefined,
): Sent | undefined {
  const metadata = said.headers === undefined ? [] : metadataOf(new Headers(said.headers));
  if (trace.length > 0 && !metadata.some((each) => each.key === "traceparent")) {
    metadata.push(...metadataOf(trace));
  }
  const { delayMs, deadlineMs, priority, childKey } = said;
  if (
    metadata.length === 0 &&
    parent === undefined &&
    delayMs === undefined &&
    deadlineMs === undefined &&
    priority === undefined
  ) {
    return undefined;
  }
  const options = create(TaskOptionsSchema, { metadata });
  if (delayMs !== undefined) {
    options.delay = durationFromMs(Math.round(delayMs));
  }
  if (deadlineMs !== undefined) {
    // What is over already is 1 ms, since 0 would mean that nothing is said.
    options.deadline = durationFromMs(Math.max(1, Math.round(deadlineMs)));
  }
  if (priority !== undefined) {
    options.priority = priority;
  }
  if (parent !== undefined) {
    options.parent = childKey === undefined ? parent : { ...parent, childKey };
  }
  return options;
}
