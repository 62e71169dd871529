"""The command line: ``mlaas4hep`` and ``workflow.py``."""
