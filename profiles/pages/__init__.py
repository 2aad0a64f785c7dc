"""The HTML pages: the list, a patient with its timeline, the pipeline."""
