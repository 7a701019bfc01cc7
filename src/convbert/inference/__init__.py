"""From a folder or a name to answers: loading, precision, pipelines, and what this machine can run."""
