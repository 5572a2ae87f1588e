/** Descriptors of a program's own contracts, as they are announced to the broker. */
import { create, type DescFile, type DescService, toBinary } from "@bufbuild/protobuf";
import { FileDescriptorSetSchema } from "@bufbuild/protobuf/wkt";

/**
 * A serialized FileDescriptorSet of the services' files and their imports. Imports come before
 * what imports them; google/protobuf/* is left out, since everybody has it. Equal contracts give
 * equal bytes.
 */
export function descriptorSet(services: readonly DescService[]): Uint8Array {
  const files = new Map<string, DescFile>();
  for (const service of [...services].sort((a, b) => (a.typeName < b.typeName ? -1 : 1))) {
    collect(service.file, files);
  }
  const file = [...files.values()].map((each) => each.proto);
  return toBinary(FileDescriptorSetSchema, create(FileDescriptorSetSchema, { file }));
}

function collect(file: DescFile, files: Map<string, DescFile>): void {
  // The name of a descriptor is without ".proto".
  if (files.has(file.name) || file.name.startsWith("google/protobuf/")) {
    return;
  }
  for (const dependency of file.dependencies) {
    collect(dependency, files);
  }
  files.set(file.name, file);
}
