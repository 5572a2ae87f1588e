/** The package as it is published: packed, installed into an empty folder, and used there. */
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdir, mkdtemp, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { test } from "node:test";
import { promisify } from "node:util";
import { ROOT } from "./meshes.js";

const run = promisify(execFile);
const PROGRAM = `
import { create } from "@bufbuild/protobuf";
import { createClient } from "@connectrpc/connect";
import { attempt, connect, errors, options, TaskState } from "@plait/sdk";
import { Mesh } from "@plait/sdk/testing";
import { EchoRequestSchema, EchoService } from "@plait/sdk/gen/testing/v1/echo_pb.js";

const plait = connect("127.0.0.1:1");
const echo = createClient(EchoService, plait.channel());
const worker = plait.worker().serve((router) => router.service(EchoService, { echo: () => ({}) }));
const refused = echo.echo(create(EchoRequestSchema), { contextValues: options({ key: "k" }) });
const waits = refused.then(() => "answered", (error) => errors.reason(error) ?? error.rawMessage);
await plait.close();
console.log(JSON.stringify([await waits, TaskState.READY, typeof attempt, typeof Mesh, worker.id.length > 0]));
`;

test("what npm packs can be installed and used in an empty folder", async () => {
  const folder = await mkdtemp(join(tmpdir(), "plait-package-"));
  try {
    const here = join(ROOT, "sdk/typescript");
    const packed = await run("npm", ["pack", "--json", "--pack-destination", folder], {
      cwd: here,
    });
    const [{ filename, files }] = JSON.parse(packed.stdout) as [
      { filename: string; files: { path: string }[] },
    ];
    const paths = files.map((each) => each.path);
    assert.ok(paths.includes("dist/src/index.js") && paths.includes("dist/src/index.d.ts"));
    assert.ok(paths.includes("README.md"));
    assert.deepEqual(
      paths.filter((path) => /test|\.tsbuildinfo$/.test(path.replaceAll(/testing|test_?kit/g, ""))),
      [],
    );

    const target = join(folder, "node_modules/@plait/sdk");
    await mkdir(target, { recursive: true });
    await run("tar", ["-xzf", join(folder, filename), "-C", target, "--strip-components=1"]);
    await installNeeds(target, folder);
    await writeFile(join(folder, "package.json"), '{"type":"module"}');
    await writeFile(join(folder, "program.js"), PROGRAM);
    const { stdout } = await run(process.execPath, ["program.js"], { cwd: folder });
    assert.deepEqual(JSON.parse(stdout), [
      "the client is closed",
      "READY",
      "function",
      "function",
      true,
    ]);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
});

/**
 * Puts what the package says it needs beside it, and nothing else: from the repository's own
 * installation, since a test asks no registry.
 */
async function installNeeds(target: string, folder: string): Promise<void> {
  const manifest = JSON.parse(await readFile(join(target, "package.json"), "utf8")) as {
    dependencies: Record<string, string>;
    peerDependencies: Record<string, string>;
    peerDependenciesMeta?: Record<string, { optional: boolean }>;
  };
  const optional = manifest.peerDependenciesMeta ?? {};
  const peers = Object.keys(manifest.peerDependencies).filter((name) => !optional[name]?.optional);
  for (const name of [...Object.keys(manifest.dependencies), ...peers]) {
    const link = join(folder, "node_modules", name);
    await mkdir(dirname(link), { recursive: true });
    await symlink(join(ROOT, "node_modules", name), link);
  }
}
