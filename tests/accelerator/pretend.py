"""The device of `pretend.cpp` for PyTorch, as the device `pretend`.

It can be registered once in a process, and before the first backward pass: PyTorch's autograd starts one thread for
each device that is there at that time.
"""

from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch.utils import backend_registration, cpp_extension

NAME = "pretend"


def build(folder: Path) -> Path:
    """Compile the extension into `folder`, unless it is there already; some 15 s."""
    (folder / "lock").unlink(missing_ok=True)  # left by a process that was stopped while compiling
    source = Path(__file__).with_suffix(".cpp")
    made: Any = cpp_extension.load(NAME, str(source), ["-O1"], build_directory=str(folder), is_python_module=False)
    return Path(made)


class _Module(ModuleType):
    """`torch.pretend`, with what PyTorch and the libraries above it ask of a device module."""

    def __init__(self) -> None:
        super().__init__(f"torch.{NAME}")
        self.is_available = lambda: True
        self.is_initialized = lambda: True
        self.device_count = lambda: 1
        self.current_device = lambda: 0
        self.set_device = lambda device: None
        self.synchronize = lambda device=None: None
        self.empty_cache = lambda: None
        self._is_in_bad_fork = lambda: False
        self.manual_seed = self.manual_seed_all = torch.ops.pretend.seed
        self.get_rng_state = lambda device=None: torch.ops.pretend.get_rng_state()
        self.set_rng_state = lambda state, device=None: torch.ops.pretend.set_rng_state(state)
        self.get_amp_supported_dtype = lambda: [torch.float16, torch.bfloat16]
        self.is_bf16_supported = lambda including_emulation=True: True


def register(library: Path) -> None:
    """Make the device known to this process."""
    torch.ops.load_library(library)
    backend_registration.rename_privateuse1_backend(NAME)
    torch._register_device_module(NAME, _Module())
    backend_registration.generate_methods_for_privateuse1_backend(for_storage=True)


def waits() -> dict[str, int]:
    """Times that the host would have waited for a GPU since the last call, by operation."""
    return dict(torch.ops.pretend.waits())
