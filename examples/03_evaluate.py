"""Measure a model on a labelled test set: AUROC, AUPRO, F1-max, and an HTML report.

Run: python examples/03_evaluate.py parts.model parts evaluation
"""

from __future__ import annotations

import argparse
from pathlib import Path

from glance_fast import Engine
from glance_fast.evaluation.evaluate import evaluate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path, help="folder in MVTec AD's layout")
    parser.add_argument("output", type=Path, help="folder for report.html and the figures")
    options = parser.parse_args()

    evaluation = evaluate(Engine.load(options.model), options.data, options.output)
    print(f"image AUROC {evaluation.image_auroc:.3f}")
    if evaluation.pixel is not None:  # None where the test set has no masks
        print(f"pixel AUROC {evaluation.pixel.auroc:.3f}, AUPRO {evaluation.pixel.aupro:.3f}")
    print(f"report: {options.output / 'report.html'}")


if __name__ == "__main__":
    main()
