"""Checks of the Dockerfile, docker-compose.yml and the balancer."""

import fnmatch
import functools
import json
import pathlib
import re
import sys

from repo import duration

# Libraries of the runtime image (distroless/cc).
LIBRARIES = {
    "libc.so.6",
    "libm.so.6",
    "libgcc_s.so.1",
    "linux-vdso.so.1",
    "libdl.so.2",
    "libpthread.so.0",
    "librt.so.1",
}
# Longest delay of an answer by `Prefer: wait`, in seconds.
LONGEST_WAIT = 30


@functools.cache
def _compose(repo, **variables):
    command = ("docker-compose", "--file", "docker-compose.yml", "config", "--format", "json")
    done = repo.run(*command, env=variables)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def _haproxy(repo, key, section=None):
    text = repo.text("deploy/haproxy.cfg")
    if section:
        text = re.search(rf"^{section}\n(.*?)(?=^\S|\Z)", text, re.M | re.S).group(1)
    return re.findall(rf"^ +{key} +(.+)$", text, re.M)


def _instructions(repo):
    joined = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", repo.text("Dockerfile"), flags=re.M))
    return [line.split(None, 1) for line in joined.splitlines() if line.strip()]


def hadolint(repo):
    """hadolint accepts the Dockerfile."""
    yield from repo.run_or_report("hadolint", "Dockerfile")


def dockerfile(repo):
    """Copied files are in the build context; bases are pinned; targets are unprivileged."""
    ignore = repo.text(".dockerignore").splitlines()
    ignore = [line for line in ignore if line and not line.startswith("#")]
    kept = [line[1:] for line in ignore if line.startswith("!")]
    stages, users, signals = {"build"}, [], []
    for instruction, words in _instructions(repo):
        if instruction == "COPY" and "--from" not in words:
            for source in words.split()[:-1]:
                if not pathlib.Path(source).exists():
                    yield f"{source} does not exist"
                included = any(
                    fnmatch.fnmatch(source, one) or source.startswith(f"{one}/") for one in kept
                )
                if ignore[0] != "*" or not included:
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
    copied = {
        words.split()[0].split("/")[0]
        for name, words in _instructions(repo)
        if name == "COPY" and "Cargo.toml " in words
    }
    if not manifests <= copied:
        yield f"workspace members without a manifest in the image: {manifests - copied}"
    if users != ["65532:65532"] or signals != ["SIGTERM"]:
        yield f"users {users}, stop signals {signals}"
    if not {"ingress", "worker", "dlq-tool"} <= stages:
        yield f"targets: {stages}"


def binaries(repo):
    """The binaries need only the libraries of the image and have its health command."""
    # On other systems the binaries are built against other libraries.
    for name in ("ingress", "worker", "dlq-tool") if sys.platform == "linux" else ():
        found = repo.run("ldd", str(repo.binaries / name))
        needed = set(re.findall(r"^\s+(\S+\.so\S*)", found.stdout, re.M))
        needed = {one for one in needed if not one.startswith("/lib")}
        if found.returncode != 0 or not needed or not needed <= LIBRARIES:
            yield f"{name} needs {needed - LIBRARIES or found.stderr}"
    for name in ("ingress", "worker"):
        program = str(repo.binaries / name)
        health = repo.run(program, "health", "--ready", env={"OPS_BIND": "127.0.0.1:1"})
        if health.returncode != 1 or "does not answer" not in health.stdout:
            yield f"{name} health --ready: {health}"


def compose(repo):
    """Docker Compose accepts the file, with and without a PLATFORMS_FILE."""
    plain = _compose(repo)["services"]["ingress"]
    if plain["environment"]["PLATFORMS_FILE"] != "":
        yield "PLATFORMS_FILE is set although there is none"
    example = "./deploy/platforms.example.toml"
    given = _compose(repo, TRIBUTARY_PLATFORMS_FILE=example)["services"]
    for name in ("ingress", "worker"):
        target = given[name]["environment"]["PLATFORMS_FILE"]
        if target not in [volume["target"] for volume in given[name]["volumes"]]:
            yield f"{name}: {target} is not mounted"


def services(repo):
    """Services are pinned, unprivileged, read-only, bounded, health-checked and scalable."""
    for name, service in _compose(repo)["services"].items():
        image = service["image"]
        if ":" not in image or image.endswith(":latest"):
            yield f"{name}: {image} is not pinned by a tag"
        if service.get("user", "0").split(":")[0] in ("0", "root"):
            yield f"{name} runs as root"
        if not service.get("read_only") or service.get("cap_drop") != ["ALL"]:
            yield f"{name}: file system is writable or capabilities are kept"
        if "no-new-privileges:true" not in service.get("security_opt", []):
            yield f"{name} may gain privileges"
        if not service["deploy"]["resources"]["limits"].get("memory"):
            yield f"{name} has no memory limit"
        if not service.get("healthcheck") or service.get("restart") != "unless-stopped":
            yield f"{name}: no health check or no restart policy"
        if "container_name" in service:
            yield f"{name} has a fixed name"
        for port in service.get("ports", []):
            if name != "balancer" and port.get("host_ip") != "127.0.0.1":
                yield f"{name} is published on every interface"
        for volume in service.get("volumes", []):
            if volume["type"] == "bind" and not pathlib.Path(volume["source"]).exists():
                yield f"{name}: {volume['source']} does not exist"
    replicas = {
        name: service["deploy"].get("replicas", 1)
        for name, service in _compose(repo)["services"].items()
    }
    if (replicas["ingress"], replicas["worker"]) != (2, 2):
        yield f"replicas: {replicas}"
    for name in ("ingress", "worker"):
        if _compose(repo)["services"][name].get("ports"):
            yield f"{name} publishes a port, so that it cannot be scaled"


def variables(repo):
    """Every configured variable exists in the code, and env.local is optional."""
    raw = repo.yaml("docker-compose.yml")
    for name in ("ingress", "worker"):
        for variable in raw["services"][name]["environment"]:
            if not repo.is_variable(variable):
                yield f"{name}: the code does not read {variable}"
        if raw["services"][name]["env_file"] != [{"path": "env.local", "required": False}]:
            yield f"{name}: env_file is not the optional env.local"
    for line in repo.text("env.local.example").splitlines():
        variable = re.match(r"#?([A-Z][A-Z0-9_]+)=", line)
        if variable and not repo.is_variable(variable.group(1)):
            yield f"env.local.example: the code does not read {variable.group(1)}"


def drain(repo):
    """Shutdown and proxy timeouts leave enough time to drain and to answer."""
    services = _compose(repo)["services"]
    for name in ("ingress", "worker"):
        grace = duration(services[name]["environment"]["SHUTDOWN_GRACE_MS"])
        if duration(services[name]["stop_grace_period"]) <= grace:
            yield f"{name} is killed before its grace is over"
    hard_stop = duration(*_haproxy(repo, "hard-stop-after"))
    stop_grace = duration(services["balancer"]["stop_grace_period"])
    if stop_grace <= hard_stop or hard_stop <= LONGEST_WAIT:
        yield "the balancer is killed before its requests are answered"
    if duration(_haproxy(repo, "timeout server")[0]) <= LONGEST_WAIT:
        yield "the balancer gives up before ingress answers"
    constant = r"\b{}: Duration = Duration::from_secs\((\d+)\)"
    seconds = lambda name: int(re.search(constant.format(name), repo.source).group(1))
    default = r'variable\(\s*"{}",.*?millis\(([\d_]+),'
    millis = lambda name: re.search(default.format(name), repo.source, re.S).group(1)
    body_timeout = millis("BODY_TIMEOUT_MS").replace("_", "")
    if duration(_haproxy(repo, "timeout client")[0]) <= duration(body_timeout) + seconds("LATE_READ_TIME"):
        yield "the balancer ends a slow body before ingress answers"
    if duration(_haproxy(repo, "timeout http-request")[0]) != seconds("HEAD_TIMEOUT"):
        yield "the balancer's timeout for request heads differs from that of ingress"
    keep_alive = millis("KEEP_ALIVE_MS").replace("_", "")
    if duration(_haproxy(repo, "timeout http-keep-alive")[0]) >= duration(keep_alive):
        yield "the balancer keeps an idle connection longer than ingress"
    if _haproxy(repo, "errorfile") != ["408 /dev/null"]:
        yield "the balancer answers a late request head, which ingress does not"
    if _haproxy(repo, "retry-on") != ["conn-failure"]:
        yield "the balancer may send a request twice"


def ports(repo):
    """Configured addresses match the services and their ports."""
    services = _compose(repo)["services"]
    port = lambda service, variable: services[service]["environment"][variable].rsplit(":", 1)[1]
    expected = {
        ("ingress", "OPS_BIND"): "9100",
        ("worker", "OPS_BIND"): "9101",
        ("ingress", "INGRESS_BIND"): "8000",
    }
    for (service, variable), default in expected.items():
        if port(service, variable) != default:
            yield f"{service} {variable} is not the documented default"
    for job in repo.yaml("deploy/prometheus/prometheus.yml")["scrape_configs"]:
        for discovery in job.get("dns_sd_configs", []):
            for name in discovery["names"]:
                ops_port = port(name, "OPS_BIND")
                if str(discovery["port"]) != ops_port or job["job_name"] != f"tributary-{name}":
                    yield f"prometheus.yml: wrong port or name of {job}"
    for backend in ("backend ready", "backend unready"):
        servers = f"ingress- 16 ingress:{port('ingress', 'INGRESS_BIND')}"
        if _haproxy(repo, "server-template", backend) != [servers]:
            yield f"{backend}: wrong servers"
        check = f"check port {port('ingress', 'OPS_BIND')} "
        if check not in _haproxy(repo, "default-server", backend)[0]:
            yield f"{backend}: wrong port of the health check"
        path = re.search(r"uri (\S+)", _haproxy(repo, "http-check send", backend)[0]).group(1)
        if f'"{path}"' not in repo.source:
            yield f"{backend}: ingress has no {path}"
    published, = services["balancer"]["ports"]
    if [f":{published['target']}"] != _haproxy(repo, "bind", "frontend webhooks"):
        yield "balancer: wrong published port"
    statistics, = _haproxy(repo, "bind", "frontend operations")
    if f"balancer{statistics}" not in repo.text("deploy/prometheus/prometheus.yml"):
        yield "prometheus.yml: wrong port of the balancer"
    if f"127.0.0.1{statistics}/live" not in services["balancer"]["healthcheck"]["test"][-1]:
        yield "balancer: wrong port of the health check"
    provisioning = "deploy/grafana/provisioning"
    source, = repo.yaml(f"{provisioning}/datasources/prometheus.yaml")["datasources"]
    if source["url"] != "http://prometheus:9090" or "prometheus" not in services:
        yield "grafana: wrong data source"
    provider, = repo.yaml(f"{provisioning}/dashboards/tributary.yaml")["providers"]
    mounts = {volume["target"]: volume["source"] for volume in services["grafana"]["volumes"]}
    if not pathlib.Path(mounts[provider["options"]["path"]], "tributary.json").exists():
        yield "grafana: the dashboard is not mounted"


def data(repo):
    """Redis is durable, and only ingress and workers reach Redis and PostgreSQL."""
    whole = _compose(repo)
    services = whole["services"]
    settings = dict(re.findall(r"^(\S+) (\S+)$", repo.text("deploy/redis.conf"), re.M))
    wanted = {
        "appendonly": "yes",
        "appendfsync": "always",
        "maxmemory-policy": "noeviction",
    }
    if not wanted.items() <= settings.items():
        yield f"redis.conf: not durable: {settings}"
    command = services["redis"]["command"]
    if command[1] not in [volume["target"] for volume in services["redis"]["volumes"]]:
        yield "redis: its configuration is not mounted"
    maxmemory = command[command.index("--maxmemory") + 1]
    if int(re.match(r"(\d+)mb", maxmemory).group(1)) > 0.72 * 1024:
        yield "redis: no memory left for rewriting the log"
    if any(name in wanted for name in (word.removeprefix("--") for word in command)):
        yield "redis: the command overrides redis.conf"
    if not whole["networks"]["data"].get("internal"):
        yield "the network of Redis and PostgreSQL is not internal"
    for name, service in services.items():
        networks = set(service["networks"])
        if name in ("redis", "postgres"):
            allowed = networks == {"data"}
        else:
            allowed = "data" not in networks or name in ("ingress", "worker")
        if not allowed:
            yield f"{name}: networks {networks}"
    for name in ("ingress", "worker"):
        if services[name]["environment"]["DURABILITY"] != "strict":
            yield f"{name}: DURABILITY is not strict"


def haproxy(repo):
    """HAProxy accepts its configuration without a warning."""
    done = repo.run("haproxy", "-c", "-f", "deploy/haproxy.cfg")
    if done.returncode != 0 or "WARNING" in done.stderr or "ALERT" in done.stderr:
        yield f"{done.stdout}{done.stderr}"


CHECKS = (
    hadolint,
    dockerfile,
    binaries,
    compose,
    services,
    variables,
    drain,
    ports,
    data,
    haproxy,
)
