"""
OpenVINO's libraries, imported without a word to their makers.  The only file that imports them.

Whatever imports OpenVINO reports that over the network, unless its package for reporting is missing.  So it is made to
be missing, for this process: what runs here, and on whose machine, is nobody else's business.
"""

from __future__ import annotations

import sys

sys.modules["openvino_telemetry"] = None  # type: ignore[assignment] # None is how an import is made to fail

import openvino  # noqa: E402 - after the line above
import openvino_genai  # noqa: E402

__all__ = ["openvino", "openvino_genai"]
