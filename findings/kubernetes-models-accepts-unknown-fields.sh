#!/usr/bin/env bash
# Subject: @kubernetes-models/keda 2.0.0 (keda.sh/v1alpha1 ScaledObject) on Node 20.
#
# Guess:   validate() finds a misspelled field, as `kubectl apply` does with its strict field validation.
# Actual:  it checks the types of the fields that the schema knows, and accepts any other field. A ScaledObject whose
#          maxReplicaCount is misspelled passes, and then scales to KEDA's default of 100 replicas.
# Seen:    right accepted; misspelled accepted; wrong type refused: data/spec/maxReplicaCount must be integer
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
echo '{"private": true, "type": "module"}' >package.json
npm install --silent --no-audit --no-fund @kubernetes-models/keda@2.0.0

cat >check.mjs <<'EOF_JS'
import { ScaledObject } from "@kubernetes-models/keda/keda.sh/v1alpha1";

const spec = { scaleTargetRef: { name: "server" }, triggers: [] };
const cases = {
  right: { ...spec, maxReplicaCount: 4 },
  misspelled: { ...spec, maxReplicasCount: 4 },
  "wrong type": { ...spec, maxReplicaCount: "4" },
};
const seen = Object.entries(cases).map(([name, value]) => {
  try {
    new ScaledObject({ metadata: { name: "server" }, spec: value }).validate();
    return `${name} accepted`;
  } catch (error) {
    return `${name} refused: ${error.message}`;
  }
});
console.log(seen.join("; "));
const [right, misspelled, wrong] = seen;
const same = right === "right accepted" && misspelled === "misspelled accepted" && wrong.startsWith("wrong type refused");
if (!same) {
  console.error("the behaviour has changed");
  process.exit(1);
}
EOF_JS
node check.mjs
