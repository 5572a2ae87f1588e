/**
 * Which workers of a cluster are left out for a while, since their calls fail: outlier detection by
 * gRPC's A50, as a pure state machine. Time and randomness are arguments.
 *
 * There is no timer: a sweep that is due is done by whatever comes next, as if it had come in time.
 */

/** A host is judged by its calls of one interval. */
export interface Judgement {
  /** Hosts with enough calls, or nobody is judged. */
  readonly hostsMin: number;
  /** Calls of a host in an interval. */
  readonly volumeMin: number;
  /** How many of those found are left out, in percent. */
  readonly enforcement: number;
}

/** When hosts are left out, and for how long. */
export interface EjectionConfig {
  readonly intervalMs: number;
  /** The first time; each further ejection is as much longer. */
  readonly baseMs: number;
  readonly longestMs: number;
  /** While fewer of all hosts than these are left out, one more may be. */
  readonly percentMax: number;
  /** Left out with more failures than `threshold` percent. */
  readonly failures?: (Judgement & { readonly threshold: number }) | undefined;
  /** Left out when so many thousandths of a standard deviation below the mean. */
  readonly rates?: (Judgement & { readonly deviations: number }) | undefined;
}

interface Host {
  good: number;
  bad: number;
  /** Ejections, less the intervals that went well. */
  times: number;
  ejectedMs: number | undefined;
}

/** The hosts of one cluster. */
export class Ejection {
  #config: EjectionConfig;
  readonly #draw: () => number;
  #hosts = new Map<string, Host>();
  #nextMs: number;

  /** `draw` answers a random number from 0 to 99. */
  constructor(config: EjectionConfig, nowMs: number, draw: () => number) {
    this.#config = config;
    this.#draw = draw;
    this.#nextMs = nowMs + Math.max(1, config.intervalMs);
  }

  /** Other rules from now on; what was counted stays. */
  configure(config: EjectionConfig, nowMs: number): void {
    this.#catchUp(nowMs);
    if (config.intervalMs !== this.#config.intervalMs) {
      this.#nextMs = nowMs + Math.max(1, config.intervalMs);
    }
    this.#config = config;
  }

  /** These are there now. Those that are new are well. */
  hosts(names: readonly string[], nowMs: number): void {
    this.#catchUp(nowMs);
    this.#hosts = new Map(names.map((name) => [name, this.#hosts.get(name) ?? well()]));
  }

  /** A call of a host ended. */
  report(name: string, good: boolean, nowMs: number): void {
    this.#catchUp(nowMs);
    const host = this.#hosts.get(name);
    if (host !== undefined) {
      host[good ? "good" : "bad"] += 1;
    }
  }

  /** Whether a host is left out now. */
  isOut(name: string, nowMs: number): boolean {
    this.#catchUp(nowMs);
    return this.#hosts.get(name)?.ejectedMs !== undefined;
  }

  #catchUp(nowMs: number): void {
    const intervalMs = Math.max(1, this.#config.intervalMs);
    while (this.#nextMs <= nowMs) {
      if ([...this.#hosts.values()].every(isQuiet)) {
        this.#nextMs += (Math.floor((nowMs - this.#nextMs) / intervalMs) + 1) * intervalMs;
        return;
      }
      this.#sweep(this.#nextMs);
      this.#nextMs += intervalMs;
    }
  }

  #sweep(nowMs: number): void {
    this.#byRates(nowMs);
    this.#byFailures(nowMs);
    const { baseMs, longestMs } = this.#config;
    for (const host of this.#hosts.values()) {
      host.good = 0;
      host.bad = 0;
      const outMs = Math.min(baseMs * host.times, Math.max(baseMs, longestMs));
      if (host.ejectedMs === undefined) {
        host.times = Math.max(0, host.times - 1);
      } else if (nowMs > host.ejectedMs + outMs) {
        host.ejectedMs = undefined;
      }
    }
  }

  #byRates(nowMs: number): void {
    const { rates: rule } = this.#config;
    const found = this.#judged(rule);
    if (rule === undefined || found.length === 0) {
      return;
    }
    const rates = found.map((host) => host.good / (host.good + host.bad));
    const mean = rates.reduce((sum, rate) => sum + rate, 0) / rates.length;
    const squares = rates.reduce((sum, rate) => sum + (rate - mean) * (rate - mean), 0);
    const least = mean - Math.sqrt(squares / rates.length) * (rule.deviations / 1000);
    this.#eject(
      found.filter((_, index) => (rates[index] ?? 1) < least),
      rule.enforcement,
      nowMs,
    );
  }

  #byFailures(nowMs: number): void {
    const { failures: rule } = this.#config;
    if (rule === undefined) {
      return;
    }
    const found = this.#judged(rule).filter(
      ({ good, bad }) => bad * 100 > rule.threshold * (good + bad),
    );
    this.#eject(found, rule.enforcement, nowMs);
  }

  /** Those that say enough; none where they are too few. What is told of one that is out is old. */
  #judged(rule: Judgement | undefined): Host[] {
    if (rule === undefined) {
      return [];
    }
    const least = Math.max(1, rule.volumeMin);
    const found = [...this.#hosts.values()].filter(
      ({ good, bad, ejectedMs }) => ejectedMs === undefined && good + bad >= least,
    );
    return found.length >= rule.hostsMin ? found : [];
  }

  #eject(found: readonly Host[], enforcement: number, nowMs: number): void {
    for (const host of found) {
      const all = [...this.#hosts.values()];
      const out = all.filter(({ ejectedMs }) => ejectedMs !== undefined).length;
      if (out * 100 >= this.#config.percentMax * all.length) {
        return;
      }
      if (this.#draw() < enforcement) {
        host.ejectedMs = nowMs;
        host.times += 1;
      }
    }
  }
}

function well(): Host {
  return { good: 0, bad: 0, times: 0, ejectedMs: undefined };
}

function isQuiet({ good, bad, times, ejectedMs }: Host): boolean {
  return good + bad === 0 && times === 0 && ejectedMs === undefined;
}
