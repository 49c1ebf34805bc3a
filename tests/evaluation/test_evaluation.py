"""Evaluation: metrics of scores chosen here; the files are complete and refer to no others."""

from __future__ import annotations

import base64
import csv
import io
import json
import os
import re
import shutil
import sys
import tracemalloc
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console

from glance_fast.commands.tables import evaluation_table
from glance_fast.data.text import printable
from glance_fast.errors import DataError, ImageError, SaveError
from glance_fast.evaluation import array_file, pixel_pool
from glance_fast.evaluation.evaluate import evaluate
from glance_fast.evaluation.galleries import PICTURE_BYTES, Galleries, Gallery, Picture, _shown, jpeg
from glance_fast.evaluation.report import render_report, write_report
from glance_fast.evaluation.results import Evaluation, ImageScore, ScoredSample
from tests.helpers.images import save_image

BACKGROUND = 100
SQUARE = (slice(10, 20), slice(12, 24))


@dataclass(frozen=True)
class FakeResult:
    """Result of the fake engine."""

    score: float
    map: NDArray[np.float32]
    threshold: float
    pixel_threshold: float

    @property
    def is_anomalous(self) -> bool:
        return self.score > self.threshold

    @property
    def p_value(self) -> float:
        return 0.5 if self.score < self.threshold else 0.05


@dataclass
class FakeEngine:
    """Its map is the distance of a pixel from the background, over the background; its score is the maximum."""

    threshold: float = 0.55
    pixel_threshold: float = 0.5
    shapes: list[tuple[int, ...]] = field(default_factory=list)

    def score(self, img: NDArray[np.uint8], /) -> FakeResult:
        self.shapes.append(img.shape)
        values = (np.abs(img.mean(-1) - BACKGROUND) / BACKGROUND).astype(np.float32)
        return FakeResult(round(float(values.max()), 4), values, self.threshold, self.pixel_threshold)


def add(folder: Path, defect: str, name: str, percent: int, masked: bool = True) -> None:
    """A test picture with a square `percent` above the background, and a mask of exactly that square."""
    pixels = np.full((37, 45, 3), BACKGROUND, np.uint8)
    pixels[SQUARE] = BACKGROUND + percent
    save_image(folder / "test" / defect / f"{name}.png", pixels)
    if defect != "good" and masked:
        mask = np.zeros((37, 45), np.uint8)
        mask[SQUARE] = 255
        save_image(folder / "ground_truth" / defect / f"{name}_mask.png", mask)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three normal images with scores 0.1, 0.2, 0.6; cracks 0.5, 0.9; holes 0.3, 0.7, 0.8."""
    folder = tmp_path / "tiles"
    for defect, scores in {"good": (10, 20, 60), "crack": (50, 90), "hole": (30, 70, 80)}.items():
        for index, percent in enumerate(scores):
            add(folder, defect, f"{index:03d}", percent)
    return folder


def test_image_metrics_are_those_of_the_chosen_scores(data: Path) -> None:
    result = evaluate(FakeEngine(), data, None, progress=False)
    assert result.image_auroc == pytest.approx(13 / 15)
    assert result.f1_max == pytest.approx(10 / 11) and result.f1_threshold == pytest.approx(0.3)
    assert result.false_alarm_rate == pytest.approx(1 / 3) and result.detection_rate == pytest.approx(3 / 5)
    assert (result.threshold, result.pixel_threshold, result.data) == (0.55, 0.5, "tiles")


def test_every_class_is_compared_with_all_normal_images(data: Path) -> None:
    crack, hole = evaluate(FakeEngine(), data, None, progress=False).defects
    assert (crack.defect, crack.images, hole.defect, hole.images) == ("crack", 2, "hole", 3)
    assert crack.image_auroc == pytest.approx(5 / 6) and hole.image_auroc == pytest.approx(8 / 9)
    assert crack.detection_rate == pytest.approx(1 / 2) and hole.detection_rate == pytest.approx(2 / 3)


def test_pixel_metrics_are_those_of_the_chosen_maps(data: Path) -> None:
    result = evaluate(FakeEngine(), data, None, progress=False)
    assert result.pixel is not None and result.defects[0].pixel_auroc is not None
    square, pixels = 10 * 12, 37 * 45
    negatives = 3 * pixels + 5 * (pixels - square)
    lost = 2 * square  # marked pixels, of the 0.3 hole and the 0.5 crack, below a normal square of 0.6
    assert result.pixel.auroc == pytest.approx(1 - lost * square / (5 * square * negatives))
    assert result.pixel.f1_max == pytest.approx(10 / 11) and result.pixel.f1_threshold == pytest.approx(0.3)
    negatives = 3 * pixels + 2 * (pixels - square)
    assert result.defects[0].pixel_auroc == pytest.approx(1 - square / (2 * negatives))
    assert 0.9 < result.pixel.aupro < 1


def test_perfect_maps_have_perfect_metrics(data: Path) -> None:
    (data / "test" / "good" / "002.png").unlink()
    result = evaluate(FakeEngine(), data, None, progress=False)
    assert result.pixel is not None and result.image_auroc == 1 and result.f1_max == 1
    assert result.pixel.auroc == pytest.approx(1) and result.pixel.aupro == pytest.approx(1)


def test_without_masks_there_are_no_pixel_metrics(tmp_path: Path) -> None:
    for defect, percent in (("good", 5), ("crack", 40)):
        add(tmp_path, defect, "000", percent, masked=False)
    result = evaluate(FakeEngine(), tmp_path, tmp_path / "out", progress=False)
    assert result.pixel is None and result.defects[0].pixel_auroc is None and result.defects[0].aupro is None
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text())["pixel"] is None
    assert "Pixel AUROC</span>" not in (tmp_path / "out" / "report.html").read_text()


def test_every_image_is_scored_once_after_one_warm_up_and_timed(data: Path) -> None:
    engine = FakeEngine()
    timing = evaluate(engine, data, None, progress=False).timing
    assert len(engine.shapes) == 8 + 1 and set(engine.shapes) == {(37, 45, 3)}
    assert timing.images == 8 and 0 < timing.median_ms <= timing.p95_ms and timing.images_per_second > 0


def test_the_files_contain_the_evaluation(data: Path, tmp_path: Path) -> None:
    output = tmp_path / "new" / "folder"
    result = evaluate(FakeEngine(), data, output, progress=False)
    assert sorted(path.name for path in output.iterdir()) == ["evaluation.json", "report.html", "scores.csv"]
    written = json.loads((output / "evaluation.json").read_text())
    assert written["image_auroc"] == result.image_auroc and written["defects"][1]["defect"] == "hole"
    rows = list(csv.DictReader(io.StringIO((output / "scores.csv").read_text())))
    assert list(rows[0]) == ["path", "defect", "score", "p_value", "is_anomalous"]
    assert {row["path"]: float(row["score"]) for row in rows} == {image.path: image.score for image in result.images}
    assert {row["path"] for row in rows if row["is_anomalous"] == "True"} == {
        "test/good/002.png", "test/crack/001.png", "test/hole/001.png", "test/hole/002.png"
    }  # fmt: skip


class Textures(FakeEngine):
    """Maps of many distinct values; the image's first pixel chooses the score."""

    def score(self, img: NDArray[np.uint8], /) -> FakeResult:
        values = np.random.default_rng(img.size).random(img.shape[:2], np.float32)
        return FakeResult(float(img[0, 0, 0]), values, self.threshold, self.pixel_threshold)


def peak_of_evaluation(folder: Path, count: int) -> int:
    """Peak of the memory that an evaluation of `count` images of each kind allocates, in bytes."""
    for defect in ("good", "crack"):
        pixels = np.full((400, 500, 3), BACKGROUND, np.uint8)
        mask = np.zeros((400, 500), np.uint8)
        mask[100:200, 100:200] = 255
        for index in range(count):
            save_image(folder / "test" / defect / f"{index}.png", pixels)
            if defect == "crack":
                save_image(folder / "ground_truth" / defect / f"{index}_mask.png", mask)
    tracemalloc.start()
    try:
        evaluate(Textures(), folder, None, progress=False)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_number_of_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(array_file, "MEMORY", 2**18)
    monkeypatch.setattr(pixel_pool, "BATCH", 2**16)
    monkeypatch.setattr(pixel_pool, "BLOCK", 2**14)
    few, many = (peak_of_evaluation(tmp_path / str(count), count) for count in (4, 16))
    one_map = 400 * 500 * 4
    assert few > one_map and many - few < one_map / 2, "24 more maps would take 19 MB"


def test_maps_go_to_a_file_without_a_name_in_the_output_folder(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(array_file, "MEMORY", 1)
    output, open_files = tmp_path / "out", list[str]()

    class Watches(FakeEngine):
        def score(self, img: NDArray[np.uint8], /) -> FakeResult:
            open_files.extend(os.readlink(path) for path in Path("/proc/self/fd").iterdir() if path.exists())
            assert {path.name for path in output.iterdir()} == {".lock"}
            return super().score(img)

    evaluate(Watches(), data, output, progress=False)
    if sys.platform == "linux":
        assert any(name.startswith(f"{output}/") and name.endswith("(deleted)") for name in open_files)


def test_without_room_for_the_maps_nothing_is_scored(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(array_file, "MEMORY", 1)
    (data / "test" / "good" / "000.png").write_bytes(b"no image")  # its size is not known; it is refused when read
    free = 7 * 37 * 45 * 4 - 1
    monkeypatch.setattr("shutil.disk_usage", lambda _: shutil._ntuple_diskusage(free, 0, free))
    engine = FakeEngine()
    with pytest.raises(SaveError, match="need 0.0 GB in .*out until the evaluation ends, and 0.0 GB are free"):
        evaluate(engine, data, tmp_path / "out", progress=False)
    assert engine.shapes == []
    free += 1
    with pytest.raises(ImageError, match="000.png"):
        evaluate(engine, data, tmp_path / "out", progress=False)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["good", "a", "b", "c"]), st.integers(0, 9)), max_size=60))
def test_galleries_of_images_one_at_a_time_are_those_of_all_at_once(rows: list[tuple[str, int]]) -> None:
    images = [ImageScore(str(number), kind, score, 0.5, score > 3) for number, (kind, score) in enumerate(rows)]
    drawn = list[str]()

    def picture(scored: ScoredSample) -> Picture:
        drawn.append(scored.image_score.path)
        return Picture(b"", scored.image_score.path, "")

    galleries = Galleries()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("glance_fast.evaluation.galleries._picture", picture)
        for image in images:
            galleries.add(ScoredSample(None, None, image, None, None, 0.0))  # type: ignore[arg-type]
            assert len(galleries._pictures) <= 18
    shown = [[picture.title for picture in gallery.pictures] for gallery in galleries.galleries(images)]
    assert shown == [[image.path for image in group] for group in _shown(images) if group]
    assert {path for group in shown for path in group} <= set(drawn)


def test_a_mask_of_another_size_is_an_error(data: Path, tmp_path: Path) -> None:
    save_image(data / "ground_truth" / "crack" / "000_mask.png", np.full((37, 44), 255, np.uint8))
    with pytest.raises(DataError, match=r"000_mask\.png"):
        evaluate(FakeEngine(), data, tmp_path / "out", progress=False)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_map_of_another_size_is_an_error(data: Path) -> None:
    class Small(FakeEngine):
        def score(self, img: NDArray[np.uint8], /) -> FakeResult:
            return super().score(img[:-1])

    with pytest.raises(DataError, match=r"000\.png: its mask is bool \[37, 45\] and its map \[36, 45\]"):
        evaluate(Small(), data, None, progress=False)


@pytest.mark.parametrize("kind", ["good", "crack"])
def test_one_kind_of_images_alone_is_an_error(tmp_path: Path, kind: str) -> None:
    add(tmp_path, kind, "000", 30)
    with pytest.raises(DataError):
        evaluate(FakeEngine(), tmp_path, None, progress=False)


def test_an_image_that_cannot_be_scored_is_named(data: Path) -> None:
    class Refuses(FakeEngine):
        def score(self, img: NDArray[np.uint8], /) -> FakeResult:
            if img.max() == 190:
                raise ImageError("too small")
            return super().score(img)

    with pytest.raises(ImageError, match=r"crack/001\.png.*too small"):
        evaluate(Refuses(), data, None, progress=False)


def test_a_score_that_is_no_number_is_an_error(data: Path) -> None:
    class Broken(FakeEngine):
        def score(self, img: NDArray[np.uint8], /) -> FakeResult:
            return replace(super().score(img), score=float("nan"))

    with pytest.raises(ImageError, match="not finite"):
        evaluate(Broken(), data, None, progress=False)


def test_an_output_that_is_a_file_is_an_error_before_anything_is_scored(data: Path, tmp_path: Path) -> None:
    engine = FakeEngine()
    (tmp_path / "out").write_text("kept")
    with pytest.raises(SaveError, match="out"):
        evaluate(engine, data, tmp_path / "out", progress=False)
    assert engine.shapes == [] and (tmp_path / "out").read_text() == "kept"


def test_the_table_has_a_row_per_class_and_prints_names_as_they_are(data: Path) -> None:
    (data / "test" / "hole").rename(data / "test" / "[red]hole")
    (data / "ground_truth" / "hole").rename(data / "ground_truth" / "[red]hole")
    text = io.StringIO()
    Console(file=text, width=120).print(evaluation_table(evaluate(FakeEngine(), data, None, progress=False)))
    assert re.search(r"\[red\]hole\s+3\s+0\.889", text.getvalue())
    assert re.search(r"all\s+5\s+0\.867", text.getvalue()) and "33.3% false alarms" in text.getvalue()


class Elements(HTMLParser):
    """Collects the tags, and every attribute that a browser would follow."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "srcset", "data")]


def test_the_report_refers_to_nothing_outside(data: Path, tmp_path: Path) -> None:
    evaluate(FakeEngine(), data, tmp_path, progress=False)
    text = (tmp_path / "report.html").read_text()
    page = Elements(text)
    images = [link for link in page.links if link.startswith("data:image/jpeg;base64,")]
    assert len(images) == 8  # five lowest defects, three normal; no detection is left to show twice
    assert all(link.startswith(("data:", "#")) for link in page.links)
    assert "http://" not in text and "https://" not in text and "url(" not in text.replace("url(#", "")
    assert not page.tags & {"script", "link", "iframe", "object", "embed", "base"} and "svg" in page.tags
    with Image.open(io.BytesIO(base64.b64decode(images[0].split(",")[1]))) as image:
        assert image.format == "JPEG"


def test_the_report_contains_the_metrics(data: Path, tmp_path: Path) -> None:
    evaluate(FakeEngine(), data, tmp_path, progress=False, title="Tiles & more", metadata={"Ratio": "121 times"})
    text = (tmp_path / "report.html").read_text()
    for piece in (
        "Tiles &amp; more",
        "121 times",
        "0.867",
        "60.0 %",
        "33.3 %",
        "3 of 5",
        "1 of 3",
        "2 of 5 missed",
    ):
        assert piece in text


def test_pictures_of_clear_detections_come_from_every_class(data: Path, tmp_path: Path) -> None:
    for index in range(10):
        add(data, "crack" if index < 9 else "hole", f"9{index:02d}", 100 + index)
    evaluate(FakeEngine(), data, tmp_path, progress=False)
    detections = (tmp_path / "report.html").read_text().split("Clear detections")[1]
    assert "test/crack/908.png" in detections and "test/hole/909.png" in detections and "test/good" not in detections


def test_hostile_names_are_escaped(data: Path, tmp_path: Path) -> None:
    name = "<img src=x onerror=alert(1)>\"'&{{7*7}}\x1b[31m\u202egnp"
    add(data, "<script>alert(1)<", name, 40)
    evaluate(FakeEngine(), data, tmp_path, progress=False, title="</title><script>", metadata={"<b>": "</td><script>"})
    text = (tmp_path / "report.html").read_text()
    assert "<script" not in text and "onerror=alert(1)>" not in text and "<b>:" not in text
    assert "{{7*7}}" in text and "\x1b" not in text and "\u202e" not in text and r"\u202e" in text
    assert "script" not in Elements(text).tags
    rows = list(csv.DictReader(io.StringIO((tmp_path / "scores.csv").read_text())))
    assert f"test/<script>alert(1)</{name}.png" in {row["path"] for row in rows}


def test_a_file_name_that_is_no_text_is_spelled_out(data: Path, tmp_path: Path) -> None:
    (data / "test" / "good" / "000.png").rename(data / "test" / "good" / os.fsdecode(b"caf\xe9.png"))
    evaluate(FakeEngine(), data, tmp_path, progress=False)
    for name in ("scores.csv", "report.html"):
        assert r"test/good/caf\udce9.png" in (tmp_path / name).read_text()


def test_a_name_outside_unicode_is_spelled_out() -> None:
    assert printable("a\udcffb\n<é>") == r"a\udcffb\n<é>"


def test_a_report_with_noise_for_pictures_stays_below_5_mb(data: Path, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (900, 2700, 3), dtype=np.uint8)
    picture = Picture(jpeg(noise), "noise", "")
    assert len(picture.jpeg) <= PICTURE_BYTES
    result = evaluate(FakeEngine(), data, None, progress=False)
    write_report(result, [Gallery("Noise", "", (picture,) * 30)], {}, tmp_path / "deep" / "report.html")
    assert (tmp_path / "deep" / "report.html").stat().st_size < 5_000_000


def test_a_small_picture_keeps_its_size() -> None:
    with Image.open(io.BytesIO(jpeg(np.zeros((7, 17, 3), np.uint8)))) as image:
        assert image.size == (17, 7)


@pytest.mark.parametrize("scores", [[0.5] * 8, [0.1] * 7 + [900.0], [-3.0, *range(7)]])
def test_the_plots_take_any_scores(data: Path, scores: list[float]) -> None:
    result = evaluate(FakeEngine(), data, None, progress=False)
    images = tuple(replace(image, score=score) for image, score in zip(result.images, scores, strict=True))
    changed: Evaluation = replace(result, images=images, threshold=0.5)
    assert render_report(changed, [], {}, "Plots").count("<svg") >= 2
