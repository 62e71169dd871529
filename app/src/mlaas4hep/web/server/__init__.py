"""The training API and its page: upload a folder, submit a training, follow it, fetch its model."""

from mlaas4hep.web.server.app import create_app, serve

__all__ = ["create_app", "serve"]
