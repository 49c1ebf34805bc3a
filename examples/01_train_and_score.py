"""Train a model on normal photographs, then score a normal and a defective one.

Run: python examples/01_train_and_score.py parts parts.model

The photographs are made first if the folder `parts` does not exist. `--effort 1` trains as long as
`glance-fast train` does; the default, a tenth of it, is enough for these photographs.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from part_photos import make_photos

from glance_fast import Engine, Job, train_model
from glance_fast.cli import read_settings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of photographs; made if it does not exist")
    parser.add_argument("model", type=Path, help="model folder to write")
    parser.add_argument("--effort", type=float, default=0.1, help="multiplies the steps of every stage")
    parser.add_argument("--set", action="append", default=[], help="a setting, name=value; may be repeated")
    options = parser.parse_args()
    if not options.data.exists():
        make_photos(options.data)

    # The preset's settings with ours over them, as `glance-fast train --set` reads them. The networks see
    # 128x128 pixels here, which is the size of the photographs.
    settings = ["image_size=[128, 128]", *options.set]
    model_config, train_config = read_settings(None, settings, options.effort, preset="fast")
    job = Job(options.data, options.model, overwrite=True)
    calibration = train_model(job, model_config, train_config)
    print(f"threshold {calibration.threshold:.3f} from {len(calibration.scores)} normal photographs")

    engine = Engine.load(options.model)
    for name in ("test/good/000.png", "test/hole/000.png"):
        result = engine.score(options.data / name)
        verdict = "anomalous" if result.is_anomalous else "normal"
        print(f"{name}: score {result.score:.3f}, p-value {result.p_value:.3f}, {verdict}")
        # The map is float32 in the photograph's own size; the mask is the map above the pixel threshold.
        print(f"  map {result.map.shape}, highest {result.map.max():.3f}, {result.mask.sum()} pixels marked")


if __name__ == "__main__":
    main()
