"""A stream of results, which any thread may end."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeVar

from glance_fast.errors import ConfigError, ImageError

Item = TypeVar("Item")


class Feed(Protocol):
    """What a stream reads: `Source`, `Prefetch` or `Latest`."""

    @property
    def dropped(self) -> int: ...

    def close(self) -> None: ...


class Stream(Iterator[Item]):
    """An iterator of results in the order of their images; `Engine.stream` makes it.

    It ends with its source, after an error, and when it is closed: by `close`, by leaving a `with` block, or with its
    last reference. Then the source is closed too, if it is a generator or has another method `close`.

    `check` is called before each result.
    """

    def __init__(self, results: Iterator[Item], feed: Feed, check: Callable[[], None] = lambda: None) -> None:
        self._results, self._feed, self._check = results, feed, check
        self._process = os.getpid()

    @property
    def dropped(self) -> int:
        """With `latest`: images that were replaced by newer ones before they were scored."""
        return self._feed.dropped

    def __next__(self) -> Item:
        self._check()
        try:
            return next(self._results)
        except StopIteration:
            raise
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Stream[Item]:
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """End the stream and close its source; any thread may call it, at any time.

        Images that are being scored are waited for. So is the source, for a second: if it does not return within it, it
        is closed as soon as it does.
        """
        if os.getpid() == self._process:  # a forked child has neither the threads nor, perhaps, free locks
            self._feed.close()


def check_stream(images: object, ahead: object, latest: bool) -> None:
    """Raise ImageError for a single image in place of a stream, and ConfigError for impossible settings."""
    iterable = hasattr(type(images), "__iter__") or hasattr(type(images), "__getitem__")
    if not iterable or isinstance(images, (str, os.PathLike)) or getattr(images, "ndim", 1) in (0, 2, 3):
        raise ImageError(
            f"a stream takes images, and got a single {type(images).__name__}; give a list or an iterator of images, "
            "or use Engine.score"
        )
    if not isinstance(ahead, int) or ahead < 0 or (ahead and latest):
        raise ConfigError(
            f"ahead={ahead!r} with latest={latest!r} was requested; legal are ahead=0 and more images, and latest=True "
            "with ahead=0"
        )
