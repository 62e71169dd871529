"""TFaaS: predictions over HTTP from the models of the repository."""

from mlaas4hep.web.tfaas.app import TFaaS, serve

__all__ = ["TFaaS", "serve"]
