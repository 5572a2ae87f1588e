/**
 * gRPC metadata between Connect's `Headers` and the wire. Text is kept byte for byte: a header's
 * characters are bytes (latin-1), as everywhere in HTTP. A value under a key that ends in "-bin"
 * is base64 in `Headers`.
 */
import { create } from "@bufbuild/protobuf";
import { type Metadatum, MetadatumSchema } from "../gen/plait/v1/task_pb.js";

/** Headers of the protocol itself, and of Connect's clients, that are nobody's metadata. */
const RESERVED = /^(:|grpc-|connect-)|^(content-type|content-length|te|user-agent|date|host)$/;

/** Headers as they travel with a task or a failure, without reserved keys. */
export function metadataOf(headers: Iterable<readonly [string, string]>): Metadatum[] {
  const found: Metadatum[] = [];
  for (const [key, value] of headers) {
    const name = key.toLowerCase();
    if (RESERVED.test(name)) {
      continue;
    }
    if (name.endsWith("-bin")) {
      // `Headers` joins several values of a key by commas, which base64 does not have.
      for (const part of value.split(",")) {
        found.push(
          create(MetadatumSchema, { key: name, value: Buffer.from(part.trim(), "base64") }),
        );
      }
    } else {
      found.push(create(MetadatumSchema, { key: name, value: Buffer.from(value, "latin1") }));
    }
  }
  return found;
}

/** What travelled, as a client or a handler sees it. */
export function headersOf(metadata: readonly Metadatum[]): Headers {
  const headers = new Headers();
  for (const { key, value } of metadata) {
    headers.append(key, textOf(key, value));
  }
  return headers;
}

/** The value of a header: base64 for a key that ends in "-bin". */
export function textOf(key: string, value: Uint8Array): string {
  const bytes = Buffer.from(value.buffer, value.byteOffset, value.byteLength);
  // A line break or a zero byte is no header's; `Headers` would throw.
  return key.endsWith("-bin")
    ? bytes.toString("base64").replace(/=+$/, "")
    : bytes.toString("latin1").replace(/[\0\r\n]/g, " ");
}
