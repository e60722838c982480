"""What the numbers of every benchmark depend on beside the code."""

import platform
from pathlib import Path
from typing import Any


def machine() -> dict[str, Any]:
    """Return the processor, the system and the interpreter; each benchmark adds the packages that it measures."""
    cpuinfo = Path("/proc/cpuinfo").read_text().splitlines()
    return {
        "cpu": next((line.split(":", 1)[1].strip() for line in cpuinfo if line.startswith("model name")), "unknown"),
        "cores": sum(line.startswith("processor") for line in cpuinfo),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }
