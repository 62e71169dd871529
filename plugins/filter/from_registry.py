"""The name of an image in the site's registry."""

from __future__ import annotations

import re

DOCUMENTATION = """
name: from_registry
short_description: Name an image as the site's registry has it
description:
  - Puts the registry in the place of the one that the name begins with; Docker Hub's when it begins
    with none.
options:
  _input:
    description: Name of an image, with a tag or a digest.
    type: str
    required: true
  registry:
    description: The registry, with a path if it has one; empty leaves the name as it is.
    type: str
    required: true
author: The MLaaS4HEP developers (!UNKNOWN)
"""

EXAMPLES = """
- name: Show registry.example.org/mirror/library/debian:12
  ansible.builtin.debug:
    msg: "{{ 'debian:12' | mlaas4hep.stack.from_registry('registry.example.org/mirror') }}"
"""

RETURN = """
_value:
  description: The name to pull.
  type: str
"""


def from_registry(image, registry):
    """``image`` as ``registry`` has it."""
    if not registry or image.startswith(f"{registry}/"):
        return image
    # As in Docker's names: what comes before the first slash is a host if it looks like one.
    host, _slash, name = image.partition("/")
    if not re.fullmatch(r"localhost|.*[.:].*", host) or not name:
        host, name = "docker.io", image
    # Docker Hub has its own images below library/.
    return f"{registry}/{'library/' if host == 'docker.io' and '/' not in name else ''}{name}"


class FilterModule:
    """What Ansible looks for."""

    def filters(self):
        """By name."""
        return {"from_registry": from_registry}
