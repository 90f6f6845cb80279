"""Videos as ComfyUI's own VIDEO type, written frame by frame with the library that ComfyUI writes them with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from comfy_api.latest import InputImpl

from ...files import appearing

if TYPE_CHECKING:
    from PIL.Image import Image

QUALITY = "16"  # x264's crf: 0 is lossless, 18 is about where an eye begins to see a difference


def write_mp4(file: Path, frames: Iterable[Image], frames_per_second: int, texts: Mapping[str, str]) -> None:
    """Encode RGB pictures of one size, whose sides are even, as H.264; memory holds one of them.

    Args:
        texts: the graph, in the tags where core's Save Video puts it.
    """
    import av

    with appearing(file) as temporary:
        options = {"movflags": "use_metadata_tags+faststart"}
        with av.open(str(temporary), mode="w", format="mp4", options=options) as container:
            for key, text in texts.items():
                container.metadata[key] = text
            stream = None
            for picture in frames:
                if stream is None:
                    stream = container.add_stream("h264", rate=Fraction(frames_per_second))
                    stream.width, stream.height = picture.size
                    stream.pix_fmt = "yuv420p"
                    stream.options = {"crf": QUALITY}
                container.mux(stream.encode(av.VideoFrame.from_image(picture)))
            if stream is not None:
                container.mux(stream.encode(None))


def video_of(file: Path) -> InputImpl.VideoFromFile:
    return InputImpl.VideoFromFile(str(file))
