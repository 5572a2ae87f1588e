/**
 * Keys of a request: the text of the field that a policy names (docs/protocol.md §2), read from
 * the serialized bytes by field numbers. So a program whose contract is older than the broker's
 * gets the same text as one that knows the field.
 */
import { BinaryReader, WireType } from "@bufbuild/protobuf/wire";
import { KeyKind, type KeyPath } from "../gen/plait/v1/contract_service_pb.js";

/** A field's value as it is in the bytes: a number's bits, or bytes. */
type Raw = bigint | Uint8Array;

/** The key in a serialized message, "" for none. Throws for bytes that are no message. */
export function keyIn(payload: Uint8Array, path: KeyPath): string {
  return textOf(find([payload], path.numbers, wireOf(path.kind)), path.kind);
}

/** How a kind's values are on the wire. */
function wireOf(kind: KeyKind): WireType {
  switch (kind) {
    case KeyKind.STRING:
    case KeyKind.BYTES:
      return WireType.LengthDelimited;
    case KeyKind.FIXED32:
    case KeyKind.SFIXED32:
      return WireType.Bit32;
    case KeyKind.FIXED64:
    case KeyKind.SFIXED64:
      return WireType.Bit64;
    default:
      return WireType.Varint;
  }
}

/** The last value; `parts` are the occurrences of the message it is in, which merge. */
function find(
  parts: readonly Uint8Array[],
  [number, ...rest]: readonly number[],
  wire: WireType,
): Raw | undefined {
  const wanted = rest.length > 0 ? WireType.LengthDelimited : wire;
  const values = parts.flatMap((part) => valuesOf(part, number, wanted));
  if (rest.length === 0) {
    return values.at(-1);
  }
  const inner = values.filter((value) => value instanceof Uint8Array);
  return inner.length > 0 ? find(inner, rest, wire) : undefined;
}

/** Every occurrence of a field in a message: under another wire type it is unknown to any parser. */
function valuesOf(data: Uint8Array, wanted: number | undefined, wantedWire: WireType): Raw[] {
  const reader = new BinaryReader(data);
  const found: Raw[] = [];
  while (reader.pos < reader.len) {
    const [number, wire] = reader.tag();
    if (wire === WireType.StartGroup) {
      reader.skip(wire, number);
      continue;
    }
    // Those that are not wanted are read, too: skipping does not check them.
    const value = rawValue(reader, wire);
    if (number === wanted && wire === wantedWire) {
      found.push(value);
    }
  }
  if (reader.pos > reader.len) {
    throw new RangeError("the message is cut off");
  }
  return found;
}

function rawValue(reader: BinaryReader, wire: WireType): Raw {
  switch (wire) {
    case WireType.Varint:
      return BigInt(reader.uint64());
    case WireType.Bit64:
      return BigInt(reader.fixed64());
    case WireType.Bit32:
      return BigInt(reader.fixed32());
    case WireType.LengthDelimited:
      return reader.bytes();
    default:
      throw new RangeError(`wire type ${wire} at byte ${reader.pos}`);
  }
}

const STRICT = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

function textOf(value: Raw | undefined, kind: KeyKind): string {
  if (kind === KeyKind.STRING) {
    return value instanceof Uint8Array ? STRICT.decode(value) : "";
  }
  if (kind === KeyKind.BYTES) {
    return value instanceof Uint8Array ? Buffer.from(value).toString("hex") : "";
  }
  const number = typeof value === "bigint" ? value : 0n;
  switch (kind) {
    case KeyKind.BOOL:
      return number === 0n ? "false" : "true";
    case KeyKind.SINT:
      return ((number >> 1n) ^ -(number & 1n)).toString();
    case KeyKind.INT:
    case KeyKind.SFIXED64:
      return BigInt.asIntN(64, number).toString();
    case KeyKind.SFIXED32:
      return BigInt.asIntN(32, number).toString();
    default:
      return number.toString();
  }
}
