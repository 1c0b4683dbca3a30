// Reads custom resources as a JSON list, and prints a list of what their schemas say against them.
// Run it in tests/clients: node --input-type=module -e "$(cat ../deploy/custom_resources.mjs)"
import { HTTPRoute } from "@kubernetes-models/gateway-api/gateway.networking.k8s.io/v1";
import { ScaledObject } from "@kubernetes-models/keda/keda.sh/v1alpha1";
import { PodMonitor, PrometheusRule } from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1";
import { readFileSync } from "node:fs";

const KINDS = { HTTPRoute, PodMonitor, PrometheusRule, ScaledObject };

// These schemas allow unknown fields, which the API server then drops: a field that no check reads is unknown.
function watched(value, path, unread) {
  if (value === null || typeof value !== "object") return value;
  const fields = new Map(Object.entries(value).map(([name, field]) => [name, watched(field, `${path}/${name}`, unread)]));
  for (const name of fields.keys()) unread.add(`${path}/${name}`);
  return new Proxy(value, {
    get(target, name) {
      unread.delete(`${path}/${String(name)}`);
      return fields.has(name) ? fields.get(name) : target[name];
    },
  });
}

const problems = [];
for (const resource of JSON.parse(readFileSync(0, "utf8"))) {
  const unread = new Set();
  try {
    KINDS[resource.kind].prototype.validate.call(watched(resource, resource.kind, unread));
  } catch (error) {
    problems.push(`${resource.kind}: ${error.message}`);
  }
  problems.push(...[...unread].map((path) => `${path} is unknown`));
}
console.log(JSON.stringify(problems));
