"""The smallest programs: files that open in a few milliseconds."""

from __future__ import annotations

import io
import warnings

import torch


class Little(torch.nn.Module):
    """Opens in a few milliseconds."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = torch.nn.Linear(48, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(torch.flatten(x, 1))  # type: ignore[no-any-return]


def scripted() -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # such files will be met for years
        torch.jit.save(torch.jit.trace(Little().eval(), torch.zeros(1, 3, 4, 4)), file)
    return file.getvalue()


def exported() -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(torch.export.export(Little().eval(), (torch.zeros(1, 3, 4, 4),)), file)
    return file.getvalue()
