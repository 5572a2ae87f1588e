/** One direct call under way: its attempts, and which of them it is. */
import { Code, ConnectError } from "@connectrpc/connect";
import { HEDGED_ATTEMPTS, Hedge, type Move, Retry } from "./attempts.js";
import { choose, serviceOf } from "./balance.js";
import { pause } from "./bell.js";
import type { Directory } from "./directory.js";
import { retryAfterMs } from "./errors.js";
import { abortOf, delayOf } from "./fault.js";
import { outgoing, PUSHBACK_KEY, timeoutText } from "./grpc.js";
import { type Entry, type Guard, nowMs } from "./guards.js";
import { stopAbove } from "./marks.js";
import type { Outcome, Peer } from "./peer.js";
import { routeOf } from "./resources.js";
import type { Rules } from "./rules.js";
import type { RpcSpan } from "./trace.js";
import { OK, type Status } from "./verdicts.js";

/** Choices of a worker that had not seen the attempt. */
const UNSENT_MAX = 16;

/** An answer of a worker. */
export type Answered = Extract<Outcome, { kind: "answered" }>;

/** An attempt that is over. */
interface Ended {
  readonly result: Answered | ConnectError;
  readonly code: Status;
  /** What the worker said of trying again. */
  readonly pushbackMs: number | undefined;
  readonly nowMs: number;
}

/** What is sent. */
export interface Sent {
  /** "/package.Service/Method". */
  readonly path: string;
  readonly headers: Headers;
  readonly payload: Uint8Array;
}

/** The attempts of a call. */
export class Calling {
  readonly #directory: Directory;
  readonly #guard: Guard;
  readonly #rules: Rules;
  readonly #sent: Sent;
  readonly #end: number;
  readonly #span: RpcSpan;
  /** Workers that were sent to. */
  readonly #tried = new Set<Peer>();

  /** `end` is the deadline, in milliseconds of `performance.now()`. */
  constructor(
    directory: Directory,
    guard: Guard,
    rules: Rules,
    sent: Sent,
    { end, span }: { end: number; span: RpcSpan },
  ) {
    this.#directory = directory;
    this.#guard = guard;
    this.#rules = rules;
    this.#sent = sent;
    this.#end = end;
    this.#span = span;
  }

  /**
   * The answer. Rejects with the last attempt's error, or that of a refusal by us. The signal aborts
   * at the deadline, with DeadlineExceeded for its reason, and when the caller gives up.
   */
  async run(signal: AbortSignal): Promise<Answered> {
    let entry: Entry;
    try {
      entry = await this.#guard.enter(signal);
    } catch (refused) {
      // Nobody above is to try what would be refused again.
      stopUnlessLeft(signal);
      throw refused;
    }
    const { hedge, hedgeDelayMs, idempotent, maxAttempts } = this.#rules;
    const delayMs = hedgeDelayMs ?? this.#guard.delay.delayMs;
    const { result } =
      hedge && idempotent && maxAttempts > 1 && delayMs !== undefined
        ? await this.#besideEachOther(entry, delayMs, signal)
        : await this.#oneByOne(entry, signal);
    if (result instanceof ConnectError) {
      throw result;
    }
    return result;
  }

  async #oneByOne(entry: Entry, signal: AbortSignal): Promise<Ended> {
    const { maxAttempts: attemptsMax, idempotent, never } = this.#rules;
    const rules = { attemptsMax, idempotent, never, endMs: Math.floor(this.#end) };
    const retry = new Retry(this.#guard.budget, rules);
    let ended = await this.#attempt(entry, 1, signal);
    for (;;) {
      const rndPpm = Math.floor(Math.random() * 1e6);
      const next = retry.status(ended.nowMs, ended.code, ended.pushbackMs, rndPpm);
      if (next.send === undefined) {
        if (next.stopAbove) {
          stopAbove();
        }
        return ended;
      }
      await pause(next.atMs - performance.now(), signal);
      let again: Entry;
      try {
        signal.throwIfAborted();
        again = await this.#guard.enter(signal);
      } catch {
        // It was not sent, so what the worker said last stands.
        stopUnlessLeft(signal);
        return ended;
      }
      ended = await this.#attempt(again, next.send, signal);
    }
  }

  async #besideEachOther(first: Entry, delayMs: number, signal: AbortSignal): Promise<Ended> {
    const { never } = this.#rules;
    const rules = { attemptsMax: HEDGED_ATTEMPTS, never, delayMs, endMs: Math.floor(this.#end) };
    const machine = new Hedge(this.#guard.budget, rules);
    const running = new Map<number, Promise<[number, Ended]>>();
    const over = new Map<number, Ended>();
    const decided = new AbortController();
    const either = AbortSignal.any([signal, decided.signal]);
    const send = (entry: Entry, number: number) => {
      const attempt = this.#attempt(entry, number, either);
      running.set(
        number,
        attempt.then((ended) => [number, ended]),
      );
    };
    let move = machine.start(nowMs());
    send(first, 1);
    while (move.end === undefined) {
      const done = await firstOf(running, move, signal);
      if (done === undefined && isLeft(signal)) {
        return endedBy(ConnectError.from(signal.reason, Code.Canceled));
      }
      if (done === undefined) {
        move = machine.wake(signal.aborted ? rules.endMs : nowMs());
      } else {
        const [number, ended] = done;
        running.delete(number);
        over.set(number, ended);
        move = machine.status(ended.nowMs, number, ended.code, ended.pushbackMs);
      }
      if (move.send !== undefined) {
        const entry = this.#guard.enterNow();
        if (entry === undefined) {
          move = machine.refused(move.send);
        } else {
          send(entry, move.send);
        }
      }
    }
    decided.abort(new ConnectError("another attempt has answered", Code.Canceled));
    if (move.end.stopAbove) {
      stopAbove();
    }
    return over.get(move.end.attempt) ?? endedBy(tooLate());
  }

  /** Sends one and waits for its end. Never rejects. */
  async #attempt(entry: Entry, number: number, signal: AbortSignal): Promise<Ended> {
    if (number > 1) {
      this.#span.attempt(number);
    }
    let ended: Ended;
    try {
      ended = endedBy(await this.#send(number, signal));
    } catch (thrown) {
      const code = signal.aborted ? Code.Canceled : Code.Internal;
      ended = endedBy(ConnectError.from(thrown, code));
    }
    entry.ended(ended.code);
    return ended;
  }

  /** Rejects where no worker could be chosen, and with the signal's reason. */
  async #send(number: number, signal: AbortSignal): Promise<Outcome> {
    const { path, payload } = this.#sent;
    const failed = await this.#suffer(signal);
    if (failed !== undefined) {
      return { kind: "failed", error: failed, begun: false };
    }
    for (let unsent = 1; ; unsent++) {
      const { peer, release, ended } = await choose(this.#directory, path, this.#tried, signal);
      try {
        this.#tried.add(peer);
        const left = this.#end - performance.now();
        if (left < 1) {
          throw tooLate();
        }
        const outcome = await peer.call(path, this.#headers(number, left), payload, signal);
        if (outcome.kind !== "unsent" && !isLeft(signal)) {
          ended(signal.aborted ? Code.DeadlineExceeded : codeOf(outcome));
        }
        signal.throwIfAborted();
        if (outcome.kind !== "unsent" || unsent >= UNSENT_MAX) {
          return outcome;
        }
      } finally {
        release();
      }
    }
  }

  /** What an operator's fault does to an attempt: it is late, or fails. */
  async #suffer(signal: AbortSignal): Promise<ConnectError | undefined> {
    const { path } = this.#sent;
    const { service } = await this.#directory.view(serviceOf(path), signal);
    const fault = routeOf(service, path)?.fault;
    if (fault === undefined) {
      return undefined;
    }
    const lateMs = delayOf(fault, Math.random());
    if (lateMs > 0) {
      await pause(lateMs, signal);
      signal.throwIfAborted();
    }
    return abortOf(fault, Math.random());
  }

  #headers(number: number, left: number) {
    return {
      ...outgoing(this.#sent.headers),
      "grpc-timeout": timeoutText(left),
      ...(number > 1 && { "grpc-previous-rpc-attempts": String(number - 1) }),
    };
  }
}

/** Whether the caller gave up. */
function isLeft({ aborted, reason }: AbortSignal): boolean {
  return aborted && ConnectError.from(reason, Code.Canceled).code !== Code.DeadlineExceeded;
}

function stopUnlessLeft(signal: AbortSignal): void {
  if (!isLeft(signal)) {
    stopAbove();
  }
}

/**
 * The first attempt that ends; undefined when it is late enough to wake, or the signal has aborted.
 */
async function firstOf(
  running: ReadonlyMap<number, Promise<[number, Ended]>>,
  { wakeMs = 0 }: Move,
  signal: AbortSignal,
): Promise<[number, Ended] | undefined> {
  const over = new AbortController();
  const either = AbortSignal.any([signal, over.signal]);
  const late = pause(wakeMs - performance.now(), either).then(() => undefined);
  try {
    return await Promise.race([...running.values(), late]);
  } finally {
    over.abort();
  }
}

function codeOf(outcome: Outcome): Status {
  return outcome.kind === "answered" ? OK : outcome.error.code;
}

function endedBy(outcome: Outcome | ConnectError): Ended {
  const found = { nowMs: nowMs(), pushbackMs: undefined };
  if (outcome instanceof ConnectError) {
    return { ...found, result: outcome, code: outcome.code };
  }
  if (outcome.kind === "answered") {
    return { ...found, result: outcome, code: OK };
  }
  const { error } = outcome;
  // An answer that had begun may have been acted on.
  const begun = outcome.kind === "failed" && outcome.begun ? -1 : undefined;
  const pushbackMs = outcome.kind === "failed" ? pushbackOf(error) : undefined;
  return { ...found, result: error, code: error.code, pushbackMs: pushbackMs ?? begun };
}

/**
 * How long the worker says to wait, in milliseconds; negative: do not try again; undefined: it says
 * nothing. The longer of a trailer and a RetryInfo.
 */
export function pushbackOf(error: ConnectError): number | undefined {
  const said = (error.metadata.get(PUSHBACK_KEY)?.split(",") ?? []).map((text) =>
    /^\d+$/.test(text.trim()) ? Number(text) : -1,
  );
  if (said.some((each) => each < 0)) {
    return -1;
  }
  const info = retryAfterMs(error);
  const all = info === undefined ? said : [...said, Math.max(0, Math.floor(info))];
  return all.length > 0 ? Math.max(...all) : undefined;
}

function tooLate(): ConnectError {
  return new ConnectError("the call's deadline passed", Code.DeadlineExceeded);
}
