"""Export a model to OpenVINO, run the export without PyTorch, and compare it with PyTorch.

Run: python examples/04_export_and_run.py parts.model parts

The export lies in the model folder (`parts.model/exports`). The folder with the export is all that another machine
needs, together with the base install of this package: `pip install .` in a checkout, without extras.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from glance_fast import Engine, export_model
from glance_fast.backends.tolerances import relative_error


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    options = parser.parse_args()
    photo = options.data / "test" / "hole" / "000.png"

    record = export_model(options.model, to="openvino", precision="fp32")
    print(f"export: {record}")

    exported = Engine.load(options.model, backend="openvino").score(photo)
    trained = Engine.load(options.model, backend="torch").score(photo)
    difference = relative_error(exported.map, trained.map)
    print(f"OpenVINO {exported.score:.6f}, PyTorch {trained.score:.6f}")
    print(f"maps differ by at most {difference:.1e} of the largest value")

    # "auto", the default, takes the export from now on.
    print(Engine.load(options.model))


if __name__ == "__main__":
    main()
