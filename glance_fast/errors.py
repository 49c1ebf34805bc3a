"""The errors a user can meet: each message says what was given, what is legal and what to do next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class GlanceError(Exception):
    """Base class of every error that glance_fast raises on purpose."""


class ConfigError(GlanceError, ValueError):
    """A configuration with an unknown name or an impossible value."""


class ImageError(GlanceError, ValueError):
    """An image that cannot be read or scored."""


class ScoreError(ImageError):
    """An image whose score or map is not finite: it cannot be judged."""


class DataError(GlanceError, ValueError):
    """A data folder that cannot be trained or evaluated on."""


class ModelFolderError(GlanceError, ValueError):
    """A model folder that is damaged, foreign or incomplete."""


class BackendError(GlanceError, RuntimeError):
    """A backend, method or export that cannot run as requested.

    `results`: of a list of images, the results of the first of them, which were finished before the backend broke down.
    """

    results: Sequence[Any] = ()


class MissingDependencyError(GlanceError, ImportError):
    """A package of an optional extra is not installed."""


class SaveError(GlanceError, OSError):
    """A file that cannot be written: a full disk, a missing permission, a folder in the way."""


class TrainingError(GlanceError, RuntimeError):
    """A training run that cannot start, resume or finish."""


def install_hint(extras: str = "") -> str:
    """How to install the packages of `extras` ("train", "gpu,export"), or without extras those that are always needed.

    It names a checkout, as no release can be installed by its name yet.
    """
    package = f"'.[{extras}]'" if extras else "."
    return f"install it with: pip install {package} (in a checkout of glance_fast)"
