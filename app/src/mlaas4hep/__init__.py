"""MLaaS4HEP: machine learning as a service for high-energy physics."""

__version__ = "0.1.0"
