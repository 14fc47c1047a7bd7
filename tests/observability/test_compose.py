"""deploy/compose.yaml: what the programs accept, with the engine and the database out of reach."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from pydantic import BaseModel

from learner.__main__ import parser as learner_parser
from server.config import Config, EngineConfig
from server.engine.launcher import Device, command_line, environment

ROOT: Final = Path(__file__).resolve().parents[2]
DEPLOY: Final = ROOT / "deploy"
ONE_SHOT: Final = {"prepare"}
PRIVATE: Final = {"engine", "postgres"}


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text())


def test_all_parts_are_there(compose: dict[str, Any]) -> None:
    assert {"server", "engine", "learner", "postgres", "prometheus", "grafana"} | ONE_SHOT == set(compose["services"])


def test_images_are_targets_of_the_dockerfile_or_pinned(compose: dict[str, Any]) -> None:
    """What is built has its stage; what is pulled has a version."""
    stages = set(re.findall(r"^FROM \S+ AS (\w+)$", (ROOT / "Dockerfile").read_text(), re.M))
    for name, service in compose["services"].items():
        if "build" in service:
            assert service["build"]["target"] in stages, name
            assert (DEPLOY / service["build"]["context"] / "Dockerfile").is_file()
        else:
            assert re.search(r":v?\d", service["image"]), name


def test_what_the_dockerfile_copies_is_there() -> None:
    for line in re.findall(r"^COPY (.*)$", (ROOT / "Dockerfile").read_text(), re.M):
        *sources, _ = line.split()
        assert all((ROOT / source).exists() for source in sources), line


def test_settings_exist_and_make_a_configuration(
    compose: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each PLUMBLINE_* variable of server and Dockerfile names a setting, and together they are accepted."""
    in_image = re.findall(r"(PLUMBLINE_\w+)=(\S+)", (ROOT / "Dockerfile").read_text())
    values = {**dict(in_image), **compose["services"]["server"]["environment"]}
    for name, value in values.items():
        assert is_setting(name.removeprefix("PLUMBLINE_").lower().split("__")), name
        monkeypatch.setenv(name, re.sub(r"\$\{[^}]*\}", "x" * 32, value))
    config = Config()
    assert config.http.require_keys
    assert config.engine.urls == ("http://engine:8000",)
    assert str(config.store.directory) == "/state"


def is_setting(path: list[str]) -> bool:
    section: Any = Config
    for name in path:
        if not (isinstance(section, type) and issubclass(section, BaseModel)) or name not in section.model_fields:
            return False
        section = section.model_fields[name].annotation
    return True


def test_the_learner_takes_its_arguments(compose: dict[str, Any]) -> None:
    service = compose["services"]["learner"]
    assert service["entrypoint"] == ["python", "-m", "learner"]
    options = learner_parser().parse_args(service["command"])
    assert options.server == "http://server:8400"
    assert "PLUMBLINE_KEY" in service["environment"]


def test_the_engine_is_started_as_the_launcher_starts_one(compose: dict[str, Any]) -> None:
    """Flag for flag, value for value; and with the same variables."""
    service = compose["services"]["engine"]
    config = EngineConfig(model=model_of(compose))
    ours = flags(command_line(config, Device.CUDA, 8000, Config().chat.max_images)[1:])
    theirs = flags([*service["entrypoint"][1:], *service["command"]])
    assert theirs.pop("--host") == ["0.0.0.0"]
    ours.pop("--host")
    assert theirs == ours
    variables = environment(config, Device.CUDA, Path("/state/adapters"), {}, 1)
    assert service["environment"] == variables | {"HF_HUB_OFFLINE": "1"}


def model_of(compose: dict[str, Any]) -> str:
    return str(compose["services"]["server"]["environment"]["PLUMBLINE_ENGINE__MODEL"])


def flags(command: list[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    words = [part for word in command for part in (word.split("=", 1) if word.startswith("--") else [word])]
    name = ""
    for word in words:
        if word.startswith("--"):
            name = word
            found[name] = []
        else:
            found.setdefault(name, []).append(word)
    return found


def test_model_and_adapters_are_where_all_look_for_them(compose: dict[str, Any]) -> None:
    """Server, engine and learner have the model under one path; the engine sees adapters, and no other state."""
    for name in ("server", "engine", "learner"):
        assert any(str(one).endswith(f":{model_of(compose)}:ro") for one in compose["services"][name]["volumes"]), name
    (adapters,) = [one for one in compose["services"]["engine"]["volumes"] if isinstance(one, dict)]
    assert (adapters["source"], adapters["target"], adapters["read_only"]) == ("state", "/state/adapters", True)
    assert adapters["volume"] == {"subpath": "adapters"}
    assert "prepare" in compose["services"]["engine"]["depends_on"]


def test_engine_and_database_are_private(compose: dict[str, Any]) -> None:
    """No port, and only networks without a way out. What has a port has it on loopback."""
    internal = {name for name, one in compose["networks"].items() if one.get("internal")}
    for name, service in compose["services"].items():
        if name in PRIVATE:
            assert "ports" not in service
            assert set(service["networks"]) <= internal, name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
    assert "engine" not in compose["services"]["learner"]["networks"]


def test_services_reach_those_that_they_name(compose: dict[str, Any]) -> None:
    """Two that speak with each other share a network; Prometheus' targets are services at their ports."""
    services = compose["services"]
    speaking = [("server", "engine"), ("server", "postgres"), ("learner", "server"), ("grafana", "prometheus")]
    scraped = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())["scrape_configs"]
    targets = {one["job_name"]: one["static_configs"][0]["targets"][0] for one in scraped}
    assert targets["plumbline"] == f"server:{services['server']['environment']['PLUMBLINE_HTTP__METRICS_PORT']}"
    assert targets["vllm"] == "engine:8000"
    speaking += [("prometheus", "server"), ("prometheus", "engine")]
    for one, other in speaking:
        assert set(services[one]["networks"]) & set(services[other]["networks"]), (one, other)


def test_everything_that_runs_is_watched(compose: dict[str, Any]) -> None:
    """A health check of its own, the image's, or, of the learner, the heartbeat's alert."""
    for name, service in compose["services"].items():
        assert "healthcheck" in service or service["build"]["target"] == "server", name
        waits = service.get("depends_on", {})
        for other, how in waits.items():
            assert how["condition"] in {"service_healthy", "service_completed_successfully"}
            assert other in compose["services"]
    assert "HEALTHCHECK" in (ROOT / "Dockerfile").read_text()


def test_files_and_variables_are_there(compose: dict[str, Any]) -> None:
    """Mounted files exist, volumes and networks are declared, and env.example names every variable."""
    text = (DEPLOY / "compose.yaml").read_text()
    assert set(re.findall(r"\$\{(\w+)", text)) == set(re.findall(r"^(\w+)=", example(), re.M))
    for service in compose["services"].values():
        for mount in service.get("volumes", []):
            source = mount["source"] if isinstance(mount, dict) else mount.split(":")[0]
            if source.startswith("./"):
                assert (DEPLOY / source).is_dir(), source
            elif not source.startswith("$"):
                assert source in compose["volumes"], source
        assert set(service.get("networks", [])) <= set(compose["networks"])


def test_no_secret_is_written_down(compose: dict[str, Any]) -> None:
    """Passwords and keys come from the environment alone."""
    for service in compose["services"].values():
        for name, value in service.get("environment", {}).items():
            if re.search(r"PASSWORD|SECRET|KEY|STORE__URL", name):
                assert re.search(r"\$\{\w+", value), name
    assert all(not value for value in re.findall(r"^\w*(?:PASSWORD|SECRET|KEY)\w*=(.*)$", example(), re.M))


def example() -> str:
    return (DEPLOY / "env.example").read_text()
