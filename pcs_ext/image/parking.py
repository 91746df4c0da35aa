"""Tensors that nobody needs for a while, out of memory and back again, bit for bit."""

import tempfile
import weakref
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from pcs_ext.errors import ResourceError


class Parked:
    """Copies of tensors by name: in the host's memory for those of accelerators, for the others in an unnamed temporary
    file, which is gone with this object or its process.

    The file lies where Python puts temporary ones (TMPDIR, else /tmp); nothing is gained where that is a file system in
    memory.

    Args:
        tensors: dense ones, in any memory format.

    Raises:
        ResourceError: no room for the file.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 (as long as this object)
        weakref.finalize(self, self._file.close)
        self._like = {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors.items()}
        self._on_host: dict[str, Tensor] = {}
        self._devices = {name: tensor.device for name, tensor in tensors.items()}
        for name, tensor in tensors.items():
            if tensor.device.type != "cpu":
                self._on_host[name] = tensor.detach().cpu()
                continue
            try:
                _all(self._file.write, tensor)
            except OSError as error:
                need = sum(t.numel() * t.element_size() for t in tensors.values()) // 2**20
                raise ResourceError(
                    f"weights of {need} MB could not be set aside in {tempfile.gettempdir()} ({error}); free some disk "
                    "there, or name another folder in TMPDIR."
                ) from None

    def tensors(self) -> dict[str, Tensor]:
        """The tensors again, anew in memory: devices and memory formats as they were."""
        self._file.seek(0)
        found = {}
        for name, like in self._like.items():
            if name in self._on_host:
                found[name] = self._on_host[name].to(self._devices[name])
            else:
                found[name] = torch.empty_like(like, device="cpu")
                _all(self._file.readinto, found[name])  # type: ignore[attr-defined]
        return found


def _all(transfer: Callable[[memoryview], int | None], tensor: Tensor) -> None:
    """All bytes of a dense tensor's own memory through `transfer`, which may take several calls."""
    flat = torch.as_strided(tensor.detach(), (tensor.numel(),), (1,), tensor.storage_offset())
    left = flat.view(torch.uint8).numpy().data
    while len(left):
        done = transfer(left)
        if not done:
            raise OSError("a parked tensor was not written or read whole")
        left = left[done:]


class ParkedParameters:
    """Parameters whose memory is given away until `back`; nobody may use them in between."""

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self._parameters = {str(index): parameter for index, parameter in enumerate(parameters)}
        self._parked = Parked({name: parameter.data for name, parameter in self._parameters.items()})
        for parameter in self._parameters.values():
            parameter.data = parameter.data.new_empty(0)

    def back(self) -> None:
        """All of them as they were."""
        for name, tensor in self._parked.tensors().items():
            self._parameters[name].data = tensor
