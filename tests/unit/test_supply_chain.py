"""What comes from others: pinned, hashed, with a reason and a licence, and audited."""

import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT
from tools import audit, licences
from tools.audit import Findings, requirements

SOURCES = [*ROOT.glob("layers/common/*.in"), *ROOT.glob("tools/requirements/*.in")]
WORKFLOWS = sorted(ROOT.glob(".github/workflows/*.yml"))
FILES = requirements()
"""Every requirements file."""


def entries(file: Path) -> list[str]:
    """What a requirements file asks for, an entry with all its hashes in a line."""
    lines = file.read_text().replace("\\\n", " ").splitlines()
    return [line for line in lines if line.strip() and not line.startswith("#")]


# Requirements


def test_every_file_that_something_is_installed_from_is_compiled_from_one_that_says_why() -> None:
    """overrides.txt installs nothing: it lifts the pin of another package."""
    found = {*ROOT.glob("layers/common/*.txt"), *ROOT.glob("tools/requirements/*.txt")}
    assert found == {*FILES, ROOT / "tools/requirements/overrides.txt"}
    assert {file.with_suffix(".in") for file in FILES} == {*SOURCES}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_each_package_is_pinned_with_hashes_and_from_no_particular_registry(file: Path) -> None:
    """Whoever serves it, it is what was looked at."""
    assert entries(file)
    for entry in entries(file):
        assert re.fullmatch(r"[\w.-]+==[\w.!+]+( ; [^#]+?)?( +--hash=sha256:[0-9a-f]{64})+ *", entry), entry
    assert "://" not in file.read_text()


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: file.name)
def test_each_package_that_is_asked_for_has_a_reason_and_is_in_the_compiled_file(file: Path) -> None:
    """Beside it."""
    pinned = {re.split("==", entry)[0] for entry in entries(file.with_suffix(".txt"))}
    for entry in entries(file):
        if not entry.startswith("-"):
            name, _, reason = entry.partition("#")
            assert reason.strip(), f"{entry}: why?"
            assert re.split(r"[\[=<>]", name.strip())[0].lower() in {one.lower() for one in pinned}


def test_every_file_is_compiled_by_a_command_after_those_that_it_is_held_to() -> None:
    """`make pins`, so that whoever answers a vulnerability need not find out how."""
    printed = subprocess.run(["make", "-n", "pins"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    [listed] = re.findall(r"for file in (.*); do", printed)
    order = listed.split()
    assert sorted(order) == sorted(str(source.relative_to(ROOT)) for source in SOURCES)
    for place, name in enumerate(order):
        held_to = re.findall(r"^-[cr] (\S+)\.(?:in|txt)$", (ROOT / name).read_text(), re.MULTILINE)
        before = {(ROOT / one).with_suffix("") for one in order[:place]}
        assert {(ROOT / name).parent.joinpath(one).resolve() for one in held_to} <= before


def test_what_the_client_needs_is_bounded_and_audited_with_the_rest() -> None:
    """It is a library, and so does not pin; the version that it is tested with is in the development environment."""
    [needed] = tomllib.loads((ROOT / "client/pyproject.toml").read_text())["project"]["dependencies"]
    assert needed == "httpx>=0.27,<1"
    assert "httpx" in licences.pinned(ROOT / "tools/requirements/dev.txt")


# Licences


def test_the_page_of_licences_is_what_the_packages_say() -> None:
    """`make licences` writes it."""
    assert licences.PAGE.read_text() == licences.page()


def test_every_layer_is_on_the_page() -> None:
    """Also one that comes later."""
    assert set(licences.LAYERS) == {file.name for file in ROOT.glob("layers/common/*.txt")}


def test_the_versions_that_ship_are_those_whose_licences_were_read() -> None:
    """The development environment has the layers' packages, in the same versions."""
    development = licences.pinned(ROOT / "tools/requirements/dev.txt")
    for file in ROOT.glob("layers/common/*.txt"):
        shipped = licences.pinned(file)
        assert shipped.items() <= development.items()


def test_no_licence_of_what_ships_asks_anything_of_the_programs_that_use_it() -> None:
    """Permissive ones, and the MPL of a list of certificates; the GPL and its kin are for tests alone, if at all."""
    known = {
        "MIT",
        "MIT-0",
        "BSD-3-Clause",
        "BSD",
        "PSF-2.0",
        "Public Domain",
        "MPL-2.0",
        "Apache License 2.0",
        "Apache-2.0",
    }
    for package in licences.shipped():
        assert {*re.split(" or ", licences.licence(package), flags=re.IGNORECASE)} <= known, package


# Known vulnerabilities


FLAW = Findings(audited=3, vulnerable=["stripe 1.0: CVE-2026-1, fixed in 1.1"])
CLEAN = Findings(audited=3)
SILENCE = Findings(unknown=["stripe"])


@pytest.mark.parametrize(
    ("findings", "arguments", "code"),
    [
        (CLEAN, [], 0),
        (FLAW, [], 1),
        (FLAW, ["--allow-unanswered"], 1),
        (Findings(audited=2, unknown=["mystery"]), [], 1),
        (SILENCE, [], 3),
        (SILENCE, ["--allow-unanswered"], 0),
    ],
)
def test_an_audit_fails_for_a_flaw_or_an_unknown_package_and_where_nobody_answers_unless_that_is_allowed(
    findings: Findings, arguments: list[str], code: int
) -> None:
    """Every file of requirements is asked about; one flaw in any of them is enough."""
    asked: list[Path] = []

    def ask(file: Path) -> Findings:
        asked.append(file)
        return findings if file == FILES[-1] or findings is SILENCE else CLEAN

    assert audit.main(arguments, ask) == code
    assert asked == FILES or findings is SILENCE


@pytest.mark.parametrize("arguments", [[], ["--allow-unanswered"]])
def test_a_flaw_that_was_found_before_the_service_went_silent_fails_the_audit(arguments: list[str]) -> None:
    """That the rest is not known makes it no better."""
    assert audit.main(arguments, lambda file: FLAW if file == FILES[0] else SILENCE) == 1


def test_an_audit_that_nobody_answered_says_so_and_claims_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """A package that a service does not know is not one without flaws."""
    audit.main(["--allow-unanswered"], lambda _: SILENCE)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "NOT AUDITED" in printed.err


# The public forge


def workflow(file: Path) -> dict[Any, Any]:
    """A workflow."""
    parsed: dict[Any, Any] = yaml.safe_load(file.read_text())
    return parsed


def test_actions_are_pinned_by_their_commits() -> None:
    """A tag can be moved to another commit; the version is beside it, for whoever reads."""
    assert WORKFLOWS
    for file in WORKFLOWS:
        used = re.findall(r"uses:(.*)", file.read_text())
        assert used
        for one in used:
            assert re.fullmatch(r" [\w.-]+/[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", one), one


def steps(file: Path) -> Iterator[dict[str, Any]]:
    """The steps of all jobs."""
    for job in workflow(file)["jobs"].values():
        yield from job["steps"]


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.name)
def test_a_workflow_may_read_and_has_no_secrets(file: Path) -> None:
    """Nor does what it runs get at the credentials of the checkout."""
    assert workflow(file)["permissions"] == {"contents": "read"}
    assert not [job for job in workflow(file)["jobs"].values() if "permissions" in job]
    assert "secrets" not in re.sub(r"#.*", "", file.read_text())
    for step in steps(file):
        if "checkout" in step.get("uses", ""):
            assert step["with"]["persist-credentials"] is False


def of_ci_run() -> set[str]:
    """What .ci/run makes."""
    lines = re.findall(r"^make (.*)", (ROOT / ".ci/run").read_text(), re.MULTILINE)
    return {word for line in lines for word in line.split() if re.fullmatch(r"[a-z][a-z-]*", word)}


def test_the_public_forge_does_all_that_ci_run_does_and_an_audit_must_be_answered_there() -> None:
    """By the commands that people have."""
    assert {"lint", "test", "build", "audit"} <= of_ci_run()
    commands = [step["run"] for step in steps(ROOT / ".github/workflows/ci.yml") if "run" in step]
    assert sorted(commands) == sorted(f"make {target}" for target in {*of_ci_run(), "sbom"})
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {command.split()[1] for command in commands} <= targets


def test_the_tests_of_the_public_forge_have_the_history() -> None:
    """That of upgrades takes the release before out of it, and the checkout leaves no credentials to fetch more."""
    checkout, *_, last = workflow(ROOT / ".github/workflows/ci.yml")["jobs"]["test"]["steps"]
    assert last == {"run": "make test"}
    assert checkout["with"]["fetch-depth"] == 0


def test_new_versions_are_proposed_for_every_place_that_pins() -> None:
    """Requirements, the client and actions."""
    updates = workflow(ROOT / ".github/dependabot.yml")["updates"]
    places = {(one["package-ecosystem"], place) for one in updates for place in one.get("directories", ["/"])}
    folders = {f"/{file.parent.relative_to(ROOT)}" for file in FILES} | {"/client"}
    assert places == {("pip", folder) for folder in folders} | {("github-actions", "/")}
