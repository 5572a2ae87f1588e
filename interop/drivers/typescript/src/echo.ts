/** testing.v1.EchoService: does what the requests say. */
import { openSync, writeSync } from "node:fs";
import { setTimeout as after } from "node:timers/promises";
import { type Duration, durationFromMs, durationMs } from "@bufbuild/protobuf/wkt";
import {
  type Client,
  Code,
  ConnectError,
  type HandlerContext,
  type ServiceImpl,
} from "@connectrpc/connect";
import { attempt, flag } from "@plait/sdk";
import { Code as RpcCode } from "@plait/sdk/gen/google/rpc/code_pb.js";
import { BadRequestSchema, RetryInfoSchema } from "@plait/sdk/gen/google/rpc/error_details_pb.js";
import type {
  AppendRequest,
  EchoRequest,
  EchoService,
  FailRequest,
  FlowRequest,
  InspectRequest,
  OnceRequest,
  ScalarsRequest,
  SleepRequest,
} from "@plait/sdk/gen/testing/v1/echo_pb.js";

/** The service; `client` is its own, on a durable channel, for the flow. */
export class Echo implements ServiceImpl<typeof EchoService> {
  readonly #client: Client<typeof EchoService>;
  readonly #lines = new Map<string, string[]>();
  readonly #journal = openJournal();

  constructor(client: Client<typeof EchoService>) {
    this.#client = client;
  }

  echo(request: EchoRequest) {
    return { payload: request.payload };
  }

  fail(request: FailRequest, context: HandlerContext) {
    const { number } = attempt();
    if (number > request.failures) {
      return { attempt: number };
    }
    if (request.trailer !== "") {
      context.responseTrailer.set("x-failed-by", request.trailer);
    }
    throw failure(request);
  }

  async sleep({ duration }: SleepRequest, { signal }: HandlerContext) {
    attempt().progress(0.5, "sleeping");
    await pause(duration, signal);
    return {};
  }

  async flow(request: FlowRequest) {
    const encoder = new TextEncoder();
    const echoes = await Promise.all(
      Array.from({ length: request.width }, (_, number) =>
        this.#client.echo({ payload: encoder.encode(`${request.seed}/${number}`) }),
      ),
    );
    let childAttempts = 0;
    const flagged = flag(request.flag) ? "/on" : "";
    for (let number = 0; number < request.depth; number++) {
      const random = request.diverge ? `/${Math.random()}` : "";
      const message = `${request.seed}/${number}${flagged}${random}`;
      const answer = await this.#client.fail({ code: RpcCode.UNAVAILABLE, message, failures: 1 });
      childAttempts += answer.attempt;
    }
    const { number } = attempt();
    if (number <= request.failures) {
      throw new ConnectError("the flow was told to fail", Code.Unavailable);
    }
    const echoed = echoes.reduce((sum, each) => sum + each.payload.length, 0);
    return { echoedBytes: BigInt(echoed), childAttempts, attempt: number };
  }

  append(request: AppendRequest) {
    const line = this.#lines.get(request.account) ?? [];
    this.#lines.set(request.account, line);
    line.push(request.entry?.id ?? "");
    this.#note(request, line.length);
    return { length: BigInt(line.length) };
  }

  async once({ duration }: OnceRequest, { signal }: HandlerContext) {
    await pause(duration, signal);
    return {};
  }

  scalars({ values }: ScalarsRequest) {
    return values === undefined ? {} : { values };
  }

  inspect(request: InspectRequest, context: HandlerContext) {
    const here = attempt();
    const { flagKey: key } = request;
    return {
      flagOn: flag(request.flag, key === undefined ? {} : { key }),
      timeRemaining: durationFromMs(Math.floor(context.timeoutMs() ?? 0)),
      metadata: Object.fromEntries(context.requestHeader),
      attempt: here.number,
      task: here.taskId,
      idempotencyKey: here.idempotencyKey,
      fencingToken: here.fencingToken,
    };
  }

  /**
   * One line in one write, so that lines of several workers do not mix and a kill keeps what was
   * noted.
   */
  #note({ account, entry }: AppendRequest, length: number): void {
    if (this.#journal === undefined) {
      return;
    }
    const { fencingToken, number, taskId } = attempt();
    const cells = ["typescript", entry?.id, account, entry?.number ?? 0, fencingToken, number];
    writeSync(this.#journal, `${[...cells, taskId, length].join("\t")}\n`);
  }
}

/** The file in which each execution of Append is noted, if ECHO_JOURNAL names one. */
function openJournal(): number | undefined {
  const path = process.env.ECHO_JOURNAL;
  return path ? openSync(path, "a", 0o600) : undefined;
}

/** The error that the request asks for, with its details. */
function failure({ code, message, retryDelay, violation }: FailRequest): ConnectError {
  const error = new ConnectError(message, code as number as Code);
  if (retryDelay !== undefined) {
    error.details.push({ desc: RetryInfoSchema, value: { retryDelay } });
  }
  if (violation !== "") {
    const fieldViolations = [{ field: violation, description: "as told" }];
    error.details.push({ desc: BadRequestSchema, value: { fieldViolations } });
  }
  return error;
}

/** Waits as told; rejects with the attempt's cause when that ends first. */
async function pause(duration: Duration | undefined, signal: AbortSignal): Promise<void> {
  const ms = duration === undefined ? 0 : durationMs(duration);
  // A timer that is set for longer than this fires at once.
  await after(Math.min(ms, 2 ** 31 - 1), undefined, { signal });
}
