/**
 * How many direct calls of one method may be under way: a limit that learns (Gradient2).
 *
 * It follows the time that calls take, in windows: while they take no longer than they use to, it
 * grows; when they take longer, or are dropped, it shrinks. Calls over it wait in a line, first come
 * first served, within their own deadlines.
 */

/** How the limit moves, and how long the line may be. What is left out is the default. */
export interface Config {
  /** The first limit. Default 20. */
  readonly initial?: number;
  /** The lowest limit. Default 1. */
  readonly min?: number;
  /** The highest limit. Default 200. */
  readonly max?: number;
  /** What the limit may grow by in a window, before smoothing. Default 4. */
  readonly queue?: number;
  /** How much longer than usual calls may take before the limit shrinks. Default 1,500. */
  readonly tolerancePermille?: number;
  /** The share of a new limit in the next one. Default 200. */
  readonly smoothingPermille?: number;
  /** Windows that the usual time is an average of. Default 600. */
  readonly longWindow?: number;
  /** Windows of the plain mean, before the average. Default 10. */
  readonly warmup?: number;
  /** The shortest window, in milliseconds. Default 1,000. */
  readonly windowMs?: number;
  /** Calls in a window, at least. Default 10. */
  readonly windowCalls?: number;
  /** Calls in the line; one more is refused with RESOURCE_EXHAUSTED. Default 1,000. */
  readonly waitingMax?: number;
}
