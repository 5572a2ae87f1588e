/**
 * What the broker enforces for the methods that a client submits: asked once a method, and
 * remembered (docs/protocol.md §1).
 */
import type { DescMethodUnary } from "@bufbuild/protobuf";
import { Code, ConnectError } from "@connectrpc/connect";
import type { KeyPath, MethodInfo } from "../gen/plait/v1/contract_service_pb.js";
import { descriptorSet } from "./descriptors.js";
import { newError, Reason, reason } from "./errors.js";
import { keyIn } from "./keys.js";
import { retryConnection } from "./reconnect.js";
import { closed } from "./statuses.js";
import type { Submission } from "./submission.js";
import type { Wire } from "./wire.js";

/** One method as its submitters need it. */
export class Method {
  /** "package.Service/Method". */
  readonly name: string;
  /** "/package.Service/Method". */
  readonly path: string;
  /** Undefined: the broker has not been asked, or has forgotten it. */
  info: MethodInfo | undefined;
  /** Submissions that wait for the answer; undefined while nobody asks. */
  waiting: Submission[] | undefined;

  constructor(readonly desc: DescMethodUnary) {
    this.name = `${desc.parent.typeName}/${desc.name}`;
    this.path = `/${this.name}`;
  }

  /** What its submissions name, so that only workers that can take them do. */
  get route(): string {
    return this.info?.route || this.path;
  }

  /** Sets the keys that were not given, from the request. Answers what is wrong, if anything. */
  fillKeys(submission: Submission): ConnectError | undefined {
    const { idempotencyKey, orderingKey, limitKey } = this.info ?? {};
    try {
      const { payload } = submission;
      submission.idempotencyKey ??= read(payload, idempotencyKey);
      submission.orderingKey ??= read(payload, orderingKey);
      submission.limitKey = read(payload, limitKey);
      return this.#missing(submission);
    } catch (error) {
      const text = `the request of ${this.path} cannot be read: ${error}`;
      return newError(Code.InvalidArgument, Reason.INVALID_REQUEST, text, { field: "request" });
    }
  }

  #missing(submission: Submission): ConnectError | undefined {
    const keys = [
      ["idempotency", submission.idempotencyKey],
      ["ordering", submission.orderingKey],
      ["limit", submission.limitKey],
    ] as const;
    const missing = keys.find(([, found]) => found === "");
    if (missing === undefined) {
      return undefined;
    }
    const [kind] = missing;
    const text = `${this.path} needs an ${kind} key and the request has none`;
    return newError(Code.InvalidArgument, Reason.KEY_MISSING, text, {
      method: this.path,
      key: kind,
    });
  }
}

/** The methods of a client. */
export class Methods {
  readonly #wire: Wire;
  readonly #submit: (submission: Submission) => void;
  readonly #methods = new Map<string, Method>();
  readonly #life = new AbortController();

  constructor(wire: Wire, submit: (submission: Submission) => void) {
    this.#wire = wire;
    this.#submit = submit;
  }

  /** What is known of a method. */
  get(desc: DescMethodUnary): Method {
    const path = `${desc.parent.typeName}/${desc.name}`;
    let method = this.#methods.get(path);
    if (method === undefined) {
      method = new Method(desc);
      this.#methods.set(path, method);
    }
    return method;
  }

  /** Passes a submission on with its keys once its method is known, in order for each method. */
  submit(submission: Submission): void {
    const { method } = submission;
    if (method.info === undefined) {
      this.#wait(submission);
      return;
    }
    const error = method.fillKeys(submission);
    if (error === undefined) {
      this.#submit(submission);
    } else {
      submission.fail(error);
    }
  }

  /** Asks anew for the method of a submission that was refused; false if that was done before. */
  submitAgain(submission: Submission): boolean {
    if (submission.retried) {
      return false;
    }
    submission.retried = true;
    submission.method.info = undefined;
    this.#wait(submission);
    return true;
  }

  /** Ends what is under way. */
  close(): void {
    this.#life.abort(closed());
  }

  #wait(submission: Submission): void {
    if (this.#life.signal.aborted) {
      submission.fail(closed());
      return;
    }
    const { method } = submission;
    if (method.waiting === undefined) {
      method.waiting = [submission];
      void this.#resolve(method);
    } else {
      method.waiting.push(submission);
    }
  }

  async #resolve(method: Method): Promise<void> {
    let error: ConnectError | undefined;
    const { signal } = this.#life;
    try {
      method.info = await retryConnection(() => this.#ask(method, signal), signal);
    } catch (thrown) {
      error = signal.aborted ? closed() : ConnectError.from(thrown, Code.Internal);
    }
    const waiting = method.waiting ?? [];
    method.waiting = undefined;
    for (const submission of waiting) {
      if (error !== undefined) {
        submission.fail(error);
      } else if (!submission.done) {
        this.submit(submission);
      }
    }
  }

  /**
   * The broker's answer under the contract that this program has, so that its tasks go to workers
   * that know what it knows; under the one in force while nobody can decide on this one.
   */
  async #ask(method: Method, signal: AbortSignal): Promise<MethodInfo> {
    const { contracts } = this.#wire;
    const service = method.desc.parent;
    const request = { descriptorSet: descriptorSet([service]), services: [service.typeName] };
    let methods: readonly MethodInfo[];
    try {
      methods = (await contracts.announceContract(request, { signal })).methods;
    } catch (thrown) {
      const error = ConnectError.from(thrown);
      if (reason(error) !== Reason.SCHEDULER_UNAVAILABLE) {
        throw error;
      }
      const known = await contracts.resolveMethods({ methods: [method.path] }, { signal });
      if (known.methods.length === 0) {
        throw error;
      }
      methods = known.methods;
    }
    const info = methods.find((each) => each.method === method.path);
    if (info === undefined) {
      throw new ConnectError(`the announcement's answer lacks ${method.path}`, Code.Internal);
    }
    return info;
  }
}

function read(payload: Uint8Array, path: KeyPath | undefined): string | undefined {
  return path === undefined ? undefined : keyIn(payload, path);
}
