#!/usr/bin/env node
/** Serves testing.v1.EchoService on the TypeScript SDK until it is told to stop. */
import { parseArgs } from "node:util";
import { createClient } from "@connectrpc/connect";
import { configureTracing, connect } from "@plait/sdk";
import { EchoService } from "@plait/sdk/gen/testing/v1/echo_pb.js";
import { drive } from "./client.js";
import { Echo } from "./echo.js";

const { values } = parseArgs({
  options: {
    concurrency: { type: "string", default: "256" },
    client: { type: "boolean", default: false },
  },
});
if (values.client) {
  await drive();
  process.exit();
}
const flush = await configureTracing("echo-typescript");
const mesh = connect();
const worker = mesh.worker({ name: "echo-typescript", concurrency: Number(values.concurrency) });
worker.serve((router) =>
  router.service(EchoService, new Echo(createClient(EchoService, mesh.channel()))),
);
void worker.attached().then(() => process.stdout.write('{"event":"ready"}\n'));
try {
  await worker.run();
} finally {
  await mesh.close();
  await flush();
}
