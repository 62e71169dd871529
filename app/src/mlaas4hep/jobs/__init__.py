"""Queue, runner and executor: when and where a training runs."""
