/** A process of a mesh: started, waited for, ended. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { closeSync, openSync, readFileSync } from "node:fs";
import { createInterface } from "node:readline";

/** Until a process is ready, in milliseconds: Python imports much, on a machine that may be busy. */
const START_MS = 60_000;
/** Until a process that was asked to end is killed, in milliseconds. */
const STOP_MS = 20_000;

/** A process that says in a line of JSON on stdout that it is ready, and where it listens. */
export class Process {
  /** Where it listens; "" when it does not say. */
  address = "";
  readonly #child: ChildProcess;
  readonly #ended: Promise<number | null>;

  private constructor(
    readonly name: string,
    child: ChildProcess,
    private readonly log: string,
  ) {
    this.#child = child;
    this.#ended = new Promise((resolve) => child.once("close", resolve));
  }

  /**
   * Starts a command and waits until it is ready; its stderr goes to `log`. `environment` is added
   * to this process's. Rejects with the end of its log when it ends first, or after a minute.
   */
  static async start(
    name: string,
    [command, ...args]: readonly [string, ...string[]],
    log: string,
    environment: Record<string, string> = {},
  ): Promise<Process> {
    const errors = openSync(log, "a");
    const env = { ...process.env, ...environment };
    const child = spawn(command, args, { stdio: ["ignore", "pipe", errors], env });
    closeSync(errors);
    await once(child, "spawn");
    const started = new Process(name, child, log);
    await started.#ready();
    return started;
  }

  /** Asks it to end, and kills it when it does not; answers its exit code, null after a signal. */
  async terminate(): Promise<number | null> {
    this.#child.kill("SIGTERM");
    const timer = setTimeout(() => this.#child.kill("SIGKILL"), STOP_MS);
    const code = await this.#ended;
    clearTimeout(timer);
    return code;
  }

  /** Kills it, as kill -9 does. */
  async kill(): Promise<void> {
    this.#child.kill("SIGKILL");
    await this.#ended;
  }

  async #ready(): Promise<void> {
    const timer = setTimeout(() => this.#child.kill("SIGKILL"), START_MS);
    // It is read to its end, or the process would stop at a full pipe one day.
    const { stdout } = this.#child;
    if (stdout === null) {
      throw new TypeError("its stdout is no pipe");
    }
    const lines = createInterface(stdout);
    const address = await new Promise<string | undefined>((resolve) => {
      lines.on("line", (line) => {
        const found = addressIn(line);
        if (found !== undefined) {
          resolve(found);
        }
      });
      lines.once("close", () => resolve(undefined));
    });
    clearTimeout(timer);
    if (address === undefined) {
      await this.#ended;
      const tail = readFileSync(this.log, "utf8").split("\n").slice(-20).join("\n");
      throw new Error(`${this.name} ended before it was ready\n${tail}`);
    }
    this.address = address;
  }
}

function addressIn(line: string): string | undefined {
  try {
    const said: unknown = JSON.parse(line);
    if (typeof said === "object" && said !== null && "event" in said && said.event === "ready") {
      return "address" in said ? String(said.address) : "";
    }
  } catch {
    // A line for people.
  }
  return undefined;
}
