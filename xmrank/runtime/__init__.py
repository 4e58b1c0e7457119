"""What every stage stands on: directories and manifests, files, paths, the Ray cluster, errors, progress."""
