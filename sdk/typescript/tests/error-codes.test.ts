/** How errors are read, against the vectors that every language shares. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { Code as RpcCode } from "../gen/google/rpc/code_pb.js";
import { errors } from "../src/index.js";
import { codeOf, fromParts } from "../src/statuses.js";
import { ROOT } from "./meshes.js";

interface Vector {
  readonly name: string;
  readonly number: number;
  readonly code: string;
  readonly message: string;
  readonly details_hex: string;
  readonly reason: string | null;
}

interface Row {
  readonly reason: string;
  readonly code: string;
  readonly number: number;
}

const FILE = `${ROOT}interop/vectors/error_codes.json`;
const document = JSON.parse(readFileSync(FILE, "utf8")) as {
  schema: number;
  reasons: Row[];
  codes: Row[];
  errors: Vector[];
};

test("the vectors are of a known form", () => {
  assert.deepEqual(Object.keys(document).sort(), ["codes", "errors", "reasons", "schema"]);
  assert.equal(document.schema, 1);
  assert.ok(document.errors.length >= 37);
});

test("the reasons are those of the vectors", () => {
  const reasons = document.reasons.map((each) => each.reason);
  assert.deepEqual(Object.values(errors.Reason), reasons);
});

test("the codes are those of the vectors", () => {
  // Connect has no code for OK: a call that went well has no error.
  for (const { code, number } of document.codes.slice(1)) {
    assert.equal(RpcCode[codeOf(number)], code);
  }
  assert.equal(document.codes[0]?.code, "OK");
  assert.equal(document.codes.length, 17);
});

for (const vector of document.errors) {
  test(`error: ${vector.name}`, () => {
    const details = Buffer.from(vector.details_hex, "hex");
    const error = fromParts(vector.number, vector.message, details);
    const reason = errors.reason(error) ?? null;
    const got = {
      name: vector.name,
      number: vector.number,
      code: RpcCode[error.code],
      message: error.rawMessage,
      details_hex: vector.details_hex,
      reason,
      known: reason === null || reason in errors.Reason,
      metadata: errors.metadata(error),
      retry_after_ms: errors.retryAfterMs(error) ?? null,
    };
    assert.deepEqual(got, vector);
  });
}
