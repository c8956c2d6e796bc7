"""Dockerfile, docker-compose.yml and the balancer."""

import fnmatch
import functools
import json
import pathlib
import re
import sys

from place import duration

# The libraries of the runtime image (distroless/cc).
LIBRARIES = {"libc.so.6", "libm.so.6", "libgcc_s.so.1", "linux-vdso.so.1", "libdl.so.2", "libpthread.so.0", "librt.so.1"}
# Longest that ingress holds an answer back for `Prefer: wait`, in seconds.
LONGEST_WAIT = 30


@functools.cache
def _compose(place, **variables):
    done = place.run("docker-compose", "--file", "docker-compose.yml", "config", "--format", "json", env=variables)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def _haproxy(place, key, section=None):
    text = place.text("deploy/haproxy.cfg")
    if section:
        text = re.search(rf"^{section}\n(.*?)(?=^\S|\Z)", text, re.M | re.S).group(1)
    return re.findall(rf"^ +{key} +(.+)$", text, re.M)


def _instructions(place):
    joined = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", place.text("Dockerfile"), flags=re.M))
    return [line.split(None, 1) for line in joined.splitlines() if line.strip()]


def hadolint(place):
    """hadolint accepts the Dockerfile."""
    yield from place.complaints("hadolint", "Dockerfile")


def dockerfile(place):
    """What the Dockerfile copies is in the build context; bases are pinned; targets run unprivileged and drain."""
    ignore = [line for line in place.text(".dockerignore").splitlines() if line and not line.startswith("#")]
    kept = [line[1:] for line in ignore if line.startswith("!")]
    stages, users, signals = {"build"}, [], []
    for instruction, words in _instructions(place):
        if instruction == "COPY" and "--from" not in words:
            for source in words.split()[:-1]:
                if not pathlib.Path(source).exists():
                    yield f"{source} does not exist"
                if ignore[0] != "*" or not any(fnmatch.fnmatch(source, one) or source.startswith(f"{one}/") for one in kept):
                    yield f"{source} is not in the build context"
        elif instruction == "FROM":
            image, _, name = words.partition(" AS ")
            if image not in stages and (":" not in image or image.endswith(":latest")):
                yield f"{image} is not pinned by a tag"
            stages.add(name)
        elif instruction == "USER":
            users.append(words)
        elif instruction == "STOPSIGNAL":
            signals.append(words)
    manifests = {f"{path.parent}" for path in pathlib.Path(".").glob("*/Cargo.toml")}
    copied = {words.split()[0].split("/")[0] for name, words in _instructions(place) if name == "COPY" and "Cargo.toml " in words}
    if not manifests <= copied:
        yield f"workspace members without a manifest in the image: {manifests - copied}"
    if users != ["65532:65532"] or signals != ["SIGTERM"]:
        yield f"users {users}, stop signals {signals}"
    if not {"ingress", "worker", "dlq-tool"} <= stages:
        yield f"targets: {stages}"


def binaries(place):
    """The binaries need no library but those of the runtime image, and have the health command that the image asks."""
    # Elsewhere they are built against other libraries than in the image.
    for name in ("ingress", "worker", "dlq-tool") if sys.platform == "linux" else ():
        found = place.run("ldd", str(place.binaries / name))
        needed = set(re.findall(r"^\s+(\S+\.so\S*)", found.stdout, re.M))
        needed = {one for one in needed if not one.startswith("/lib")}
        if found.returncode != 0 or not needed or not needed <= LIBRARIES:
            yield f"{name} needs {needed - LIBRARIES or found.stderr}"
    for name in ("ingress", "worker"):
        asked = place.run(str(place.binaries / name), "health", "--ready", env={"OPS_BIND": "127.0.0.1:1"})
        if asked.returncode != 1 or "does not answer" not in asked.stdout:
            yield f"{name} health --ready: {asked}"


def compose(place):
    """Docker Compose accepts the file, with and without a PLATFORMS_FILE."""
    plain = _compose(place)["services"]["ingress"]
    if plain["environment"]["PLATFORMS_FILE"] != "":
        yield "PLATFORMS_FILE is set although there is none"
    given = _compose(place, TRIBUTARY_PLATFORMS_FILE="./deploy/platforms.example.toml")["services"]
    for name in ("ingress", "worker"):
        target = given[name]["environment"]["PLATFORMS_FILE"]
        if target not in [volume["target"] for volume in given[name]["volumes"]]:
            yield f"{name}: {target} is not mounted"


def services(place):
    """Services are pinned, unprivileged, read-only, bounded, checked, and can be scaled."""
    for name, service in _compose(place)["services"].items():
        image = service["image"]
        if ":" not in image or image.endswith(":latest"):
            yield f"{name}: {image} is not pinned by a tag"
        if service.get("user", "0").split(":")[0] in ("0", "root"):
            yield f"{name} runs as root"
        if not service.get("read_only") or service.get("cap_drop") != ["ALL"]:
            yield f"{name}: file system or capabilities"
        if "no-new-privileges:true" not in service.get("security_opt", []):
            yield f"{name} may gain privileges"
        if not service["deploy"]["resources"]["limits"].get("memory"):
            yield f"{name} has no memory limit"
        if not service.get("healthcheck") or service.get("restart") != "unless-stopped":
            yield f"{name}: health check or restart"
        if "container_name" in service:
            yield f"{name} has a fixed name"
        for port in service.get("ports", []):
            if name != "balancer" and port.get("host_ip") != "127.0.0.1":
                yield f"{name} is published on every interface"
        for volume in service.get("volumes", []):
            if volume["type"] == "bind" and not pathlib.Path(volume["source"]).exists():
                yield f"{name}: {volume['source']} does not exist"
    replicas = {name: service["deploy"].get("replicas", 1) for name, service in _compose(place)["services"].items()}
    if (replicas["ingress"], replicas["worker"]) != (2, 2):
        yield f"replicas: {replicas}"
    for name in ("ingress", "worker"):
        if _compose(place)["services"][name].get("ports"):
            yield f"{name} publishes a port, so that it cannot be scaled"


def variables(place):
    """Every variable that is set exists in the code, and env.local is optional."""
    raw = place.yaml("docker-compose.yml")
    for name in ("ingress", "worker"):
        for variable in raw["services"][name]["environment"]:
            if not place.is_variable(variable):
                yield f"{name}: {variable} is nothing that the code reads"
        if raw["services"][name]["env_file"] != [{"path": "env.local", "required": False}]:
            yield f"{name}: env_file"
    for line in place.text("env.local.example").splitlines():
        variable = re.match(r"#?([A-Z][A-Z0-9_]+)=", line)
        if variable and not place.is_variable(variable.group(1)):
            yield f"env.local.example: {variable.group(1)} is nothing that the code reads"


def drain(place):
    """Everything is given the time that it needs to end in order, and answers have the time that they need."""
    services = _compose(place)["services"]
    for name in ("ingress", "worker"):
        grace = duration(services[name]["environment"]["SHUTDOWN_GRACE_MS"])
        if duration(services[name]["stop_grace_period"]) <= grace:
            yield f"{name} is killed before its grace is over"
    hard_stop, = _haproxy(place, "hard-stop-after")
    if duration(services["balancer"]["stop_grace_period"]) <= duration(hard_stop) or duration(hard_stop) <= LONGEST_WAIT:
        yield "the balancer is killed before its requests are answered"
    if duration(_haproxy(place, "timeout server")[0]) <= LONGEST_WAIT:
        yield "the balancer gives up before ingress answers"
    seconds = lambda name: int(re.search(rf"\b{name}: Duration = Duration::from_secs\((\d+)\)", place.source).group(1))
    body_timeout = re.search(r'"BODY_TIMEOUT_MS", ([\d_]+)', place.source).group(1).replace("_", "")
    if duration(_haproxy(place, "timeout client")[0]) <= duration(body_timeout) + seconds("UNREAD"):
        yield "the balancer ends a slow body before ingress answers it"
    if duration(_haproxy(place, "timeout http-request")[0]) != seconds("HEAD_TIMEOUT"):
        yield "the balancer gives a head another time than ingress"
    keep_alive = re.search(r'"KEEP_ALIVE_MS", ([\d_]+)', place.source).group(1).replace("_", "")
    if duration(_haproxy(place, "timeout http-keep-alive")[0]) >= duration(keep_alive):
        yield "the balancer keeps an idle connection longer than ingress"
    if _haproxy(place, "errorfile") != ["408 /dev/null"]:
        yield "the balancer answers a head that is late, which ingress does not"
    if _haproxy(place, "retry-on") != ["conn-failure"]:
        yield "the balancer may send a request twice"


def ports(place):
    """Addresses in configurations are those of services and of the ports that they listen on."""
    services = _compose(place)["services"]
    port = lambda service, variable: services[service]["environment"][variable].rsplit(":", 1)[1]
    expected = {("ingress", "OPS_BIND"): "9100", ("worker", "OPS_BIND"): "9101", ("ingress", "INGRESS_BIND"): "8000"}
    for (service, variable), default in expected.items():
        if port(service, variable) != default:
            yield f"{service} {variable} is not the documented default"
    for job in place.yaml("deploy/prometheus/prometheus.yml")["scrape_configs"]:
        for discovery in job.get("dns_sd_configs", []):
            for name in discovery["names"]:
                if str(discovery["port"]) != port(name, "OPS_BIND") or job["job_name"] != f"tributary-{name}":
                    yield f"prometheus.yml: {job}"
    for backend in ("backend ready", "backend unready"):
        if _haproxy(place, "server-template", backend) != [f"ingress- 16 ingress:{port('ingress', 'INGRESS_BIND')}"]:
            yield f"{backend}: servers"
        if f"check port {port('ingress', 'OPS_BIND')} " not in _haproxy(place, "default-server", backend)[0]:
            yield f"{backend}: port of the check"
        path = re.search(r"uri (\S+)", _haproxy(place, "http-check send", backend)[0]).group(1)
        if f'"{path}"' not in place.source:
            yield f"{backend}: ingress has no {path}"
    published, = services["balancer"]["ports"]
    if [f":{published['target']}"] != _haproxy(place, "bind", "frontend webhooks"):
        yield "balancer: published port"
    statistics, = _haproxy(place, "bind", "frontend operations")
    if f"balancer{statistics}" not in place.text("deploy/prometheus/prometheus.yml"):
        yield "prometheus.yml: port of the balancer"
    if f"127.0.0.1{statistics}/live" not in services["balancer"]["healthcheck"]["test"][-1]:
        yield "balancer: health check"
    source, = place.yaml("deploy/grafana/provisioning/datasources/prometheus.yaml")["datasources"]
    if source["url"] != "http://prometheus:9090" or "prometheus" not in services:
        yield "grafana: data source"
    provider, = place.yaml("deploy/grafana/provisioning/dashboards/tributary.yaml")["providers"]
    mounts = {volume["target"]: volume["source"] for volume in services["grafana"]["volumes"]}
    if not pathlib.Path(mounts[provider["options"]["path"]], "tributary.json").exists():
        yield "grafana: dashboards"


def data(place):
    """Redis forgets nothing, and only ingress and workers reach Redis and PostgreSQL."""
    whole = _compose(place)
    services = whole["services"]
    settings = dict(re.findall(r"^(\S+) (\S+)$", place.text("deploy/redis.conf"), re.M))
    wanted = {"appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction"}
    if not wanted.items() <= settings.items():
        yield f"redis.conf: {settings}"
    command = services["redis"]["command"]
    if command[1] not in [volume["target"] for volume in services["redis"]["volumes"]]:
        yield "redis: its configuration is not mounted"
    if int(re.match(r"(\d+)mb", command[command.index("--maxmemory") + 1]).group(1)) > 0.72 * 1024:
        yield "redis: no room for rewriting the log"
    if any(name in wanted for name in (word.removeprefix("--") for word in command)):
        yield "redis: the command takes back what redis.conf says"
    if not whole["networks"]["data"].get("internal"):
        yield "the network of Redis and PostgreSQL is open"
    for name, service in services.items():
        networks = set(service["networks"])
        if name in ("redis", "postgres") and networks != {"data"} or "data" in networks and name not in (
            "redis", "postgres", "ingress", "worker"
        ):
            yield f"{name}: networks {networks}"
    if any(services[name]["environment"]["DURABILITY"] != "strict" for name in ("ingress", "worker")):
        yield "durability is not checked"


def haproxy(place):
    """HAProxy accepts its configuration, without a warning."""
    done = place.run("haproxy", "-c", "-f", "deploy/haproxy.cfg")
    if done.returncode != 0 or "WARNING" in done.stderr or "ALERT" in done.stderr:
        yield f"{done.stdout}{done.stderr}"


CHECKS = (hadolint, dockerfile, binaries, compose, services, variables, drain, ports, data, haproxy)
