#!/usr/bin/python
"""Write settings of the container engine beside those of others, and take them out again."""

from __future__ import annotations

DOCUMENTATION = """
module: engine_settings
short_description: Write settings of the container engine beside those of others
description:
  - Adds settings to /etc/docker/daemon.json, after the engine has found them right. What others
    wrote there stays as it is.
  - Which ones are ours is kept in /etc/docker/mlaas4hep.json, so that they can be changed and
    taken out.
options:
  options:
    description: Settings that the site asks for; one that others have set otherwise is an error.
    type: dict
    default: {}
  defaults:
    description: Settings for what others have not set.
    type: dict
    default: {}
author: The MLaaS4HEP developers (!UNKNOWN)
"""

EXAMPLES = """
- name: Write the engine's settings
  mlaas4hep.stack.engine_settings:
    defaults: {live-restore: true}

- name: Take them out again
  mlaas4hep.stack.engine_settings:
"""

RETURN = """
settings:
  description: All settings of the engine, those of others too.
  returned: success
  type: dict
"""

import tempfile
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mlaas4hep.stack.plugins.module_utils import engine


def write(file, settings):
    """Write settings to a file at once; no settings, no file."""
    if not settings:
        file.unlink(missing_ok=True)
        return
    with tempfile.NamedTemporaryFile("w", dir=file.parent, delete=False) as new:
        new.write(engine.text(settings))
    Path(new.name).chmod(0o644)
    Path(new.name).replace(file)


def main():
    """Read the arguments, write what differs."""
    module = AnsibleModule(
        argument_spec={
            "options": {"type": "dict", "default": {}},
            "defaults": {"type": "dict", "default": {}},
        },
        supports_check_mode=True,
    )
    try:
        found = engine.Settings(module.params["defaults"], module.params["options"])
    except ValueError as error:
        module.fail_json(msg=f"{engine.DAEMON} or {engine.OURS} can't be read: {error}")
    if found.conflicts:
        names = ", ".join(conflict[0] for conflict in found.conflicts)
        module.fail_json(msg=f"{engine.DAEMON} has another value for {names}")
    if found.changed:
        if refused := engine.refusal(found.after):
            module.fail_json(msg=f"the engine would not start with these settings: {refused}")
        if not module.check_mode:
            engine.DAEMON.parent.mkdir(mode=0o755, exist_ok=True)
            # First what is ours, so that it is never taken for a setting of others.
            write(engine.OURS, found.ours)
            write(engine.DAEMON, found.after)
    diff = {
        "before_header": str(engine.DAEMON),
        "before": engine.text(found.before),
        "after": engine.text(found.after),
    }
    module.exit_json(changed=found.changed, settings=found.after, diff=diff)


if __name__ == "__main__":
    main()
