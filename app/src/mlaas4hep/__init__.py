"""MLaaS4HEP: machine learning as a service for high-energy physics."""

import os

# onnxruntime reports to Microsoft, from its import on, unless this is set before.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__version__ = "0.1.0"
