"""What all stages use: directories and manifests, files, paths, the Ray cluster, errors, progress."""
