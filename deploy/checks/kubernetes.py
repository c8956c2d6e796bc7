"""Kubernetes manifests: as kustomize builds them, against the schemas, each other and the code."""

import functools
import os
import pathlib
import re
import shutil
import tempfile

import jsonschema
import kubernetes_validate
import yaml

from place import duration

ALERTS = "deploy/prometheus/alerts.yml"
RULE = "deploy/k8s/components/monitoring/prometheus-rule.yaml"
REDIS = ("deploy/redis.conf", "deploy/k8s/components/redis/redis.conf")
OVERLAYS = ("keda", "hpa")
# The oldest version that has all that is used (a preStop sleep), and the newest that the schemas know.
VERSIONS = ("1.30", kubernetes_validate.latest_version())
# What the operator makes before; base/kustomization.yaml says how.
SECRETS = {
    "tributary-redis": {"REDIS_URL"},
    "tributary-database": {"DATABASE_URL"},
    "tributary-admin": {"ADMIN_TOKEN", "SECRETS_KEY"},
    "tributary-platforms": None,
    "tributary-destinations": None,
}


def _rule(place):
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "tributary"},
        "spec": place.yaml(ALERTS),
    }


def write(place):
    """Makes what is derived from other files."""
    text = yaml.safe_dump(_rule(place), sort_keys=False, width=120, allow_unicode=True)
    pathlib.Path(RULE).write_text(f"# Made from {ALERTS} by `deploy/check --write`; change it there.\n{text}")
    shutil.copyfile(*REDIS)


@functools.cache
def _built(place, overlay, component=None):
    """The manifests of an overlay, with a component added."""
    path = f"deploy/k8s/overlays/{overlay}"
    if component is None:
        done = place.run("kubectl", "kustomize", path)
    else:
        with tempfile.TemporaryDirectory(dir="deploy/k8s") as folder:
            kustomization = {
                "resources": [os.path.relpath(path, folder)],
                "components": [os.path.relpath(f"deploy/k8s/components/{component}", folder)],
            }
            pathlib.Path(folder, "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
            done = place.run("kubectl", "kustomize", folder)
    assert done.returncode == 0, done.stderr
    return [manifest for manifest in yaml.safe_load_all(done.stdout) if manifest]


def _all(place):
    for overlay in OVERLAYS:
        yield overlay, _built(place, overlay)
    yield "keda with redis", _built(place, "keda", "redis")


def _of(manifests, *kinds):
    return {manifest["metadata"]["name"]: manifest for manifest in manifests if manifest["kind"] in kinds}


def _pods(manifests):
    return {
        name: workload["spec"]["template"] for name, workload in _of(manifests, "Deployment", "StatefulSet").items()
    }


def derived(place):
    """The PrometheusRule and the copy of redis.conf are what they are made from."""
    if place.yaml(RULE) != _rule(place):
        yield f"{RULE} differs from {ALERTS}: run deploy/check --write"
    if place.text(REDIS[0]) != place.text(REDIS[1]):
        yield f"{REDIS[1]} differs from {REDIS[0]}: run deploy/check --write"


def schemas(place):
    """Every manifest is valid, strictly, for the oldest and the newest supported version."""
    custom = place.json("deploy/checks/crds.json")
    for name, manifests in _all(place):
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


def pods(place):
    """Pods are unprivileged, read-only, bounded, probed, without a service account's token, and have time to drain."""
    for overlay, manifests in _all(place):
        settings = _of(manifests, "ConfigMap")
        settings = next(one["data"] for name, one in settings.items() if name.startswith("tributary-settings-"))
        for name, template in _pods(manifests).items():
            spec, what = template["spec"], f"{overlay}: {name}"
            context = spec["securityContext"]
            if not context["runAsNonRoot"] or not context["runAsUser"] or context["seccompProfile"]["type"] != "RuntimeDefault":
                yield f"{what}: {context}"
            if spec["automountServiceAccountToken"] or spec["enableServiceLinks"]:
                yield f"{what}: token or service links"
            for container in spec["containers"]:
                own = container["securityContext"]
                if own["allowPrivilegeEscalation"] or not own["readOnlyRootFilesystem"] or own["capabilities"] != {"drop": ["ALL"]}:
                    yield f"{what}: {own}"
                if "memory" not in container["resources"]["limits"] or set(container["resources"]["requests"]) != {"cpu", "memory"}:
                    yield f"{what}: resources"
                if ":" not in container["image"] or container["image"].endswith(":latest"):
                    yield f"{what}: {container['image']} is not pinned"
                for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                    yield from _probe(place, what, container, probe)
                if name != "tributary-redis":
                    pause = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
                    if spec["terminationGracePeriodSeconds"] <= pause + duration(settings["SHUTDOWN_GRACE_MS"]):
                        yield f"{what}: is killed before its grace is over"
                    yield from _environment(place, what, container)


def _probe(place, what, container, probe):
    named = {port["name"] for port in container["ports"]}
    asks = container[probe].get("httpGet") or container[probe].get("tcpSocket")
    if asks and asks["port"] not in named:
        yield f"{what}: {probe} asks a port that is not there"
    if asks and "path" in asks:
        expected = "/ready" if probe == "readinessProbe" else "/live"
        if asks["path"] != expected or f'"{expected}"' not in place.source:
            yield f"{what}: {probe} asks {asks['path']}"


def _environment(place, what, container):
    given = {one["name"]: one for one in container["env"]}
    yield from (f"{what}: the code reads no {name}" for name in given if not place.is_variable(name))
    bound = {port["containerPort"] for port in container["ports"]}
    set_to = {int(one["value"].rsplit(":", 1)[1]) for name, one in given.items() if name.endswith("_BIND")}
    if bound != set_to:
        yield f"{what}: ports {bound}, but it listens on {set_to}"


def references(place):
    """Every name that a manifest refers to exists: secrets, settings, services, ports, selectors, targets."""
    documented = place.text("deploy/k8s/base/kustomization.yaml")
    for overlay, manifests in _all(place):
        pods, services = _pods(manifests), _of(manifests, "Service")
        maps, accounts = _of(manifests, "ConfigMap"), _of(manifests, "ServiceAccount")
        for name, template in pods.items():
            spec = template["spec"]
            if spec.get("serviceAccountName", "default") not in (*accounts, "default"):
                yield f"{overlay}: {name}: service account"
            for volume in spec.get("volumes", []):
                if volume["configMap"]["name"] not in maps:
                    yield f"{overlay}: {name}: {volume}"
            for container in spec["containers"]:
                for one in container.get("env", []):
                    secret = one.get("valueFrom", {}).get("secretKeyRef")
                    if secret and secret["key"] not in (SECRETS.get(secret["name"]) or ()):
                        yield f"{overlay}: {name}: nobody is told to make {secret}"
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
                yield from (f"the code reads no {one}" for one in settings["data"] if not place.is_variable(one))
                mounts = [one["mountPath"] for one in pods["tributary-worker"]["spec"]["containers"][0]["volumeMounts"]]
                if os.path.dirname(settings["data"]["PLATFORMS_FILE"]) not in mounts:
                    yield f"{overlay}: PLATFORMS_FILE is not mounted"
        for service in services.values():
            yield from _selects(overlay, service, service["spec"]["selector"], pods, service["spec"]["ports"], "targetPort")
        for policy in _of(manifests, "NetworkPolicy").values():
            ports = [port for rule in policy["spec"]["ingress"] for port in rule["ports"]]
            yield from _selects(overlay, policy, policy["spec"]["podSelector"]["matchLabels"], pods, ports, "port")
        for budget in _of(manifests, "PodDisruptionBudget").values():
            yield from _selects(overlay, budget, budget["spec"]["selector"]["matchLabels"], pods, [], "")
        for scaler in _of(manifests, "HorizontalPodAutoscaler", "ScaledObject").values():
            if scaler["spec"]["scaleTargetRef"]["name"] not in _of(manifests, "Deployment"):
                yield f"{overlay}: {scaler['metadata']['name']} scales nothing"
            for trigger in scaler["spec"].get("triggers", []):
                yield from (f"no metric {one}" for one in place.unknown_metrics(trigger["metadata"]["query"]))


def _selects(overlay, manifest, labels, pods, ports, key):
    what = f"{overlay}: {manifest['kind']} {manifest['metadata']['name']}"
    chosen = [pod for pod in pods.values() if labels.items() <= pod["metadata"]["labels"].items()]
    if len(chosen) != 1:
        yield f"{what} selects {len(chosen)} workloads"
        return
    named = {port["name"] for container in chosen[0]["spec"]["containers"] for port in container["ports"]}
    yield from (f"{what}: {port[key]} is no port of the pod" for port in ports if port[key] not in named)


def scaling(place):
    """Replicas are the autoscalers' alone: ingress by CPU; workers by backlog and age, or by CPU."""
    for overlay, manifests in _all(place):
        for name, deployment in _of(manifests, "Deployment").items():
            if "replicas" in deployment["spec"]:
                yield f"{overlay}: {name}: replicas are set, and would be set back by every apply"
        scaled = sorted(one["spec"]["scaleTargetRef"]["name"] for one in _of_list(manifests))
        if scaled != ["tributary-ingress", "tributary-worker"]:
            yield f"{overlay}: {scaled}"


def _of_list(manifests):
    return [one for one in manifests if one["kind"] in ("HorizontalPodAutoscaler", "ScaledObject")]


def monitoring(place):
    """ServiceMonitors find the services, and make the jobs that the alert rules know."""
    jobs = set(re.findall(r"tributary-(?:ingress|worker)", place.text(ALERTS))) or set()
    for overlay, manifests in _all(place):
        services = _of(manifests, "Service")
        found = set()
        for monitor in _of(manifests, "ServiceMonitor").values():
            labels = monitor["spec"]["selector"]["matchLabels"].items()
            chosen = [name for name, one in services.items() if labels <= one["metadata"].get("labels", {}).items()]
            found.update(chosen)
            for endpoint in monitor["spec"]["endpoints"]:
                if len(chosen) != 1 or endpoint["port"] not in {port["name"] for port in services[chosen[0]]["spec"]["ports"]}:
                    yield f"{overlay}: {monitor['metadata']['name']}: {chosen}, {endpoint}"
        if found != {"tributary-ingress", "tributary-worker"} or not jobs <= found:
            yield f"{overlay}: jobs {found}"


CHECKS = (derived, schemas, pods, references, scaling, monitoring)
