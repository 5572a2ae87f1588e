/** What the package exports is what sdk/surface.toml lists for TypeScript: no name less, none more. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { ROOT } from "./meshes.js";

const TYPES = join(ROOT, "sdk/typescript/dist/src");

/** The spellings in sdk/surface.toml; sdk/python's tests hold it to the lines that are read here. */
function listed(): string[] {
  const spelled = new Map<string, string[]>();
  let entry = "";
  for (const line of readFileSync(join(ROOT, "sdk/surface.toml"), "utf8").split("\n")) {
    const head = /^\[\w+\."([\w.[\]]+)"\]$/.exec(line);
    const said = /^(absent\.|only\.)?(\w+) = (.+)$/.exec(line);
    const here = said?.[2] === "typescript";
    if (head !== null) {
      entry = head[1] ?? "";
      spelled.set(entry, [camel(entry)]);
    } else if (said === null) {
      assert.match(line, /^(#.*)?$/);
    } else if (said[1] === undefined && here) {
      spelled.set(entry, [JSON.parse(said[3] ?? "")].flat());
    } else if (said[1] === (here ? "absent." : "only.")) {
      spelled.set(entry, []);
    }
  }
  return [...spelled.values()].flat();
}

function camel(name: string): string {
  return name.replace(/_([a-z])/g, (_, letter: string) => letter.toUpperCase());
}

/** What a module exports, by its declarations: names, and the members of classes and interfaces. */
function exported(module: string, prefix = ""): string[] {
  const text = readFileSync(join(TYPES, module.replace(/\.js$/, ".d.ts")), "utf8");
  const names: string[] = [];
  for (const statement of statements(text)) {
    const all = /^export \* as (\w+) from "(.+)";$/.exec(statement);
    const some = /^export (?:type )?\{ (.*) \} from "(.+)";$/.exec(statement);
    const own = /^export (?:declare )?(?:const|function|class|interface|type) (\w+)/.exec(
      statement,
    );
    if (all !== null) {
      names.push(...exported(all[2] ?? "", `${all[1]}.`));
    } else if (some !== null) {
      const from = exported(some[2] ?? "");
      for (const each of (some[1] ?? "").split(", ")) {
        const [name = "", as = name] = each.replace("type ", "").split(" as ");
        const members = from.filter((one) => one === name || one.startsWith(`${name}.`));
        assert.notEqual(members.length, 0, `${module} exports ${name}, which is not to be found`);
        names.push(...members.map((one) => prefix + as + one.slice(name.length)));
      }
    } else if (own !== null) {
      const name = prefix + own[1];
      names.push(name, ...members(statement).map((each) => `${name}.${each}`));
    } else {
      assert.match(statement, /^(import |declare |interface |type |export \{\};)/, module);
    }
  }
  return [...new Set(names)];
}

/** The top-level statements of declarations as tsc prints them: what is inside is indented. */
function statements(text: string): string[] {
  const code = text.replace(/\/\*\*[\s\S]*?\*\//g, "");
  return code
    .split(/\n(?=[^\s}])/)
    .map((each) => each.trim())
    .filter((each) => each !== "");
}

/** Public members of a class or interface, and the keys of a union of objects. */
function members(statement: string): string[] {
  if (/^export (declare )?(const|function) /.test(statement)) {
    return [];
  }
  const found: string[] = [];
  for (const line of statement.split("\n").filter((each) => /^ {4}\S/.test(each))) {
    const member = /^ {4}(?:static |readonly |get |set )*(\w+|\[[\w.]+\])[?(:<]/.exec(line);
    if (member !== null && member[1] !== "constructor") {
      found.push(member[1] ?? "");
    } else if (member === null) {
      assert.match(line, /^ {4}(#private;|private |protected |\S+$)/, statement);
    }
  }
  return found;
}

test("every export is listed, and every listed name is exported", () => {
  const names = listed();
  const here = [...exported("index.js"), ...exported("testing.js", "testing.")];
  assert.ok(names.length > 50);
  const twice = names.filter((each, at) => names.indexOf(each) !== at);
  assert.deepEqual(twice, [], "listed twice");
  const missing = names.filter((each) => !here.includes(each));
  assert.deepEqual(missing.sort(), [], "in sdk/surface.toml, not in the package");
  const more = here.filter((each) => !names.includes(each));
  assert.deepEqual(more.sort(), [], "in the package, not in sdk/surface.toml");
});
