"""From the five files (files, labels, model, parameters, specs) to a bundle."""
