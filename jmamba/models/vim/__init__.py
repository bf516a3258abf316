"""Vision Mamba, classifiers of images."""
