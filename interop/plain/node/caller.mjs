/**
 * A client that knows nothing of Plait: grpc-js with grpc-js-xds, and a bootstrap in the environment.
 *
 * `caller.mjs METHOD CALLS REQUEST...` calls testing.v1.EchoService so often with each request,
 * which are in hexadecimal, one after the other and without a deadline of its own. It says what was
 * answered how often; a failure counts under its code. 0 calls: with one request, eight at a time
 * until SIGTERM.
 */
import { setImmediate } from "node:timers/promises";
import grpc from "@grpc/grpc-js";
import xds from "@grpc/grpc-js-xds";

const SERVICE = "testing.v1.EchoService";
const CALLERS = 8;

xds.register();
const [method, count, ...texts] = process.argv.slice(2);
const requests = texts.map((text) => Buffer.from(text, "hex"));
const calls = Number(count);
let over = false;
process.on("SIGTERM", () => {
  over = true;
});

const bytes = (value) => value;
const client = new grpc.Client(`xds:///${SERVICE}`, grpc.credentials.createInsecure());
const answers = {};

/** Makes one call and counts its answer. */
function call(request) {
  return new Promise((done) => {
    client.makeUnaryRequest(`/${SERVICE}/${method}`, bytes, bytes, request, (error, response) => {
      const answer = error
        ? `${grpc.status[error.code]}: ${error.details}`
        : response.toString("hex");
      answers[answer] = (answers[answer] ?? 0) + 1;
      done();
    });
  });
}

function say(event) {
  process.stdout.write(`${JSON.stringify({ event, answers })}\n`);
}

for (const request of requests) {
  for (let number = 0; number < Math.max(1, calls); number++) {
    await call(request);
  }
}
say("ready");
if (calls === 0) {
  const caller = async () => {
    while (!over) {
      await call(requests[0]);
      // Calls that fail at once would leave no time for what ends that.
      await setImmediate();
    }
  };
  await Promise.all(Array.from({ length: CALLERS }, caller));
  say("done");
}
client.close();
process.exit();
