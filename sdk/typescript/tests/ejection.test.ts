/** interop/vectors/ejection.json: who is left out is the same in every language that does it itself. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { create, toBinary } from "@bufbuild/protobuf";
import { anyPack } from "@bufbuild/protobuf/wkt";
import { Code } from "@connectrpc/connect";
import { HTTPFaultSchema } from "../gen/plait_xds/fault_pb.js";
import {
  FractionalPercent_DenominatorType as Denominator,
  FractionalPercentSchema,
} from "../gen/plait_xds/percent_pb.js";
import { Ejection, type EjectionConfig } from "../src/ejection.js";
import { abortOf, delayOf, faultIn } from "../src/fault.js";
import { ROOT } from "./meshes.js";

interface Rule {
  readonly threshold?: number;
  readonly stdev_factor?: number;
  readonly enforcement: number;
  readonly minimum_hosts: number;
  readonly request_volume: number;
}

interface Config {
  readonly interval_ms: number;
  readonly base_ejection_ms: number;
  readonly max_ejection_ms: number;
  readonly max_ejected_percent: number;
  readonly failure_percentage: Rule | null;
  readonly success_rate: Rule | null;
  readonly draws: readonly number[];
}

type Step =
  | { readonly op: "hosts"; readonly t: number; readonly hosts: readonly string[] }
  | { readonly op: "look"; readonly t: number }
  | {
      readonly op: "report";
      readonly t: number;
      readonly host: string;
      readonly good: number;
      readonly bad: number;
    };

interface Vector {
  readonly kind: string;
  readonly name: string;
  readonly config: Config;
  readonly steps: readonly { readonly in: Step; readonly out: { readonly ejected: string[] } }[];
}

const { schema, vectors } = JSON.parse(
  readFileSync(`${ROOT}interop/vectors/ejection.json`, "utf8"),
) as { schema: number; vectors: Vector[] };

function configOf(config: Config): EjectionConfig {
  const { failure_percentage: failures, success_rate: rates } = config;
  const common = (rule: Rule) => ({
    enforcement: rule.enforcement,
    hostsMin: rule.minimum_hosts,
    volumeMin: rule.request_volume,
  });
  return {
    intervalMs: config.interval_ms,
    baseMs: config.base_ejection_ms,
    longestMs: config.max_ejection_ms,
    percentMax: config.max_ejected_percent,
    failures: failures ? { ...common(failures), threshold: failures.threshold ?? 0 } : undefined,
    rates: rates ? { ...common(rates), deviations: rates.stdev_factor ?? 0 } : undefined,
  };
}

function machine(config: Config): (step: Step) => string[] {
  let drawn = 0;
  const draw = () => config.draws[drawn++ % config.draws.length] ?? 0;
  const ejection = new Ejection(configOf(config), 0, draw);
  let hosts: readonly string[] = [];
  return (step) => {
    if (step.op === "hosts") {
      hosts = step.hosts;
      ejection.hosts(hosts, step.t);
    } else if (step.op === "report") {
      for (let number = 0; number < step.good + step.bad; number++) {
        ejection.report(step.host, number < step.good, step.t);
      }
    } else if (step.op !== "look") {
      throw new Error(`unknown step ${JSON.stringify(step)}`);
    }
    return hosts.filter((host) => ejection.isOut(host, step.t));
  };
}

assert.equal(schema, 1);

for (const { kind, name, config, steps } of vectors) {
  test(`${kind} ${name}`, () => {
    assert.equal(kind, "ejection");
    const run = machine(config);
    for (const [number, step] of steps.entries()) {
      assert.deepEqual({ ejected: run(step.in) }, step.out, `step ${number}`);
    }
  });
}

test("a fault's shares are of a million, and other filters are none", () => {
  const percentage = create(FractionalPercentSchema, { numerator: 10 });
  const fault = create(HTTPFaultSchema, {
    abort: { errorType: { case: "grpcStatus", value: Code.Unavailable }, percentage },
    delay: {
      faultDelaySecifier: { case: "fixedDelay", value: { seconds: 0n, nanos: 200_000_000 } },
      percentage: { numerator: 5, denominator: Denominator.MILLION },
    },
  });
  const found = faultIn(anyPack(HTTPFaultSchema, fault));
  assert.ok(found);
  assert.equal(abortOf(found, 0.099)?.code, Code.Unavailable);
  assert.equal(abortOf(found, 0.1), undefined);
  assert.deepEqual([delayOf(found, 0.000004), delayOf(found, 0.000005)], [200, 0]);
  const other = { typeUrl: "type.googleapis.com/x.Y", value: toBinary(HTTPFaultSchema, fault) };
  assert.equal(faultIn({ $typeName: "google.protobuf.Any", ...other }), undefined);
  const odd = create(HTTPFaultSchema, { delay: {} });
  assert.throws(() => faultIn(anyPack(HTTPFaultSchema, odd)), /no length/);
});
