/** The workers of a version that are left out for a while: the pure machine with a clock. */
import { Ejection, type EjectionConfig } from "./ejection.js";
import { forBreaker, type Status } from "./verdicts.js";

/** Of one cluster. */
export class Health {
  readonly #ejection: Ejection;

  constructor(config: EjectionConfig) {
    const percent = () => Math.floor(Math.random() * 100);
    this.#ejection = new Ejection(config, performance.now(), percent);
  }

  /** The scheduler's newest word. */
  update(config: EjectionConfig, addresses: readonly string[]): void {
    const now = performance.now();
    this.#ejection.configure(config, now);
    this.#ejection.hosts(addresses, now);
  }

  /**
   * A call to a worker ended. What is the caller's fault, as NotFound, says nothing against the
   * worker.
   */
  report(address: string, code: Status): void {
    const outcome = forBreaker(code);
    if (outcome !== "ignore") {
      this.#ejection.report(address, outcome === "success", performance.now());
    }
  }

  /** Whether a worker is left out now. */
  isOut(address: string): boolean {
    return this.#ejection.isOut(address, performance.now());
  }
}
