/**
 * The TypeScript SDK as a client of testing.v1.EchoService: does what the conformance runner asks
 * on standard input, and answers on standard output (plait.conformance.v1).
 */
import {
  create,
  type DescMessage,
  type DescMethodUnary,
  fromBinary,
  type MessageShape,
  toBinary,
} from "@bufbuild/protobuf";
import { sizeDelimitedDecodeStream, sizeDelimitedEncode } from "@bufbuild/protobuf/wire";
import { AnySchema, type Duration, durationMs } from "@bufbuild/protobuf/wkt";
import {
  type CallOptions,
  ConnectError,
  createClient,
  type Client as Stub,
} from "@connectrpc/connect";
import { type Client, connect, errors, options, type Task, type TaskOptions } from "@plait/sdk";
import { StatusSchema } from "@plait/sdk/gen/google/rpc/status_pb.js";
import {
  type Bulk,
  type ClientRequest,
  ClientRequestSchema,
  type ClientResponse,
  ClientResponseSchema,
  type CallOptions as Said,
  type Submission,
} from "@plait/sdk/gen/plait/conformance/v1/client_driver_pb.js";
import { TaskState } from "@plait/sdk/gen/plait/v1/task_pb.js";
import { EchoService } from "@plait/sdk/gen/testing/v1/echo_pb.js";

type Method = DescMethodUnary<DescMessage, DescMessage>;
type Call = (request: MessageShape<DescMessage>, options: CallOptions) => Promise<object>;

/** Does each request on its own, so that answers come as they are ready. */
class Driver {
  readonly #mesh: Client;
  readonly #stub: Stub<typeof EchoService>;
  readonly #tasks = new Map<bigint, Task<DescMessage>>();
  readonly #methods = new Map<bigint, Method>();
  readonly #running = new Map<bigint, AbortController>();

  constructor(mesh: Client) {
    this.#mesh = mesh;
    this.#stub = createClient(EchoService, mesh.channel());
  }

  async answer(request: ClientRequest): Promise<void> {
    const { id } = request;
    const answer = create(ClientResponseSchema, { id });
    const aborted = new AbortController();
    this.#running.set(id, aborted);
    try {
      await this.#do(request, answer, aborted.signal);
    } catch (error) {
      fillError(answer, ConnectError.from(error));
    } finally {
      this.#running.delete(id);
    }
    process.stdout.write(sizeDelimitedEncode(ClientResponseSchema, answer));
  }

  async #do({ id, action }: ClientRequest, answer: ClientResponse, signal: AbortSignal) {
    switch (action.case) {
      case "call":
        return this.#call(action.value, answer, signal);
      case "submit":
        return this.#submit(id, action.value, answer);
      case "callMany": {
        const { method, requests } = bulkOf(action.value);
        for await (const response of this.#mesh.callMany(method, requests)) {
          answer.responses.push(toBinary(method.output, response));
        }
        return;
      }
      case "submitMany": {
        const { method, requests } = bulkOf(action.value);
        for await (const task of this.#mesh.submitMany(method, requests)) {
          answer.tasks.push(task.id);
        }
        return;
      }
      case "abandon":
        this.#running.get(action.value.id)?.abort();
        return;
      case undefined:
        throw new Error("the driver does not know the action");
      default:
        return this.#look(action.case, action.value.id, answer);
    }
  }

  async #call(
    { method: name, request, options: said }: Submission,
    answer: ClientResponse,
    signal: AbortSignal,
  ) {
    const method = methodOf(name);
    const call = this.#stub[method.localName as keyof Stub<typeof EchoService>] as unknown as Call;
    const response = await call(fromBinary(method.input, request), {
      signal,
      contextValues: options(wordsOf(said)),
      headers: said?.metadata ?? {},
      ...(said?.timeout === undefined ? {} : { timeoutMs: durationMs(said.timeout) }),
    });
    answer.responses.push(toBinary(method.output, response as MessageShape<DescMessage>));
  }

  async #submit(
    id: bigint,
    { method: name, request, options: said }: Submission,
    answer: ClientResponse,
  ) {
    const method = methodOf(name);
    const words = { ...wordsOf(said), headers: said?.metadata ?? {} };
    const task = await this.#mesh.submit(method, fromBinary(method.input, request), words);
    this.#tasks.set(id, task);
    this.#methods.set(id, method);
    answer.tasks.push(task.id);
  }

  async #look(action: "result" | "state" | "watch" | "cancel", id: bigint, answer: ClientResponse) {
    const [task, method] = [this.#tasks.get(id), this.#methods.get(id)];
    if (task === undefined || method === undefined) {
      throw new Error(`request ${id} made no task`);
    }
    switch (action) {
      case "result":
        answer.responses.push(toBinary(method.output, await task.result()));
        return;
      case "state":
        answer.states.push(TaskState[await task.state()]);
        return;
      case "watch":
        for await (const { state } of task.watch()) {
          answer.states.push(TaskState[state]);
        }
        return;
      case "cancel":
        answer.states.push(TaskState[await task.cancel("as told")]);
    }
  }
}

function methodOf(name: string): Method {
  const found = EchoService.methods.find((method) => method.name === name);
  if (found?.methodKind !== "unary") {
    throw new Error(`there is no method ${name}`);
  }
  return found as Method;
}

function bulkOf({ method: name, requests }: Bulk) {
  const method = methodOf(name);
  return { method, requests: requests.map((request) => fromBinary(method.input, request)) };
}

/** What is said, in the SDK's words. */
function wordsOf(said: Said | undefined): TaskOptions {
  const ms = (duration: Duration | undefined) =>
    duration === undefined ? undefined : durationMs(duration);
  return {
    key: said?.key,
    orderingKey: said?.orderingKey,
    delayMs: ms(said?.delay),
    deadlineMs: ms(said?.deadline),
    priority: said?.priority,
  };
}

/** Writes an error as a caller sees it. */
function fillError(answer: ClientResponse, error: ConnectError): void {
  const incoming = error.details.filter((detail) => "type" in detail);
  const details = incoming.map(({ type, value }) =>
    create(AnySchema, { typeUrl: `type.googleapis.com/${type}`, value }),
  );
  answer.error = create(StatusSchema, { code: error.code, message: error.rawMessage, details });
  answer.reason = errors.reason(error) ?? "";
  for (const [key, value] of error.metadata) {
    if (key.startsWith("x-")) {
      answer.trailers[key] = value;
    }
  }
}

/** Does what is asked until the end of standard input. */
export async function drive(): Promise<void> {
  const mesh = connect();
  const driver = new Driver(mesh);
  const running = new Set<Promise<void>>();
  for await (const request of sizeDelimitedDecodeStream(ClientRequestSchema, process.stdin)) {
    const answering = driver.answer(request).finally(() => running.delete(answering));
    running.add(answering);
  }
  await Promise.all(running);
  await mesh.close();
}
