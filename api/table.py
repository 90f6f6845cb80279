"""The routes there are, one row each."""

from __future__ import annotations

from .routing import PREFIX, Query, Route

_RUN = f"{PREFIX}/runs/{{run_id}}"
_LIMIT = Query("limit", "At most so many.", 1_000, 1, 1_000)
_AFTER = Query("after", "The last step that is known already.", -1, -1, 2**31)
_LINES = Query("lines", "At most so many.", 100, 1, 1_000)
_OFFSET = Query("offset", "Pictures that are passed over.", 0, 0, 2**31)
_PAGE = Query("limit", "At most so many.", 100, 1, 500)
_REFUSED = Query("refused", "1: those that were refused, instead.", 0, 0, 1)
_SIDE = Query("side", "Pixels of the longer side.", 192, 16, 1536)

ROUTES = (
    Route(
        "GET", f"{PREFIX}/runs", "runs.listed", "The training runs, that which was trained last first.", query=(_LIMIT,)
    ),
    Route("GET", _RUN, "runs.described", "How far a run is, and what it has made."),
    Route("GET", f"{_RUN}/metrics", "runs.metrics", "Loss and learning rate of its steps.", query=(_AFTER,)),
    Route("GET", f"{_RUN}/log", "runs.log", "The last lines of its log.", query=(_LINES,)),
    Route("GET", f"{_RUN}/files/{{file:.+}}", "runs.file", "A file that it has made.", media="*/*"),
    Route("POST", f"{_RUN}/save", "requests.save", "Has its trainer save and measure this step.", statuses=(202,)),
    Route("POST", f"{_RUN}/sample", "requests.sample", "Has its trainer draw the samples now.", statuses=(202,)),
    Route("POST", f"{_RUN}/finish", "requests.finish", "Has its trainer make this step the last.", statuses=(202,)),
    Route(
        "POST", f"{_RUN}/stop", "requests.stop", "Has its trainer save and stop, to be gone on with.", statuses=(202,)
    ),
    Route("GET", f"{PREFIX}/datasets", "datasets.listed", "The datasets, that which was changed last first."),
    Route(
        "GET",
        f"{PREFIX}/datasets/{{name}}",
        "datasets.described",
        "Its pictures and captions, a page at a time.",
        query=(_OFFSET, _PAGE, _REFUSED),
    ),
    Route(
        "GET",
        f"{PREFIX}/datasets/{{name}}/thumbnails/{{picture}}",
        "datasets.small_picture",
        "A small copy.",
        query=(_SIDE,),
        media="image/jpeg",
    ),
    Route("GET", f"{PREFIX}/sources", "sources.listed", "The sources of paintings that are known by name."),
    # From pictures to a LoRA; the work is done by nodes, through ComfyUI's queue.
    Route(
        "POST",
        f"{PREFIX}/download-images",
        "preparing.download_images",
        "Makes a dataset of the pictures at these URLs.",
        body="DownloadImages",
        answer="Downloaded",
        statuses=(200, 202),
    ),
    Route(
        "POST",
        f"{PREFIX}/caption-images",
        "preparing.caption_images",
        "Captions a dataset.",
        body="CaptionImages",
        answer="CaptionsGiven",
        statuses=(200, 202),
    ),
    Route(
        "POST",
        f"{PREFIX}/create-dataset-config",
        "preparing.create_dataset_config",
        "Writes the dataset config that training reads.",
        body="CreateDatasetConfig",
        answer="Configured",
        statuses=(200, 202),
    ),
    Route("POST", f"{PREFIX}/train", "training.train", "Trains a LoRA on a dataset.", body="Train", answer="Started"),
    Route(
        "POST",
        f"{PREFIX}/run",
        "training.run_all",
        "From URLs, a folder, paintings of WikiArt or a dataset to a LoRA, in one call.",
        body="RunAll",
        answer="Started",
    ),
    Route(
        "POST",
        f"{_RUN}/continue",
        "continuing.go_on",
        "Has a run go on that was stopped or lost, or a finished one train for more steps.",
        body="Continue",
        answer="Started",
    ),
    Route("GET", f"{PREFIX}/status/{{run_id}}", "status.status", "How far a job or a run is.", answer="HowItStands"),
    Route(
        "GET",
        f"{_RUN}/events",
        "status.events",
        "The same each time that it has changed, until it has ended, as server-sent events.",
        media="text/event-stream",
    ),
    Route(
        "POST",
        f"{PREFIX}/jobs/{{job_id}}/cancel",
        "status.cancel",
        "Takes a job out of the queue, or has it stop; a training saves first.",
        answer="Cancelled",
    ),
    Route("GET", f"{PREFIX}/health", "health.health", "Devices, memory, queue and versions."),
    Route("GET", f"{PREFIX}/openapi.json", "openapi.document", "This interface, as an OpenAPI 3.1 document."),
    Route("GET", f"{_RUN}/grids", "grids.described", "The pictures of its grids, cell by cell."),
    Route("POST", f"{_RUN}/delete", "removal.remove", "Deletes its folder; published LoRAs stay.", body="Remove"),
    Route("GET", f"{PREFIX}/datasets/{{name}}/measurements", "filtering.measured", "What its pictures measure."),
    Route(
        "POST",
        f"{PREFIX}/datasets/{{name}}/refused",
        "filtering.refused",
        "What other thresholds would refuse.",
        body="TryThresholds",
    ),
    Route(
        "POST",
        f"{PREFIX}/captions/check",
        "captions.checked",
        "Tokens and doubts of captions; keeps nothing.",
        body="CheckCaptions",
    ),
)
