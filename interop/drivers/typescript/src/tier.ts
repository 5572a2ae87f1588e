/**
 * A worker in the middle of a chain: it serves one method of testing.v1.EchoService by calling
 * another one, and answers with the milliseconds that were left to it and to those below.
 */
import { durationMs } from "@bufbuild/protobuf/wkt";
import { type Client, createClient } from "@connectrpc/connect";
import { connect, type DirectOptions, deadline } from "@plait/sdk";
import { type EchoRequest, EchoService } from "@plait/sdk/gen/testing/v1/echo_pb.js";

/** What a tier does. */
export interface TierOptions {
  /** The method that it serves: Echo, Scalars or Inspect. */
  readonly serve: string;
  /** The method that it calls: Scalars, Inspect or Fail. */
  readonly call: string;
  /** It calls by a task. Echo does so as well where its payload says "durable". */
  readonly durable: boolean;
  /** Of the direct channel, in JSON. */
  readonly options: string;
}

/** Serves until the process is told to stop. */
export async function serveTier({ serve, call, durable, options }: TierOptions): Promise<void> {
  const mesh = connect();
  const direct = createClient(
    EchoService,
    mesh.direct(camel(JSON.parse(options)) as DirectOptions),
  );
  const byTask = createClient(EchoService, mesh.channel());
  const lefts = async (asked = durable): Promise<string> => {
    const left = Math.floor(deadline.remainingMs() ?? 0);
    return JSON.stringify([left, ...(await below(asked ? byTask : direct, call))]);
  };
  const methods = {
    Echo: {
      async echo({ payload }: EchoRequest) {
        const asked = durable || new TextDecoder().decode(payload) === "durable";
        return { payload: new TextEncoder().encode(await lefts(asked)) };
      },
    },
    Scalars: { scalars: async () => ({ values: { stringValue: await lefts() } }) },
    Inspect: { inspect: async () => ({ metadata: { lefts: await lefts() } }) },
  };
  const method = Object.entries(methods).find(([name]) => name === serve)?.[1];
  if (method === undefined) {
    throw new Error(`a tier serves no ${serve}`);
  }
  const worker = mesh.worker({ name: `tier-${serve}`, version: "tier", listen: "127.0.0.1:0" });
  worker.serve((router) => router.service(EchoService, method));
  void worker.attached().then(() => {
    process.stdout.write(`${JSON.stringify({ event: "ready" })}\n`);
  });
  try {
    await worker.run();
  } finally {
    await mesh.close();
  }
}

async function below(stub: Client<typeof EchoService>, call: string): Promise<number[]> {
  switch (call) {
    case "Scalars":
      return JSON.parse((await stub.scalars({})).values?.stringValue ?? "[]") as number[];
    case "Inspect": {
      const { timeRemaining, metadata } = await stub.inspect({});
      const left = timeRemaining === undefined ? [] : [Math.floor(durationMs(timeRemaining))];
      return metadata.lefts === undefined ? left : (JSON.parse(metadata.lefts) as number[]);
    }
    case "Fail":
      await stub.fail({});
      return [];
    default:
      throw new Error(`a tier calls no ${call}`);
  }
}

/** Options by the names that TypeScript has for those of all languages' tiers. */
function camel(said: unknown): unknown {
  if (typeof said !== "object" || said === null) {
    return said;
  }
  const named = Object.entries(said).map(([name, value]) => [
    name.replace(/_(\w)/g, (_, letter: string) => letter.toUpperCase()),
    camel(value),
  ]);
  return Object.fromEntries(named);
}
