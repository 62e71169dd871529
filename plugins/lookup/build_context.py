"""The files that the images are built from, packed so that equal files give an equal archive."""

from __future__ import annotations

import hashlib
import tarfile
import tempfile
from pathlib import Path

from ansible import constants
from ansible.errors import AnsibleError
from ansible.plugins.lookup import LookupBase

DOCUMENTATION = """
name: build_context
short_description: Pack what the images of MLaaS4HEP are built from
description:
  - Packs the application and the Dockerfiles of this collection into a tar archive on the
    controller, which is deleted when ansible ends.
  - The archive depends on the names and contents of the files alone, so that its checksum says
    whether an image was built from them.
options:
  _terms:
    description: Files and folders, relative to the root of the collection.
    type: list
    elements: str
    required: true
author: The MLaaS4HEP developers
"""

EXAMPLES = """
- name: Show the checksum of what the images are built from
  ansible.builtin.debug:
    msg: "{{ lookup('mlaas4hep.stack.build_context', 'docker', 'app/src').checksum }}"
"""

RETURN = """
_raw:
  description: Path of the archive on the controller, and the SHA-256 checksum of its content.
  type: list
  elements: dict
"""

COLLECTION = Path(__file__).parents[2]


class LookupModule(LookupBase):
    """Lookup of one archive and its checksum."""

    def run(self, terms, variables=None, **kwargs):
        files = sorted({path for term in terms for path in self._files(term)})
        with tempfile.NamedTemporaryFile(
            dir=constants.DEFAULT_LOCAL_TMP, suffix=".tar", delete=False
        ) as archive:
            with tarfile.open(fileobj=archive, mode="w", format=tarfile.GNU_FORMAT) as tar:
                for path in files:
                    self._add(tar, path)
            name = Path(archive.name)
        return [{"path": str(name), "checksum": hashlib.sha256(name.read_bytes()).hexdigest()}]

    def _files(self, term):
        """All files at and below a name, without what Python leaves behind and documents."""
        path = COLLECTION / term
        if path.is_file():
            return [path]
        if not path.is_dir():
            raise AnsibleError(
                f"{path} is missing in the collection: the images can't be built from it. Install"
                " the collection again, or set mlaas4hep_images to 'pull'."
            )
        return [
            file
            for file in path.rglob("*")
            if file.is_file() and "__pycache__" not in file.parts and file.name != "README.md"
        ]

    def _add(self, tar, path):
        """A file without its owner and time, which say nothing about what is built from it."""
        entry = tarfile.TarInfo(str(path.relative_to(COLLECTION)))
        entry.size = path.stat().st_size
        entry.mode = 0o755 if path.stat().st_mode & 0o100 else 0o644
        with path.open("rb") as content:
            tar.addfile(entry, content)
