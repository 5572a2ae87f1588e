#!/usr/bin/env node
/** Serves testing.v1.EchoService on the TypeScript SDK until it is told to stop. */
import { parseArgs } from "node:util";
import { createClient } from "@connectrpc/connect";
import { configureTracing, connect } from "@plait/sdk";
import { EchoService } from "@plait/sdk/gen/testing/v1/echo_pb.js";
import { call } from "./caller.js";
import { drive } from "./client.js";
import { Echo } from "./echo.js";
import { serveTier } from "./tier.js";

const { values } = parseArgs({
  options: {
    concurrency: { type: "string", default: "256" },
    client: { type: "boolean", default: false },
    listen: { type: "string" },
    caller: { type: "boolean", default: false },
    calls: { type: "string", default: "0" },
    serve: { type: "string" },
    call: { type: "string", default: "Fail" },
    durable: { type: "boolean", default: false },
    options: { type: "string", default: "{}" },
  },
});
if (values.client) {
  await drive();
  process.exit();
}
if (values.caller) {
  await call(Number(values.calls));
  process.exit();
}
if (values.serve !== undefined) {
  await serveTier({ ...values, serve: values.serve });
  process.exit();
}
const flush = await configureTracing("echo-typescript");
const mesh = connect();
const worker = mesh.worker({
  name: "echo-typescript",
  concurrency: Number(values.concurrency),
  ...(values.listen !== undefined && { listen: values.listen }),
});
worker.serve((router) =>
  router.service(EchoService, new Echo(createClient(EchoService, mesh.channel()))),
);
void worker.attached().then(() => {
  process.stdout.write(`${JSON.stringify({ event: "ready", endpoint: worker.endpoint })}\n`);
});
try {
  await worker.run();
} finally {
  await mesh.close();
  await flush();
}
