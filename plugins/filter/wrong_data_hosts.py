"""What is wrong with a list of hosts that trainings may read from."""

from __future__ import annotations

DOCUMENTATION = """
name: wrong_data_hosts
short_description: What is wrong with a list of hosts that trainings may read from
description:
  - Asks the application, which reads the same list, and of which this collection has the source.
options:
  _input:
    description: Hosts, as in the option mlaas4hep_data_hosts.
    type: list
    elements: str
    required: true
author: The MLaaS4HEP developers (!UNKNOWN)
"""

EXAMPLES = """
- name: Show what is wrong with a list
  ansible.builtin.debug:
    msg: "{{ ['eospublic.cern.ch', '0.0.0.0/0'] | mlaas4hep.stack.wrong_data_hosts }}"
"""

RETURN = """
_value:
  description: The entry, why and remedy, of each that can't be one.
  type: list
  elements: dict
"""

import importlib.util
import sys
from pathlib import Path

HOSTS = Path(__file__).parents[2] / "app/src/mlaas4hep/core/hosts.py"


def wrong_data_hosts(listed):
    """Entry, why and remedy of each that can't be one."""
    spec = importlib.util.spec_from_file_location("mlaas4hep_hosts", HOSTS)
    hosts = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = hosts  # its data classes look themselves up there
    spec.loader.exec_module(hosts)
    problems = []
    for entry in map(str, listed):
        try:
            hosts.DataHosts(entry)
        except hosts.HostError as error:
            remedy = error.remedy.rstrip(".")
            problems.append({"entry": error.entry, "why": error.why, "remedy": remedy})
    return problems


class FilterModule:
    """Filters of this file."""

    def filters(self):
        """By name."""
        return {"wrong_data_hosts": wrong_data_hosts}
