/** What the views of one client share: the connection, the session, the methods. */
import {
  type DescMessage,
  type DescMethodUnary,
  fromBinary,
  type MessageShape,
} from "@bufbuild/protobuf";
import type { FlowParent, TaskOptions as Sent } from "../gen/plait/v1/task_pb.js";
import { Directory } from "./directory.js";
import { Flow } from "./flow.js";
import { Guards } from "./guards.js";
import { timeoutOfCall } from "./limit.js";
import { Methods } from "./methods.js";
import { sent, type TaskOptions } from "./options.js";
import { current } from "./run.js";
import { serialize } from "./serialize.js";
import { Session } from "./session.js";
import { closed } from "./statuses.js";
import { Submission } from "./submission.js";
import { SubmitSpan } from "./trace.js";
import { Wire } from "./wire.js";

/** How a task is to be submitted. */
export interface Manner {
  /** Whether the caller waits for the result now. */
  readonly blocking: boolean;
  /** Whether it is an ordinary task also inside a handler. */
  readonly detached: boolean;
}

/** The envelopes that were made last, so that equal ones are one object (see Submission.options). */
interface Memo {
  readonly said: TaskOptions;
  readonly parent: FlowParent | undefined;
  readonly trace: string;
  readonly made: Sent | undefined;
}

export class Core {
  readonly wire: Wire;
  readonly session: Session;
  readonly methods: Methods;
  /** Of the channels of direct calls that do not count for themselves. */
  readonly guards = new Guards();
  #directory: Directory | undefined;
  #memo: Memo | undefined;
  #closed: Promise<void> | undefined;

  constructor(readonly address: string) {
    this.wire = new Wire(address);
    this.session = new Session(this.wire, (submission) => this.methods.submitAgain(submission));
    this.methods = new Methods(this.wire, (submission) => this.session.submit(submission));
  }

  /** Where direct calls go, asked for from the first one on. */
  get directory(): Directory {
    if (this.#closed !== undefined) {
      throw closed();
    }
    this.#directory ??= new Directory(this.wire);
    return this.#directory;
  }

  /** Ends everything. Whoever waits gets CANCELLED. */
  close(): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  /** Hands a task to the session. */
  submit<I extends DescMessage, O extends DescMessage>(
    desc: DescMethodUnary<I, O>,
    message: MessageShape<I>,
    said: TaskOptions,
    { blocking, detached }: Manner,
  ): Submission {
    if (this.#closed !== undefined) {
      throw closed();
    }
    const flow = detached ? undefined : this.#flow();
    const method = this.methods.get(desc);
    const submission = new Submission(
      method,
      serialize(desc.input, message),
      blocking || flow !== undefined,
    );
    submission.span = new SubmitSpan(method.name, blocking);
    const deadlineMs = timeoutOfCall(said.deadlineMs);
    const bounded = deadlineMs === said.deadlineMs ? said : { ...said, deadlineMs };
    submission.idempotencyKey = said.key;
    submission.orderingKey = said.orderingKey;
    submission.options = this.#options(bounded, submission.span.headers, flow);
    if (flow !== undefined) {
      submission.flow = flow;
      flow.childStarted(submission);
    }
    this.methods.submit(submission);
    return submission;
  }

  /** The response in a payload. */
  decode<O extends DescMessage>(desc: O, payload: Uint8Array): MessageShape<O> {
    return fromBinary(desc, payload);
  }

  /** The flow that the calling code is: its handler runs for a worker of this client. */
  #flow(): Flow | undefined {
    const run = current.getStore();
    if (run === undefined || run.home.core !== this) {
      return undefined;
    }
    run.flow ??= new Flow(
      run,
      (waits) => run.home.flowChanged(run, waits),
      (child) => this.session.forget(child),
      () => run.home.flowWaits(run),
    );
    run.flow.hasRead(run.flagsRead);
    return run.flow;
  }

  #options(said: TaskOptions, trace: [string, string][], flow: Flow | undefined): Sent | undefined {
    const text = trace.join();
    const memo = this.#memo;
    const parent = flow?.parent;
    if (memo?.said === said && memo.parent === parent && memo.trace === text) {
      return memo.made;
    }
    const made = sent(said, trace, parent);
    this.#memo = { said, parent, trace: text, made };
    return made;
  }

  async #close(): Promise<void> {
    this.#directory?.close();
    this.methods.close();
    await this.session.close();
    this.wire.close();
  }
}
