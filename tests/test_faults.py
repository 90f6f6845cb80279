"""Every file that a small job writes, damaged in every way, and the job queued again.

It heals and comes to the same weights and samples, or says which file is damaged and what to do, and doing that is
enough to come to the same; never to another result in silence. `IMPASTO_LONG=1` tries every way with every file.

The user's own files are not among them: another picture, `metadata.jsonl` or base model is another job, by design.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from impasto.errors import ImpastoError
from impasto.files import remove

from .small_job import SmallJob, Stopped, write_inputs

LONG = bool(os.environ.get("IMPASTO_LONG"))
SEED = 20261130
BUDGET = 35.0  # seconds of CPU for the sample of a short run
LONGEST = 60.0  # seconds that a job of under a second may take before it counts as hanging
# What is gone without a trace by nature: a file of samples that somebody deleted, and the empty file that says of a
# stopped run's checkpoint that it was not measured; its step then has no sample. The LoRAs are the same in both.
LEAVES_OUT_A_SAMPLE = re.compile(r"remove .*(/samples/.*|/by-stop)")
GOOD = ("healed", "told", "left out and told")
REMEDY = re.compile(r"\b([Dd]elete|[Qq]ueue|[Rr]eplace|[Ll]oad|[Cc]hoose|[Ss]et|[Ff]ree)\b")


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def flip(file: Path, at: float = 0.5) -> None:
    """One bit, as a bad disk or bad memory does."""
    content = bytearray(file.read_bytes())
    content[int(len(content) * at)] ^= 4
    file.write_bytes(content)


def flip_header(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[8 + int.from_bytes(content[:8], "little") // 2] ^= 4
    file.write_bytes(content)


def flip_early(file: Path) -> None:
    flip(file, 0.2)


def flip_late(file: Path) -> None:
    flip(file, 0.9)


def faults_of(file: Path) -> list[Callable[[Path], None]]:
    if not file.stat().st_size:
        return [remove]
    header = [flip_header] if file.suffix == ".safetensors" else []
    return [cut, empty, flip, *header, flip_early, flip_late, remove]


@dataclass(frozen=True)
class Case:
    """A fault of one file, on the disk as it was when training had stopped half-way or when all was done.

    Attributes:
        linked: whether hard links are still links, so that the fault is in each of a file's names.
    """

    snapshot: Path
    file: str
    fault: Callable[[Path], None]
    linked: bool

    def __str__(self) -> str:
        links = ", linked" if self.linked else ""
        return f"{self.snapshot.name}: {self.fault.__name__} {self.file}{links}"


def copied(source: Path, target: Path, links: bool) -> None:
    command = ["cp", "-R", "--preserve=timestamps,mode" + ",links" * links]
    subprocess.run([*command, str(source), str(target)], check=True)


@pytest.fixture(scope="module")
def job(tmp_path_factory) -> SmallJob:
    folder = tmp_path_factory.mktemp("faults")
    return SmallJob(write_inputs(folder / "inputs"), folder / "disk")


@pytest.fixture(scope="module")
def snapshots(job) -> dict[Path, dict[str, torch.Tensor]]:
    """The disk half-way and at the end; what the job came to is the same without and with a stop."""
    folder = job.disk.parent
    uninterrupted = SmallJob(job.inputs, folder / "uninterrupted").queue()
    with pytest.raises(Stopped):
        job.queue(stop_after=2)
    copied(job.disk, folder / "half-way", links=True)
    came_to = job.queue()
    assert same(came_to, uninterrupted)
    copied(job.disk, folder / "finished", links=True)
    return {folder / name: came_to for name in ("half-way", "finished")}


def same(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> bool:
    return found.keys() == wanted.keys() and all(torch.equal(found[key], wanted[key]) for key in wanted)


def all_cases(snapshots) -> list[Case]:
    cases = []
    for snapshot in snapshots:
        for file in sorted(path for path in snapshot.rglob("*") if path.is_file()):
            place = file.relative_to(snapshot).as_posix()
            links = (False, True) if file.stat().st_nlink > 1 else (False,)
            cases += [Case(snapshot, place, fault, linked) for fault in faults_of(file) for linked in links]
    return cases


def sampled(cases: list[Case]) -> list[Case]:
    """All of them in a long run; else first one of each snapshot's kinds of files, then one of each kind's faults."""
    if LONG:
        return cases
    random.Random(SEED).shuffle(cases)
    kinds: dict[tuple, Case] = {}
    faults: dict[tuple, Case] = {}
    for case in cases:
        # Pictures, latents and texts are named by their content, and one is as good as another.
        file = Path(case.file)
        kind = case.snapshot, file.parent, re.sub(r"[0-9a-f]{16,}", "", file.name)
        kinds.setdefault(kind, case)
        faults.setdefault((*kind, case.fault), case)
    return list(dict.fromkeys([*kinds.values(), *faults.values()]))


def outcome(job: SmallJob, case: Case, wanted: dict[str, torch.Tensor]) -> str:
    """How the job ended, one of `GOOD`; else what must not be, in a sentence."""
    shutil.rmtree(job.disk)
    copied(case.snapshot, job.disk, case.linked)
    damaged = job.disk / case.file
    names = [file for file in job.disk.rglob("*") if file.samefile(damaged)]
    case.fault(damaged)
    try:
        return compared(job, case, wanted)
    except ImpastoError as error:
        text = str(error)
    if not REMEDY.search(text) or not any(str(place) in text for place in (damaged.parent, *names)):
        return f"neither the file nor a remedy is named: {text}"
    follow(text, job.disk)
    try:
        found = compared(job, case, wanted)
    except ImpastoError as error:
        return f"what was said does not help: {text} Then: {error}"
    return "told" if found in GOOD or found.startswith("left out") else f"{found} after what was said: {text}"


def compared(job: SmallJob, case: Case, wanted: dict[str, torch.Tensor]) -> str:
    """Queue the job; raises errors of ours only."""
    with warnings_of("impasto") as warned:
        try:
            found = job.queue()
        except ImpastoError:
            raise
        except Exception as error:
            return f"no error of ours: {type(error).__name__}: {error}"
    if same(found, wanted):
        return "healed"
    left_out = {key.partition(":")[0] for key in wanted.keys() - found.keys()}
    if LEAVES_OUT_A_SAMPLE.search(str(case)):
        left_out = {name for name in left_out if not name.startswith("sample of")}
    if not same(found, {key: tensor for key, tensor in wanted.items() if key in found}):
        return f"another result in silence: {sorted(found.keys() ^ wanted.keys())[:3]}"
    if all(any(name in text and "damaged" in text for text in warned) for name in left_out):
        return "left out and told"  # a LoRA of an earlier step, which nothing can make again
    return f"left out in silence: {left_out}"


@contextlib.contextmanager
def warnings_of(name: str) -> Iterator[list[str]]:
    told: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: told.append(record.getMessage())
    logging.getLogger(name).addHandler(handler)
    try:
        yield told
    finally:
        logging.getLogger(name).removeHandler(handler)


def follow(text: str, disk: Path) -> None:
    """Delete what a person is told to on the job's disk; "it" is what the sentence before is about."""
    for told in re.finditer(r"Delete (.*?)(?:, and queue|\. |\.$)", text):
        paths = re.findall(r"/[^\s,:]+", text[: told.start()])[-1:] if told[1] == "it" else told[1].split()
        for path in (Path(word.strip(",")) for word in paths):
            if disk in path.parents:
                remove(path)


@pytest.fixture
def no_hanging():
    def ring(*_):
        raise TimeoutError("The job hangs.")

    signal.signal(signal.SIGALRM, ring)
    yield lambda: signal.setitimer(signal.ITIMER_REAL, LONGEST)
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)


def test_a_damaged_file_heals_or_is_told_and_never_gives_another_result_in_silence(job, snapshots, no_hanging):
    cases = all_cases(snapshots)
    tried: dict[str, str] = {}
    began = time.process_time()
    for case in sampled(cases):
        if not LONG and time.process_time() - began > BUDGET:
            break
        no_hanging()
        tried[str(case)] = outcome(job, case, snapshots[case.snapshot])
    wrong = {case: found for case, found in tried.items() if found not in GOOD}
    logging.getLogger(__name__).info("%d of %d cases: %s", len(tried), len(cases), Counter(tried.values()))
    assert not wrong, "\n".join(f"{case}: {found}" for case, found in wrong.items())


def test_a_full_and_a_read_only_disk_are_told_and_with_room_again_the_job_comes_to_the_same(job, tmp_path):
    """After each stage, on a file system of the job's own."""
    report = tmp_path / "report.json"
    command = [sys.executable, str(Path(__file__).with_name("full_disk_job.py")), str(tmp_path), str(report)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(["unshare", "-rm", *command], capture_output=True, text=True, env=environment)
    assert report.is_file(), done.stderr
    told = json.loads(report.read_text())
    assert len(told) == 16
    for when, (kinds, text, came_to_the_same) in told.items():
        assert came_to_the_same, (when, text)
        if kinds:  # what needs no room, as a hard link, may do without
            assert "ImpastoError" in kinds and str(tmp_path) in text, (when, kinds, text)
            said = "Free some space" if when.startswith("full") else "Make it writable"
            assert said in text and "[Errno" not in text, (when, text)
    assert sum(bool(kinds) for kinds, *_ in told.values()) >= 12, told
