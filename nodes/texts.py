"""What every node is held to with regard to texts: that none of ours stops the server from which it is shown, and that
what a disk refuses is told in words.

ComfyUI writes an error to its console in the one thread that runs all prompts. What that console cannot encode would
end the thread, and the queue with it.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from comfy_api.latest import io

from ..errors import DatasetError, ImpastoError, SettingsError, encodable
from ..files import disk_error
from ..texts import cleaned

SHOWN = 40  # characters around the one that cannot be written


def keep_consoles_writing() -> None:
    """Have the console show an escape for what its encoding lacks (a Windows code page has no Chinese), as Python's
    own standard error does; ComfyUI's raises. That holds for texts of libraries too."""
    for stream in (sys.stdout, sys.stderr):
        if getattr(stream, "errors", "") == "strict" and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _as_it_is(output: Any, inputs: Mapping[str, Any]) -> Any:
    return output


def guard(
    node: type[io.ComfyNode],
    admitted: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict,
    completed: Callable[[Any, Mapping[str, Any]], Any] = _as_it_is,
) -> None:
    """Have `execute` get texts without what no word has (`texts.cleaned`), and give outputs that every file can hold.

    Args:
        admitted: gives back the inputs that `execute` gets, or raises (see `admission`).
        completed: gives back the output that ComfyUI gets, for these inputs (see `results`).

    Raises (the guarded `execute`):
        SettingsError: an input is nested deeper than Python can follow.
        DatasetError: a name on disk that is not UTF-8 was about to be written somewhere.
        DiskError: the disk is full or read-only, or a file may not be used.
    """
    execute = node.execute.__func__
    if hasattr(execute, "__wrapped__"):
        return

    @functools.wraps(execute)
    def guarded(cls, *values: Any, **inputs: Any) -> io.NodeOutput:
        with _told_in_words():
            given = admitted(_cleaned(inputs))
            return _encodable_output(completed(execute(cls, *_cleaned(values), **given), given))

    @functools.wraps(execute)
    async def guarded_async(cls, *values: Any, **inputs: Any) -> io.NodeOutput:
        with _told_in_words():
            given = admitted(_cleaned(inputs))
            return _encodable_output(completed(await execute(cls, *_cleaned(values), **given), given))

    node.execute = classmethod(guarded_async if inspect.iscoroutinefunction(execute) else guarded)


@contextlib.contextmanager
def _told_in_words() -> Iterator[None]:
    try:
        yield
    except ImpastoError:
        raise
    except RecursionError as error:
        raise SettingsError("An input is nested too deeply to be read. Take out some of its levels.") from error
    except UnicodeEncodeError as error:
        around = error.object[max(0, error.start - SHOWN) : error.end + SHOWN]
        raise DatasetError(
            f"A name on disk is not UTF-8 and cannot be written: '{around}'. Rename that file or folder."
        ) from error
    except Exception as error:
        if told := disk_error(error):  # who wrote it may not have known
            raise told from error
        raise


def _cleaned(value: Any) -> Any:
    """Every text in plain containers cleaned; a container without anything to clean stays the same object.

    Values are not compared: what two tensors give is no yes or no.
    """
    if type(value) is str:
        return cleaned(value)
    if type(value) in (list, tuple):
        parts = [_cleaned(part) for part in value]
        return value if all(new is old for new, old in zip(parts, value, strict=True)) else type(value)(parts)
    if type(value) is dict:
        pairs = [(_cleaned(key), _cleaned(part)) for key, part in value.items()]
        same = all(
            new is old
            for pair, item in zip(pairs, value.items(), strict=True)
            for new, old in zip(pair, item, strict=True)
        )
        return value if same else dict(pairs)
    return value


def _encodable_output(output: Any) -> Any:
    if isinstance(output, io.NodeOutput):
        output.args = _encodable(output.args)
        output.ui = _encodable(output.ui)
    return output


def _encodable(value: Any) -> Any:
    """Every text in plain containers; what is neither text nor container is left as it is."""
    if type(value) is str:
        return encodable(value)
    if type(value) in (list, tuple):
        return type(value)(map(_encodable, value))
    if type(value) is dict:
        return {_encodable(key): _encodable(part) for key, part in value.items()}
    return value
