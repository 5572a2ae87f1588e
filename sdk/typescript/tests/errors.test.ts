/** Errors, headers and requests as they travel: nothing is lost on the way and back. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { create, toBinary } from "@bufbuild/protobuf";
import { Code, ConnectError } from "@connectrpc/connect";
import { BadRequestSchema } from "../gen/google/rpc/error_details_pb.js";
import { StatusSchema } from "../gen/google/rpc/status_pb.js";
import { MetadatumSchema } from "../gen/plait/v1/task_pb.js";
import { InspectResponseSchema } from "../gen/testing/v1/echo_pb.js";
import { headersOf, metadataOf } from "../src/headers.js";
import { errors } from "../src/index.js";
import { failureOf } from "../src/invocation.js";
import { serialize } from "../src/serialize.js";
import * as statuses from "../src/statuses.js";

test("an error of Plait's own says why", () => {
  const variables = { method: "/a.B/C" };
  const error = errors.newError(Code.Aborted, errors.Reason.LEASE_LOST, "lost", variables);
  assert.equal(errors.reason(error), "LEASE_LOST");
  assert.deepEqual(errors.metadata(error), variables);
  assert.equal(errors.retryAfterMs(error), undefined);
});

test("other errors have no reason", () => {
  for (const error of [new Error("x"), undefined, new ConnectError("x", Code.Aborted)]) {
    assert.equal(errors.reason(error), undefined);
    assert.deepEqual(errors.metadata(error), {});
  }
});

test("an error that is passed on keeps its bytes", () => {
  // A field that no program knows, and an order of fields that no writer has.
  const status = create(StatusSchema, { code: 9, message: "m" });
  const details = new Uint8Array([...toBinary(StatusSchema, status), 0x98, 0x06, 0x01, 0x08, 9]);
  const trailers = [
    create(MetadatumSchema, { key: "x-text", value: new TextEncoder().encode("žluť") }),
    create(MetadatumSchema, { key: "x-raw-bin", value: new Uint8Array([0, 1, 255]) }),
  ];
  const failure = failureOf(statuses.fromParts(9, "m", details, trailers));
  assert.equal(failure.code, 9);
  assert.equal(failure.message, "m");
  assert.deepEqual(new Uint8Array(failure.details), details);
  const found = new Map(failure.trailers.map((each) => [each.key, new Uint8Array(each.value)]));
  for (const { key, value } of trailers) {
    assert.deepEqual(found.get(key), new Uint8Array(value), key);
  }
});

test("details that cannot be read are passed on all the same", () => {
  const broken = new Uint8Array([0xff, 0xff]);
  const error = statuses.fromParts(3, "m", broken);
  assert.deepEqual(error.details, []);
  assert.deepEqual(new Uint8Array(failureOf(error).details), broken);
});

test("a handler's own details and trailers travel with its failure", () => {
  const violation = { fieldViolations: [{ field: "id", description: "missing" }] };
  const thrown = new ConnectError("bad", Code.InvalidArgument, { "x-one": "1" }, [
    { desc: BadRequestSchema, value: violation },
  ]);
  const failure = failureOf(thrown, new Headers({ "x-two": "2", "grpc-status": "0" }));
  const arrived = statuses.fromParts(
    failure.code,
    failure.message,
    failure.details,
    failure.trailers,
  );
  assert.equal(arrived.findDetails(BadRequestSchema)[0]?.fieldViolations[0]?.field, "id");
  assert.deepEqual([...arrived.metadata.keys()], ["grpc-status-details-bin", "x-one", "x-two"]);
});

test("what is no error of Connect's is UNKNOWN with its text", () => {
  assert.equal(failureOf(new TypeError("no")).code, Code.Unknown);
  assert.equal(failureOf(new TypeError("no")).message, "TypeError: no");
  assert.equal(failureOf("text").message, "text");
});

test("a number that is no code is UNKNOWN", () => {
  assert.equal(statuses.codeOf(16), Code.Unauthenticated);
  assert.equal(statuses.codeOf(0), Code.Unknown);
  assert.equal(statuses.codeOf(99), Code.Unknown);
});

test("several values of a binary header stay several", () => {
  const headers = new Headers();
  headers.append("x-bin", "AQI");
  headers.append("x-bin", "Aw");
  headers.append("content-type", "application/grpc");
  const sent = metadataOf(headers);
  assert.deepEqual(
    sent.map((each) => [...each.value]),
    [[1, 2], [3]],
  );
  assert.equal(headersOf(sent).get("x-bin"), "AQI, Aw");
});

test("equal messages give equal bytes, whatever the order of their maps", () => {
  const one = create(InspectResponseSchema, { task: "t", metadata: { b: "2", a: "1", c: "3" } });
  const two = create(InspectResponseSchema, { metadata: { c: "3", a: "1", b: "2" }, task: "t" });
  const bytes = serialize(InspectResponseSchema, one);
  assert.deepEqual(bytes, serialize(InspectResponseSchema, two));
  assert.notDeepEqual(
    bytes,
    serialize(InspectResponseSchema, create(InspectResponseSchema, { metadata: { b: "2" } })),
  );
});
