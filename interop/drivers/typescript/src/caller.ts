/** Calls testing.v1.EchoService directly and says who answered how often; a failure counts by its code. */
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { connect } from "@plait/sdk";
import { EchoService } from "@plait/sdk/gen/testing/v1/echo_pb.js";

/** Calls at once, where it goes on until it is told to end. */
const CALLERS = 8;

/** Makes so many calls; 0: until SIGTERM. */
export async function call(calls: number): Promise<void> {
  let over = false;
  process.on("SIGTERM", () => {
    over = true;
  });
  const mesh = connect();
  const stub = createClient(EchoService, mesh.direct());
  const payload = new TextEncoder().encode("payload");
  const answers: Record<string, number> = {};
  const one = async () => {
    const answer = await stub.echo({ payload }).then(
      (found) => new TextDecoder().decode(found.payload),
      (error: unknown) => {
        const { code, rawMessage } = ConnectError.from(error);
        return `${Code[code]}: ${rawMessage}`;
      },
    );
    answers[answer] = (answers[answer] ?? 0) + 1;
  };
  const say = (event: string) => process.stdout.write(`${JSON.stringify({ event, answers })}\n`);
  for (let number = 0; number < Math.max(1, calls); number++) {
    await one();
  }
  say("ready");
  if (calls === 0) {
    const caller = async () => {
      while (!over) {
        await one();
      }
    };
    await Promise.all(Array.from({ length: CALLERS }, caller));
    say("done");
  }
  await mesh.close();
}
