"""The sources that are offered by name, each of which opens."""

from pathlib import Path

from impasto.api.routing import Call, Places
from impasto.api.table import ROUTES
from impasto.dataset.records import Record, write_manifest
from impasto.embedded.paintings import EMBEDDED_SOURCES, paint_embedded_source, write_wikiart_shards
from impasto.sources.opening import open_source
from impasto.sources.plan import Request


def offered(datasets: Path) -> dict[str, str]:
    route = next(route for route in ROUTES if route.path == "/impasto/sources")
    places = Places(Path("/none"), Path("/none"), (datasets,), Path("/none"))
    return {source["name"]: source["about"] for source in route(Call(places, {}, {})).value["sources"]}


def test_what_is_painted_comes_first_then_the_collections_then_folders_that_are_sources(tmp_path: Path):
    write_manifest(tmp_path / "a dataset of ours", [Record("images/ab.png", "ab" * 32, 8, 8, 100, "a pond")])
    (tmp_path / "empty").mkdir()
    write_wikiart_shards(tmp_path / "my museum", 2)
    painted = list(EMBEDDED_SOURCES)
    assert list(offered(tmp_path)) == [*painted, "huggan/wikiart", "wikiart.org", "my museum"]
    paint_embedded_source((tmp_path,), painted[0])
    told = offered(tmp_path)
    assert list(told) == [*painted, "huggan/wikiart", "wikiart.org", "my museum"] and "Painted" in told[painted[0]]
    for folder in (painted[0], "my museum"):
        open_source((tmp_path,), Request(folder, "a set"))  # or it raises


def test_without_any_folder_there_are_still_sources(tmp_path: Path):
    assert list(offered(tmp_path / "none")) == [*EMBEDDED_SOURCES, "huggan/wikiart", "wikiart.org"]
