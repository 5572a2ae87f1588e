/**
 * Feature flags, as a handler reads them. The broker tells workers of them; what a flag says for a
 * key is worked out here.
 */
import { AsyncLocalStorage } from "node:async_hooks";
import { createHash } from "node:crypto";
import { create } from "@bufbuild/protobuf";
import { type FlagRule, FlagRuleSchema } from "../gen/plait/v1/flag_service_pb.js";
import type { FlagFrame } from "../gen/plait/v1/worker_service_pb.js";
import { current, type Run } from "./run.js";
import { taskId } from "./submission.js";

/** All keys; a share is told in parts of it. */
export const SHARE_MAX = 10_000;

/** A flag of another name is never set, so there is nothing to remember of it. */
const NAME = /^[a-z0-9._-]{1,64}$/;

/** The flags of a moment, by name. Never changed, only replaced. */
export type Rules = ReadonlyMap<string, FlagRule>;

/** The flags of a call that is served directly. */
const ofCall = new AsyncLocalStorage<Rules>();

/** More about a question of `flag`. */
export interface FlagOptions {
  /** The answer where there is no such flag, and outside a handler. Default: off. */
  readonly default?: boolean;
  /**
   * For whom it is asked. Default: the task's ordering key, else its idempotency key, else that of
   * its flow, else its id. A direct call has none: for it a flag is on that is on for everybody.
   */
  readonly key?: string;
}

/**
 * Whether a feature flag is on. A handler sees the flags as they were when its attempt began, all
 * the time.
 */
export function flag(name: string, options: FlagOptions = {}): boolean {
  const { default: otherwise = false, key } = options;
  if (!NAME.test(name)) {
    return otherwise;
  }
  const run = current.getStore();
  if (run !== undefined) {
    return isOn(read(run, name), key ?? keyOf(run), otherwise);
  }
  const rule = ofCall.getStore()?.get(name);
  return rule === undefined ? otherwise : isOn(rule, key, otherwise);
}

/** What a flag says for a key; undefined is of a call that has none. */
export function isOn(rule: FlagRule, key: string | undefined, otherwise: boolean): boolean {
  if (rule.missing) {
    return otherwise;
  }
  if (key !== undefined && rule.keysOn.includes(key)) {
    return true;
  }
  if (key !== undefined && rule.keysOff.includes(key)) {
    return false;
  }
  if (rule.share >= SHARE_MAX) {
    return true;
  }
  return key !== undefined && position(rule.name, key) < rule.share;
}

/** Where a key stands among all, 0 to 9,999: equal in every language. */
export function position(name: string, key: string): number {
  const hash = createHash("sha256").update(`${name}\0${key}`).digest();
  return Number(hash.readBigUInt64BE() % BigInt(SHARE_MAX));
}

/** The flags that a worker was told of. */
export class Board {
  #now: Rules = new Map();

  /** The flags as they are now. */
  get now(): Rules {
    return this.#now;
  }

  /** These are all. */
  replace(flags: readonly FlagRule[]): void {
    this.#now = new Map(flags.map((each) => [each.name, each]));
  }

  /** Some changed. */
  change({ flags, removed }: FlagFrame): void {
    const now = new Map(this.#now);
    for (const name of removed) {
      now.delete(name);
    }
    for (const each of flags) {
      now.set(each.name, each);
    }
    this.#now = now;
  }

  /** Runs the handler of a direct call, which sees the flags as they are now. */
  around<T>(handler: () => T): T {
    return ofCall.run(this.#now, handler);
  }
}

/** A flag of an attempt; one that is not there is read, too, as missing. */
function read(run: Run, name: string): FlagRule {
  const known = run.flagsRead.find((each) => each.name === name);
  if (known !== undefined) {
    return known;
  }
  const rule =
    // What earlier runs of the flow had read holds for this one.
    run.extra?.flags.find((each) => each.name === name) ??
    run.flags.get(name) ??
    create(FlagRuleSchema, { name, missing: true });
  run.flagsRead = [...run.flagsRead, rule];
  return rule;
}

function keyOf({ extra, task }: Run): string {
  const said = extra?.orderingKey || extra?.idempotencyKey || extra?.flagKey;
  return said || taskId(extra?.parent || task);
}
