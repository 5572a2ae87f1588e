/** Keys of requests, against the vectors that every language shares. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { create } from "@bufbuild/protobuf";
import { KeyKind, KeyPathSchema } from "../gen/plait/v1/contract_service_pb.js";
import { keyIn } from "../src/keys.js";
import { ROOT } from "./meshes.js";

interface Vector {
  readonly name: string;
  readonly kind: keyof typeof KeyKind;
  readonly numbers: number[];
  readonly message_hex: string;
  readonly text?: string;
  readonly error?: true;
}

const FILE = `${ROOT}interop/vectors/field_paths.json`;
const { schema, vectors } = JSON.parse(readFileSync(FILE, "utf8")) as {
  schema: number;
  vectors: Vector[];
};
const FIELDS = ["kind", "message_hex", "name", "numbers"];

test("the vectors are of a known form", () => {
  assert.equal(schema, 1);
  assert.ok(vectors.length >= 70);
  for (const vector of vectors) {
    const fields = [...FIELDS, vector.error === true ? "error" : "text"];
    assert.deepEqual(Object.keys(vector).sort(), fields.sort(), vector.name);
    assert.ok(KeyKind[vector.kind] > KeyKind.UNSPECIFIED, `an unknown kind: ${vector.kind}`);
  }
});

for (const { name, kind, numbers, message_hex: hex, text } of vectors) {
  test(`key: ${name}`, () => {
    const path = create(KeyPathSchema, { path: "it", numbers, kind: KeyKind[kind] });
    const read = () => keyIn(Buffer.from(hex, "hex"), path);
    if (text === undefined) {
      assert.throws(read);
    } else {
      assert.equal(read(), text);
    }
  });
}
