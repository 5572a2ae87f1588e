/**
 * Requests as bytes: equal messages give equal bytes, for deduplication and flows. Protobuf-ES
 * writes fields in order of their numbers; only the entries of a map come in the order in which
 * they were put in, so messages that may hold maps are sorted first.
 */
import { clone, type DescMessage, type MessageShape, toBinary } from "@bufbuild/protobuf";
import { type ReflectMessage, reflect } from "@bufbuild/protobuf/reflect";

const withMaps = new WeakMap<DescMessage, boolean>();

/** The bytes of a message; the same for equal ones. */
export function serialize<D extends DescMessage>(desc: D, message: MessageShape<D>): Uint8Array {
  if (!holdsMaps(desc, new Set())) {
    return toBinary(desc, message);
  }
  const sorted = clone(desc, message);
  sortMaps(reflect(desc, sorted));
  return toBinary(desc, sorted);
}

/** Whether a message of this type, or one inside it, has a map. */
function holdsMaps(desc: DescMessage, seen: Set<DescMessage>): boolean {
  const known = withMaps.get(desc);
  if (known !== undefined || seen.has(desc)) {
    return known ?? false;
  }
  seen.add(desc);
  const found = desc.fields.some(
    (field) =>
      field.fieldKind === "map" || (field.message !== undefined && holdsMaps(field.message, seen)),
  );
  // What a cycle cut short is known for the type that was asked for only.
  if (found || seen.values().next().value === desc) {
    withMaps.set(desc, found);
  }
  return found;
}

function sortMaps(message: ReflectMessage): void {
  for (const field of message.fields) {
    if (!message.isSet(field)) {
      continue;
    }
    if (field.fieldKind === "message") {
      sortMaps(message.get(field));
    } else if (field.fieldKind === "list" && field.listKind === "message") {
      for (const item of message.get(field)) {
        sortMaps(item as ReflectMessage);
      }
    } else if (field.fieldKind === "map") {
      const map = message.get(field);
      const entries = [...map].sort(([a], [b]) => less(a, b));
      map.clear();
      for (const [key, value] of entries) {
        if (field.mapKind === "message") {
          sortMaps(value as ReflectMessage);
        }
        map.set(key, value);
      }
    }
  }
}

/** An order of keys, which are of one type and different. */
function less(a: unknown, b: unknown): number {
  return (a as string) < (b as string) ? -1 : 1;
}
