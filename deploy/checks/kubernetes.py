"""Checks of the built Kubernetes manifests against the schemas, each other and the code."""

import functools
import os
import pathlib
import re
import shutil
import tempfile

import jsonschema
import kubernetes_validate
import yaml

from repo import duration

ALERTS = "deploy/prometheus/alerts.yml"
RULE = "deploy/k8s/components/monitoring/prometheus-rule.yaml"
REDIS = ("deploy/redis.conf", "deploy/k8s/components/redis/redis.conf")
OVERLAYS = ("keda", "hpa")
# The oldest version with all used features (a preStop sleep), and the newest with a schema.
VERSIONS = ("1.30", kubernetes_validate.latest_version())
# Secrets that the operator creates first, as base/kustomization.yaml describes.
SECRETS = {
    "tributary-redis": {"REDIS_URL"},
    "tributary-database": {"DATABASE_URL"},
    "tributary-admin": {"ADMIN_TOKEN", "SECRETS_KEY"},
    "tributary-platforms": None,
    "tributary-destinations": None,
}


def _rule(repo):
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "tributary"},
        "spec": repo.yaml(ALERTS),
    }


def write(repo):
    """Writes the files that are derived from other files."""
    text = yaml.safe_dump(_rule(repo), sort_keys=False, width=80, allow_unicode=True)
    header = f"# Generated from {ALERTS} by `deploy/check --write`. Do not edit.\n"
    pathlib.Path(RULE).write_text(header + text)
    shutil.copyfile(*REDIS)


@functools.cache
def _built(repo, overlay, component=None):
    """Returns the manifests of an overlay, with an optional component."""
    path = f"deploy/k8s/overlays/{overlay}"
    if component is None:
        done = repo.run("kubectl", "kustomize", path)
    else:
        with tempfile.TemporaryDirectory(dir="deploy/k8s") as folder:
            kustomization = {
                "resources": [os.path.relpath(path, folder)],
                "components": [os.path.relpath(f"deploy/k8s/components/{component}", folder)],
            }
            pathlib.Path(folder, "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
            done = repo.run("kubectl", "kustomize", folder)
    assert done.returncode == 0, done.stderr
    return [manifest for manifest in yaml.safe_load_all(done.stdout) if manifest]


def _all(repo):
    for overlay in OVERLAYS:
        yield overlay, _built(repo, overlay)
    yield "keda with redis", _built(repo, "keda", "redis")


def _of(manifests, *kinds):
    chosen = (manifest for manifest in manifests if manifest["kind"] in kinds)
    return {manifest["metadata"]["name"]: manifest for manifest in chosen}


def _pods(manifests):
    workloads = _of(manifests, "Deployment", "StatefulSet")
    return {name: workload["spec"]["template"] for name, workload in workloads.items()}


def derived(repo):
    """The PrometheusRule and the copy of redis.conf match their sources."""
    if repo.yaml(RULE) != _rule(repo):
        yield f"{RULE} differs from {ALERTS}: run deploy/check --write"
    if repo.text(REDIS[0]) != repo.text(REDIS[1]):
        yield f"{REDIS[1]} differs from {REDIS[0]}: run deploy/check --write"


def schemas(repo):
    """Every manifest is strictly valid for the oldest and the newest supported version."""
    custom = repo.json("deploy/checks/crds.json")
    for name, manifests in _all(repo):
        for manifest in manifests:
            what = f"{name}: {manifest['kind']} {manifest['metadata']['name']}"
            try:
                if manifest["kind"] in custom:
                    jsonschema.validate(manifest["spec"], custom[manifest["kind"]])
                else:
                    for version in VERSIONS:
                        kubernetes_validate.validate(manifest, version, strict=True)
            except (jsonschema.ValidationError, kubernetes_validate.SchemaNotFoundError) as error:
                yield f"{what}: {error.message} at {list(getattr(error, 'path', []))}"


def pods(repo):
    """Pods are unprivileged, read-only, bounded, probed, have no API token and time to drain."""
    for overlay, manifests in _all(repo):
        settings = _of(manifests, "ConfigMap")
        settings = next(
            one["data"] for name, one in settings.items() if name.startswith("tributary-settings-")
        )
        for name, template in _pods(manifests).items():
            spec, what = template["spec"], f"{overlay}: {name}"
            context = spec["securityContext"]
            profile = context["seccompProfile"]["type"]
            unprivileged = context["runAsNonRoot"] and context["runAsUser"]
            if not unprivileged or profile != "RuntimeDefault":
                yield f"{what}: privileged: {context}"
            if spec["automountServiceAccountToken"] or spec["enableServiceLinks"]:
                yield f"{what}: has an API token or service links"
            for container in spec["containers"]:
                own = container["securityContext"]
                dropped = own["capabilities"] == {"drop": ["ALL"]}
                restricted = own["readOnlyRootFilesystem"] and dropped
                if own["allowPrivilegeEscalation"] or not restricted:
                    yield f"{what}: privileged: {own}"
                resources = container["resources"]
                requests = set(resources["requests"])
                if "memory" not in resources["limits"] or requests != {"cpu", "memory"}:
                    yield f"{what}: resources are not bounded"
                if ":" not in container["image"] or container["image"].endswith(":latest"):
                    yield f"{what}: {container['image']} is not pinned"
                for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                    yield from _probe(repo, what, container, probe)
                if name != "tributary-redis":
                    pre_stop = container.get("lifecycle", {}).get("preStop", {})
                    pause = pre_stop.get("sleep", {}).get("seconds", 0)
                    drain = pause + duration(settings["SHUTDOWN_GRACE_MS"])
                    if spec["terminationGracePeriodSeconds"] <= drain:
                        yield f"{what}: is killed before its grace is over"
                    yield from _environment(repo, what, container)


def _probe(repo, what, container, probe):
    named = {port["name"] for port in container["ports"]}
    asks = container[probe].get("httpGet") or container[probe].get("tcpSocket")
    if asks and asks["port"] not in named:
        yield f"{what}: {probe} uses an undefined port"
    if asks and "path" in asks:
        expected = "/ready" if probe == "readinessProbe" else "/live"
        if asks["path"] != expected or f'"{expected}"' not in repo.source:
            yield f"{what}: {probe} uses the path {asks['path']}"


def _environment(repo, what, container):
    given = {one["name"]: one for one in container["env"]}
    yield from (f"{what}: the code reads no {name}" for name in given if not repo.is_variable(name))
    bound = {port["containerPort"] for port in container["ports"]}
    binds = (one["value"] for name, one in given.items() if name.endswith("_BIND"))
    set_to = {int(value.rsplit(":", 1)[1]) for value in binds}
    if bound != set_to:
        yield f"{what}: ports {bound}, but it listens on {set_to}"


def references(repo):
    """Every referenced name exists: secrets, settings, services, ports, selectors, targets."""
    documented = repo.text("deploy/k8s/base/kustomization.yaml")
    for overlay, manifests in _all(repo):
        pods, services = _pods(manifests), _of(manifests, "Service")
        maps, accounts = _of(manifests, "ConfigMap"), _of(manifests, "ServiceAccount")
        for name, template in pods.items():
            spec = template["spec"]
            if spec.get("serviceAccountName", "default") not in (*accounts, "default"):
                yield f"{overlay}: {name}: unknown service account"
            for volume in spec.get("volumes", []):
                if volume["configMap"]["name"] not in maps:
                    yield f"{overlay}: {name}: unknown volume {volume}"
            for container in spec["containers"]:
                for one in container.get("env", []):
                    secret = one.get("valueFrom", {}).get("secretKeyRef")
                    if secret and secret["key"] not in (SECRETS.get(secret["name"]) or ()):
                        yield f"{overlay}: {name}: undocumented secret {secret}"
                for one in container.get("envFrom", []):
                    if one.get("configMapRef", {}).get("name", "") not in ("", *maps):
                        yield f"{overlay}: {name}: {one}"
                    if one.get("secretRef", {}).get("name", "tributary-platforms") not in SECRETS:
                        yield f"{overlay}: {name}: {one}"
        for name in SECRETS:
            if f"secret generic {name} " not in documented:
                yield f"base/kustomization.yaml does not say how to make {name}"
        for name, settings in maps.items():
            if name.startswith("tributary-settings-"):
                unread = (one for one in settings["data"] if not repo.is_variable(one))
                yield from (f"the code does not read {one}" for one in unread)
                container = pods["tributary-worker"]["spec"]["containers"][0]
                mounts = [one["mountPath"] for one in container["volumeMounts"]]
                if os.path.dirname(settings["data"]["PLATFORMS_FILE"]) not in mounts:
                    yield f"{overlay}: PLATFORMS_FILE is not mounted"
        for service in services.values():
            spec = service["spec"]
            labels, ports = spec["selector"], spec["ports"]
            yield from _selects(overlay, service, labels, pods, ports, "targetPort")
        for policy in _of(manifests, "NetworkPolicy").values():
            ports = [port for rule in policy["spec"]["ingress"] for port in rule["ports"]]
            labels = policy["spec"]["podSelector"]["matchLabels"]
            yield from _selects(overlay, policy, labels, pods, ports, "port")
        for budget in _of(manifests, "PodDisruptionBudget").values():
            labels = budget["spec"]["selector"]["matchLabels"]
            yield from _selects(overlay, budget, labels, pods, [], "")
        for scaler in _of(manifests, "HorizontalPodAutoscaler", "ScaledObject").values():
            if scaler["spec"]["scaleTargetRef"]["name"] not in _of(manifests, "Deployment"):
                yield f"{overlay}: {scaler['metadata']['name']} scales nothing"
            for trigger in scaler["spec"].get("triggers", []):
                unknown = repo.unknown_metrics(trigger["metadata"]["query"])
                yield from (f"no metric {one}" for one in unknown)


def _selects(overlay, manifest, labels, pods, ports, key):
    what = f"{overlay}: {manifest['kind']} {manifest['metadata']['name']}"
    chosen = [pod for pod in pods.values() if labels.items() <= pod["metadata"]["labels"].items()]
    if len(chosen) != 1:
        yield f"{what} selects {len(chosen)} workloads"
        return
    containers = chosen[0]["spec"]["containers"]
    named = {port["name"] for container in containers for port in container["ports"]}
    unknown = (port[key] for port in ports if port[key] not in named)
    yield from (f"{what}: {port} is no port of the pod" for port in unknown)


def scaling(repo):
    """Only autoscalers set replicas: ingress by CPU, workers by backlog and age, or by CPU."""
    for overlay, manifests in _all(repo):
        for name, deployment in _of(manifests, "Deployment").items():
            if "replicas" in deployment["spec"]:
                yield f"{overlay}: {name}: replicas are set, so every apply would reset them"
        scaled = sorted(one["spec"]["scaleTargetRef"]["name"] for one in _of_list(manifests))
        if scaled != ["tributary-ingress", "tributary-worker"]:
            yield f"{overlay}: {scaled}"


def _of_list(manifests):
    return [one for one in manifests if one["kind"] in ("HorizontalPodAutoscaler", "ScaledObject")]


def monitoring(repo):
    """ServiceMonitors select the services, and have the job names of the alert rules."""
    jobs = set(re.findall(r"tributary-(?:ingress|worker)", repo.text(ALERTS))) or set()
    for overlay, manifests in _all(repo):
        services = _of(manifests, "Service")
        found = set()
        for monitor in _of(manifests, "ServiceMonitor").values():
            labels = monitor["spec"]["selector"]["matchLabels"].items()
            chosen = [
                name
                for name, one in services.items()
                if labels <= one["metadata"].get("labels", {}).items()
            ]
            found.update(chosen)
            ports = {port["name"] for name in chosen for port in services[name]["spec"]["ports"]}
            for endpoint in monitor["spec"]["endpoints"]:
                if len(chosen) != 1 or endpoint["port"] not in ports:
                    yield f"{overlay}: {monitor['metadata']['name']}: {chosen}, {endpoint}"
        if found != {"tributary-ingress", "tributary-worker"} or not jobs <= found:
            yield f"{overlay}: jobs {found}"


CHECKS = (derived, schemas, pods, references, scaling, monitoring)
