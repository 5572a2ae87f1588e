/** Keys as they are read from the bytes of a request. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { create } from "@bufbuild/protobuf";
import { BinaryWriter, WireType } from "@bufbuild/protobuf/wire";
import { KeyKind, KeyPathSchema } from "../gen/plait/v1/contract_service_pb.js";
import { keyIn } from "../src/keys.js";

/** The field `number` inside the embedded message in field 3. */
function path(number: number, kind: KeyKind) {
  return create(KeyPathSchema, { path: "keys.it", numbers: [3, number], kind });
}

function message(write: (writer: BinaryWriter) => BinaryWriter): Uint8Array {
  const inner = write(new BinaryWriter()).finish();
  return new BinaryWriter().tag(3, WireType.LengthDelimited).bytes(inner).finish();
}

const { Varint, Bit32, Bit64, LengthDelimited } = WireType;
const CASES: [
  name: string,
  kind: KeyKind,
  write: (w: BinaryWriter) => BinaryWriter,
  text: string,
][] = [
  ["string", KeyKind.STRING, (w) => w.tag(1, LengthDelimited).string("Žofie"), "Žofie"],
  [
    "bytes",
    KeyKind.BYTES,
    (w) => w.tag(1, LengthDelimited).bytes(new Uint8Array([0, 255, 65])),
    "00ff41",
  ],
  ["int32", KeyKind.INT, (w) => w.tag(1, Varint).int32(-1), "-1"],
  ["int64", KeyKind.INT, (w) => w.tag(1, Varint).int64(-(2n ** 63n)), "-9223372036854775808"],
  ["uint64", KeyKind.UINT, (w) => w.tag(1, Varint).uint64(2n ** 64n - 1n), `${2n ** 64n - 1n}`],
  ["sint32", KeyKind.SINT, (w) => w.tag(1, Varint).sint32(-(2 ** 31)), "-2147483648"],
  ["sint64", KeyKind.SINT, (w) => w.tag(1, Varint).sint64(2n ** 63n - 1n), `${2n ** 63n - 1n}`],
  ["bool", KeyKind.BOOL, (w) => w.tag(1, Varint).bool(true), "true"],
  ["fixed32", KeyKind.FIXED32, (w) => w.tag(1, Bit32).fixed32(2 ** 32 - 1), "4294967295"],
  ["fixed64", KeyKind.FIXED64, (w) => w.tag(1, Bit64).fixed64(2n ** 64n - 1n), `${2n ** 64n - 1n}`],
  ["sfixed32", KeyKind.SFIXED32, (w) => w.tag(1, Bit32).sfixed32(-(2 ** 31)), "-2147483648"],
  ["sfixed64", KeyKind.SFIXED64, (w) => w.tag(1, Bit64).sfixed64(-1n), "-1"],
];

for (const [name, kind, write, text] of CASES) {
  test(`text of ${name}`, () => {
    assert.equal(keyIn(message(write), path(1, kind)), text);
    const missing = { string: "", bytes: "", bool: "false" }[name] ?? "0";
    assert.equal(
      keyIn(
        message((writer) => writer),
        path(1, kind),
      ),
      missing,
    );
    assert.equal(keyIn(new Uint8Array(), path(1, kind)), missing);
  });
}

test("the last occurrence counts, and messages merge", () => {
  const first = message((w) => w.tag(1, LengthDelimited).string("a").tag(2, Varint).int32(1));
  const second = message((w) => w.tag(1, LengthDelimited).string("b"));
  const payload = new Uint8Array([...first, ...second]);
  assert.equal(keyIn(payload, path(1, KeyKind.STRING)), "b");
  assert.equal(keyIn(payload, path(2, KeyKind.INT)), "1");
});

test("unknown fields and groups are skipped", () => {
  const payload = message((w) =>
    w
      .tag(96, WireType.StartGroup)
      .tag(1, Varint)
      .int32(1)
      .tag(96, WireType.EndGroup)
      .tag(1, LengthDelimited)
      .string("x"),
  );
  assert.equal(keyIn(payload, path(1, KeyKind.STRING)), "x");
});

for (const [name, bytes] of [
  ["cut off in a message", [0x1a, 0x05, 0x61, 0x62]],
  ["cut off in a tag", [0xff]],
  ["a group that another one ends", [0x0b, 0x14]],
  ["no such wire type", [0x0f]],
  ["a number of eleven bytes", [0x08, ...Array(10).fill(0xff), 0x01]],
  ["groups without end", Array(200).fill(0x0b)],
  ["text that is no UTF-8", [0x1a, 0x03, 0x0a, 0x01, 0xff]],
] as [string, number[]][]) {
  test(`broken bytes: ${name}`, () => {
    assert.throws(() => keyIn(new Uint8Array(bytes), path(1, KeyKind.STRING)));
  });
}
