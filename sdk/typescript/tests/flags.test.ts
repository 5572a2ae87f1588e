/** Feature flags: what they say for a key, against the vectors of every language, and when. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { type FlagRule, FlagRuleSchema } from "../gen/plait/v1/flag_service_pb.js";
import { AttemptExtraSchema, FlagFrameSchema } from "../gen/plait/v1/worker_service_pb.js";
import { Board, flag, isOn, position, SHARE_MAX } from "../src/flags.js";
import { Flow } from "../src/flow.js";
import { current, Run, type RunHome } from "../src/run.js";
import type { Served } from "../src/served.js";
import { ROOT } from "./meshes.js";

interface Case {
  readonly why: string;
  readonly rule: {
    readonly name: string;
    readonly share?: number;
    readonly keys_on?: string[];
    readonly keys_off?: string[];
    readonly missing?: boolean;
  } | null;
  readonly key: string | null;
  readonly default: boolean;
  readonly on: boolean;
}

const { schema, positions, cases } = JSON.parse(
  readFileSync(`${ROOT}interop/vectors/flags.json`, "utf8"),
) as {
  schema: number;
  positions: { name: string; key: string; position: number }[];
  cases: Case[];
};

test("the vectors are of a known form", () => {
  assert.equal(schema, 1);
  assert.ok(positions.length >= 29 && cases.length >= 17);
});

test("keys stand where they stand in every language", () => {
  for (const { name, key, position: wanted } of positions) {
    assert.equal(position(name, key), wanted, `${name} ${key}`);
  }
});

for (const { why, rule, key, default: otherwise, on } of cases) {
  test(`flag: ${why}`, () => {
    const { keys_on: keysOn = [], keys_off: keysOff = [], ...rest } = rule ?? { missing: true };
    const made = create(FlagRuleSchema, { ...rest, keysOn, keysOff });
    assert.equal(isOn(made, key ?? undefined, otherwise), on);
  });
}

function share(name: string, part: number, keysOn: string[] = []): FlagRule {
  return create(FlagRuleSchema, { name, share: part, keysOn });
}

type Extra = MessageInitShape<typeof AttemptExtraSchema>;

function begun(board: Board, extra?: Extra): Run {
  const home = { flags: board } as unknown as RunHome;
  const made = extra && create(AttemptExtraSchema, extra);
  const run = new Run(home, {} as Served, 7n, 70n, new Uint8Array(), 0, made);
  run.flags = board.now;
  return run;
}

test("an attempt sees the flags of its beginning, and the next one the change", () => {
  const board = new Board();
  board.replace([share("a", SHARE_MAX), share("b", SHARE_MAX)]);
  const first = begun(board);
  board.change(create(FlagFrameSchema, { flags: [share("a", 0)], removed: ["b"] }));
  current.run(first, () => assert.deepEqual([flag("a"), flag("b")], [true, true]));
  current.run(begun(board), () => {
    assert.deepEqual([flag("a"), flag("b"), flag("b", { default: true })], [false, false, true]);
  });
});

test("what an earlier run had read holds, and is told again", () => {
  const board = new Board();
  board.replace([share("a", SHARE_MAX), share("c", SHARE_MAX)]);
  const run = begun(board, { flags: [share("a", 0), share("b", 5)] });
  const flow = new Flow(
    run,
    () => undefined,
    () => undefined,
    () => undefined,
  );
  flow.hasRead(run.flagsRead);
  const { parent: before } = flow;
  current.run(run, () => {
    assert.deepEqual(
      [flag("a"), flag("c"), flag("none"), flag("No name")],
      [false, true, false, false],
    );
  });
  flow.hasRead(run.flagsRead);
  const told = flow.parent.flags.map((each) => [each.name, each.share, each.missing]);
  assert.deepEqual(told, [
    ["a", 0, false],
    ["c", SHARE_MAX, false],
    ["none", 0, true],
  ]);
  assert.equal(before.flags.length, 0, "what is on its way is as it was");
});

test("a task reads by its keys, else by those of its flow", () => {
  const wanted: [Extra | undefined, string][] = [
    [{ orderingKey: "o", idempotencyKey: "i", flagKey: "f", parent: 9n }, "o"],
    [{ idempotencyKey: "i", flagKey: "f", parent: 9n }, "i"],
    [{ flagKey: "f", parent: 9n }, "f"],
    [{ parent: 9n }, "t0000000000000009"],
    [undefined, "t0000000000000007"],
  ];
  for (const [extra, key] of wanted) {
    const board = new Board();
    board.replace([share("a", 0, [key])]);
    current.run(begun(board, extra), () => {
      assert.deepEqual(
        [flag("a"), flag("a", { key: "x" }), flag("a", { key })],
        [true, false, true],
      );
    });
  }
});

test("a direct call has no key", () => {
  const board = new Board();
  board.replace([share("all", SHARE_MAX), share("most", SHARE_MAX - 1)]);
  board.around(() => {
    assert.deepEqual([flag("all"), flag("most"), flag("most", { key: "k" })], [true, false, true]);
  });
  assert.deepEqual([flag("all"), flag("all", { default: true })], [false, true]);
});
