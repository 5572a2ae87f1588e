/** Flows: a handler that makes durable calls is the parent of the tasks that they become. */
import { create } from "@bufbuild/protobuf";
import type { FlagRule } from "../gen/plait/v1/flag_service_pb.js";
import { type FlowParent, FlowParentSchema } from "../gen/plait/v1/task_pb.js";
import type { Submission } from "./submission.js";

/**
 * The children of one attempt: who is asked for and not final. While there are any, the broker
 * counts the flow as SUSPENDED and its slot is free (docs/protocol.md §5).
 */
export class Flow {
  #parent: FlowParent;
  readonly #children = new Set<Submission>();
  /** How many callers in the handler stand still for a child: it may ask for children and go on. */
  #waits = 0;
  readonly #onChange: (waits: boolean) => void;
  readonly #onWait: () => void;
  readonly #forget: (child: Submission) => void;

  /**
   * `onChange` is told true when the flow begins to wait for children and false when none is left;
   * `forget` tells the session that a child's result is no longer wanted; `onWait` is called when
   * the handler is about to stand still for a child's result.
   */
  constructor(
    lease: { task: bigint; token: bigint },
    onChange: (waits: boolean) => void,
    forget: (child: Submission) => void,
    onWait: () => void,
  ) {
    this.#parent = create(FlowParentSchema, { task: lease.task, token: lease.token });
    this.#onChange = onChange;
    this.#forget = forget;
    this.#onWait = onWait;
  }

  /** What makes a task a child. */
  get parent(): FlowParent {
    return this.#parent;
  }

  /**
   * These are the feature flags that the handler has read so far: what it asks for next may depend
   * on them, so they are kept with the child.
   */
  hasRead(flags: readonly FlagRule[]): void {
    if (flags.length !== this.#parent.flags.length) {
      // A new one: the one before may be on its way.
      this.#parent = { ...this.#parent, flags: [...flags] };
    }
  }

  /** Whether the handler stands still for a child. */
  get waits(): boolean {
    return this.#waits > 0;
  }

  /** A caller in the handler waits for a child's result. */
  waitBegan(): void {
    this.#waits += 1;
    if (this.#waits === 1) {
      this.#onWait();
    }
  }

  /** It goes on. */
  waitEnded(): void {
    this.#waits -= 1;
  }

  /** A child is asked for. */
  childStarted(child: Submission): void {
    if (this.#children.size === 0) {
      this.#onChange(true);
    }
    this.#children.add(child);
  }

  /** A child is final, refused, or no longer wanted. */
  childEnded(child: Submission): void {
    if (this.#children.delete(child) && this.#children.size === 0) {
      this.#onChange(false);
    }
  }

  /** The handler has ended: no child is waited for any more. */
  abandon(): void {
    for (const child of [...this.#children]) {
      this.#forget(child);
      // One that is not accepted yet was forgotten by its flag only.
      this.childEnded(child);
    }
  }
}
