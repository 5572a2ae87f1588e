/** Exponential growth in whole numbers, as backoffs and open times have it. */

/** `start` multiplied by a factor `steps` times, floored and capped at each step. */
export function grow(start: number, factorPermille: number, steps: number, cap: number): number {
  let value = Math.min(start, cap);
  for (let step = 0; step < steps && value < cap; step++) {
    value = Math.min(Math.floor((value * factorPermille) / 1000), cap);
  }
  return value;
}
