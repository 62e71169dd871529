"""Opening ROOT files, here or far: trees, branches, selection, scan."""
