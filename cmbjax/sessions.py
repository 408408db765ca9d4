"""ONNX Runtime on the CPU, as the detector and the predictor use it in turns."""

from pathlib import Path
from typing import Any


def open_session(model: Path | bytes) -> Any:
    """Returns an ONNX network as a session; threads may share it.

    Args:
        model: Its file, or what is in it.

    Raises:
        ValueError: ONNX Runtime is not installed.
    """
    try:
        import onnxruntime
    except ImportError:
        raise ValueError(
            "ONNX Runtime is not installed here: pip install onnxruntime"
        ) from None
    options = onnxruntime.SessionOptions()
    # Threads that spin while they wait begin a tenth earlier; once the network is done
    # they would take the cores from the other of two that are asked in turns.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    content = model if isinstance(model, bytes) else str(model)
    return onnxruntime.InferenceSession(
        content, options, providers=["CPUExecutionProvider"]
    )
