"""The doors over HTTP: the training API and its page, and TFaaS."""
