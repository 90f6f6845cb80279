"""A folder's way to the Hugging Face Hub: only where the server's owner allows it, nothing overwritten unasked, and
what has arrived is not sent again.

The token is the server's own (HF_TOKEN, or `hf auth login`): it is never in a graph, a card, a log or an error.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ImpastoError, SettingsError
from ..files import file_hash
from ..progress import Progress, silent
from ..texts import first_line

PERMISSION = "publish.toml"  # under user/impasto
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
GIT_DIGITS = 40  # of a SHA-1
KINDS = ("model", "dataset", "space")


class PublishError(ImpastoError):
    """The Hub refused, or could not be reached."""


@dataclass(frozen=True)
class Uploaded:
    """Where a folder now lies, and which files had to be sent for that."""

    address: str
    commit: str
    sent: tuple[str, ...]


def check_repository(repository: str) -> str:
    """`repository` stripped, if it is "owner/name".

    Raises:
        SettingsError: it is not.
    """
    name = repository.strip()
    if not _REPOSITORY.fullmatch(name) or ".." in name or "--" in name or name.endswith((".git", ".ipynb", "-", ".")):
        raise SettingsError(
            f"repository is '{repository[:100]}'. Give the owner and a name on the Hugging Face Hub, as in "
            "'my-name/my-style'."
        )
    return name


def check_allowed(repository: str, user_root: Path) -> None:
    """Refuse a repository whose owner is not named in the server's file: a graph may come from a stranger.

    Raises:
        SettingsError: there is no such file, it cannot be read, or it does not name the owner.
    """
    file = user_root / PERMISSION
    allowed = _namespaces(file) if file.is_file() else ()
    owner = repository.partition("/")[0]
    if owner.casefold() not in {name.casefold() for name in allowed}:
        raise SettingsError(
            f"This server may not publish as '{owner}' on the Hugging Face Hub. Its owner can allow it with the line "
            f'namespaces = ["{owner}"] in {file}. The folder is made without that: leave repository empty.'
        )


def _namespaces(file: Path) -> Sequence[str]:
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    try:
        names = tomlkit.parse(file.read_text(encoding="utf-8")).unwrap().get("namespaces", [])
    except (TOMLKitError, UnicodeDecodeError) as error:
        raise SettingsError(f"{file} is not TOML: {error}") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise SettingsError(f'{file} must hold a list of names, as in namespaces = ["my-name"].')
    return names


def upload(
    folder: Path,
    repository: str,
    kind: str = "model",
    private: bool = True,
    replace: bool = False,
    message: str = "Published with Impasto",
    progress: Progress = silent,
    files: Sequence[str] | None = None,
) -> Uploaded:
    """Bring a folder's files to a repository, in one commit behind all that lies there; a new one is made for it.

    Each large file is sent for itself before, so that one that has arrived is not sent again after a break.

    Args:
        kind: of `KINDS`.
        private: what is sent is to be seen by the owner alone: a new repository is made so, and one that is there
            must be.
        replace: files of the same name that have another content there may be replaced. What lies there beside them
            stays.
        files: names within the folder of what is sent; None for all that lies in it.

    Raises:
        SettingsError: there is no token, the repository is public against `private`, or files would be replaced.
        PublishError: the Hub refuses or cannot be reached.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, constants, get_token

    if constants.HF_HUB_OFFLINE:
        raise SettingsError("HF_HUB_OFFLINE is set on this server: nothing is sent to the Hub. The folder is made.")
    token = get_token()
    if not token:
        raise SettingsError(
            "This server has no token of the Hugging Face Hub. Its owner can set HF_TOKEN to one that may write, and "
            "start ComfyUI again."
        )
    api = HfApi(endpoint=constants.ENDPOINT, token=token, library_name="impasto")
    with _told(repository, token):
        api.create_repo(repository, repo_type=kind, private=private, exist_ok=True, **_for(kind))
        info = api.repo_info(repository, repo_type=kind, files_metadata=True)
    if private and not info.private:
        raise SettingsError(
            f"{repository} is public, and private is on: nothing was sent. Turn private off to publish where "
            "everybody sees it, or give another name."
        )
    there, parent = {file.rfilename: _hash_of(file) for file in info.siblings or []}, info.sha
    missing = _missing(_here(folder, files), there, repository, replace)
    address = f"{constants.ENDPOINT}/{'' if kind == 'model' else f'{kind}s/'}{repository}"
    if not missing:
        return Uploaded(address, parent or "", ())
    additions = []
    for done, name in enumerate(missing):
        progress(done, len(missing), f"Sending {name}")
        with _told(repository, token):
            additions.append(CommitOperationAdd(name, str(folder / name)))
            api.preupload_lfs_files(repository, additions[-1:], repo_type=kind)  # small ones it leaves for the commit
    progress(len(missing), len(missing), "Making the commit")
    with _told(repository, token):
        commit = api.create_commit(repository, additions, commit_message=message, repo_type=kind, parent_commit=parent)
    return Uploaded(address, commit.oid, tuple(missing))


@contextlib.contextmanager
def _told(repository: str, token: str) -> Iterator[None]:
    """Tell in words what goes wrong between us and the Hub."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    try:
        yield
    except (HfHubHTTPError, HFValidationError, OfflineModeIsEnabled) as error:
        raise PublishError(_said(error, repository, token)) from None
    except Exception as error:  # the system's, and those of whichever HTTP client huggingface_hub has, share no class
        why = _without(token, first_line(error, type(error).__name__))
        raise PublishError(
            f"{repository}: the Hub could not be reached, or the upload broke off ({why}). Queue again: what has "
            "arrived is not sent again."
        ) from None


def _for(kind: str) -> dict[str, Any]:
    return {"space_sdk": "gradio"} if kind == "space" else {}


def _hash_of(file: Any) -> str:
    """SHA-256 of a large file, git's id of a small one: what the Hub tells."""
    lfs = file.lfs
    if lfs:
        return str(lfs["sha256"] if isinstance(lfs, dict) else lfs.sha256)
    return str(file.blob_id)


def _here(folder: Path, files: Sequence[str] | None) -> dict[str, Path]:
    """Name -> file."""
    if files is not None:
        return {name: folder / name for name in files}
    return {file.relative_to(folder).as_posix(): file for file in sorted(folder.rglob("*")) if file.is_file()}


def _missing(here: dict[str, Path], there: dict[str, str], repository: str, replace: bool) -> list[str]:
    """The files that do not lie there as they are here.

    Raises:
        SettingsError: one of that name does, with another content, and may not be replaced.
    """
    missing = [name for name, file in here.items() if not _is(file, there.get(name))]
    replaced = [name for name in missing if name in there]
    if replaced and not replace:
        raise SettingsError(
            f"{repository} holds other files of these names: {', '.join(replaced)}. Set replace to write over them "
            "(what they were stays in the repository's history), or give another name."
        )
    return missing


def _is(file: Path, known: str | None) -> bool:
    return known is not None and known in (file_hash(file), _git_id(file) if len(known) == GIT_DIGITS else "")


def _git_id(file: Path) -> str:
    """git's id of a blob: SHA-1 of its length and content."""
    content = file.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _said(error: Exception, repository: str, token: str) -> str:
    status = getattr(getattr(error, "response", None), "status_code", None)
    remedy = {
        401: "Set HF_TOKEN to a token that is valid.",
        403: "Set HF_TOKEN to a token that may write there.",
        404: "Check its spelling, and whether the token may write there.",
        409: "Somebody wrote into it meanwhile: queue again.",
        412: "Somebody wrote into it meanwhile: queue again.",
    }.get(status or 0, "Queue again later: what has arrived is not sent again.")
    return f"{repository}: the Hub refused ({_without(token, first_line(error, type(error).__name__))}). {remedy}"


def _without(token: str, text: str) -> str:
    return text.replace(token, "…")
