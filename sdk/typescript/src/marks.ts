/**
 * Retries stay next to the failure: a handler whose own call was tried again, or was not to be, and
 * failed for good tells its caller not to try it once more.
 */
import { AsyncLocalStorage } from "node:async_hooks";
import type { ConnectError } from "@connectrpc/connect";
import { PUSHBACK_KEY } from "./grpc.js";
import { isCandidate } from "./verdicts.js";

/** What a call that is being served knows of those it makes. */
class Mark {
  /** Whether one of them failed for good. */
  stop = false;
}

const current = new AsyncLocalStorage<Mark>();

/** A call that was made here failed, with a code to retry, and is not to be tried again above. */
export function stopAbove(): void {
  const mark = current.getStore();
  if (mark !== undefined) {
    mark.stop = true;
  }
}

/** Runs a handler, and adds the word to what it fails with; `errorOf` makes that an error. */
export function marked<T>(
  handler: () => Promise<T>,
  errorOf: (thrown: unknown) => ConnectError,
): Promise<T> {
  const mark = new Mark();
  return current.run(mark, async () => {
    try {
      return await handler();
    } catch (thrown) {
      const error = errorOf(thrown);
      if (mark.stop && isCandidate(error.code)) {
        error.metadata.set(PUSHBACK_KEY, "-1");
      }
      throw error;
    }
  });
}
