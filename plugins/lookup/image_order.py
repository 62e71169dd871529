"""What to build an image from, as docker/build.py says it."""

from __future__ import annotations

DOCUMENTATION = """
name: image_order
short_description: What to build an image of MLaaS4HEP from
description:
  - Asks docker/build.py of this collection, which also serves C(make images), so that both build
    the same.
options:
  _terms:
    description: Image, such as service.
    type: list
    elements: str
    required: true
  base:
    description: Image to build from.
    type: str
    required: true
  uid:
    description: Number of user and group.
    type: int
    required: true
  ca_bundle:
    description: Text of the certificates that the build and the image trust, in PEM.
    type: str
    default: ""
author: The MLaaS4HEP developers (!UNKNOWN)
"""

EXAMPLES = """
- name: Show the checksum of what the image is built from
  ansible.builtin.debug:
    msg: "{{ lookup('mlaas4hep.stack.image_order', 'tfaas', base='debian:12', uid=64004).labels }}"
"""

RETURN = """
_raw:
  description:
    - The path of the context on the controller (a tar archive, deleted when ansible ends), the name
      of the Dockerfile in it and the stage to build, the build arguments, and the labels by which
      an image tells what it was built from.
  type: list
  elements: dict
"""

import importlib.util
import sys
import tempfile
from pathlib import Path

from ansible import constants
from ansible.errors import AnsibleError
from ansible.plugins.lookup import LookupBase

BUILD = Path(__file__).parents[2] / "docker/build.py"


def load_build():
    """docker/build.py, which is a program beside the collection's Python packages."""
    if not BUILD.is_file():
        raise AnsibleError(
            f"{BUILD} is missing: the images can't be built. Install the collection again, or set"
            " mlaas4hep_images to pull."
        )
    spec = importlib.util.spec_from_file_location("mlaas4hep_build", BUILD)
    build = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = build  # its data classes look themselves up there
    spec.loader.exec_module(build)
    return build


class LookupModule(LookupBase):
    """Lookup of one order an image."""

    def run(self, terms, variables=None, **kwargs):
        """One order for each name."""
        self.set_options(var_options=variables, direct=kwargs)
        build = load_build()
        ca_bundle = self.get_option("ca_bundle")
        try:
            orders = [
                build.order(
                    name,
                    base=self.get_option("base"),
                    uid=self.get_option("uid"),
                    ca_bundle=ca_bundle,
                    keep_ca=bool(ca_bundle),
                )
                for name in terms
            ]
        except (build.BuildError, OSError) as error:
            raise AnsibleError(str(error)) from error
        return [
            {
                "context": self._keep(order.context),
                "dockerfile": order.dockerfile,
                "target": order.target,
                "arguments": dict(order.arguments),
                "labels": dict(order.labels),
            }
            for order in orders
        ]

    def _keep(self, context):
        with tempfile.NamedTemporaryFile(
            dir=constants.DEFAULT_LOCAL_TMP, suffix=".tar", delete=False
        ) as file:
            file.write(context)
        return file.name
