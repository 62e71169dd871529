"""A client for scripts: the whole main job from Python."""
