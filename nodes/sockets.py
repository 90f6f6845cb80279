"""The pack's socket types. What travels on them is small, frozen and serialisable (paths, ids, settings)."""

from comfy_api.latest import io

Dataset = io.Custom("IMPASTO_DATASET")  # dataset.records.Dataset
DatasetConfig = io.Custom("IMPASTO_DATASET_CONFIG")  # dataset.config_writer.DatasetConfig
Prompts = io.Custom("IMPASTO_PROMPTS")  # tuple of prompting.prompt_set.Prompt
Features = io.Custom("IMPASTO_FEATURES")  # trainers.features.index.Features
Training = io.Custom("IMPASTO_TRAINING")  # trainers.settings.Settings
Run = io.Custom("IMPASTO_RUN")  # trainers.run.folder.Run
Captioner = io.Custom("IMPASTO_CAPTIONER")  # captioners.captioner.Captioner
PictureGrid = io.Custom("IMPASTO_PICTURE_GRID")  # rendering.picture_grid.PictureGrid
