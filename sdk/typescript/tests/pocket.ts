/** A broker in this process that does what a test says, one stream after the other. */
import { once } from "node:events";
import { createServer, type Http2Server, type ServerHttp2Session } from "node:http2";
import type { MessageInitShape } from "@bufbuild/protobuf";
import { Code, ConnectError } from "@connectrpc/connect";
import { connectNodeAdapter } from "@connectrpc/connect-node";
import { ContractService } from "../gen/plait/v1/contract_service_pb.js";
import {
  type SubmitStreamRequest,
  type SubmitStreamResponseSchema,
  TaskService,
} from "../gen/plait/v1/task_service_pb.js";
import {
  type AttachRequest,
  type AttachResponseSchema,
  WorkerService,
} from "../gen/plait/v1/worker_service_pb.js";
import { EchoService } from "../gen/testing/v1/echo_pb.js";

type Says = NonNullable<MessageInitShape<typeof SubmitStreamResponseSchema>["message"]>;
type Orders = NonNullable<MessageInitShape<typeof AttachResponseSchema>["message"]>;

/** The broker's side of one stream: what it reads, what it says. Returning ends the stream. */
export type Script<Q, A> = (read: () => Promise<Q>, say: (message: A) => void) => Promise<void>;

export type SubmitScript = Script<SubmitStreamRequest["message"], Says>;
export type AttachScript = Script<AttachRequest, Orders>;

const methods = EchoService.methods.map((method) => ({
  method: `/${method.parent.typeName}/${method.name}`,
  queue: "echo",
}));

/** What the broker does with each stream in turn; the last one is used again. */
export interface Scripts {
  readonly submit?: SubmitScript[];
  readonly attach?: AttachScript[];
}

export class Pocket {
  /** How often a contract was asked for, or announced. */
  asked = 0;
  #server: Http2Server | undefined;
  readonly #sessions = new Set<ServerHttp2Session>();

  private constructor(private readonly scripts: Scripts) {}

  static async start(scripts: Scripts): Promise<Pocket> {
    const pocket = new Pocket(scripts);
    await pocket.#start();
    return pocket;
  }

  get address(): string {
    const address = this.#server?.address();
    return typeof address === "object" ? `127.0.0.1:${address?.port}` : "";
  }

  async stop(): Promise<void> {
    for (const session of this.#sessions) {
      session.destroy();
    }
    this.#server?.close();
  }

  async #start(): Promise<void> {
    const { submit = [], attach = [] } = this.scripts;
    const handler = connectNodeAdapter({
      routes: (router) => {
        router.service(ContractService, {
          resolveMethods: ({ methods: wanted }) => {
            this.asked += 1;
            return { methods: methods.filter((each) => wanted.includes(each.method)) };
          },
          announceContract: () => {
            this.asked += 1;
            return { methods };
          },
        });
        router.service(TaskService, {
          submitStream: (requests) => play(requests, (each) => each.message, submit),
        });
        router.service(WorkerService, {
          attach: (requests) => play(requests, (each) => each, attach),
        });
      },
    });
    this.#server = createServer(handler);
    this.#server.on("session", (session) => this.#sessions.add(session));
    this.#server.listen(0, "127.0.0.1");
    await once(this.#server, "listening");
  }
}

async function* play<Q, M, A>(
  requests: AsyncIterable<Q>,
  unwrap: (request: Q) => M,
  scripts: Script<M, A>[],
): AsyncGenerator<{ message: A }> {
  const script = scripts.length > 1 ? scripts.shift() : scripts[0];
  if (script === undefined) {
    throw new ConnectError("no script for this stream", Code.Unavailable);
  }
  const source = requests[Symbol.asyncIterator]();
  const read = async () => {
    const { done, value } = await source.next();
    if (done) {
      throw new ConnectError("the other side has ended", Code.Aborted);
    }
    return unwrap(value);
  };
  const said: A[] = [];
  let wake = () => {};
  let over = false;
  const running = script(read, (message) => {
    said.push(message);
    wake();
  }).finally(() => {
    over = true;
    wake();
  });
  // Told below, when everything that was said is sent.
  running.catch(() => undefined);
  while (!over || said.length > 0) {
    const message = said.shift();
    if (message !== undefined) {
      yield { message };
    } else {
      await new Promise<void>((resolve) => {
        wake = resolve;
      });
    }
  }
  await running;
}
