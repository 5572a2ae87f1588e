/**
 * Faults that an operator has set: calls that are late or fail, by gRPC's A33. They are drawn for
 * each attempt, before a worker is chosen, so none sees an attempt that fails by one.
 */
import { fromBinary } from "@bufbuild/protobuf";
import { type Any, durationMs } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError } from "@connectrpc/connect";
import { HTTPFaultSchema } from "../gen/plait_xds/fault_pb.js";
import {
  FractionalPercent_DenominatorType as Denominator,
  type FractionalPercent,
} from "../gen/plait_xds/percent_pb.js";

const EACH = {
  [Denominator.HUNDRED]: 10_000,
  [Denominator.TEN_THOUSAND]: 100,
  [Denominator.MILLION]: 1,
};

/** What becomes of the calls of a route. Shares are in millionths. */
export interface Fault {
  readonly abort?: { readonly code: Code; readonly share: number };
  readonly delay?: { readonly ms: number; readonly share: number };
}

/** Reads a filter's configuration; undefined: it is of another filter. Throws for nonsense. */
export function faultIn({ typeUrl, value }: Any): Fault | undefined {
  if (!typeUrl.endsWith(`/${HTTPFaultSchema.typeName}`)) {
    return undefined;
  }
  const { abort, delay } = fromBinary(HTTPFaultSchema, value);
  const code = abort?.errorType.value;
  const fixed = delay?.faultDelaySecifier.value;
  if (delay !== undefined && (fixed === undefined || durationMs(fixed) < 0)) {
    throw new Error("a delay of no length");
  }
  return {
    ...(code && { abort: { code: known(code), share: millionths(abort?.percentage) } }),
    ...(fixed && { delay: { ms: durationMs(fixed), share: millionths(delay?.percentage) } }),
  };
}

/** How late an attempt is; `drawn` is random, from 0 to below 1. */
export function delayOf({ delay }: Fault, drawn: number): number {
  return delay !== undefined && drawn * 1e6 < delay.share ? delay.ms : 0;
}

/** What an attempt fails with; `drawn` is random, from 0 to below 1. */
export function abortOf({ abort }: Fault, drawn: number): ConnectError | undefined {
  return abort !== undefined && drawn * 1e6 < abort.share
    ? new ConnectError("Fault injected", abort.code)
    : undefined;
}

function known(code: number): Code {
  return Code[code] === undefined ? Code.Unknown : code;
}

function millionths(share: FractionalPercent | undefined): number {
  return share === undefined ? 0 : share.numerator * (EACH[share.denominator] ?? 0);
}
