"""The errors Impasto raises. Each text names the thing, its value and the remedy: it is all that the person sees."""


class ImpastoError(Exception):
    """Base of every error that a person can mend."""


class NameRefused(ImpastoError):
    """A name given in a widget would leave its root, or is not usable as a file name."""


class SettingsError(ImpastoError):
    """A setting is out of its range or contradicts another."""


class DatasetError(ImpastoError):
    """A dataset, its source or its configuration cannot be used as it is."""


class ModelError(ImpastoError):
    """A model's weights are missing, of another architecture, or unreadable."""


class FeatureError(ImpastoError):
    """Cached latents or text embeddings are missing, incomplete or of another shape."""


class TrainingError(ImpastoError):
    """Training could not start, go on or finish. What was saved before is kept."""


class CaptionError(ImpastoError):
    """A captioner cannot be used as it is, or had to stop. What it said before is in the ledger."""
